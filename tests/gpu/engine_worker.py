"""A TensorRT worker on a GPU: a frame every 10 ms, and a kernel that never ends before the next one when it is told to.

    python -m tests.gpu.engine_worker PLAN FRAMES [--hang-when FILE]

Invariant: it ends by itself after ``LIMIT_SECONDS``, however stuck it is. ``FRAMES`` grows by a byte a frame.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from typing import Any

import watchdogd.worker as wd
from tests.gpu.kernels import Kernels
from watchdogd.worker.tensorrt import Engine

LIMIT_SECONDS = 200
PERIOD_SECONDS = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.engine_worker")
    parser.add_argument("plan")
    parser.add_argument("frames")
    parser.add_argument("--hang-when", metavar="FILE", default="")
    options = parser.parse_args()
    signal.alarm(LIMIT_SECONDS)
    worker = wd.attach()

    def preprocess(_engine: Engine, _frame: Any) -> None:
        if options.hang_when and os.path.exists(options.hang_when):
            os.unlink(options.hang_when)
            kernels.spin()

    with open(options.frames, "ab", buffering=0) as frames, Engine(options.plan, preprocess=preprocess) as engine:
        kernels = Kernels(engine.context, engine.stream, 100)
        kernels.sleep()
        engine.stream.synchronize()
        worker.ready()
        while True:
            with worker.step():
                engine.infer(None)
            frames.write(b".")
            time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    main()
