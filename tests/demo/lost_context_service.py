"""The threads of both services of the story ``lost-context``, and what others do to their contexts meanwhile.

As in the report, a request may be taken by any of several threads. What is current to each of them was left there by
somebody else (``Handlers.scatter``), by plain driver calls. Invariant: nothing here is guarded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cuda.bindings import driver

from tests.demo.lost_context_requests import HANDLERS, REQUESTS, SECONDS, Tally, request, tally

T = TypeVar("T")


def must(answer: tuple[Any, ...]) -> Any:
    """The value of a plain driver call; RuntimeError with its CUresult's name."""
    if answer[0] is not driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(answer[0].name)
    return answer[1] if len(answer) > 1 else None


def current() -> int:
    """What the report's authors printed."""
    return int(must(driver.cuCtxGetCurrent()))


def destroy(context: int) -> None:
    """By another library, in a thread of its own, which does not care who uses it."""
    thread = threading.Thread(target=driver.cuCtxDestroy, args=(driver.CUcontext(context),), name="tidier")
    thread.start()
    thread.join(SECONDS)


class Handlers:
    """The threads of the service."""

    def __init__(self) -> None:
        self._threads = [ThreadPoolExecutor(1, initializer=_named, initargs=(name,)) for name in HANDLERS]

    def do(self, handler: int, function: Callable[..., T], *arguments: Any) -> T:
        return self._threads[handler].submit(function, *arguments).result(SECONDS)

    def scatter(self) -> dict[str, int]:
        """Leaves another library's context current to the second, one that was destroyed to the last. What it left."""
        return {HANDLERS[1]: self.do(1, _left), HANDLERS[2]: 0, HANDLERS[3]: self.do(3, _left_destroyed)}

    def current(self) -> dict[str, int]:
        return {name: self.do(number, current) for number, name in enumerate(HANDLERS)}

    def serve(self, run: Callable[[list[float]], list[float]]) -> Tally:
        """Requests by each thread in its turn."""
        return tally(REQUESTS, request, lambda number: self.do(number % len(HANDLERS), run, request(number)), HANDLERS)


def _named(name: str) -> None:
    threading.current_thread().name = name


def _left() -> int:
    must(driver.cuInit(0))
    return int(must(driver.cuCtxCreate(None, 0, must(driver.cuDeviceGet(0)))))


def _left_destroyed() -> int:
    handle = _left()
    destroy(handle)
    return handle
