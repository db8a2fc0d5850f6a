"""A worker of the story ``allocator``, unguarded: two of its threads can come to wait for each other.

Usage: ``python -m tests.demo.allocator_unguarded CASE COUNTERS GO``. What happens in a real driver now and then happens
here when told: in the driver by a fault of the simulated one, between it and our mutex while the file ``GO`` exists.
Its calls are stamped where it has a supervisor; nothing else of ``watchdogd`` is in their way.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import watchdogd.worker as wd
from tests.demo.allocator_cases import COUNTED
from tests.demo.counters import Counters
from watchdogd.worker import cuda

SECONDS = 10.0


class Sides:
    """What the threads do; each counts what it has done."""

    def __init__(self, counters: Counters, go: str) -> None:
        self.counters = counters
        self.go = go
        self.context = cuda.Context()
        self.stream = self.context.stream()
        self.kernel = self.context.module(b"").kernel("sim_sleep_us_10")
        self.mutex = threading.Lock()  # around the allocator
        self.called_back = threading.Event()

    def allocates(self) -> None:
        self.context.alloc_managed(64)
        self.counters["allocations"] += 1

    def launches(self) -> None:
        self.stream.launch(self.kernel, 1, 1)
        self.counters["launches"] += 1

    def frees(self) -> None:
        self.context.alloc(64).free()
        self.counters["frees"] += 1

    def frees_under_the_mutex(self) -> None:
        """The callback has ended before, as nearly always; or the two meet."""
        buffer = self.context.alloc(64)
        if not os.path.exists(self.go):
            self.stream.host_function(self._callback)
            self.stream.synchronize()
            with self.mutex:
                buffer.free()
        else:
            self.called_back.clear()
            with self.mutex:
                self.stream.host_function(self._callback)
                self.called_back.wait(SECONDS)
                buffer.free()  # waits for the callback, which waits for the mutex
        self.counters["frees"] += 1

    def _callback(self) -> None:
        self.called_back.set()
        with self.mutex:
            self.counters["callbacks"] += 1


def for_ever(call: Callable[[], None]) -> None:
    while True:
        call()
        time.sleep(0.001)


def main(case: str, counters: str, go: str) -> None:
    worker = wd.attach()
    sides = Sides(Counters(counters, COUNTED), go)
    threads: dict[str, tuple[Callable[[], None], ...]] = {
        "managed": (sides.allocates, sides.frees),
        "launch": (sides.launches, sides.frees),
        "mutex": (sides.frees_under_the_mutex,),
    }
    *others, mine = threads[case]
    worker.ready()
    for call in others:
        threading.Thread(target=for_ever, args=(call,), daemon=True).start()
    for_ever(mine)


if __name__ == "__main__":
    main(*sys.argv[1:])
