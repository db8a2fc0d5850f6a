"""``place`` and ``host_function`` of ``watchdogd._native`` in pure Python, for interpreters without the extension.

Invariant: the same behaviour as ``place.c``; no driver call is made in a host function.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

_local = threading.local()


def in_host_function() -> bool:
    return getattr(_local, "host_functions", 0) > 0


class _HostFunction:
    __slots__ = ()

    def __enter__(self) -> None:
        _local.host_functions = getattr(_local, "host_functions", 0) + 1

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        _local.host_functions -= 1


host_function = _HostFunction()


class Place:
    __slots__ = ("_context", "_get_current", "_missed", "_thread")

    def __init__(self, get_current: int, context: int, thread: int, missed: Callable[[str], object]) -> None:
        # It never blocks, so the GIL is kept: half the time of a call that gives it up.
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))
        self._get_current = prototype(get_current)
        self._context = context
        self._thread = thread
        self._missed = missed

    def here(self) -> bool:
        if in_host_function() or self._thread not in (0, threading.get_ident()):
            return False
        current = ctypes.c_void_p()
        return self._get_current(ctypes.byref(current)) == 0 and (current.value or 0) == self._context

    def check(self) -> None:
        if not self.here():
            self._missed("now")

    def __enter__(self) -> None:
        if not self.here():
            self._missed("before")

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is None and not self.here():
            self._missed("after")


place = Place
