"""Doing what policy ordered, and putting it on record: spawn, signal, clear away, in that order of cause and effect.

Invariant: an order's record is in the journal before the order is carried out; what an order leads to (an exit, a
word that moved) comes back as a ``Happening``, never as a decision made here.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from typing import NamedTuple

from watchdogd import exits
from watchdogd.act import birth, launching, legacy, scope
from watchdogd.act.fleet import Fleet
from watchdogd.act.runtime import CANNOT_BE_WRITTEN, CannotStart, Runtime
from watchdogd.act.spawning import launch
from watchdogd.act.watched import Watched
from watchdogd.decide import liveness, orders
from watchdogd.decide.orders import Trigger
from watchdogd.instrument import core_dump, options
from watchdogd.model import SECOND, Exit, Finding, Phase, Verdict
from watchdogd.observe.heartbeat import create
from watchdogd.observe.loop import Loop
from watchdogd.publish import events
from watchdogd.publish.board import Board
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal


class Happening(NamedTuple):
    """One trigger on its way to ``decide``."""

    watched: Watched
    trigger: Trigger
    finding: Finding | None = None
    held: str | None = None
    usable: bool | None = None  # with PROBED


class PhaseChanged(NamedTuple):
    """For the record."""

    before: orders.WorkerState
    after: orders.WorkerState
    trigger: Trigger


Order = orders.Action | PhaseChanged


class Actor:
    def __init__(
        self, runtime: Runtime, board: Board, loop: Loop, journal: Journal, fleet: Fleet, boot_id: int,
        happenings: deque[Happening], identities: launching.Identities, slice_name: str | None,
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._board = board
        self._loop = loop
        self._journal = journal
        self._fleet = fleet
        self._boot_id = boot_id
        self._happenings = happenings
        self._identities = identities
        self._slice = slice_name
        self.left: tuple[Watched, orders.Leave] | None = None  # the first one that was left to whoever owns us

    def perform(self, watched: Watched, order: Order, published_ns: int | None, now_ns: int) -> None:
        if isinstance(order, orders.OpenIncident):
            self._record_verdict(watched, order, published_ns)
        elif isinstance(order, PhaseChanged):
            self._record_phase(watched, order, now_ns)
        elif isinstance(order, orders.Signal):
            self._signal(watched, order)
        elif isinstance(order, orders.Commit):
            if not self.spare(watched, order.confirm):
                self._happenings.append(Happening(watched, Trigger.COMMITTED))
        elif isinstance(order, orders.Spawn):
            self._spawn(watched, order, now_ns)
        elif isinstance(order, orders.Clear):
            if watched.process is not None or watched.exit is not None:  # else a sweep that ran has found nothing more
                watched.clearing.ask(now_ns)
        elif isinstance(order, orders.CloseIncident):
            watched.closed(order)
        elif isinstance(order, orders.Bisect):
            self._journal.emit(
                EventKind.BISECT, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
                incident=watched.state.incident, change=order.change, reason=order.reason,
            )  # fmt: skip
        elif isinstance(order, orders.Leave):
            self.left = self.left or (watched, order)
        elif isinstance(order, orders.Refrain):
            self._journal.emit(
                EventKind.REFRAINED, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
                reason=f"{order.deed}: observed only",
            )  # fmt: skip

    # --- records ---

    def count_incident(self, watched: Watched, action: orders.OpenIncident) -> None:
        """Before the snapshot is published that shows it."""
        finding = action.finding
        watched.opened(action, events.rfc3339(time.time_ns()))
        if finding.deadline_ns is not None:
            self._board.count("detection_lateness", finding.detected_ns - finding.deadline_ns)

    def _record_verdict(self, watched: Watched, action: orders.OpenIncident, published_ns: int | None) -> None:
        finding = action.finding
        self._journal.emit(
            EventKind.VERDICT, finding.detected_ns, worker=watched.settings.name,
            incarnation=watched.state.incarnation, incident=action.incident, verdict=finding.verdict.value,
            operation=finding.operation, stage=finding.stage, entered_ns=finding.entered_ns,
            armed_ns=watched.armed_later_ns(finding),
            deadline_ns=finding.deadline_ns, detected_ns=finding.detected_ns, published_ns=published_ns,
            pid=finding.pid, tid=finding.tid, detail=finding.detail, bisected=finding.bisected,
            would_have_killed=action.would_kill, held=watched.held,
            also_in_flight=watched.beside(finding, finding.detected_ns),
            suspects=self._fleet.suspects(watched, finding.detected_ns),
            kernel=watched.evidence.beside(finding), blocked=watched.evidence.blocked_texts(),
        )  # fmt: skip

    def record_report_only(self, watched: Watched, verdict: Verdict, detail: str, now_ns: int) -> None:
        self._journal.emit_limited(
            EventKind.VERDICT, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            verdict=verdict.value, detected_ns=now_ns, detail=detail,
        )  # fmt: skip

    def record_near_miss(self, watched: Watched, pending: liveness.Pending, incident: str | None, now_ns: int) -> None:
        """A call or step that was past its soft level is over. ``incident``: of the verdict on it, if there was one."""
        watched.tally.near_miss()
        watched.changed()
        late = "returned after its verdict, before its kill"
        self._journal.emit_limited(
            EventKind.NEAR_MISS, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=incident, operation=pending.operation or pending.verdict.value, entered_ns=pending.entered_ns,
            deadline_ns=pending.deadline_ns, reason="returned after its soft level" if incident is None else late,
        )  # fmt: skip

    def record_good_again(self, watched: Watched, now_ns: int) -> None:
        """The run of bad outputs is over that its standing verdict is about."""
        entered_ns = watched.state.finding.entered_ns if watched.state.finding is not None else None
        self._journal.emit_limited(
            EventKind.NEAR_MISS, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=watched.state.incident, operation="outputs", entered_ns=entered_ns, deadline_ns=None,
            reason="its outputs are good again",
        )  # fmt: skip

    def record_stall_over(self, watched: Watched, now_ns: int) -> None:
        """Something has moved, or nothing is known to be pending any more, before the kill."""
        watched.tally.near_miss()
        finding = watched.state.finding
        self._journal.emit_limited(
            EventKind.NEAR_MISS, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=watched.state.incident, operation="progress",
            entered_ns=None if finding is None else finding.entered_ns,
            deadline_ns=None if finding is None else finding.deadline_ns, reason="it gets on again",
        )  # fmt: skip

    def record_ready(self, watched: Watched, incident: str | None, now_ns: int) -> None:
        ready_ns = watched.state.ready_ns
        recovery_ns = None if ready_ns is None else watched.tally.recovered(ready_ns)
        born = self._born(watched)
        if born is not None and born.problem is not None:
            watched.note = f"no systemd scope of its own: {born.problem}"
        self._journal.emit(
            EventKind.READY, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=incident, pid=watched.process.pid if watched.process else None, ready_ns=ready_ns,
            recovery_seconds=None if recovery_ns is None else recovery_ns / SECOND,
        )  # fmt: skip

    def _record_phase(self, watched: Watched, change: PhaseChanged, now_ns: int) -> None:
        self._journal.emit(
            EventKind.PHASE, now_ns, worker=watched.settings.name, incarnation=change.after.incarnation,
            incident=change.after.incident or change.before.incident, previous=change.before.phase.value,
            phase=change.after.phase.value, reason=change.trigger.value,
            blocked=watched.evidence.blocked_texts() if change.after.phase is Phase.UNKILLABLE else None,
        )  # fmt: skip

    # --- deeds ---

    def spare(self, watched: Watched, finding: Finding) -> bool:
        """Whether what was to be done about a finding must not be, since the fact it rests on is another by now."""
        if watched.still(finding, time.monotonic_ns()):
            return False
        if finding.verdict is Verdict.STALL:
            self.record_stall_over(watched, time.monotonic_ns())
        self._happenings.append(Happening(watched, Trigger.RETURNED))
        return True

    def _signal(self, watched: Watched, action: orders.Signal) -> None:
        number = signal.SIGKILL if action.kind == orders.KILL else signal.SIGTERM
        if action.confirm is not None and self.spare(watched, action.confirm):
            return
        refusal = watched.signal(number, time.monotonic_ns())
        watched.note = "" if refusal is None else f"{number.name} was refused: {refusal.strerror}"
        watched.changed()
        self._journal.emit(
            EventKind.SIGNAL, time.monotonic_ns(), worker=watched.settings.name,
            incarnation=watched.state.incarnation, incident=watched.state.incident, signal=number.name,
            pid=watched.process.pid if watched.process else None, refused=refusal.strerror if refusal else None,
        )  # fmt: skip

    def _spawn(self, watched: Watched, order: orders.Spawn, now_ns: int) -> None:
        settings, incarnation = watched.settings, order.incarnation
        watched.note = ""
        watched.clearing.forget()  # a sweep that was asked for was not for this one
        if incarnation > 1:
            watched.tally.restart(watched.state.reason)
        watched.left = watched.left or legacy.for_successor(self._runtime, settings, incarnation)
        output = None
        try:
            # The last one's heartbeat stays for those who read its final counts; the one before that goes.
            self._runtime.remove_incarnation(settings.name, incarnation - 2)
            ids = self._identities.of(settings)
            # The file is the intent: if we die between here and the fork, there is a name left and no worker.
            watched.reader = create(
                self._runtime.heartbeat(settings.name, incarnation), boot_id=self._boot_id, incarnation=incarnation,
                spawned_ns=now_ns, owner=None if ids is None else (ids[0], os.getgid()), bisect=order.bisect,
                driver=options.asked(settings), given=watched.left.given,
            )  # fmt: skip
            watched.tally.redelivered(watched.left.back)
            watched.left = None  # it is in the file, whatever becomes of this incarnation
            try:
                output = launching.open_output(settings, self._runtime.logs)
            except OSError as error:
                if error.errno not in CANNOT_BE_WRITTEN:
                    raise
                watched.note = f"its output goes where the supervisor's does: {error.strerror}"
            request = launching.request(
                settings, watched.reader.path, self._runtime.birth(settings.name, incarnation), output, os.environ, ids,
                self._scope(settings.name, incarnation), self._runtime.shims,
                core_dump.folder(self._runtime.state_directory, settings.name, incarnation),
            )  # fmt: skip
            watched.process = launch(request)
            watched.launched = launching.fingerprint(settings)
            watched.reader.write_spawned_pid(watched.process.pid)
        except (OSError, ImportError, CannotStart) as error:
            watched.exit = watched.ended = Exit(code=exits.REFUSED)
            watched.note = f"cannot start: {error}"
            finding = Finding(Verdict.CRASHED, detected_ns=now_ns, detail=watched.note)
            self._happenings.append(Happening(watched, Trigger.EXITED, finding))
            return
        finally:
            if output is not None:
                os.close(output)
        self.hold(watched)
        watched.examination.look = liveness.Look(now_ns)
        watched.changed()

    def take_over(self, watched: Watched, trigger: Trigger | None) -> None:
        """From the supervisor before this one."""
        if trigger is Trigger.EXITED and watched.exit is not None:
            finding = liveness.ended(watched.exit, time.monotonic_ns())
            self._happenings.append(Happening(watched, Trigger.EXITED, finding))
        elif trigger is Trigger.RELEASED:
            self._happenings.append(Happening(watched, Trigger.RELEASED))
        if watched.exit is None:  # else its pidfd is readable until it is reaped, and all is known
            self.hold(watched)

    def _scope(self, worker: str, incarnation: int) -> tuple[str, str] | None:
        return (scope.unit_name(worker, incarnation, os.getpid()), self._slice) if self._slice else None

    def has_said_who_it_is(self, watched: Watched) -> bool:
        """Its process, if it is being started: until then nobody else could take it over."""
        return watched.state.phase is not Phase.STARTING or self._born(watched) is not None

    def _born(self, watched: Watched) -> birth.Birth | None:
        return birth.read(self._runtime.birth(watched.settings.name, watched.state.incarnation))

    def hold(self, watched: Watched) -> None:
        """Be told of its end."""
        if watched.process is not None and watched.process.pidfd >= 0:
            self._loop.listen(watched.process.pidfd, lambda now: self._on_exit(watched, now))

    def _on_exit(self, watched: Watched, now_ns: int) -> None:
        if watched.process is None or watched.exit is not None:
            return
        status = watched.process.exit_status()
        if status is None:
            return
        self._loop.forget(watched.process.pidfd)  # it stays readable for ever
        watched.exit = watched.ended = status
        watched.read()
        error = watched.process.launch_error()
        watched.note = error or watched.note
        finding = watched.sticky_error(now_ns) or liveness.ended(status, now_ns)
        detail = "; ".join(dict.fromkeys(filter(None, (finding.detail, error, str(status)))))
        ended = Finding(finding.verdict, now_ns, entered_ns=finding.entered_ns, detail=detail)
        self._happenings.append(Happening(watched, Trigger.EXITED, ended))

    def begin_sweep(self, watched: Watched, now_ns: int) -> None:
        born = self._born(watched)
        watched.begin_sweep(None if born is None else born.cgroup, now_ns)
        if watched.clearing.sweeper is None:
            if watched.process is None:  # there was never anything to clear
                self._cleared(watched, 0, now_ns)
        elif not self._loop.listens_to(watched.clearing.sweeper.descriptor):
            self._loop.listen(watched.clearing.sweeper.descriptor, lambda now: self.check_sweep(watched, now))

    def check_sweep(self, watched: Watched, now_ns: int) -> None:
        """Take a sweep's result, or give the sweep up after its deadline."""
        if watched.clearing.sweeper is None:
            return
        descriptor = watched.clearing.sweeper.descriptor
        swept = watched.end_sweep(now_ns)
        if watched.clearing.sweeper is None:
            self._loop.forget(descriptor)
        # With the worker itself still there, only its descendants are gone; its exit starts the next sweep.
        if swept is not None and not swept.left and watched.exit is not None:
            self._cleared(watched, len(swept.killed), now_ns)

    def _cleared(self, watched: Watched, descendants: int, now_ns: int) -> None:
        watched.gone_ns = now_ns
        left = None if watched.reader is None else legacy.left_by(watched.reader, redeliver=watched.settings.redeliver)
        if left is not None:
            watched.tally.dropped(left.dropped)
        self._journal.emit(
            EventKind.GONE, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=watched.state.incident, pid=watched.process.pid if watched.process else None,
            exit=str(watched.exit), descendants_killed=descendants, **({} if left is None else left.told()),
        )  # fmt: skip
        watched.forget_incarnation()
        self._happenings.append(Happening(watched, Trigger.CLEARED))
