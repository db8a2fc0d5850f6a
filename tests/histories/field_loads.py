"""A load source for many simulated devices: ``field_loads.py INTERVAL ACCELERATOR=STATE ...`` prints a line for each.

Invariant: it only reads; the lines are those of every source but tegrastats.
"""

from __future__ import annotations

import json
import sys
import time

from tests.simulator.control import LoadSample, SimulatedDevice, load_between


def main(interval: float, states: dict[str, str]) -> None:
    devices = {accelerator: SimulatedDevice(state) for accelerator, state in states.items()}
    before: dict[str, LoadSample] = {}
    while True:
        for accelerator, device in devices.items():
            now = device.load_sample()
            ratio = load_between(before.get(accelerator, now), now) / 100
            before[accelerator] = now
            print(json.dumps({"accelerator": accelerator, "load_ratio": round(ratio, 2)}), flush=False)
        sys.stdout.flush()
        time.sleep(interval)


if __name__ == "__main__":
    main(float(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:]))
