"""The streams of a worker that is bisected: they tell ``watchdogd.worker.bisecting`` what is queued in them.

Invariant: a worker gets no error for being bisected that it would not have got at its own next synchronize.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from watchdogd.worker.bisecting import forget, queued
from watchdogd.worker.cuda_driver import driver
from watchdogd.worker.cuda_resources import Event, Stream

_NOT_CAPTURING = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE


class SynchronizedStream(Stream):
    __slots__ = ()

    def _queue(self, *arguments: Any) -> None:
        super()._queue(*arguments)
        queued(self)

    def wait(self, event: Event) -> None:
        super().wait(event)
        queued(self)

    @contextmanager
    def ordered(self, *arguments: Any, **keywords: Any) -> Iterator[int]:
        with super().ordered(*arguments, **keywords) as handle:
            queued(self)  # what fails from here on may have queued some of it
            yield handle

    def close(self) -> None:
        forget(self)
        super().close()

    def is_open(self) -> bool:
        """Else there is nothing left to wait with; what was queued may still run."""
        return self._object is not None and self._context._context is not None

    def may_be_waited_for(self) -> bool:
        """Not in a capture (which that would spoil), nor away from a context that is pinned."""
        context = self._context
        if not (context.owner is None or context._here()):
            return False
        status = context._run(context._other, driver.cuStreamIsCapturing, self._object)
        return bool(status == _NOT_CAPTURING)
