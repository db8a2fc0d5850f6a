"""The tick: observe, decide, act, publish, in one thread.

Invariant: nothing here waits for a worker, a disk, a client or a GPU. What takes time is a phase with a deadline, and
whatever can block is a child process.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from typing import Any

from watchdogd import __version__, abi, budget, events, launching, liveness, policy, procfs, snapshot
from watchdogd.acting import Actor, Happening, Order, PhaseChanged
from watchdogd.board import Board
from watchdogd.control import ControlServer, Request
from watchdogd.events import EventKind
from watchdogd.fleet import Fleet
from watchdogd.household import Household
from watchdogd.journal import Journal
from watchdogd.loop import Loop
from watchdogd.model import MILLISECOND, SECOND, Finding, IncidentId, Phase, Settings, Verdict
from watchdogd.notify import Notifier
from watchdogd.policy import Occasion, Trigger
from watchdogd.process import become_realtime, become_subreaper, lock_memory, pin
from watchdogd.runtime import CannotStart, Runtime
from watchdogd.sweep import reap_ended
from watchdogd.watched import Watched

HOUSEKEEPING_NS = SECOND // 2
HELD_CHECK_NS = 5 * MILLISECOND
BOARD_BYTES_PER_WORKER = 4096
BOARD_BYTES_BASE = 65536


class Supervisor:
    def __init__(self, settings: Settings, runtime: Runtime, notifier: Notifier) -> None:
        self.settings = settings
        self.runtime = runtime
        self.notifier = notifier
        self.started_ns = time.monotonic_ns()
        self.watched = [Watched(worker) for worker in settings.workers]
        self.fleet = Fleet(self.watched, settings.supervisor)
        self.stopping = False
        self.finished = False
        self._happenings: deque[Happening] = deque()
        self._next_ns = self._housekeeping_ns = self.started_ns
        self._incidents = 0
        self._published_stopping = False
        become_subreaper()
        self.scheduling = become_realtime(settings.supervisor.realtime_priority)
        self.memory = lock_memory()
        try:
            pin(settings.supervisor.cpu_affinity)
        except OSError as error:
            raise CannotStart(f"supervisor.cpu_affinity: {error.strerror}; name CPUs that this machine has") from None
        runtime.clear_leftovers()
        boot_id = procfs.boot_id()
        capacity = BOARD_BYTES_BASE + BOARD_BYTES_PER_WORKER * len(self.watched)
        self.board = Board(runtime.board, pid=os.getpid(), boot_id=boot_id, capacity=capacity)
        self.journal = Journal(boot_id, events.last_seq(runtime.state_directory) + 1)
        self.loop = Loop(self._on_signals)
        self.household = Household(settings, runtime, self.loop, self.journal, self._activity)
        self.actor = Actor(runtime, self.board, self.loop, self.journal, self.fleet, boot_id, self._happenings)
        self.control = ControlServer(runtime.socket)
        self.loop.listen(self.control.fileno(), self._on_control)

    def run(self) -> None:
        """Until every worker has ended after ``stop``."""
        for watched in self.watched:
            if watched.settings.autostart:
                self._happenings.append(Happening(watched, Trigger.START))
        gc.collect()
        gc.freeze()  # what lives for ever need not be looked at again
        self.tick(0)
        self.notifier.ready()
        while not self.finished:
            late_ns = self.loop.wait(self._next_ns)
            if late_ns:
                self.board.count("wakeup_lateness", late_ns)
            self.tick(late_ns)

    def tick(self, late_ns: int) -> None:
        """One round. ``late_ns``: how long after the instant asked for the loop woke."""
        now_ns = time.monotonic_ns()
        for watched in self.watched:
            self._observe(watched, late_ns, now_ns)
        for watched in self.fleet.standing():
            self._reconsider(watched, now_ns)
        self._settle(now_ns)
        self.household.start_due(now_ns)
        if now_ns >= self._housekeeping_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._keep_house(now_ns)
            self._settle(now_ns)
        if self.stopping and all(w.state.phase in (Phase.STOPPED, Phase.UNKILLABLE) for w in self.watched):
            self.finished = True
        self._publish()
        self._next_ns = self._when_next(now_ns)
        self.board.tick(now_ns, time.monotonic_ns() - now_ns, self._next_ns)
        self.notifier.feed(now_ns)

    def _when_next(self, now_ns: int) -> int:
        instants = [self._housekeeping_ns, *self.household.next_ns()]
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
        return max(min(instants), now_ns)

    # --- observe ---

    def _observe(self, watched: Watched, late_ns: int, now_ns: int) -> None:
        state = watched.state
        if state.deadline_ns is not None and now_ns >= state.deadline_ns:
            self._happenings.append(Happening(watched, Trigger.TIMEOUT))
        if watched.sweep_again_ns is not None and now_ns >= watched.sweep_again_ns:
            self.actor.begin_sweep(watched, now_ns)
        elif watched.sweeper is not None and now_ns >= watched.sweep_deadline_ns:
            self.actor.check_sweep(watched, now_ns)
        if state.phase not in policy.ALIVE or watched.exit is not None:
            return
        unreadable = watched.read()
        if unreadable is not None:
            self.actor.record_report_only(watched, Verdict.UNREADABLE, unreadable, now_ns)
        if watched.pulse is not None and state.ready_ns is None and liveness.is_ready(watched.pulse):
            self._happenings.append(Happening(watched, Trigger.READY))
            return
        if state.phase is Phase.PAUSED:
            return
        for pending in watched.examine(now_ns):
            stood = state.finding is not None and (state.finding.offset, state.finding.word) == pending.key
            self.actor.record_near_miss(watched, pending, stood, now_ns)
            if stood:
                self._happenings.append(Happening(watched, Trigger.RETURNED))
        if state.finding is None:
            finding = watched.verdict(late_ns, self.settings.supervisor.late_margin_ns, now_ns)
            finding = finding or watched.sticky_error(now_ns)
            if finding is not None:
                self.fleet.found(watched, finding)

    def _reconsider(self, watched: Watched, now_ns: int) -> None:
        """A new finding becomes a verdict; the kill of a standing one that was held may be due."""
        state = watched.state
        if state.finding is None:
            finding = self.fleet.take(watched)
            if finding is not None:
                held = None if self._observe_only(watched) else self._hold(watched, finding, now_ns)
                self._happenings.append(Happening(watched, Trigger.VERDICT, finding, held))
        elif watched.held is not None:
            held, watched.held = watched.held, self._hold(watched, state.finding, now_ns)
            if watched.held != held:
                watched.changed()
            if watched.held is None:
                self._happenings.append(Happening(watched, Trigger.RELEASED))

    def _hold(self, watched: Watched, finding: Finding, now_ns: int) -> str | None:
        held = self.fleet.hold(watched, finding, now_ns)
        if held is None:
            self.fleet.condemned(now_ns)
        return held

    def _observe_only(self, watched: Watched) -> bool:
        return watched.settings.observe_only or self.settings.supervisor.observe_only

    def _activity(self, accelerator: str) -> tuple[bool, int]:
        seen = [w.activity() for w in self.watched if w.settings.accelerator == accelerator]
        return any(pending for pending, _ in seen), sum(completed for _, completed in seen)

    # --- decide ---

    def _settle(self, now_ns: int) -> None:
        """Feed what happened to ``decide`` and carry out what it orders, until nothing is left to do."""
        while self._happenings:
            orders: list[tuple[Watched, Order]] = []
            while self._happenings:
                orders += self._decide(self._happenings.popleft(), now_ns)
            incidents = [(w, order) for w, order in orders if isinstance(order, policy.OpenIncident)]
            for watched, incident in incidents:
                self.actor.count_incident(watched, incident)
            # The rest of the vehicle may know before anything is done about it.
            published_ns = self._publish() if incidents else None
            for watched, order in orders:
                self.actor.perform(watched, order, published_ns, now_ns)

    def _decide(self, happening: Happening, now_ns: int) -> list[tuple[Watched, Order]]:
        watched, before = happening.watched, happening.watched.state
        if happening.trigger is Trigger.VERDICT:
            watched.held = happening.held
        occasion = Occasion(
            now_ns=now_ns,
            settings=watched.settings,
            kill_grace_ns=self.settings.supervisor.kill_grace_ns,
            finding=happening.finding,
            held=happening.held is not None,
            observe_only=self._observe_only(watched),
            incident=self._incident_id(watched) if happening.finding is not None else None,
        )
        after, actions = policy.decide(before, happening.trigger, occasion)
        watched.state = after
        if after.finding is None:
            watched.held = None
        if after is not before:
            watched.changed()
        if happening.trigger is Trigger.READY and after is not before:
            self.actor.record_ready(watched, before.incident, now_ns)
        if after.phase is before.phase:
            return [(watched, action) for action in actions]
        opened = [action for action in actions if isinstance(action, policy.OpenIncident)]
        rest = [action for action in actions if not isinstance(action, policy.OpenIncident)]
        return [(watched, order) for order in (*opened, PhaseChanged(before, after, happening.trigger), *rest)]

    def _incident_id(self, watched: Watched) -> IncidentId:
        self._incidents += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return IncidentId(f"{stamp}-{watched.settings.name}-{os.getpid()}.{self._incidents}")

    # --- told from outside ---

    def _on_control(self, now_ns: int) -> None:
        for request in self.control.poll(now_ns):
            self.control.reply(request, self._command(request, now_ns))

    def _command(self, request: Request, now_ns: int) -> dict[str, Any]:
        watched = next((w for w in self.watched if w.settings.name == request.worker), None)
        if watched is None:
            names = ", ".join(w.settings.name for w in self.watched)
            return {"ok": False, "error": f"no worker is called {request.worker}", "remedy": f"one of: {names}"}
        trigger, phase = Trigger(request.command), watched.state.phase
        if self.stopping or not policy.applies(watched.state, trigger):
            why = "the supervisor is stopping" if self.stopping else f"{request.worker} is {phase.value}"
            remedy = f"watchdogd reset {request.worker}" if phase is Phase.QUARANTINED else ""
            return {"ok": False, "error": f"{why}: cannot {request.command} it", "remedy": remedy}
        self.journal.emit(
            EventKind.OPERATOR, now_ns, worker=request.worker, incarnation=watched.state.incarnation,
            command=request.command, uid=request.uid, pid=request.pid,
        )  # fmt: skip
        self._happenings.append(Happening(watched, trigger))
        return {"ok": True, "message": f"{request.command} {request.worker} (was {phase.value})"}

    def _on_signals(self, numbers: set[int]) -> None:
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self.stop()
        if signal.SIGCHLD in numbers:
            self._reap_orphans()

    def stop(self) -> None:
        """End every worker, the last started first; finished when all are gone, or past their grace."""
        if not self.stopping:
            self.stopping = True
            self.notifier.stopping()
            self._happenings.extend(Happening(watched, Trigger.STOP) for watched in reversed(self.watched))

    def _reap_orphans(self) -> None:
        """Reap descendants of workers that were orphaned to us; our own children are reaped by those who know them."""
        reap_ended()
        known = {w.process.pid for w in self.watched if w.process is not None} | self.household.pids()
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in known:
                return  # a known one hides the rest until it is reaped; housekeeping looks again
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)

    # --- publish ---

    def _keep_house(self, now_ns: int) -> None:
        self.household.watch(now_ns)
        for watched in self.watched:
            left = budget.left(watched.state.restarts, now_ns, watched.settings.restart)
            if left != watched.budget_left:
                watched.budget_left = left
                watched.changed()
            if watched.notice_uninstrumented():
                detail = "steps go by, but no call was ever stamped"
                self.actor.record_report_only(watched, Verdict.UNINSTRUMENTED, detail, now_ns)
            launching.bound_output(watched.settings, self.runtime.logs)
        self._on_control(now_ns)  # connections end, and what they still said counts
        self._reap_orphans()
        phases = [watched.state.phase for watched in self.watched]
        running = sum(phase in (Phase.RUNNING, Phase.OBSERVED) for phase in phases)
        self.notifier.status(f"{running} of {len(phases)} workers running")

    def _publish(self) -> int | None:
        """Publish if anything changed. Returns the instant from which it can be read."""
        unchanged = not self.household.dirty and self._published_stopping == self.stopping
        if unchanged and not any(watched.is_changed for watched in self.watched):
            return None
        self.household.dirty = False
        self._published_stopping = self.stopping
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
                "scheduling": self.scheduling,
                "memory": self.memory,
            },
            [watched.fragment() for watched in self.watched],
            self.household.loads.describe(accelerators, blocked),
            [source.describe() for source in self.household.sources],
            self.household.record_state(),
        )
        self.board.publish(body)
        return time.monotonic_ns()

    def close(self) -> None:
        """Leave nothing behind: our children ended, the socket removed, the last events with the recorder."""
        self.control.close()
        self.household.close()
        self.board.close()
        self.runtime.close()


def main(settings: Settings) -> int:
    """Run until told to stop. Raises CannotStart, CannotNotify, ControlError, OSError before the first worker."""
    os.environ.pop(abi.ENVIRONMENT, None)  # a worker's, if it started us: our children are not its descendants
    notifier = Notifier()
    runtime = Runtime(settings.supervisor)
    supervisor = Supervisor(settings, runtime, notifier)
    try:
        supervisor.run()
    finally:
        supervisor.close()
    return 0
