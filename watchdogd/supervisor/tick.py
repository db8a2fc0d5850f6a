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
from dataclasses import replace
from typing import Any

from watchdogd import abi, exits
from watchdogd.act import launching, scope
from watchdogd.act.acting import Actor, Happening, Order, PhaseChanged
from watchdogd.act.fleet import Fleet
from watchdogd.act.privileges import become_realtime, become_subreaper, lock_memory, pin
from watchdogd.act.responses import Responses
from watchdogd.act.runtime import CannotStart, Runtime
from watchdogd.act.sweep import reap_ended
from watchdogd.act.together import Together
from watchdogd.act.watched import Watched
from watchdogd.decide import liveness, policy
from watchdogd.decide.orders import ALIVE, Occasion, OpenIncident, Trigger
from watchdogd.model import SECOND, Finding, IncidentId, Phase, Settings, Verdict
from watchdogd.observe import procfs
from watchdogd.observe.loop import Loop
from watchdogd.publish import events
from watchdogd.publish.board import Board
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal
from watchdogd.publish.notify import Notifier
from watchdogd.publish.throttle import Throttle
from watchdogd.supervisor.adoption import Adoption
from watchdogd.supervisor.commands import Commands
from watchdogd.supervisor.household import Household
from watchdogd.supervisor.publication import Publication
from watchdogd.supervisor.reload import DIRECTORIES, Reload, kept_directories, listening
from watchdogd.supervisor.succession import Succession, forget_retired

HOUSEKEEPING_NS = SECOND // 2
BOARD_BYTES_PER_WORKER = 4096
BOARD_BYTES_BASE = 65536


