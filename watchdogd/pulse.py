"""One reading of a heartbeat's header and hot lines, as plain words.

Invariant: immutable bytes; nothing here has judged them.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from watchdogd import abi

_COLUMN = {name: abi.HOT_OFFSET // abi.WORD + index for name, index in abi.L.items()}

_OUTER, _INNER, _STEP = (slice(_COLUMN[name], None, abi.LANE_WORDS) for name in ("outer", "inner", "step"))


class Pulse(NamedTuple):  # made for every worker at every tick: a third of a frozen dataclass's time
    raw: bytes  # the header and ``lanes`` hot lines
    lanes: int

    def header(self, name: str) -> int:
        return memoryview(self.raw).cast("Q")[abi.H[name]]

    def column(self, name: str) -> list[int]:
        """One word of every hot line, by lane."""
        column: list[int] = memoryview(self.raw).cast("Q")[_COLUMN[name] :: abi.LANE_WORDS].tolist()
        return column

    def open_steps(self) -> int:
        """How many were begun and not ended, by whichever processes."""
        begun, done = self.column("steps_begun"), self.column("steps_done")
        return sum(max(0, began - ended) for began, ended in zip(begun, done, strict=True))

    def in_flight(self) -> tuple[list[int], list[int], list[int]]:
        """The columns ``outer``, ``inner`` and ``step``, cast once."""
        words = memoryview(self.raw).cast("Q")
        return words[_OUTER].tolist(), words[_INNER].tolist(), words[_STEP].tolist()

    def lane(self, lane: int, name: str) -> int:
        return word_at(self.raw, word_offset(lane, name))


def word_offset(lane: int, name: str) -> int:
    """Byte offset of a lane's word in the file."""
    return abi.HOT_OFFSET + lane * abi.HOT_STRIDE + abi.L[name] * abi.WORD


def word_at(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + abi.WORD], sys.byteorder)
