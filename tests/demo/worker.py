"""A worker of the demo: 50 frames a second through cuda-python, as a vehicle's model would.

Usage: ``python -m tests.demo.worker FRAMES_FILE HANG_FILE``. ``FRAMES_FILE`` gets two 8-byte counters, frames done and
frames missed; a frame is missed when its time has passed before it could begin. While ``HANG_FILE`` exists, the kernel
that is launched never ends (the real GPU's way to hang; the simulated driver is told by its own control).
"""

from __future__ import annotations

import mmap
import os
import sys
import time

import watchdogd.worker as wd
from tests.gpu.kernels import Kernels
from watchdogd.worker import cuda

PERIOD_NS = 20_000_000
KERNEL_US = 3000


def main(frames: str, hang_file: str) -> None:
    worker = wd.attach()
    with open(frames, "r+b") as file:
        counters = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
    with cuda.Context(device=0, wait="blocking") as context:
        stream = context.stream()
        kernels = Kernels(context, stream, KERNEL_US)
        host, device = context.alloc_host(4096), context.alloc(4096)
        kernels.sleep()
        stream.synchronize()  # the first launch may load code: before ready
        worker.ready()
        due_ns = time.monotonic_ns()
        while True:
            due_ns += PERIOD_NS
            late = (time.monotonic_ns() - due_ns) // PERIOD_NS
            if late > 0:
                counters[1] += late
                due_ns += late * PERIOD_NS
            time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            with worker.step():
                with worker.stage("copy_in"):
                    stream.copy_in(device, host)
                with worker.stage("enqueue"):
                    (kernels.spin if os.path.exists(hang_file) else kernels.sleep)()
                with worker.stage("sync"):
                    stream.synchronize()
            counters[0] += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