class Supervisor:
    def __init__(self, settings: Settings, runtime: Runtime, notifier: Notifier) -> None:
        self.settings = settings
        self.runtime = runtime
        self.notifier = notifier
        started_ns = time.monotonic_ns()
        self.watched = [Watched(worker) for worker in settings.workers]
        self.fleet = Fleet(self.watched, settings.supervisor)
        self.stopping = False
        self.finished = False
        self.exit_status = exits.FINE
        self._happenings: deque[Happening] = deque()
        self._next_ns = self._housekeeping_ns = started_ns
        self._incidents = 0
        self._reason = "unexpected error"  # of its end, unless it is told to
        self._identities = launching.Identities()
        become_subreaper()
        scheduling = become_realtime(settings.supervisor.realtime_priority)
        memory = lock_memory()
        try:
            pin(settings.supervisor.cpu_affinity)
        except OSError as error:
            raise CannotStart(f"supervisor.cpu_affinity: {error.strerror}; name CPUs that this machine has") from None
        boot_id = procfs.boot_id()
        self._adoption = Adoption(runtime, boot_id)
        self.fleet.kills = self._adoption.kills
        self._succession = Succession(self._adoption, runtime, self.watched, started_ns)
        if not self._adoption.adopted:  # else their deadlines come first: this may wait for a network
            self._identities.look_up(settings.workers)
        capacity = BOARD_BYTES_BASE + BOARD_BYTES_PER_WORKER * len(self.watched)
        due_ns = self._adoption.due_ns or started_ns
        try:
            self.board = Board(runtime.board, pid=os.getpid(), boot_id=boot_id, capacity=capacity, due_ns=due_ns)
        except OSError as error:
            remedy = "make room there, or choose another supervisor.runtime_dir"
            raise CannotStart(f"cannot make {runtime.board}: {error.strerror}; {remedy}") from None
        first_seq = max(events.last_seq(runtime.state_directory) + 1, self._adoption.next_seq)
        self.journal = Journal(boot_id, first_seq, Throttle(settings.supervisor.events_max_bytes))
        self.loop = Loop(self._on_signals)
        slice_name, scopes = scope.available(settings.supervisor.worker_slice)
        self.household = Household(settings, runtime, self.loop, self.journal, self._activity, self.watched)
        self.actor = Actor(
            runtime, self.board, self.loop, self.journal, self.fleet, boot_id, self._happenings, self._identities,
            slice_name,
        )  # fmt: skip
        self.responses = Responses(
            settings, self.watched, runtime, self.loop, self.journal, boot_id, self._happenings, self._identities,
            self.fail,
        )  # fmt: skip
        self.together = Together(self.watched, self._happenings)
        self.commands = Commands(runtime.socket, self.watched, self.journal, self._happenings, self._ask_reload)
        self.loop.listen(self.commands.fileno(), self.commands.poll)
        self.publication = Publication(
            self.board, self.watched, self.fleet, self.household, self.responses, settings, runtime,
            started_ns=started_ns, scheduling=scheduling, memory=memory, scopes=scopes,
        )  # fmt: skip
        self._succession.begin(self.actor, self.loop, self._happenings, self.together, self.tell_problem)
        self._reload = Reload(settings.files[0], self.loop, self.publication, self._tell)
        if self._adoption.predecessor == os.getpid():
            self._reload.done()

    def run(self) -> None:
        """Until every worker has ended after ``stop``."""
        about = self.publication.about
        self._tell("started", **{name: about[name] for name in ("version", "config", "metrics", "scheduling")})
        adoption = self._adoption
        if adoption.adopted or adoption.problems:
            told = {"workers": adoption.adopted, "problems": adoption.problems}
            self._tell("adopted", predecessor=adoption.predecessor, **told)
        self.responses.escalator.start(adoption.escalation, time.monotonic_ns())
        self.tick(adoption.unwatched_ns(time.monotonic_ns()))
        try:
            self._identities.look_up(self.settings.workers)
        except CannotStart as error:  # its restart would fail; those that run go on
            self.tell_problem(str(error))
        gc.collect()
        gc.freeze()  # what lives for ever need not be looked at again
        self.notifier.ready()
        listening()
        while not self.finished:
            late_ns = self.loop.wait(self._next_ns)
            if late_ns:
                self.board.count("wakeup_lateness", late_ns)
            self.tick(late_ns)

    def tick(self, late_ns: int) -> None:
        """One round. ``late_ns``: how long after the instant asked for the loop woke."""
        now_ns = time.monotonic_ns()
        if late_ns > self.settings.supervisor.late_margin_ns:
            self.board.stalled(late_ns, now_ns)
        self._succession.look(now_ns)
        self._reload.watch(now_ns)
        self.responses.tick(self.stopping, now_ns)
        for watched in self.watched:
            self._observe(watched, late_ns, now_ns)
        for watched in self.fleet.standing():
            self._reconsider(watched, now_ns)
        self._settle(now_ns)
        if not self.stopping and self.together.advance(now_ns):
            self._settle(now_ns)
        self.household.start_due(now_ns)
        if now_ns >= self._housekeeping_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._keep_house(now_ns)
            self._settle(now_ns)
        if forget_retired(self.watched):
            self.publication.changed()
        if self.stopping and all(w.state.phase in (Phase.STOPPED, Phase.UNKILLABLE) for w in self.watched):
            self.finished = True
        self._publish()
        self._next_ns = self._when_next(now_ns)
        self.board.tick(now_ns, time.monotonic_ns() - now_ns, self._next_ns)
        self.notifier.feed(now_ns)
        may_go = not self.stopping and not self.responses.escalator.is_committed
        if self._reload.is_due and may_go and all(map(self.actor.has_said_who_it_is, self.watched)):
            self._reload.execute(self.runtime, self._publish, self._let_go, self.notifier)
            self._next_ns = now_ns  # it stays, perhaps because it has just been told to end

    def _when_next(self, now_ns: int) -> int:
        instants = [self._housekeeping_ns, *self.household.next_ns(), *self.responses.next_ns()]
        for instant in (self._succession.until_ns, self._reload.deadline_ns):
            if instant is not None:
                instants.append(instant)
        for watched in self.watched:
            instants += watched.due_ns(now_ns)
        return max(min(instants), now_ns)

    # --- observe ---

    def _observe(self, watched: Watched, late_ns: int, now_ns: int) -> None:
        state = watched.state
        if state.deadline_ns is not None and now_ns >= state.deadline_ns:
            self._happenings.append(Happening(watched, Trigger.TIMEOUT))
        clearing = watched.clearing
        if clearing.again_ns is not None and now_ns >= clearing.again_ns:
            self.actor.begin_sweep(watched, now_ns)
        elif clearing.sweeper is not None and now_ns >= clearing.deadline_ns:
            self.actor.check_sweep(watched, now_ns)
        if state.phase not in ALIVE or watched.exit is not None:
            return
        unreadable = watched.read()
        if unreadable is not None:
            self.actor.record_report_only(watched, Verdict.UNREADABLE, unreadable, now_ns)
        late_margin_ns = self.settings.supervisor.late_margin_ns
        if watched.pulse is not None and state.ready_ns is None and liveness.is_ready(watched.pulse):
            # Its deadlines count from its own stamp on, so this wake-up may have been late for one of them.
            watched.examination.stalled(late_ns, late_margin_ns, now_ns)
            self._happenings.append(Happening(watched, Trigger.READY))
            return
        if state.phase is Phase.PAUSED:
            return
        for pending in watched.examine(now_ns):
            incident = watched.examination.reported.pop(pending.key, None)
            self.actor.record_near_miss(watched, pending, incident, now_ns)
            if state.finding is not None and (state.finding.offset, state.finding.word) == pending.key:
                self._happenings.append(Happening(watched, Trigger.RETURNED))
        if watched.is_good_again():
            self.actor.record_good_again(watched, now_ns)
            self._happenings.append(Happening(watched, Trigger.RETURNED))
        if state.finding is None or state.phase is Phase.OBSERVED:
            finding = watched.verdict(late_ns, late_margin_ns, now_ns)
            if finding is not None:
                self.fleet.found(watched, finding)

    def _reconsider(self, watched: Watched, now_ns: int) -> None:
        """A new finding becomes a verdict; the kill of a standing one that was held may be due."""
        finding = self.fleet.take(watched)
        if finding is not None:
            held = None if self._observe_only(watched) else self._hold(watched, finding, now_ns)
            self._happenings.append(Happening(watched, Trigger.VERDICT, finding, held))
        elif watched.held is not None and watched.state.finding is not None:
            held, watched.held = watched.held, self._hold(watched, watched.state.finding, now_ns)
            if watched.held != held:
                watched.changed()
            if watched.held is None:
                self._happenings.append(Happening(watched, Trigger.RELEASED))

    def _hold(self, watched: Watched, finding: Finding, now_ns: int) -> str | None:
        held = self.fleet.hold(watched, finding, now_ns) or self.responses.hold(watched, finding, now_ns)
        if held is None:
            self.fleet.condemned(watched, now_ns)
        return held

    def _observe_only(self, watched: Watched) -> bool:
        return watched.settings.observe_only or self.settings.supervisor.observe_only

    def _activity(self, accelerator: str) -> tuple[bool, int, bool]:
        seen = [w.activity() for w in self.watched if w.settings.accelerator == accelerator]
        vacant = self.fleet.vacant(accelerator)
        return any(pending for pending, _ in seen), sum(completed for _, completed in seen), vacant

    # --- decide ---

    def _settle(self, now_ns: int) -> None:
        """Feed what happened to ``decide`` and carry out what it orders, until nothing is left to do."""
        while self._happenings:
            orders: list[tuple[Watched, Order]] = []
            while self._happenings:
                orders += self._decide(self._happenings.popleft(), now_ns)
            incidents = [(w, order) for w, order in orders if isinstance(order, OpenIncident)]
            for watched, incident in incidents:
                self.actor.count_incident(watched, incident)
            # The rest of the vehicle, and the next supervisor, may know before anything is done about it.
            published_ns = self._publish()
            for watched, order in orders:
                self.actor.perform(watched, order, published_ns, now_ns)
                self.responses.perform(watched, order, now_ns)

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
            ready_ns=watched.ready_ns() if happening.trigger is Trigger.READY else None,
            usable=happening.usable,
        )
        after, actions = policy.decide(before, happening.trigger, occasion)
        watched.state = after
        if after.finding is None:
            watched.held = None
        if after is not before:
            watched.count_budget(now_ns)
            watched.changed()
        if happening.trigger is Trigger.READY and after is not before:
            self.actor.record_ready(watched, before.incident, now_ns)
            self.together.ready(watched)
        if after.phase is before.phase:
            return [(watched, action) for action in actions]
        opened = [action for action in actions if isinstance(action, OpenIncident)]
        rest = [action for action in actions if not isinstance(action, OpenIncident)]
        return [(watched, order) for order in (*opened, PhaseChanged(before, after, happening.trigger), *rest)]

    def _incident_id(self, watched: Watched) -> IncidentId:
        self._incidents += 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return IncidentId(f"{stamp}-{watched.settings.name}-{os.getpid()}.{self._incidents}")

    # --- told from outside ---

    def _on_signals(self, numbers: set[int]) -> None:
        for number in sorted(numbers & {signal.SIGTERM, signal.SIGINT}):
            self.stop(signal.Signals(number).name)
        if signal.SIGHUP in numbers:
            self._ask_reload(time.monotonic_ns())
        if signal.SIGCHLD in numbers:
            self._reap_orphans()

    def _ask_reload(self, now_ns: int) -> None:
        if not self.stopping:
            self._reload.ask(now_ns)

    def stop(self, reason: str) -> None:
        """End every worker, the last started first; finished when all are gone, or past their grace."""
        if not self.stopping:
            self.stopping = self.commands.stopping = True
            self._reload.cancel()
            self._reason = reason
            self._tell("stopping", reason=reason)
            self.notifier.stopping()
            self._happenings.extend(Happening(watched, Trigger.STOP) for watched in reversed(self.watched))

    def fail(self, reason: str) -> None:
        """End as ``stop`` does, with a status that systemd's FailureAction= may act on."""
        self.exit_status = exits.SERVICE_FAIL
        self.stop(f"escalation: {reason}")

    def _tell(self, change: str, **fields: Any) -> None:
        """Its own life is on record too: without it a gap in the record could be anything."""
        self.journal.emit(EventKind.SUPERVISOR, time.monotonic_ns(), change=change, pid=os.getpid(), **fields)

    def tell_problem(self, problem: str) -> None:
        self._tell("problem", reason=problem)

    def _reap_orphans(self) -> None:
        """Reap descendants of workers that were orphaned to us; our own children are reaped by those who know them."""
        reap_ended()
        ours = self.household.pids() | self.responses.runs.pids() | self._reload.pids()
        known = {w.process.pid for w in self.watched if w.process is not None} | ours
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
            watched.count_budget(now_ns)
            if watched.notice_uninstrumented():
                detail = "steps go by, but no call was ever stamped"
                self.actor.record_report_only(watched, Verdict.UNINSTRUMENTED, detail, now_ns)
        self.commands.poll(now_ns)  # connections end, and what they still said counts
        self._reap_orphans()
        phases = [watched.state.phase for watched in self.watched]
        running = sum(phase in (Phase.RUNNING, Phase.OBSERVED) for phase in phases)
        self.notifier.status(f"{running} of {len(phases)} workers running")

    def _publish(self) -> int | None:
        return self.publication.publish(self.stopping)

    def _let_go(self) -> None:
        """The next image knows none of our children by name."""
        self.responses.runs.close()
        self.household.let_go()

    def abandon(self) -> None:
        """After an error of ours, as if we had been killed: workers that are to outlive us do, for the next one."""
        self._tell("ended", reason=self._reason)
        self.household.close()

    def close(self) -> None:
        """Leave nothing behind: our children ended, the socket removed, the last events with the recorder."""
        self.commands.close()
        self.responses.runs.close()
        self._tell("ended", reason=self._reason)
        self.household.close()
        self.board.close()
        self.runtime.close()


def main(settings: Settings) -> int:
    """Run until told to stop. Raises CannotStart, CannotNotify, ControlError, OSError before the first worker."""
    os.environ.pop(abi.ENVIRONMENT, None)  # a worker's, if it started us: our children are not its descendants
    is_reloaded = DIRECTORIES in os.environ
    kept, is_other = kept_directories(settings.supervisor)
    settings = replace(settings, supervisor=kept)
    notifier = Notifier()
    runtime = Runtime(settings.supervisor, is_known=is_reloaded)
    supervisor = Supervisor(settings, runtime, notifier)
    if is_other:
        supervisor.tell_problem("runtime_dir and state_dir change by a restart only; the old ones are still used")
    try:
        supervisor.run()
    except BaseException:
        supervisor.abandon()
        raise
    supervisor.close()
    return supervisor.exit_status
