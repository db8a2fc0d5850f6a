"""What is known of one worker's driver shim: whether it could be put there, was loaded, and who uses CUDA past it.

Invariant: nothing here ends a worker; nobody is accused by what one look alone has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from watchdogd.instrument.words import Shim
from watchdogd.model import SECOND

EVERY_NS = 5 * SECOND
AGAIN_NS = SECOND  # after a look that saw somebody for the first time
LONGEST_TEXT = 300  # characters: the snapshot has room for so much of every worker


class Shimmed:
    def __init__(self, *, is_wanted: bool) -> None:
        self.is_wanted = is_wanted
        self.forget()

    def forget(self) -> None:
        """The incarnation is gone."""
        self.told: Shim | None = None  # by the worker's process, before it became the program
        self.is_loaded = False  # by any process of it
        self.next_ns = 0
        self.past: tuple[str, ...] = ()  # who was seen past it, twice
        self._suspects: frozenset[int] = frozenset()

    def asked(self, now_ns: int) -> None:
        """A look is under way."""
        self.next_ns = now_ns + EVERY_NS

    def take(self, found: Sequence[dict[str, Any]], now_ns: int) -> bool:
        """What a look saw. Whether anything is new by it."""
        pids = frozenset(each["pid"] for each in found)
        if pids - self._suspects:
            self.next_ns = now_ns + AGAIN_NS
        before, again = self.past, pids & self._suspects
        self._suspects = pids
        self.past = tuple(
            f"pid {each['pid']} ({each['name']}) uses {each['uses']}: {each['why']}"
            for each in found
            if each["pid"] in again
        )
        return self.past != before

    @property
    def why(self) -> str:
        """Why something of it cannot be seen; empty if all can, as far as it is known."""
        if self.told is not None and self.told.problem is not None:
            return self.told.problem[:LONGEST_TEXT]
        return f"CUDA past the shim: {'; '.join(self.past)}"[:LONGEST_TEXT] if self.past else ""

    def describe(self) -> dict[str, Any] | None:
        if not self.is_wanted:
            return None
        told = self.told or Shim()
        driver = None if told.driver is None else told.driver[:LONGEST_TEXT]
        return {"driver": driver, "loaded": self.is_loaded, "why": self.why}
