"""Incidents as the supervisor has them: what shared memory says at the verdict is on tmpfs before anything is done.

Invariant: it costs the kill a bounded time (``CAPTURE_NS``, and writing what that took) and nothing that fails here
keeps anything from being done; what is not kept is told.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from watchdogd import __version__
from watchdogd.act.acting import Happening, Order, PhaseChanged
from watchdogd.act.fleet import Fleet
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide import orders
from watchdogd.decide.credit import Credit
from watchdogd.decide.orders import OpenIncident, Trigger
from watchdogd.incidents import spool
from watchdogd.instrument import core_dump
from watchdogd.model import MILLISECOND, SECOND, Phase
from watchdogd.observe import capture, procfs
from watchdogd.publish import events
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal
from watchdogd.supervisor import incident_words
from watchdogd.supervisor.keeping import DUMP, HARMLESS, Keeping

CAPTURE_NS = 2 * MILLISECOND  # of the 5 ms that are the kill's longest delay
ENOUGH_NS = 3 * MILLISECOND  # of many at once, what is not on tmpfs by then is written when their kills are done
LATER_NS = MILLISECOND  # for one that nobody needs before a kill
AT_ONCE_NS = 20 * MILLISECOND  # a signal that follows so soon would show the same again
LETS_GO_NS = 2 * SECOND  # a kill that lets another worker's call return does so within this
MOST_UNFINISHED = 64  # incidents that nobody has written yet: a disk that hangs must not fill the memory
# Verdicts that end nobody may come ten times a second: so many of a worker are kept, then one each so often. And so
# many calls may return while evidence is taken, a little late each time: what stops it for that is to stay rare.
BURST, EVERY_NS = 10, 10 * SECOND


class Incidents:
    def __init__(
        self, runtime: Runtime, watched: Sequence[Watched], fleet: Fleet, journal: Journal, boot_id: int,
        happenings: deque[Happening], *, keeps: bool,
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._watched = watched
        self._fleet = fleet
        self._journal = journal
        self._boot = events.boot_id_text(boot_id)
        self._happenings = happenings
        self._keeps = keeps
        self._since: dict[str, int] = {}  # when the incident of a worker was opened, by its id
        self._killed: dict[str, int] = {}  # when a worker's last kill for a verdict began, by its name
        self._left: dict[str, dict[str, Any]] = {}  # to be told once its verdict is
        self._unsaved: deque[Callable[[], None]] = deque()  # what no kill is to wait for
        self._later: deque[Callable[[], None]] = deque()  # nor a look
        self._kept = Credit(BURST, EVERY_NS)  # of verdicts that end nobody
        self._spared = Credit(BURST, EVERY_NS)  # of calls that returned while evidence was taken
        self._lost = 0
        self.around: Callable[[], dict[str, Any]] = dict  # loads and sources, where there are any
        self.keeping = Keeping(self._boot, self._collected, self._exported)
        if keeps:
            journal.beside = self.keeping.event
            for each in watched:
                if each.state.incident is not None:
                    self.keeping.adopt(each.state.incident)

    # --- at the verdict ---

    def opened(self, openings: Sequence[tuple[Watched, OpenIncident]]) -> None:
        """Keep what shared memory says of every worker, the hung ones first. Nothing has been done about them yet."""
        if not openings or not self._keeps:
            return
        began_ns = time.monotonic_ns()
        victims = [watched for watched, _ in openings]
        head, blobs = self._capture("verdict", victims, CAPTURE_NS)
        for watched, opening in openings:
            if not self._admits(watched, opening, began_ns):
                continue
            if (
                self._left and time.monotonic_ns() - began_ns > ENOUGH_NS
            ):  # many at once: their kills wait for each other's
                self.keeping.open(opening.incident, self._target(watched))
                self._unsaved.append(partial(self._keep_late, watched, opening, head, blobs, began_ns))
            else:
                self._leave(watched, opening.incident, "", {**self._head(watched, opening), **head}, blobs, began_ns)

    def _keep_late(
        self, watched: Watched, opening: OpenIncident, head: dict[str, Any], blobs: dict[str, bytes], began_ns: int
    ) -> None:  # fmt: skip
        """Without the others: what is of them is with the first of those that came at once."""
        name = watched.settings.name
        workers = [told for told in head["workers"] if told["name"] == name]
        own = {key: blob for key, blob in blobs.items() if key.split("/")[0] == name}
        self._leave(
            watched, opening.incident, "", {**self._head(watched, opening), **head, "workers": workers}, own, began_ns
        )
        self._tell_left(watched, opening.incident)

    def settled(self, may_begin: Callable[[], bool]) -> None:
        """All that was decided is done: what could wait for it, and as far as there is time what can for longer."""
        while self._unsaved:
            self._unsaved.popleft()()
        while self._later and may_begin():
            self._later.popleft()()

    @property
    def has_more(self) -> bool:
        """Something that there was no time for yet."""
        return bool(self._later)

    def _tell_left(self, watched: Watched, incident: str) -> None:
        if incident in self._left:
            self._tell(watched, incident, "memory", **self._left.pop(incident))

    def _admits(self, watched: Watched, opening: OpenIncident, now_ns: int) -> bool:
        if self.keeping.unfinished >= MOST_UNFINISHED:
            return self._lose(watched, opening.incident, f"{MOST_UNFINISHED} incidents wait to be written")
        ends_nobody = opening.would_kill or watched.held is not None
        if ends_nobody and not self._kept.take(watched.settings.name, now_ns):
            return self._lose(watched, opening.incident, "verdicts on it that end nobody come too often")
        return True

    def _head(self, watched: Watched, opening: OpenIncident) -> dict[str, Any]:
        """As ``incidents.spool`` describes it."""
        finding, settings, state = opening.finding, watched.settings, watched.state
        wall_ns, pids = time.time_ns(), self._pids(watched)
        return {
            "id": opening.incident,
            "worker": settings.name,
            "incarnation": state.incarnation,
            "opened": events.rfc3339(wall_ns),
            "opened_unix_ns": wall_ns,
            "boot_id": self._boot,
            "version": __version__,
            "accelerator": settings.accelerator,
            "level": settings.evidence,
            "budget_ns": settings.evidence_budget_ns if settings.evidence == "full" else None,
            "verdict": {
                "verdict": finding.verdict.value, "detected_ns": finding.detected_ns, "operation": finding.operation,
                "stage": finding.stage, "entered_ns": finding.entered_ns, "armed_ns": watched.armed_later_ns(finding),
                "deadline_ns": finding.deadline_ns, "pid": finding.pid, "tid": finding.tid, "detail": finding.detail,
                "bisected": finding.bisected, "would_have_killed": opening.would_kill,
            },
            "kernel": [incident_words.kernel_line(told) for told in watched.evidence.messages],
            "suspects": self._fleet.suspects(watched, finding.detected_ns),
            "stalled_ns": watched.examination.stall_ns(finding.entered_ns or finding.detected_ns) or None,
            "command": settings.command,
            "environment": settings.environment,
            "heartbeat": None if watched.reader is None else watched.reader.path,
            "pids": pids,
            "threads": incident_words.thread_named(finding, pids),
            **self.around(),
        }  # fmt: skip

    def _leave(
        self, watched: Watched, incident: str, when: str, head: dict[str, Any], blobs: dict[str, bytes], began_ns: int
    ) -> None:
        path = f"{self._runtime.incidents}/{incident}{when and '.'}{when}{spool.SUFFIX}"
        try:
            spool.write(path, head, blobs)
        except OSError as error:
            self._lose(watched, incident, f"{self._runtime.incidents}: {error.strerror}")
            return
        if when:
            self.keeping.tell({"op": "capture", "id": incident, "when": when})
            return
        self._since[incident] = began_ns
        if not self.keeping.knows(incident):
            self.keeping.open(incident, self._target(watched))
        seconds = round((time.monotonic_ns() - began_ns) / SECOND, 6)
        self._left[incident] = {"seconds": seconds, "left_out": head["capture"]["left_out"]}

    def _capture(
        self, when: str, victims: Sequence[Watched], for_ns: int
    ) -> tuple[dict[str, Any], dict[str, bytes]]:  # fmt: skip
        names = {watched.settings.name for watched in victims}
        accelerators = {watched.settings.accelerator for watched in victims} - {None}
        ordered = sorted(self._watched, key=lambda each: incident_words.distance(each, victims, names, accelerators))
        taken = capture.take([(each.settings.name, each.reader) for each in ordered], time.monotonic_ns() + for_ns)
        told = {"when": when, "at_ns": taken.at_ns, "took_ns": taken.took_ns, "left_out": taken.left_out}
        seen = [
            each for each in ordered
            if each.settings.name in taken.unread or f"{each.settings.name}/pulse" in taken.blobs
        ]  # fmt: skip
        workers = [incident_words.worker(each, taken.unread, self._killed) for each in seen]
        return {"capture": told, "workers": workers}, taken.blobs

    # --- from then on ---

    def perform(self, watched: Watched, order: Order) -> None:
        """After the actor has done its part of it."""
        incident = watched.state.incident
        if isinstance(order, PhaseChanged):
            self._count_spared(watched, order)
        if isinstance(order, OpenIncident):
            self._tell_left(watched, order.incident)
        elif isinstance(order, orders.CloseIncident):
            self._since.pop(order.incident, None)
            if order.outcome == "returned" and max(self._killed.values(), default=0) > time.monotonic_ns() - LETS_GO_NS:
                self._look_again(watched, order.incident, "closed")  # whose kill let it return
            self.keeping.close(order.incident, order.outcome)
        elif incident is None:
            if isinstance(order, PhaseChanged) and order.trigger is Trigger.READY:
                self._later.append(partial(self._look_again, watched, order.before.incident, "ready"))
        elif isinstance(order, orders.Collect):
            self._collect(watched, order)
        elif isinstance(order, orders.Dump):
            self._tell(watched, incident, "commit", committed_ns=time.monotonic_ns())
            self.keeping.collect(incident, DUMP, order.until_ns)
        elif isinstance(order, orders.Signal) and order.kind == orders.KILL:
            self._signalled(watched, incident)
        elif isinstance(order, orders.Clear):
            self.keeping.forget(incident)
        elif isinstance(order, PhaseChanged) and order.trigger is Trigger.CLEARED:
            self._later.append(partial(self._look_again, watched, incident, "gone"))

    def _count_spared(self, watched: Watched, change: PhaseChanged) -> None:
        """And say where nothing is collected because there were too many."""
        if change.before.phase is Phase.COLLECTING and change.trigger is Trigger.RETURNED:
            self._spared.take(watched.settings.name, time.monotonic_ns())
        is_kill = change.after.phase is Phase.KILLING and change.trigger in (Trigger.VERDICT, Trigger.RELEASED)
        if not is_kill or watched.settings.evidence != "full" or change.after.incident is None:
            return
        why = self._hindrance(watched)
        if why is not None:
            self._tell(watched, change.after.incident, "skipped", reason=why)

    def collects(self, watched: Watched) -> bool:
        """Whether evidence of it can be taken that its kill waits for."""
        is_there = watched.process is not None and watched.exit is None
        if watched.state.phase is Phase.COLLECTING and not self.keeping.knows(watched.state.incident or ""):
            return False  # nothing is kept of it
        return watched.settings.evidence == "full" and is_there and self._hindrance(watched) is None

    def _hindrance(self, watched: Watched) -> str | None:
        """Why no evidence is taken that a kill would wait for."""
        if not self.keeping.is_ready:
            return "the keeper of incidents is not there, or busy"
        if self._spared.left(watched.settings.name, time.monotonic_ns()) < 1:
            return "too many of its calls returned while evidence was taken"
        return None

    def _target(self, watched: Watched) -> dict[str, Any] | None:
        """Of whom collectors may take evidence, if they may."""
        settings, state = watched.settings, watched.state
        if settings.evidence != "full":
            return None
        dump = core_dump.folder(self._runtime.state_directory, settings.name, state.incarnation)
        return {
            "worker": settings.name, "pids": self._pids(watched), "incarnation": state.incarnation,
            "heartbeat": watched.reader.path if watched.reader else "", "since_ns": state.spawned_ns,
            "accelerator": settings.accelerator, "dump": dump if settings.gpu_core_dump else None,
        }  # fmt: skip

    def _collect(self, watched: Watched, order: orders.Collect) -> None:
        if not self.keeping.knows(order.incident):  # the keeper would not answer
            self._happenings.append(Happening(watched, Trigger.COLLECTED))
            return
        self._tell(watched, order.incident, "begin", evidence_ns=time.monotonic_ns(), until_ns=order.until_ns)
        self.keeping.collect(order.incident, HARMLESS, order.until_ns)

    def _collected(self, incident: str, outcomes: list[dict[str, Any]]) -> None:
        """Or nobody is there any more to collect it."""
        for watched in self._watched:
            if watched.state.incident == incident and watched.state.phase is Phase.COLLECTING:
                self._tell(watched, incident, "collected", collectors=outcomes)
                self._happenings.append(Happening(watched, Trigger.COLLECTED))

    def _exported(self, incident: str, told: dict[str, Any]) -> None:
        """The program of the integrator has ended that is given what is kept."""
        reason = " ".join(filter(None, (str(told.get("outcome")), str(told.get("detail") or ""))))
        self._journal.emit_limited(
            EventKind.HOOK, time.monotonic_ns(), worker=incident.partition("-")[2].rpartition("-")[0],
            incident=incident, hook="export_hook", reason=reason, seconds=told.get("seconds"),
        )  # fmt: skip

    def _signalled(self, watched: Watched, incident: str) -> None:
        now_ns = time.monotonic_ns()
        self._killed[watched.settings.name] = now_ns
        self.keeping.give_up(incident)
        finding = watched.state.finding
        if watched.state.committed and finding is not None and not watched.still(finding, now_ns):
            self._tell(watched, incident, "moved", moved_ns=now_ns)
        if now_ns - self._since.get(incident, now_ns) > AT_ONCE_NS:
            self._later.append(partial(self._look_again, watched, incident, "signal"))

    def _look_again(self, watched: Watched, incident: str | None, when: str) -> None:
        """Shared memory at a further moment of its story; nobody waits for it."""
        if incident is None or not self.keeping.knows(incident):
            return
        began_ns = time.monotonic_ns()
        head, blobs = self._capture(when, [watched], LATER_NS)
        loads = (
            {"loads": self.around().get("loads")} if when == "ready" else {}
        )  # what they were since the verdict, too
        self._leave(watched, incident, when, {"id": incident, **head, **loads}, blobs, began_ns)

    # --- told ---

    def _lose(self, watched: Watched, incident: str, reason: str) -> bool:
        """It is not kept, or not all of it."""
        self._lost += 1
        self.keeping.dirty = True
        self._journal.emit_limited(
            EventKind.EVIDENCE, time.monotonic_ns(), worker=watched.settings.name,
            incarnation=watched.state.incarnation, incident=incident, step="lost", reason=reason,
        )  # fmt: skip
        return False

    def _tell(self, watched: Watched, incident: str, step: str, **fields: Any) -> None:
        self._journal.emit(
            EventKind.EVIDENCE, time.monotonic_ns(), worker=watched.settings.name,
            incarnation=watched.state.incarnation, incident=incident, step=step, **fields,
        )  # fmt: skip

    def _pids(self, watched: Watched) -> list[int]:
        """Known ones, that of its first process first."""
        first = watched.process.pid if watched.process is not None else 0
        return sorted(watched.pids(procfs.pid_namespace()), key=lambda pid: pid != first)

    def describe(self) -> dict[str, Any] | None:
        if not self._keeps:
            return None
        return {**self.keeping.told, "unfinished": self.keeping.unfinished, "lost": self._lost}
