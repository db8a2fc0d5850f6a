"""A timer that wakes the loop at an instant of CLOCK_MONOTONIC, to the microsecond.

``epoll.poll`` rounds its time-out up to whole milliseconds, and ``os.timerfd_create`` came with Python 3.13; so ctypes.
Invariant: an instant in the past fires at once.
"""

from __future__ import annotations

import ctypes
import os
import time

_CLOEXEC = os.O_CLOEXEC
_NONBLOCK = os.O_NONBLOCK
_ABSOLUTE = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Spec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    def __init__(self) -> None:
        self.descriptor: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC | _NONBLOCK)
        if self.descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd_create: {os.strerror(code)}")

    def arm(self, instant_ns: int) -> None:
        seconds, nanoseconds = divmod(max(instant_ns, 1), 1_000_000_000)
        spec = _Spec(0, 0, seconds, nanoseconds)
        if _libc.timerfd_settime(self.descriptor, _ABSOLUTE, ctypes.byref(spec), None) < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd_settime: {os.strerror(code)}")

    def drain(self) -> None:
        """Take the expiry, so that the descriptor is quiet until the next one."""
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        os.close(self.descriptor)
