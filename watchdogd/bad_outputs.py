"""The run of bad outputs under way in a worker, as its heartbeat tells it in one word.

Invariant: pure; a run of an impossible time or an unknown kind is none.
"""

from __future__ import annotations

from typing import NamedTuple

from watchdogd import abi
from watchdogd.model import SECOND
from watchdogd.pulse import Pulse

OFFSET = abi.H["bad_outputs"] * abi.WORD
_FUTURE_TOLERANCE_NS = SECOND  # the heartbeat is read after ``now``
_WORDS = {
    "zero": "all zero",
    "nan": "not finite",
    "constant": "all elements equal",
    "stale": "the one before it again",
    "bounds": "out of bounds",
    "canary": "wrong for the golden input",
}


class Run(NamedTuple):
    begun_ns: int
    length: int  # ``abi.MOST_IN_A_ROW``: or more
    kind: str  # of the newest
    word: int

    def __str__(self) -> str:
        many = f"{self.length}{' or more' * (self.length == abi.MOST_IN_A_ROW)}"
        return f"{many} bad output{'s in a row' * (self.length > 1)}, the last one {_WORDS[self.kind]}"


def under_way(pulse: Pulse, now_ns: int) -> Run | None:
    """None if the last output was good, or nobody looks at them."""
    word = pulse.header("bad_outputs")
    begun_ns, code = word & ~abi.ERROR_MASK, word & abi.CODE_MASK
    spawned_ns = pulse.header("spawned_ns") & ~abi.ERROR_MASK
    if not 0 < code < len(abi.OUTPUTS) or not spawned_ns <= begun_ns <= now_ns + _FUTURE_TOLERANCE_NS:
        return None
    return Run(begun_ns, word >> abi.RUN_LENGTH_SHIFT & abi.MOST_IN_A_ROW, abi.OUTPUTS[code], word)
