"""Carrying out what ``escalation.decide`` orders: asking, waiting for a file, noting, and the action itself.

Invariant: an order's record is handed to the recorder before it is carried out; everything that could block, the note
on disk included, is a child with a deadline.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from watchdogd.act import consent
from watchdogd.act.causes import Causes
from watchdogd.act.runs import Done, Outcome, Runs
from watchdogd.act.runtime import Runtime
from watchdogd.act.verdict_hook import outside, variables
from watchdogd.act.watched import Watched
from watchdogd.decide import escalation, escalation_memory
from watchdogd.decide.escalation_memory import Memory
from watchdogd.decide.escalation_orders import Act, Ask, Await, Cause, Note, Occasion, Record, Stage, State, Trigger
from watchdogd.decide.orders import OpenIncident
from watchdogd.model import EscalationSettings
from watchdogd.places import RUNTIME_DIR
from watchdogd.publish.events import EventKind, boot_id_text, rfc3339
from watchdogd.publish.journal import Journal

FILE_NAME = "escalation.json"
REBOOT = "reboot"
_SAID_BY_FILE: Mapping[int | None, str] = {
    0: escalation.CONSENT_FILE,
    consent.NOT_BELIEVED: "others can write the directory of consent_file",
}


class Escalator:
    def __init__(
        self, settings: EscalationSettings, watched: Sequence[Watched], runs: Runs, journal: Journal, runtime: Runtime,
        boot_id: int, fail: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``fail``: end the supervisor with the status that says so."""
        self._settings = settings
        self._watched = watched
        self._runs = runs
        self._journal = journal
        self._fail = fail
        self._boot_id = boot_id_text(boot_id)
        self._environment = {**outside(os.environ), RUNTIME_DIR: runtime.directory}
        self._path = f"{runtime.state_directory}/{FILE_NAME}"
        self._causes = Causes(settings)
        self._told: dict[tuple[str, str], Cause] = {}
        self._state = State()
        self._writes: list[Note] = []  # the first is being written
        self.dirty = True  # something here is not published yet
        self.ended = False  # the supervisor stops: whatever stands, it is not for it any more

    def start(self, published: Mapping[str, Any], now_ns: int) -> None:
        """Take up what earlier supervisors noted, and say what the last of them did and why.

        ``published``: by the one before this one, as ``describe`` has it; nothing if there was none.
        """
        if not self._settings.enabled:
            return
        if published:
            try:
                self._causes.recall(published["remembered"])
            except (KeyError, ValueError) as error:
                self._record("forgotten", f"the hangs until now: {error!r}", None, now_ns)
        try:
            with open(self._path, "rb") as file:
                past = escalation_memory.decode(file.read(escalation_memory.MOST_BYTES))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            # Nobody knows what was done, so it was done just now.
            text = f"{self._path} cannot be read ({error}): min_interval counts from now"
            self._record("forgotten", text, None, now_ns)
            past = Memory().act("unknown", "unknown", "", "", self._boot_id, now_ns)
        if past.action not in ("", "unknown") and not past.quiet_boots:
            self._record("earlier", past.told(), None, now_ns)
        memory = past.begin_boot(self._boot_id)
        self._state = replace(self._state, memory=memory)
        if memory != past:
            self._note(Note(-1, now_ns + escalation.NOTE_NS, memory), now_ns)

    def opened(self, watched: Watched, opening: OpenIncident, now_ns: int) -> None:
        self._causes.hung(watched, opening, now_ns)
        self.dirty = True

    def tick(self, now_ns: int) -> None:
        if not self._settings.enabled or self.ended:
            return
        told, self._told = self._told, self._causes.now(self._watched, now_ns)
        self.dirty = self.dirty or told != self._told
        for key, cause in told.items():
            if self._told.get(key) != cause:
                self._feed(Trigger.OVER, now_ns, cause=cause)
        for key, cause in self._told.items():
            if told.get(key) != cause:
                self._feed(Trigger.CAUSE, now_ns, cause=cause)
        self._feed(Trigger.TIMEOUT, now_ns)

    def next_ns(self) -> list[int]:
        return [] if self._state.deadline_ns is None or self.ended else [self._state.deadline_ns]

    @property
    def is_committed(self) -> bool:
        """What was consented to is under way, or a note is on its way to the disk: not to be broken off."""
        return bool(self._writes) or self._state.stage in (Stage.NOTING, Stage.ACTING)

    def describe(self) -> dict[str, Any] | None:
        """For the snapshot; None where none is configured."""
        if not self._settings.enabled:
            return None
        state, memory = self._state, self._state.memory
        return {
            "stage": state.stage.value,
            "since_ns": state.since_ns,
            "deadline_ns": state.deadline_ns,
            "action": self._settings.action,
            "dry_run": self._settings.dry_run,
            "consent_file": self._settings.consent_file,
            "causes": [cause.reason for cause in state.causes],
            "ways_out": [cause.way_out for cause in state.causes if cause.way_out],
            "refused": [cause.reason for cause in self._told.values() if cause not in state.causes],
            "last": memory.told() if memory.action else None,
            "remembered": self._causes.remember(),
        }

    def _feed(self, trigger: Trigger, now_ns: int, **given: Any) -> None:
        if self.ended:
            return
        occasion = Occasion(now_ns, self._settings, self._boot_id, rfc3339(time.time_ns()), **given)
        before = self._state
        self._state, orders = escalation.decide(before, trigger, occasion)
        self.dirty = self.dirty or self._state != before
        for order in orders:
            if isinstance(order, Record):
                self._record(order.step, order.reason, order.cause, now_ns)
            else:
                self._perform(order, now_ns)

    def _record(self, step: str, reason: str, cause: Cause | None, now_ns: int) -> None:
        worker = cause.subject if cause is not None and cause.kind != "hangs" else None
        self._journal.emit(
            EventKind.ESCALATION, now_ns, worker=worker, incident=cause.incident if cause else None, step=step,
            cause=cause.name if cause else None, action=self._settings.action, attempt=self._state.attempt,
            dry_run=self._settings.dry_run, reason=reason,
        )  # fmt: skip

    def _perform(self, order: Ask | Await | Note | Act, now_ns: int) -> None:
        if isinstance(order, Ask):
            self._run(self._settings.ask, order, now_ns)
        elif isinstance(order, Await):
            command = (sys.executable, "-m", "watchdogd.act.consent", self._settings.consent_file or "")
            self._run(command, order, now_ns)
        elif isinstance(order, Note):
            self._note(order, now_ns)
        elif order.action == REBOOT:
            self._run(self._settings.reboot_command, order, now_ns)
        else:
            self._fail(order.reason)

    def _run(self, command: tuple[str, ...], order: Ask | Await | Act, now_ns: int) -> None:
        state = self._state
        facts = {
            "event": "escalation",
            "step": type(order).__name__.lower(),
            "action": self._settings.action,
            "cause": ", ".join(cause.name for cause in state.causes),
            "reason": "; ".join(cause.reason for cause in state.causes),
        }
        environment = {**self._environment, **variables(facts)}
        done = self._answer(order.attempt, _SAID_BY_FILE if isinstance(order, Await) else {})
        # A reboot ends us too, and must not end with us.
        ours = not isinstance(order, Act)
        name = f"escalation {type(order).__name__}"
        self._start(name, command, environment, order.deadline_ns, done, now_ns, dies_with_us=ours)

    def _answer(self, attempt: int, words: Mapping[int | None, str]) -> Done:
        """``words``: for people, by exit status, where they say more than that."""

        def done(outcome: Outcome, now_ns: int) -> None:
            reason = words.get(outcome.code, outcome.text)
            self._feed(Trigger.YES if outcome.good else Trigger.NO, now_ns, attempt=attempt, reason=reason)

        return done

    def _note(self, note: Note, now_ns: int) -> None:
        """One writer at a time: an older note must not end up over a newer one."""
        self._writes.append(note)
        if len(self._writes) == 1:
            self._write(now_ns)

    def _write(self, now_ns: int) -> None:
        note = self._writes[0]

        def done(outcome: Outcome, now_ns: int) -> None:
            del self._writes[0]
            if self._writes:
                self._write(now_ns)
            self._answer(note.attempt, {})(outcome, now_ns)

        command = (sys.executable, "-m", "watchdogd.act.durably", self._path)
        deadline_ns = max(note.deadline_ns, now_ns + 1)
        given = note.memory.encode()
        self._start("note", command, self._environment, deadline_ns, done, now_ns, stdin=given, is_ours=True)

    def _start(
        self, name: str, command: tuple[str, ...], environment: dict[str, str], deadline_ns: int, done: Done,
        now_ns: int, **keys: Any,
    ) -> None:  # fmt: skip
        """It is tried for days, perhaps; those that SIGKILL does not end must not become ever more."""
        if self._runs.stuck(name, now_ns):
            done(Outcome(None, "is still there from the last time, although SIGKILL was sent"), now_ns)
        else:
            self._runs.start(name, command, environment, deadline_ns, done, now_ns, **keys)


def effective(settings: EscalationSettings, observe_only: bool) -> EscalationSettings:
    """A supervisor that signals nobody does not reboot either."""
    return replace(settings, dry_run=settings.dry_run or observe_only)
