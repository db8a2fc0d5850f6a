"""A worker that is bisected: the stages of a thread end only when what it has queued in them is done.

Work that hangs is otherwise known by the wait for it, in whatever later stage that is. Here a thread waits wherever a
stage begins or ends for what it has queued since the last such point, in stamped syncs: what hangs was then queued in
the stage in which the thread waits (in none: outside of all).

Invariant: imported only by a worker that is bisected, so that no other pays for it. A stage that an exception leaves
waits for nothing: the exception is to be seen, and what was queued is waited for at the next such point.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol

from watchdogd.worker import _implementation


class Queue(Protocol):
    """A stream, hashed by its identity."""

    def is_open(self) -> bool: ...
    def may_be_waited_for(self) -> bool: ...
    def synchronize(self) -> None: ...


class _Thread(threading.local):
    def __init__(self) -> None:
        self.used: dict[Queue, None] = {}  # since the last point, in this order


_thread = _Thread()


def _after_fork() -> None:
    """A child has nothing of its parent's streams."""
    _thread.used.clear()


os.register_at_fork(after_in_child=_after_fork)


def queued(stream: Queue) -> None:
    """The calling thread has, or may have, queued something there."""
    _thread.used[stream] = None


def forget(stream: Queue) -> None:
    """It is closed."""
    _thread.used.pop(stream, None)


class Stage:
    """In place of the guard that ``Worker.stage`` makes otherwise."""

    __slots__ = ("_guard",)

    def __init__(self, name: str) -> None:
        self._guard = _implementation.stage(name)

    def __enter__(self) -> None:
        _wait()
        self._guard.__enter__()

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            if kind is None:
                _wait()
        finally:
            self._guard.__exit__(kind, value, traceback)


def _wait() -> None:
    """For everything, or where one stream may not be waited for (it records a graph), for nothing yet."""
    used = _thread.used
    for stream in [stream for stream in used if not stream.is_open()]:
        del used[stream]
    if all(stream.may_be_waited_for() for stream in used):
        for stream in list(used):
            del used[stream]  # first: what it raises is raised once
            stream.synchronize()
