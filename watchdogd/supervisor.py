"""The tick: observe, decide, act, publish, in one thread.

Invariant: nothing here waits for a worker, a disk, a client or a GPU. What takes time is a phase with a deadline, and
whatever can block is a child process.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from watchdogd import __version__, budget, events, launching, liveness, policy, procfs, snapshot
from watchdogd.board import Board
from watchdogd.children import Child, start_due
from watchdogd.control import ControlServer, Request
from watchdogd.events import EventKind
from watchdogd.fleet import Fleet
from watchdogd.heartbeat import create
from watchdogd.journal import Journal
from watchdogd.loads import Loads, Source
from watchdogd.model import MILLISECOND, SECOND, Exit, Finding, IncidentId, Phase, Settings, Verdict
from watchdogd.notify import Notifier
from watchdogd.policy import Occasion, Trigger
from watchdogd.process import become_subreaper, launch
from watchdogd.runtime import Runtime
from watchdogd.timer import Timer
from watchdogd.watched import Watched

HOUSEKEEPING_NS = SECOND // 2
HELD_CHECK_NS = 5 * MILLISECOND
BOARD_BYTES_PER_WORKER = 4096
BOARD_BYTES_BASE = 65536
END_SECONDS = 2.0  # for the recorder to write what it has, at the very end


@dataclass(frozen=True, slots=True)
class Happening:
    """One trigger on its way to ``decide``."""

    watched: Watched
    trigger: Trigger
    finding: Finding | None = None
    held: str | None = None


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """For the record."""

    before: policy.WorkerState
    after: policy.WorkerState
    trigger: Trigger


Order = policy.Action | PhaseChanged


class Supervisor:
    def __init__(self, settings: Settings, runtime: Runtime, notifier: Notifier) -> None:
        self.settings = settings
        self.runtime = runtime
        self.notifier = notifier
        self.boot_id = procfs.boot_id()
        self.started_ns = time.monotonic_ns()
        self.watched = [Watched(worker) for worker in settings.workers]
        self.fleet = Fleet(self.watched, settings.supervisor)
        self.loads = Loads()
        self.stopping = False
        self.finished = False
        self._happenings: deque[Happening] = deque()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._epoll = select.epoll()
        self._timer = Timer()
        self._next_ns = self.started_ns
        self._housekeeping_ns = self.started_ns
        self._dirty = True
        self._incidents = 0
        self._recorded: dict[str, Any] = {"written": 0, "dropped": 0, "error": None}
        self._recorded_text = ""
        become_subreaper()
        runtime.clear_leftovers()
        capacity = BOARD_BYTES_BASE + BOARD_BYTES_PER_WORKER * len(self.watched)
        self.board = Board(runtime.board, pid=os.getpid(), boot_id=self.boot_id, capacity=capacity)
        self.control = ControlServer(runtime.socket)
        self.journal = Journal(self.boot_id, events.last_seq(runtime.state_directory) + 1)
        self.sources = [self._source(source) for source in settings.sources if source.command]
        self.recorder = self._recorder()
        self.children = [self.recorder, *(source.child for source in self.sources)]
        if settings.metrics.listen:
            self.children.append(self._exporter(settings.metrics.listen))
        self._poll(self._timer.descriptor, lambda _now: self._timer.drain())
        self._poll(self.control.fileno(), self._on_control)
        self._catch_signals()

    # --- set-up ---

    def _source(self, settings: Any) -> Source:
        return Source(settings, Child(settings.name, settings.command, os.environ, stdin=False, stdout=True))

    def _recorder(self) -> Child:
        settings = self.settings.supervisor
        command: tuple[str, ...] = (
            sys.executable,
            "-m",
            "watchdogd.recorder",
            "--file",
            self.runtime.events,
            "--max-bytes",
        )
        command = (*command, str(settings.events_max_bytes), "--keep", "4", "--echo", settings.log_format)
        # It ends by the end of its input, so that it writes what a dying supervisor said last.
        return Child("recorder", command, os.environ, stdin=True, stdout=True, die_with_parent=False)

    def _exporter(self, listen: str) -> Child:
        command = (sys.executable, "-m", "watchdogd.exporter", "--runtime-dir", self.runtime.directory)
        return Child("exporter", (*command, "--listen", listen), os.environ, stdin=True, stdout=False)

    def _catch_signals(self) -> None:
        receive, send = socket.socketpair()
        receive.setblocking(False)
        send.setblocking(False)
        signal.set_wakeup_fd(send.fileno(), warn_on_full_buffer=False)
        self._signal_sockets = (receive, send)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # only queued: the loop reads the number from the socket
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._poll(receive.fileno(), self._on_signals)

    def _poll(self, descriptor: int, handler: Callable[[int], None], mask: int = select.EPOLLIN) -> None:
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, mask)

    def _forget(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            with suppress(FileNotFoundError, OSError):  # closing it had unregistered it already
                self._epoll.unregister(descriptor)

    # --- the loop ---

    def run(self) -> None:
        now_ns = time.monotonic_ns()
        for watched in self.watched:
            if watched.settings.autostart:
                self._happenings.append(Happening(watched, Trigger.START))
        gc.collect()
        gc.freeze()  # what lives for ever need not be looked at again
        self._tick(now_ns, 0)
        self.notifier.ready()
        while not self.finished:
            self._timer.arm(self._next_ns)
            # The timer always fires; the time-out only bounds a wait that a broken timer would make endless.
            ready = self._epoll.poll(5.0)
            now_ns = time.monotonic_ns()
            late_ns = max(0, now_ns - self._next_ns)
            if now_ns >= self._next_ns:
                self.board.count("wakeup_lateness", late_ns)
            for descriptor, _ in ready:
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler(now_ns)
            self._tick(time.monotonic_ns(), late_ns)

    def _tick(self, now_ns: int, late_ns: int) -> None:
        for watched in self.watched:
            self._observe(watched, late_ns, now_ns)
        for watched in self.fleet.standing():
            self._reconsider(watched, now_ns)
        self._settle(now_ns)
        if now_ns >= self._housekeeping_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._keep_house(now_ns)
        if self.stopping and all(w.state.phase in (Phase.STOPPED, Phase.UNKILLABLE) for w in self.watched):
            self.finished = True
        self._publish_changes(now_ns)
        self._next_ns = self._when_next(now_ns)
        self.board.tick(now_ns, time.monotonic_ns() - now_ns, self._next_ns)
        self.notifier.feed(now_ns)

    def _when_next(self, now_ns: int) -> int:
        instants = [self._housekeeping_ns]
        for watched in self.watched:
            phase = watched.state.phase
            if phase in policy.ALIVE and phase is not Phase.PAUSED:
                instants.append(watched.look.next_check_ns)
                if watched.waiting_ns is not None:
                    instants.append(watched.waiting_ns)
                if watched.held is not None:
                    instants.append(now_ns + HELD_CHECK_NS)
            elif watched.state.deadline_ns is not None:
                instants.append(watched.state.deadline_ns)
            if watched.sweep_again_ns is not None:
                instants.append(watched.sweep_again_ns)
        instants += [child.next_start_ns for child in self.children if child.next_start_ns is not None]
        return max(min(instants), now_ns)

    # --- observe ---

    def _observe(self, watched: Watched, late_ns: int, now_ns: int) -> None:
        state = watched.state
        if state.deadline_ns is not None and now_ns >= state.deadline_ns:
            self._happenings.append(Happening(watched, Trigger.TIMEOUT))
        if watched.sweep_again_ns is not None and now_ns >= watched.sweep_again_ns:
            self._begin_sweep(watched, now_ns)
        elif watched.sweeper is not None and now_ns >= watched.sweep_deadline_ns:
            self._on_swept(watched, now_ns)
        if state.phase not in policy.ALIVE or watched.exit is not None:
            return
        unreadable = watched.read()
        if unreadable is not None:
            finding = Finding(Verdict.UNREADABLE, detected_ns=now_ns, detail=unreadable)
            self._record_report_only(watched, finding, now_ns)
        pulse = watched.pulse
        if pulse is not None and state.ready_ns is None and liveness.is_ready(pulse):
            self._happenings.append(Happening(watched, Trigger.READY))
            return
        if state.phase is Phase.PAUSED:
            return
        for pending in watched.examine(now_ns):
            self._returned(watched, pending, now_ns)
        if state.finding is not None:
            return
        finding_now = watched.verdict(late_ns, self.settings.supervisor.late_margin_ns, now_ns)
        finding_now = finding_now or watched.sticky_error(now_ns)
        if finding_now is not None:
            self.fleet.found(watched, finding_now)

    def _returned(self, watched: Watched, pending: liveness.Pending, now_ns: int) -> None:
        """A call or step that was past its soft level is over: a near miss."""
        watched.near_misses += 1
        watched.changed()
        finding = watched.state.finding
        stood = finding is not None and (finding.offset, finding.word) == pending.key
        self.journal.emit_limited(
            EventKind.NEAR_MISS, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=watched.state.incident if stood else None, operation=pending.operation or pending.verdict.value,
            entered_ns=pending.entered_ns, deadline_ns=pending.deadline_ns,
            reason="returned after its verdict, before its kill" if stood else "returned after its soft level",
        )  # fmt: skip
        if stood:
            self._happenings.append(Happening(watched, Trigger.RETURNED))

    def _reconsider(self, watched: Watched, now_ns: int) -> None:
        """A new finding becomes a verdict; the kill of a standing one that was held may be due."""
        state = watched.state
        if state.finding is not None:
            if watched.held is None or self._observe_only(watched):
                return
            watched.held = self._changed_to(watched, watched.held, self.fleet.hold(watched, state.finding, now_ns))
            if watched.held is None:
                self._happenings.append(Happening(watched, Trigger.RELEASED))
            return
        finding = self.fleet.take(watched)
        if finding is not None:
            held = None if self._observe_only(watched) else self.fleet.hold(watched, finding, now_ns)
            self._happenings.append(Happening(watched, Trigger.VERDICT, finding, held))

    def _changed_to(self, watched: Watched, old: str | None, new: str | None) -> str | None:
        if old != new:
            watched.changed()
        return new

    def _observe_only(self, watched: Watched) -> bool:
        return watched.settings.observe_only or self.settings.supervisor.observe_only

    # --- decide, act ---

    def _settle(self, now_ns: int) -> None:
        """Feed triggers to ``decide`` and perform what it orders, until nothing is left to do."""
        while self._happenings:
            orders: list[tuple[Watched, Order]] = []
            while self._happenings:
                orders += self._decide(self._happenings.popleft(), now_ns)
            published_ns: int | None = None
            if any(isinstance(action, policy.OpenIncident) for _, action in orders):
                for watched, action in orders:
                    if isinstance(action, policy.OpenIncident):
                        self._count_incident(watched, action)
                published_ns = self._publish_changes(now_ns)
            for watched, action in orders:
                self._perform(watched, action, published_ns, now_ns)

    def _decide(self, happening: Happening, now_ns: int) -> list[tuple[Watched, Order]]:
        watched, before = happening.watched, happening.watched.state
        if happening.trigger is Trigger.VERDICT:
            watched.held, watched.held_since_ns = happening.held, now_ns
        occasion = Occasion(
            now_ns=now_ns,
            settings=watched.settings,
            kill_grace_ns=self.settings.supervisor.kill_grace_ns,
            finding=happening.finding,
            held=happening.held is not None,
            observe_only=self._observe_only(watched),
            incident=self._incident_id(watched) if happening.finding is not None else None,
        )
        watched.state, actions = policy.decide(before, happening.trigger, occasion)
        if watched.state.finding is None:
            watched.held = None
        if happening.trigger is Trigger.READY and watched.pulse is not None:
            self._recovered(watched, before.incident, now_ns)
        if watched.state is not before:
            watched.changed()
        if watched.state.phase is before.phase:
            return [(watched, action) for action in actions]
        # On record in the order of cause and effect: the verdict, the new phase, what is done about it.
        changed = PhaseChanged(before, watched.state, happening.trigger)
        opened = [action for action in actions if isinstance(action, policy.OpenIncident)]
        rest = [action for action in actions if not isinstance(action, policy.OpenIncident)]
        return [(watched, action) for action in (*opened, changed, *rest)]

    def _recovered(self, watched: Watched, incident: IncidentId | None, now_ns: int) -> None:
        word = watched.pulse.header("state") if watched.pulse is not None else 0
        recovery_ns = watched.recovered(word & ~0xFF)
        self.journal.emit(
            EventKind.READY, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=incident, pid=watched.process.pid if watched.process else None, ready_ns=word & ~0xFF,
            recovery_seconds=None if recovery_ns is None else recovery_ns / SECOND,
        )  # fmt: skip

    def _incident_id(self, watched: Watched) -> IncidentId:
        self._incidents += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return IncidentId(f"{stamp}-{watched.settings.name}-{os.getpid()}.{self._incidents}")

    def _count_incident(self, watched: Watched, action: policy.OpenIncident) -> None:
        finding = action.finding
        if finding.verdict in policy.HANGS:
            watched.hangs[finding.operation or finding.verdict.value] += 1
        watched.would_have_killed += action.would_kill
        if not action.would_kill:
            watched.stuck_since_ns = finding.entered_ns or finding.detected_ns
        if finding.deadline_ns is not None:
            self.board.count("detection_lateness", finding.detected_ns - finding.deadline_ns)
        watched.last_incident = {
            "id": action.incident,
            "verdict": finding.verdict.value,
            "operation": finding.operation,
            "time": events.rfc3339(time.time_ns()),
        }
        watched.changed()

    def _perform(self, watched: Watched, action: Order, published_ns: int | None, now_ns: int) -> None:
        if isinstance(action, policy.OpenIncident):
            self._record_verdict(watched, action, published_ns)
        elif isinstance(action, policy.Signal):
            self._signal(watched, action, now_ns)
        elif isinstance(action, policy.Spawn):
            self._spawn(watched, action.incarnation, now_ns)
        elif isinstance(action, policy.Clear):
            self._begin_sweep(watched, now_ns)
        elif isinstance(action, PhaseChanged):
            self._record_phase(watched, action, now_ns)

    def _record_verdict(self, watched: Watched, action: policy.OpenIncident, published_ns: int | None) -> None:
        finding = action.finding
        self.journal.emit(
            EventKind.VERDICT, finding.detected_ns, worker=watched.settings.name,
            incarnation=watched.state.incarnation, incident=action.incident, verdict=finding.verdict.value,
            operation=finding.operation, stage=finding.stage, entered_ns=finding.entered_ns,
            deadline_ns=finding.deadline_ns, detected_ns=finding.detected_ns, published_ns=published_ns,
            pid=finding.pid, tid=finding.tid, detail=finding.detail, would_have_killed=action.would_kill,
            held=watched.held, suspects=self.fleet.suspects(watched, finding.detected_ns),
            load_frozen=self.loads.frozen(watched.settings.accelerator or ""),
        )  # fmt: skip

    def _record_phase(self, watched: Watched, change: PhaseChanged, now_ns: int) -> None:
        self.journal.emit(
            EventKind.PHASE, now_ns, worker=watched.settings.name, incarnation=change.after.incarnation,
            incident=change.after.incident or change.before.incident, previous=change.before.phase.value,
            phase=change.after.phase.value, reason=change.trigger.value,
        )  # fmt: skip

    def _record_report_only(self, watched: Watched, finding: Finding, now_ns: int) -> None:
        self.journal.emit_limited(
            EventKind.VERDICT, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            verdict=finding.verdict.value, detected_ns=now_ns, detail=finding.detail,
        )  # fmt: skip

    def _signal(self, watched: Watched, action: policy.Signal, now_ns: int) -> None:
        number = signal.SIGKILL if action.kind == policy.KILL else signal.SIGTERM
        if number is signal.SIGKILL:
            sent, refusal = watched.kill_root_only_if_still(action.confirm)
            if not sent:
                self._happenings.append(Happening(watched, Trigger.RETURNED))
                return
            if action.confirm is not None:
                self.fleet.killed(now_ns)
        else:
            refusal = watched.signal(number)
        watched.note = "" if refusal is None else f"{number.name} was refused: {refusal.strerror}"
        self.journal.emit(
            EventKind.SIGNAL, time.monotonic_ns(), worker=watched.settings.name,
            incarnation=watched.state.incarnation, incident=watched.state.incident, signal=number.name,
            pid=watched.process.pid if watched.process else None, refused=refusal.strerror if refusal else None,
        )  # fmt: skip

    def _spawn(self, watched: Watched, incarnation: int, now_ns: int) -> None:
        settings = watched.settings
        if incarnation > 1:
            reason = watched.state.reason
            watched.restarts[reason] = watched.restarts.get(reason, 0) + 1
            self.runtime.remove_heartbeat(settings.name, incarnation - 2)
        output = None
        try:
            ids = launching.identity(settings)
            watched.reader = create(
                self.runtime.heartbeat(settings.name, incarnation), boot_id=self.boot_id, incarnation=incarnation,
                spawned_ns=now_ns, owner=None if ids is None else (ids[0], os.getgid()),
            )  # fmt: skip
            output = launching.open_output(settings, self.runtime.logs)
            # The heartbeat file is the intent: a crash of ours between here and the fork leaves a name, not a worker.
            watched.process = launch(launching.request(settings, watched.reader.path, output, os.environ))
        except (OSError, KeyError, ImportError) as error:
            watched.exit = Exit(code=127)
            watched.note = f"cannot start: {error}"
            finding = Finding(Verdict.CRASHED, detected_ns=now_ns, detail=watched.note)
            self._happenings.append(Happening(watched, Trigger.EXITED, finding))
            return
        finally:
            if output is not None:
                os.close(output)
        watched.reader.write_spawned_pid(watched.process.pid)
        self._poll(watched.process.pidfd, lambda now: self._on_exit(watched, now))
        watched.look = liveness.Look(now_ns)

    def _begin_sweep(self, watched: Watched, now_ns: int) -> None:
        watched.begin_sweep(now_ns)
        if watched.sweeper is not None and watched.sweeper.descriptor not in self._handlers:
            self._poll(watched.sweeper.descriptor, lambda now: self._on_swept(watched, now))

    # --- what the loop hears ---

    def _on_exit(self, watched: Watched, now_ns: int) -> None:
        if watched.process is None or watched.exit is not None:
            return
        status = watched.process.exit_status()
        if status is None:
            return
        self._forget(watched.process.pidfd)  # readable for ever from now on
        watched.exit = status
        watched.read()
        error = watched.process.launch_error()
        finding = watched.sticky_error(now_ns) or liveness.ended(status, now_ns)
        detail = "; ".join(filter(None, (finding.detail, error, str(status) if finding.word else None)))
        watched.note = error or watched.note
        finding = Finding(finding.verdict, now_ns, entered_ns=finding.entered_ns, detail=detail)
        self._happenings.append(Happening(watched, Trigger.EXITED, finding))

    def _on_swept(self, watched: Watched, now_ns: int) -> None:
        if watched.sweeper is None:
            return
        descriptor = watched.sweeper.descriptor
        swept = watched.end_sweep(now_ns)
        if watched.sweeper is None:
            self._forget(descriptor)
        if swept is None or swept.left:
            return
        if watched.exit is None:  # only the descendants are gone; the worker itself is awaited
            return
        watched.gone_ns = now_ns
        self.journal.emit(
            EventKind.GONE, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
            incident=watched.state.incident, pid=watched.process.pid if watched.process else None,
            exit=str(watched.exit), descendants_killed=len(swept.killed),
        )  # fmt: skip
        watched.forget_incarnation()
        self._happenings.append(Happening(watched, Trigger.CLEARED))

    def _on_control(self, now_ns: int) -> None:
        for request in self.control.poll(now_ns):
            self.control.reply(request, self._command(request, now_ns))

    def _command(self, request: Request, now_ns: int) -> dict[str, Any]:
        watched = next((w for w in self.watched if w.settings.name == request.worker), None)
        if watched is None:
            names = ", ".join(w.settings.name for w in self.watched)
            return {"ok": False, "error": f"no worker is called {request.worker}", "remedy": f"one of: {names}"}
        trigger = Trigger(request.command)
        phase = watched.state.phase.value
        if self.stopping or not policy.applies(watched.state, trigger):
            why = "the supervisor is stopping" if self.stopping else f"{request.worker} is {phase}"
            remedy = f"watchdogd reset {request.worker}" if watched.state.phase is Phase.QUARANTINED else ""
            return {"ok": False, "error": f"{why}: cannot {request.command} it", "remedy": remedy}
        self.journal.emit(
            EventKind.OPERATOR, now_ns, worker=request.worker, incarnation=watched.state.incarnation,
            command=request.command, uid=request.uid, pid=request.pid,
        )  # fmt: skip
        self._happenings.append(Happening(watched, trigger))
        return {"ok": True, "message": f"{request.command} {request.worker} (was {phase})"}

    def _on_signals(self, now_ns: int) -> None:
        numbers = set(self._signal_sockets[0].recv(4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self.stop(now_ns)
        if signal.SIGCHLD in numbers:
            self._reap_orphans()

    def stop(self, now_ns: int) -> None:
        """End every worker in order, last started first; the loop finishes when all are gone or past their grace."""
        if self.stopping:
            return
        self.stopping = True
        self.notifier.stopping()
        for watched in reversed(self.watched):
            self._happenings.append(Happening(watched, Trigger.STOP))

    def _reap_orphans(self) -> None:
        """Reap descendants of workers that were orphaned to us; our own children are reaped where they are known."""
        known = {w.process.pid for w in self.watched if w.process is not None}
        known |= {child.process.pid for child in self.children if child.process is not None}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in known:
                return  # a known one hides the rest until it is reaped; housekeeping looks again
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)

    # --- our own children ---

    def _child_started(self, child: Child) -> None:
        now_ns = time.monotonic_ns()
        if child.stdout is not None:
            self._poll(child.stdout, lambda now: self._on_child_output(child, now))
        if child.process is not None:
            self._poll(child.process.pidfd, lambda now: self._on_child_end(child, now))
        if child is self.recorder:
            self.journal.attach(child.stdin)
        for source in self.sources:
            if source.child is child:
                source.started(now_ns)

    def _on_child_output(self, child: Child, now_ns: int) -> None:
        descriptor = child.stdout
        data = child.read()
        if child.stdout is None and descriptor is not None:
            self._forget(descriptor)
        for source in self.sources:
            if source.child is child:
                self._take_samples(source, data, now_ns)
                return
        if child is self.recorder:
            self._recorded_text = self._take_report(self._recorded_text + data.decode("utf-8", "replace"))

    def _take_report(self, text: str) -> str:
        *reports, rest = text.split("\n")
        for report in reports:
            with suppress(ValueError):  # a torn line of a recorder that died
                told = json.loads(report)
                self._dirty = self._dirty or told != self._recorded
                self._recorded = told
        return rest

    def _on_child_end(self, child: Child, now_ns: int) -> None:
        if child.process is None:
            return
        descriptors = (child.process.pidfd, child.stdout)
        if child.process.exit_status() is None:
            return
        for descriptor in descriptors:
            if descriptor is not None:
                self._forget(descriptor)
        status = child.check(now_ns)
        if child is self.recorder:
            self.journal.attach(None)
        self._dirty = True
        self.journal.emit_limited(
            EventKind.SOURCE, now_ns, worker=None, source=child.name, up=False, reason=child.note or str(status)
        )

    def _take_samples(self, source: Source, data: bytes, now_ns: int) -> None:
        for sample in source.feed(data, now_ns):
            busy = [w.activity() for w in self.watched if w.settings.accelerator == sample.accelerator]
            pending, completed = any(p for p, _ in busy), sum(c for _, c in busy)
            self.loads.add(source, sample, pending, completed, now_ns)
            self._dirty = True

    # --- publish ---

    def _keep_house(self, now_ns: int) -> None:
        start_due(self.children, now_ns, self._child_started)
        for source in self.sources:
            if source.watch(now_ns):
                self._dirty = True
                self.journal.emit_limited(
                    EventKind.SOURCE, now_ns, worker=None, source=source.settings.name, up=source.up,
                    reason=source.child.note or ("samples arrive" if source.up else "silent"),
                )  # fmt: skip
        self._dirty = self.loads.watch(self.sources, now_ns) or self._dirty
        for watched in self.watched:
            left = budget.left(watched.state.restarts, now_ns, watched.settings.restart)
            if left != watched.budget_left:
                watched.budget_left = left
                watched.changed()
            if watched.pulse is not None and watched.state.ready_ns is not None:
                uninstrumented = liveness.uninstrumented(watched.pulse, watched.rules)
                if uninstrumented != watched.uninstrumented:
                    watched.uninstrumented = uninstrumented
                    watched.changed()
                    if uninstrumented:
                        detail = "steps go by, but no call was ever stamped"
                        self._record_report_only(
                            watched, Finding(Verdict.UNINSTRUMENTED, now_ns, detail=detail), now_ns
                        )
            launching.bound_output(watched.settings, self.runtime.logs)
        self.control.poll(now_ns)
        self._reap_orphans()
        self.journal.flush()
        phases = [watched.state.phase for watched in self.watched]
        running = sum(phase in (Phase.RUNNING, Phase.OBSERVED) for phase in phases)
        self.notifier.status(f"{running} of {len(phases)} workers running")

    def _publish_changes(self, now_ns: int) -> int | None:
        """Publish if anything changed. Returns when it could be read."""
        if not self._dirty and not any(watched.is_changed for watched in self.watched):
            return None
        self._dirty = False
        accelerators = sorted({w.settings.accelerator for w in self.watched if w.settings.accelerator is not None})
        blocked = {
            w.settings.accelerator: w.settings.name
            for w in self.watched
            if w.state.phase is Phase.UNKILLABLE and w.settings.accelerator is not None
        }
        body = snapshot.body(
            {
                "version": __version__,
                "started_ns": self.started_ns,
                "observe_only": self.settings.supervisor.observe_only,
                "runtime_dir": self.runtime.directory,
                "state_dir": self.runtime.state_directory,
                "config": list(self.settings.files),
                "metrics": self.settings.metrics.listen or None,
                "stopping": self.stopping,
            },
            [watched.fragment() for watched in self.watched],
            self.loads.describe(accelerators, blocked),
            [source.describe() for source in self.sources],
            {
                "written": self._recorded.get("written", 0),
                "dropped": self._recorded.get("dropped", 0) + self.journal.dropped,
                "error": self._recorded.get("error"),
            },
        )
        self.board.publish(body)
        return time.monotonic_ns()

    # --- the end ---

    def close(self) -> None:
        """Leave nothing behind: our children ended, the socket removed, the last events with the recorder."""
        self.control.close()
        for child in self.children:
            if child is not self.recorder:
                child.kill()
        deadline = time.monotonic() + END_SECONDS
        poller = select.poll()
        if self.recorder.stdin is not None:
            poller.register(self.recorder.stdin, select.POLLOUT)
            while self.journal.backlog and (rest := deadline - time.monotonic()) > 0:
                poller.poll(rest * 1000)
                self.journal.flush()
            poller.unregister(self.recorder.stdin)
            os.close(self.recorder.stdin)
            self.recorder.stdin = None
        for child in self.children:
            if child.process is not None:
                poller.register(child.process.pidfd, select.POLLIN)
                poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
                poller.unregister(child.process.pidfd)
            child.forget()
        self.board.close()
        self.runtime.close()


def main(settings: Settings) -> int:
    """Run until told to stop. Raises CannotStart, CannotNotify, ControlError, OSError before the first worker."""
    notifier = Notifier()
    runtime = Runtime(settings.supervisor)
    supervisor = Supervisor(settings, runtime, notifier)
    try:
        supervisor.run()
    finally:
        supervisor.close()
    return 0
