"""D state: threads that stand in an uninterruptible wait of the kernel, look after look. Evidence; never kills.

Invariant: pure, and one look is no evidence: a thread that reads a disk is in D state too, and runs in between.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

STUCK_LOOKS = 2
_Key = TypeVar("_Key", bound=Hashable)  # a thread


@dataclass(frozen=True, slots=True)
class Standing:
    since_ns: int  # of the first look that found it so
    looks: int
    ran_ns: int  # how long it had run by then

    @property
    def is_stuck(self) -> bool:
        return self.looks >= STUCK_LOOKS


def follow(last: Mapping[_Key, Standing], waiting: Mapping[_Key, int], now_ns: int) -> dict[_Key, Standing]:
    """``waiting``: the threads that are in D state now, each with how long it has ever run."""
    found = {}
    for key, ran_ns in waiting.items():
        before = last.get(key)
        if before is None or before.ran_ns != ran_ns:  # it has run since: that wait is over
            found[key] = Standing(now_ns, 1, ran_ns)
        else:
            found[key] = Standing(before.since_ns, before.looks + 1, ran_ns)
    return found
