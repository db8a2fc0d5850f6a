"""A worker of the demo: 50 frames a second through cuda-python, as a vehicle's model would.

Usage: ``python -m tests.demo.worker NAME FRAMES_FILE MODULE HANG_FILE``. ``FRAMES_FILE`` gets two 8-byte counters,
frames done and frames missed; a frame is missed when its time has passed before it could begin. When ``HANG_FILE``
appears, a kernel that never ends is launched (the real GPU's way to hang; the simulated driver is told by its own
control).
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

import watchdogd.worker as wd
from watchdogd.worker import cuda

PERIOD_NS = 20_000_000


def main(name: str, frames: str, module_file: str, hang_file: str) -> None:
    worker = wd.attach()
    with open(frames, "r+b") as file:
        counters = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
    with cuda.Context(device=0, wait="blocking") as context:
        stream = context.stream()
        module = context.module(Path(module_file).read_bytes())
        simulated = module_file.endswith(".sim")
        kernel = module.kernel("sim_dla0_net__3000us" if name.endswith("dla") and simulated else "net__3000us")
        spin = module.kernel("sim_spin" if simulated else "spin")
        host, device = context.alloc_host(4096), context.alloc(4096)
        stream.launch(kernel, grid=1, block=1)
        stream.synchronize()
        worker.ready()
        due_ns = time.monotonic_ns()
        while True:
            due_ns += PERIOD_NS
            late_ns = time.monotonic_ns() - due_ns
            if late_ns > PERIOD_NS:
                counters[1] += late_ns // PERIOD_NS
                due_ns += late_ns // PERIOD_NS * PERIOD_NS
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            with worker.step():
                with worker.stage("copy_in"):
                    stream.copy_in(device, host)
                with worker.stage("enqueue"):
                    stream.launch(spin if os.path.exists(hang_file) else kernel, grid=1, block=1)
                stream.synchronize()
            counters[0] += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
