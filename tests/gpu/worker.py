"""A worker on a GPU: launches a kernel and waits for it, frame after frame, and hangs when it is told to.

    python -m tests.gpu.worker [--hang-after N] [--hang-when FILE] [--timings FILE]

Invariant: it ends by itself after ``--limit`` seconds, however stuck it is: SIGALRM's default action needs no Python.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from contextlib import nullcontext

import watchdogd.worker as wd
from tests.gpu.kernels import Kernels
from watchdogd.worker import cuda


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--wait", default="blocking", help="how to wait: blocking, spin, yield or auto")
    parser.add_argument("--kernel-us", type=int, default=1000, help="how long a frame's kernel runs")
    parser.add_argument("--period-ms", type=float, default=10.0, help="a frame every so often")
    parser.add_argument("--hang-after", type=int, metavar="N", help="every incarnation hangs after so many frames")
    parser.add_argument(
        "--hang-when", metavar="FILE", help="hang once this exists, and remove it: the successor goes on"
    )
    parser.add_argument("--timings", metavar="FILE", help="append a line a frame: begin (monotonic ns), duration (ns)")
    parser.add_argument("--limit", type=int, default=300, help="end after so many seconds")
    return parser.parse_args()


def _taken(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    options = _options()
    signal.alarm(options.limit)
    worker = wd.attach()
    timings = open(options.timings, "a", encoding="ascii", buffering=1) if options.timings else None  # noqa: SIM115 - as long as the process
    with timings or nullcontext(), cuda.Context(wait=options.wait) as ctx:
        stream = ctx.stream()
        kernels = Kernels(ctx, stream, options.kernel_us)
        kernels.sleep()
        stream.synchronize()  # the first launch of a kernel may load it
        worker.ready()
        frame = 0
        while True:
            frame += 1
            hang = frame == options.hang_after or (options.hang_when and _taken(options.hang_when))
            begin_ns = time.monotonic_ns()
            with worker.step():
                (kernels.spin if hang else kernels.sleep)()
                stream.synchronize()
            duration_ns = time.monotonic_ns() - begin_ns
            if timings:
                timings.write(f"{begin_ns} {duration_ns}\n")
            time.sleep(max(0.0, options.period_ms / 1e3 - duration_ns / 1e9))


if __name__ == "__main__":
    main()
