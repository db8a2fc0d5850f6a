"""A duration or a size as a person reads it at a glance: three digits, the largest unit that fits.

Invariant: unlike ``duration.show`` this rounds; nothing reads it back.
"""

from __future__ import annotations

from watchdogd.model import SECOND


def span(value_ns: int | None) -> str:
    """A duration for people; ``-`` if unknown."""
    if value_ns is None:
        return "-"
    for unit, size_ns, below in (("us", 1_000, 1_000_000), ("ms", 1_000_000, SECOND), ("s", SECOND, 60 * SECOND)):
        if value_ns < below:
            return f"{value_ns / size_ns:.3g} {unit}" if value_ns else "0 s"
    minutes, rest = divmod(value_ns // SECOND, 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def size(count: int) -> str:
    """Bytes for people."""
    for unit, bits in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << bits:
            return f"{count / (1 << bits):.3g} {unit}"
    return f"{count / 1024:.3g} KiB"
