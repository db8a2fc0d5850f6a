"""The worker of the story ``allocator`` with our allocator: the same threads, and none of them can wait for another.

Usage: ``python -m tests.demo.allocator_guarded COUNTERS WORDS``. All of it at once: managed memory, launches, callbacks
that take a mutex, frees under that mutex. ``WORDS`` gets what a CUDA call in a callback raises.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import watchdogd.worker as wd
from tests.demo.allocator_cases import BACKLOG, COUNTED
from tests.demo.allocator_unguarded import for_ever
from tests.demo.counters import Counters
from watchdogd.worker.cuda import HostFunctionError
from watchdogd.worker.cuda_memory import DeferredFree, Pool
from watchdogd.worker.cuda_thread import CudaThread

T = TypeVar("T")
SECONDS = 10.0


class Sides:
    """Everything is done by the one thread; who asks for it waits for no call of the driver but its own."""

    def __init__(self, gpu: CudaThread, counters: Counters) -> None:
        self.gpu = gpu
        self.counters = counters
        self.mutex = threading.Lock()
        self.deferred = self.do(DeferredFree, gpu.context, BACKLOG)
        self.pool = self.do(Pool, gpu.context, BACKLOG)
        self.stream = self.do(gpu.context.stream)
        self.kernel = self.do(lambda: gpu.context.module(b"").kernel("sim_sleep_us_10"))

    def do(self, function: Callable[..., T], *arguments: object) -> T:
        return self.gpu.submit(function, *arguments).result(SECONDS)

    def allocates(self) -> None:
        self.deferred.free(self.do(self.gpu.context.alloc_managed, 64), self.stream)
        self.counters["allocations"] += 1

    def frees_under_the_mutex(self) -> None:
        buffer = self.do(self.pool.alloc, 64)
        with self.mutex:
            self.pool.free(buffer, self.stream)
        self.counters["given_back"] += 1

    def step(self) -> None:
        """The launch, the callback, and what is due to be freed."""
        self.do(self.stream.launch, self.kernel, 1, 1)
        self.counters["launches"] += 1
        self.do(self.stream.host_function, self._callback)
        waiting = max(self.deferred.waiting, self.pool.waiting)
        self.do(self.stream.synchronize)
        self.counters["backlog"] = max(self.counters["backlog"], waiting)
        self.counters["frees"] += self.do(self.deferred.collect)

    def _callback(self) -> None:
        with self.mutex:
            self.counters["callbacks"] += 1

    def call_in_a_callback(self) -> str:
        """What is raised."""
        self.do(self.stream.host_function, lambda: self.gpu.context.alloc(64))
        try:
            self.do(self.stream.synchronize)
        except HostFunctionError as error:
            return f"HostFunctionError: {error}"
        return "nothing"


def main(counters: str, words: str) -> None:
    worker = wd.attach()
    sides = Sides(CudaThread(), Counters(counters, COUNTED))
    Path(words).write_text(sides.call_in_a_callback(), encoding="utf-8")
    worker.ready()
    for call in (sides.allocates, sides.frees_under_the_mutex):
        threading.Thread(target=for_ever, args=(call,), daemon=True).start()
    while True:
        with worker.step():
            sides.step()
        time.sleep(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])
