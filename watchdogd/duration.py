"""Durations as people write them, ``"1.5s"``, and as the core counts them, nanoseconds.

Invariant: ``parse(show(ns)) == ns`` for every duration that ``parse`` accepts.
"""

from __future__ import annotations

import re

UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000}
LONGEST_NS = 366 * 24 * UNITS["h"]  # whatever is added to a monotonic time must still fit in 63 bits

_PATTERN = re.compile(r"([0-9]{1,14})(?:\.([0-9]{1,9}))?(us|ms|s|m|h)")


def parse(text: str) -> int:
    """Nanoseconds of a text such as "250us", "200ms", "1.5s", "2m" or "1h"; ValueError says what is wrong with it."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        if text.startswith("-"):
            raise ValueError("a duration cannot be negative")
        raise ValueError(f"{text!r} is not a duration")
    whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
    # In integers: 0.1 s is exactly 100 ms, which a float is not.
    ns, rest = divmod(int(whole + fraction) * UNITS[unit], int(10 ** len(fraction)))
    if rest:
        raise ValueError(f"{text!r} is finer than a nanosecond")
    if ns > LONGEST_NS:
        raise ValueError(f"{text!r} is longer than a year")
    return ns


def show(ns: int) -> str:
    """The shortest text that ``parse`` reads as ``ns``, in the largest unit of which it holds a whole number."""
    for unit in ("h", "m", "s", "ms", "us"):
        if ns and ns % UNITS[unit] == 0:
            return f"{ns // UNITS[unit]}{unit}"
    return "0s" if ns == 0 else f"{ns // 1000}.{ns % 1000:03d}us"
