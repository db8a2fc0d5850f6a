"""A worker of the demo: 50 frames a second through cuda-python, as a vehicle's model would.

Usage: ``python -m tests.demo.worker FRAMES_FILE HANG_FILE``. ``FRAMES_FILE`` counts frames (``tests.demo.frames``); one
whose time has passed before it could begin is lost. While ``HANG_FILE`` exists, the kernel that is launched never ends
(the real GPU's way to hang; the simulated driver is told by its own control).
"""

from __future__ import annotations

import os
import sys

import watchdogd.worker as wd
from tests.demo import frames
from tests.gpu.kernels import Kernels
from watchdogd.worker import cuda

PERIOD_NS = 20_000_000
KERNEL_US = 3000


def main(frames_file: str, hang_file: str) -> None:
    worker = wd.attach()
    with cuda.Context(device=0, wait="blocking") as context:
        stream = context.stream()
        kernels = Kernels(context, stream, KERNEL_US)
        host, device = context.alloc_host(4096), context.alloc(4096)
        kernels.sleep()
        stream.synchronize()  # the first launch may load code: before ready
        worker.ready()
        for _ in frames.paced(frames_file, PERIOD_NS):
            with worker.step():
                with worker.stage("copy_in"):
                    stream.copy_in(device, host)
                with worker.stage("enqueue"):
                    (kernels.spin if os.path.exists(hang_file) else kernels.sleep)()
                with worker.stage("sync"):
                    stream.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
