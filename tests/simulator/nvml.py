"""``python -m tests.simulator.nvml STATE``, in place of the NVML reader: the simulated load, and who holds what memory.

Invariant: it prints what ``watchdogd.observe.sources.nvml`` would, and ends with whoever reads it.
"""

from __future__ import annotations

import json
import sys
import time

from tests.simulator.control import SimulatedDevice

INTERVAL_SECONDS = 0.1


def main() -> None:
    with SimulatedDevice(sys.argv[1]) as device:
        while True:
            print(json.dumps({"accelerator": "gpu0", "load_ratio": round(device.load("gpu0")) / 100}))
            held = {str(process.pid): process.memory_bytes for process in device.processes()}
            print(json.dumps({"memory_bytes": held}), flush=True)
            time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
