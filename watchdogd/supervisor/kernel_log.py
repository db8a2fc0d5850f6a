"""The kernel log under the supervisor: its reader, whom each message is about, what is told of it.

Invariant: a message is evidence. It goes on record and is shown, bounded in rate; nobody is signalled for it, and a log
that cannot be read is told once and changes nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from watchdogd.act.children import Child
from watchdogd.act.evidence import describe
from watchdogd.act.watched import Watched
from watchdogd.decide import kernel
from watchdogd.decide.kernel import Told
from watchdogd.model import SECOND, Exit, KernelKind, KernelMessage, KmsgSettings
from watchdogd.observe import procfs
from watchdogd.observe.sources import kmsg
from watchdogd.observe.sources.child import EX_UNAVAILABLE
from watchdogd.observe.sources.lines import LineBuffer
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal

NAME = "kmsg"
EXPECTED = "expected"  # counted apart: what follows from our own kill is no fault
SETTLED_NS = 2 * SECOND  # a reader that says nothing of itself, and has lived so long, reads
SILENT_LOOKS = (
    30  # of housekeeping, 15 s: without a sign of a reader that gives them. Looks, not time: a machine may stall
)


class KernelLog:
    def __init__(
        self, settings: KmsgSettings, watched: Sequence[Watched], journal: Journal, pid_namespace: int | None
    ) -> None:
        self.child = Child(NAME, settings.command, os.environ, stdin=False, stdout=True)
        self.up = False
        self._watched = watched
        self._journal = journal
        self._buffer = LineBuffer()
        self._counts = dict.fromkeys((*(kind.value for kind in KernelKind), EXPECTED), 0)
        self._lost = 0
        self._of_accelerators: dict[str, Told] = {}
        self._last_ns: int | None = None
        self._own_words = ""
        self._spoke = False
        self._second = self._taken = 0  # so many messages in that second
        self._signs = False  # whether the reader is ours, which says now and then that it lives
        self._looks = 0  # since its last word
        self._started_ns = 0
        self._turn = 0
        self._pid_namespace = pid_namespace
        self._gpus: dict[str, str] = {}  # accelerators, by their place on the bus

    # --- its reader ---

    def started(self, now_ns: int) -> None:
        self._buffer = LineBuffer()
        self._spoke = self._signs = False
        self._started_ns = now_ns

    def ended(self, status: Exit | None) -> None:
        """One that may not read is not asked again before the next start or reload: nothing would be different."""
        if status is not None and status.code == EX_UNAVAILABLE:
            self.child.next_start_ns = None
            self.child.note = self._own_words or self.child.note

    def watch(self, now_ns: int) -> bool:
        """Update ``up``; whether it changed. A reader that hangs is killed, to be started again."""
        lives = self.child.process is not None
        self._looks += 1
        if self.is_silent:
            self.child.kill()
        up = lives and not self.is_silent and (self._spoke or now_ns - self._started_ns > SETTLED_NS)
        changed, self.up = up != self.up, up
        if lives and self._watched:  # one worker at a time: what its threads are called is of use before it is killed
            self._turn = (self._turn + 1) % len(self._watched)
            watched = self._watched[self._turn]
            if watched.process is not None:
                watched.evidence.names = procfs.names(watched.process.pid)
        return changed

    @property
    def is_silent(self) -> bool:
        return self.child.process is not None and self._signs and self._looks > SILENT_LOOKS

    def feed(self, data: bytes, now_ns: int) -> bool:
        """Take what it printed, in a storm the first of each second: a command of one's own may print without end.
        Whether there is anything new to be told."""
        if now_ns // SECOND != self._second:
            self._second, self._taken = now_ns // SECOND, 0
        lines = self._buffer.feed(data)
        self._spoke = self._spoke or bool(lines)
        self._looks = 0 if lines else self._looks
        lines = [line for line in lines if line != kmsg.OWN_WORDS + kmsg.SIGN]
        messages = []
        for line in lines:
            if line.startswith(kmsg.OWN_WORDS):
                self._own(line.removeprefix(kmsg.OWN_WORDS))
                continue
            if self._taken == kmsg.MOST_A_SECOND:
                self._lost += 1
                continue
            message = kmsg.parse_line(line)
            if message is not None:
                self._taken += 1
                messages.append(message)
        self._take(messages, now_ns)
        return bool(lines)

    def _own(self, words: str) -> None:
        what, _, rest = words.partition(" ")
        count = rest.partition(" ")[0]
        if what == "lost" and count.isdecimal() and len(count) < 10:
            self._lost += int(count)
        elif what == "gpus":
            self._gpus = {place: f"gpu{index}" for index, place in enumerate(rest.split())}
            self._signs = True  # no other reader says this
        else:
            self._own_words = words

    # --- its messages ---

    def _take(self, messages: Sequence[KernelMessage], now_ns: int) -> None:
        """In a storm most are of one process: whose it is, is looked up once for all that came together."""
        parties = [self._party(watched) for watched in self._watched] if messages else []
        lineages: dict[int, set[int]] = {}
        for message in messages:
            if message.pid is not None and self._pid_namespace != procfs.INITIAL_PID_NAMESPACE:
                message = replace(message, pid=None)  # noqa: PLW2901 - the log's pids are other processes' here
            if message.pid is not None and message.pid not in lineages:
                lineages[message.pid] = procfs.lineage(message.pid)
            lineage = lineages.get(message.pid or 0, set())
            self._tell(kernel.attribute(message, parties, lineage, self._gpus, now_ns))

    def _tell(self, told: Told) -> None:
        message, now_ns = told.message, told.at_ns
        self._last_ns = now_ns
        self._counts[EXPECTED if told.expected else message.kind.value] += 1
        if told.accelerator is not None and not told.expected:
            self._of_accelerators[told.accelerator] = told
        whose = None
        for watched in self._watched:
            is_its_own = watched.settings.name == told.worker
            if is_its_own:
                whose = watched
            if is_its_own or (told.worker is None and told.accelerator in (watched.settings.accelerator or "?",)):
                watched.evidence.messages.append(told)
                watched.changed()
        self._journal.emit_limited(
            EventKind.KERNEL, now_ns, worker=told.worker,
            incarnation=None if whose is None else whose.state.incarnation,
            incident=None if whose is None else whose.state.incident, about=message.kind.value, number=message.number,
            accelerator=told.accelerator, device=message.device, pid=message.pid, name=message.name,
            channel=message.channel, expected=told.expected, reason=message.text,
        )  # fmt: skip

    def _party(self, watched: Watched) -> kernel.Party:
        settings = watched.settings
        return watched.evidence.party(settings.name, settings.accelerator, watched.pids(self._pid_namespace))

    # --- what is told of it ---

    def describe(self) -> dict[str, Any]:
        """As a source."""
        return {
            "name": NAME,
            "load": False,
            "up": self.up,
            "sample_ns": self._last_ns,
            "restarts": max(0, self.child.starts - 1),
            "bad_lines": 0,
            "note": "its reader hangs" if self.is_silent else self.child.note,
        }

    def totals(self) -> dict[str, Any]:
        return {"messages": self._counts, "lost": self._lost}

    def of_accelerator(self, name: str) -> dict[str, Any] | None:
        told = self._of_accelerators.get(name)
        return None if told is None else describe(told)
