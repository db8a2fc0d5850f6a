"""Whether what takes long may begin, or gives way to a deadline that would pass meanwhile.

Invariant: pure. A piece of work waits for ``PATIENCE_NS`` at most; from then on one of its kind begins in each round,
whatever is due: a worker whose deadlines are shorter than a start takes must not keep others from being replaced.
"""

from __future__ import annotations

from enum import Enum

from watchdogd.model import MILLISECOND

PATIENCE_NS = 10 * MILLISECOND
LONGEST_NS = 10 * MILLISECOND  # what took longer than this was held up by something else
MARGIN = 1.5  # times as long as usual


class Piece(Enum):
    """Work of one kind, which takes about as long each time."""

    FORK = "fork"  # and what follows it: each page that is written then is copied first
    CAPTURE = "capture"
    HOUSEKEEPING = "housekeeping"


FIRST_NS = {Piece.FORK: 6 * MILLISECOND, Piece.CAPTURE: 2 * MILLISECOND, Piece.HOUSEKEEPING: 4 * MILLISECOND}


class Leeway:
    def __init__(self) -> None:
        self._usual = dict(FIRST_NS)
        self._begun: tuple[Piece, int] | None = None
        self._waiting: dict[Piece, int] = {}  # since when
        self._refused: set[Piece] = set()  # in this round
        self._impatient: set[Piece] = set()  # that have begun in this round all the same

    @property
    def until_ns(self) -> int | None:
        """When what gives way may begin at the latest; None if nothing does. To be asked between two rounds."""
        return min(self._waiting.values()) + PATIENCE_NS if self._waiting else None

    def has_room(self, piece: Piece, due_ns: int | None, now_ns: int) -> bool:
        """``due_ns``: the first instant at which something in flight is past its deadline."""
        return due_ns is None or due_ns - now_ns >= MARGIN * self._usual[piece]

    def may_begin(self, piece: Piece, due_ns: int | None, now_ns: int) -> bool:
        """If so, it begins now."""
        self._end(now_ns)
        if not self.has_room(piece, due_ns, now_ns):
            is_patient = now_ns < self._waiting.setdefault(piece, now_ns) + PATIENCE_NS
            if is_patient or piece in self._impatient:
                self._refused.add(piece)
                return False
            self._impatient.add(piece)
        self._begun = piece, now_ns
        return True

    def end_round(self, now_ns: int) -> None:
        """All that was begun is done; what was not asked for in this round waits no more."""
        self._end(now_ns)
        asked = self._refused | self._impatient
        self._waiting = {piece: since_ns for piece, since_ns in self._waiting.items() if piece in asked}
        self._refused.clear()
        self._impatient.clear()

    def _end(self, now_ns: int) -> None:
        """The longest of late is what the next is expected to take."""
        if self._begun is not None:
            piece, began_ns = self._begun
            usual_ns = self._usual[piece]
            self._usual[piece] = max(min(now_ns - began_ns, LONGEST_NS), usual_ns - usual_ns // 16)
            self._begun = None
