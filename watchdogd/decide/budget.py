"""Restart budget, backoff and kill cap: arithmetic on a history of instants.

Invariant: pure; the same history gives the same answer, jitter included (it comes from a hash, not from a generator).
"""

from __future__ import annotations

import zlib

from watchdogd.model import RestartSettings

JITTER = 0.2  # a delay is shortened by up to this fraction, so that workers that died together do not start together


def recent(instants: tuple[int, ...], now_ns: int, window_ns: int) -> tuple[int, ...]:
    """The instants of the last ``window_ns``."""
    return tuple(instant for instant in instants if now_ns - instant < window_ns)


def left(restarts: tuple[int, ...], now_ns: int, settings: RestartSettings) -> int:
    """How many more restarts the window allows."""
    return max(0, settings.budget - len(recent(restarts, now_ns, settings.window_ns)))


def delay_ns(restarts: tuple[int, ...], now_ns: int, settings: RestartSettings, seed: str) -> int | None:
    """Nanoseconds to wait before the next start; None = the budget is spent and the worker is to be quarantined.

    The first restart of a window is immediate, each further one waits twice as long as the one before, up to the cap.
    """
    count = len(recent(restarts, now_ns, settings.window_ns))
    if count >= settings.budget:
        if settings.when_spent == "quarantine":
            return None
        return _shortened(settings.backoff_max_ns, f"{seed}:{len(restarts)}")
    if count == 0:
        return 0
    return again_ns(count, settings, seed)


def again_ns(count: int, settings: RestartSettings, seed: str) -> int:
    """Nanoseconds to wait after the ``count``-th failure in a row."""
    doubled = settings.backoff_ns << min(count - 1, 40)
    return _shortened(min(doubled, settings.backoff_max_ns), f"{seed}:{count}")


def _shortened(delay: int, seed: str) -> int:
    """Never 0, however short: a start that fails at once would be tried again without end in one tick."""
    return max(1, int(delay * (1 - JITTER * (zlib.crc32(seed.encode()) / 2**32))))
