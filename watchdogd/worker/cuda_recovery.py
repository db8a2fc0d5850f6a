"""Going on after a context was lost: built anew at once, or queued and tried again a little later.

    model = Rebuilt(lambda: Model(cuda.Context()), close=Model.close)
    output = model.run(lambda model: model.infer(frame))     # a lost context: a new model, and once more

    output = retried(gpu, infer, frame, timeout=1.0)         # a lost context: again after 50 ms, behind the others

Invariant: only a lost context is recovered from (``is_lost``); any other error, and one that stays, is the caller's.
What was rebuilt shares nothing with what was there before: a state half written is not met by the next request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, Generic, TypeVar

from watchdogd.worker.cuda_driver import ContextFailedError, CudaError
from watchdogd.worker.cuda_place import ContextLost

T = TypeVar("T")
R = TypeVar("R")

PAUSE_SECONDS = 0.05


def is_lost(error: BaseException) -> bool:
    """Whether it says that the context is not current, was destroyed, or has failed: another one may work."""
    return isinstance(error, (ContextLost, ContextFailedError))


class Rebuilt(Generic[T]):
    """What ``build`` makes, made anew whenever its context was lost. For the thread that uses it.

    ``close`` is called with the old one; what it raises as a CudaError or ContextLost follows from the loss and is
    ignored. ``rebuilds`` counts, and ``seconds`` is what the last one took.
    """

    def __init__(self, build: Callable[[], T], close: Callable[[T], object] | None = None) -> None:
        self._build = build
        self._close = close
        self._built: tuple[T] | None = (build(),)  # None: closed, and the build after that has failed
        self.rebuilds = 0
        self.seconds = 0.0

    def run(self, use: Callable[[T], R]) -> R:
        """``use`` of it; on a lost context once more, of a new one. A build that failed is tried again by the next."""
        if self._built is not None:
            try:
                return use(self._built[0])
            except Exception as error:
                if not is_lost(error):
                    raise
        return use(self.rebuild())

    def rebuild(self) -> T:
        begun = time.monotonic()
        closing, self._built = self._built, None
        if self._close is not None and closing is not None:
            with suppress(CudaError, ContextLost):  # it was lost: that is why we are here
                self._close(closing[0])
        del closing  # or there would be memory for two
        built = self._build()
        self._built = (built,)
        self.rebuilds += 1
        self.seconds = time.monotonic() - begun
        return built


def retried(
    executor: Executor,
    function: Callable[..., R],
    /,
    *arguments: Any,
    timeout: float,
    pause: float = PAUSE_SECONDS,
) -> R:
    """Queues a request, and again ``pause`` seconds after a lost context, behind what was queued meanwhile.

    Raises the last error once ``timeout`` seconds are over, or TimeoutError if the request has not ended by then.
    """
    until = time.monotonic() + timeout
    while True:
        future = executor.submit(function, *arguments)
        try:
            return future.result(max(0.0, until - time.monotonic()))
        except FutureTimeoutError:  # in Python 3.10 another one than the built-in
            if future.done():  # the request's own
                raise
            future.cancel()
            raise TimeoutError(f"the request has not ended after {timeout:g} s") from None
        except Exception as error:
            if not is_lost(error) or time.monotonic() + pause >= until:
                raise
        time.sleep(pause)
