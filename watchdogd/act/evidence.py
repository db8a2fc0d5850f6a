"""What the kernel tells of one worker: its messages, and which of its threads stand in D state.

Invariant: bounded, and nothing here leads to anything but words beside a verdict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from watchdogd.decide import kernel
from watchdogd.decide.dstate import Standing
from watchdogd.decide.kernel import Party, Told
from watchdogd.model import Finding

Thread = tuple[int, int]  # pid, tid
MOST_MESSAGES = 8
MOST_THREADS = 4  # told of


class Evidence:
    def __init__(self) -> None:
        self.messages: deque[Told] = deque(maxlen=MOST_MESSAGES)  # about it, or its accelerator
        self.names: set[str] = set()  # of its threads, seen lately
        self.waits: dict[Thread, Standing] = {}  # in D state
        self.places: dict[Thread, str] = {}  # where in the kernel (wchan), as far as that may be known
        self._killed: dict[int, int] = {}
        self._killed_names: dict[str, int] = {}

    def killed(self, pids: Iterable[int], now_ns: int) -> None:
        """Whatever the kernel says of them from now on, we know why they ended."""
        recent = now_ns - kernel.KILLED_NS
        self._killed = {pid: at for pid, at in self._killed.items() if at >= recent} | dict.fromkeys(pids, now_ns)
        self._killed_names = dict.fromkeys(self.names, now_ns)

    def party(self, name: str, accelerator: str | None, pids: frozenset[int]) -> Party:
        return Party(name, accelerator, pids, self.names, self._killed, self._killed_names)

    def follow(self, waits: dict[Thread, Standing]) -> list[Thread]:
        """Take the latest look. Returns the threads that it finds to stand there."""
        found = [key for key, wait in waits.items() if wait.is_stuck and not self._is_stuck(key)]
        self.waits = waits
        return found

    def _is_stuck(self, thread: Thread) -> bool:
        return thread in self.waits and self.waits[thread].is_stuck

    def forget(self) -> None:
        """The incarnation is gone; what was said of it stays."""
        self.waits, self.places, self.names = {}, {}, set()

    def beside(self, finding: Finding) -> list[str]:
        """What the kernel said, for the record of a verdict."""
        return kernel.beside(self.messages, finding)

    def blocked_texts(self) -> list[str]:
        return [f"tid {item['tid']} of pid {item['pid']} at {item['place'] or '?'}" for item in self._blocked()]

    def describe(self, name: str) -> dict[str, Any]:
        last = next((told for told in reversed(self.messages) if told.worker == name), None)
        return {"kernel": None if last is None else describe(last), "blocked": self._blocked()}

    def _blocked(self) -> list[dict[str, Any]]:
        return blocked(self.waits, self.places)


def blocked(waits: Mapping[Thread, Standing], places: Mapping[Thread, str]) -> list[dict[str, Any]]:
    """The threads that stand in D state, those that stand longest first."""
    stuck = sorted((wait.since_ns, key) for key, wait in waits.items() if wait.is_stuck)
    return [
        {"pid": key[0], "tid": key[1], "since_ns": since_ns, "place": places.get(key)}
        for since_ns, key in stuck[:MOST_THREADS]
    ]


def describe(told: Told) -> dict[str, Any]:
    """A message as the snapshot tells it."""
    message = told.message
    return {
        "about": message.kind.value,
        "number": message.number,
        "text": message.text,
        "at_ns": told.at_ns,
        "expected": told.expected,
    }
