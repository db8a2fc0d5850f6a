"""Whether what takes long may begin, or gives way to a deadline that would pass meanwhile.

Invariant: pure. Nothing gives way for longer than ``PATIENCE_NS``, and then one piece of work begins whatever is due:
a worker whose deadlines are shorter than a start takes must not keep another from being replaced.
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
        self._since_ns: int | None = None  # when the first that gives way did
        self._begun: tuple[Piece, int] | None = None

    @property
    def until_ns(self) -> int | None:
        """When what gives way may begin at the latest; None if nothing does."""
        return None if self._since_ns is None else self._since_ns + PATIENCE_NS

    def may_begin(self, piece: Piece, due_ns: int | None, now_ns: int) -> bool:
        """``due_ns``: the first instant at which something in flight is past its deadline. If so, it begins now."""
        self.ended(now_ns)
        if due_ns is not None and due_ns - now_ns < MARGIN * self._usual[piece]:
            self._since_ns = now_ns if self._since_ns is None else self._since_ns
            if now_ns < self._since_ns + PATIENCE_NS:
                return False
        self._since_ns = None
        self._begun = piece, now_ns
        return True

    def ended(self, now_ns: int) -> None:
        """All that was begun is done. The longest of late is what the next is expected to take."""
        if self._begun is not None:
            piece, began_ns = self._begun
            usual_ns = self._usual[piece]
            self._usual[piece] = max(min(now_ns - began_ns, LONGEST_NS), usual_ns - usual_ns // 16)
            self._begun = None
