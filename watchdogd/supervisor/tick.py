"""The tick: observe, decide, act, publish, in one thread.

Invariant: nothing here waits for a worker, a disk, a client or a GPU. What takes time is a phase with a deadline, and
whatever can block is a child process. Where workers were adopted, the first look at them comes before all that no
deadline needs is made, or even imported.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from watchdogd import exits
from watchdogd.act import launching, scope
from watchdogd.act.acting import Actor, Happening
from watchdogd.act.fleet import Fleet
from watchdogd.act.privileges import become_realtime, become_subreaper, lock_memory, pin
from watchdogd.act.runtime import CannotStart, Runtime
from watchdogd.act.sweep import reap_ended
from watchdogd.act.together import Together
from watchdogd.act.watched import Watched
from watchdogd.decide.leeway import Piece
from watchdogd.decide.orders import Leave, Trigger
from watchdogd.model import SECOND, Phase, Settings, Verdict
from watchdogd.observe import procfs
from watchdogd.observe.loop import CAUGHT, Loop
from watchdogd.publish import events
from watchdogd.publish.board import Board
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal
from watchdogd.publish.notify import Notifier
from watchdogd.publish.throttle import Throttle
from watchdogd.supervisor.adoption import Adoption
from watchdogd.supervisor.incidents import Incidents
from watchdogd.supervisor.judging import Judging
from watchdogd.supervisor.publication import Publication
from watchdogd.supervisor.reload import Reload, listening
from watchdogd.supervisor.succession import Succession, forget_retired

if TYPE_CHECKING:
    from watchdogd.act.responses import Responses
    from watchdogd.supervisor.commands import Commands
    from watchdogd.supervisor.household import Household

HOUSEKEEPING_NS = SECOND // 2
BOARD_BYTES_PER_WORKER = 5120
BOARD_BYTES_BASE = 65536


class Supervisor:
    household: Household  # these two are there from ``_furnish`` on
    commands: Commands

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
        self._reason = "unexpected error"  # of its end, unless it is told to
        self._identities = launching.Identities()
        become_subreaper()
        scheduling = become_realtime(settings.supervisor.realtime_priority)
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
        first_seq = max(events.last_seq(runtime.state_directory, runtime.events) + 1, self._adoption.next_seq)
        self.journal = Journal(boot_id, first_seq, Throttle(settings.supervisor.events_max_bytes))
        self.is_foreground = any(worker.foreground for worker in settings.workers)
        caught = {signal.SIGCHLD} if self.is_foreground else CAUGHT  # the others are the program's
        self.loop = Loop(self._on_signals, settings.supervisor.late_margin_ns, caught)
        slice_name, scopes = scope.available(settings.supervisor.worker_slice)
        self.actor = Actor(
            runtime, self.board, self.loop, self.journal, self.fleet, boot_id, self._happenings, self._identities,
            slice_name,
        )  # fmt: skip
        self.responses = self._responses(boot_id) if settings.asks_programs else None
        self.together = Together(self.watched, self._happenings)
        self.incidents = Incidents(
            runtime, self.watched, self.fleet, self.journal, boot_id, self._happenings,
            keeps=settings.incidents.max_count > 0,
        )  # fmt: skip
        self.publication = Publication(
            self.board, self.watched, self.fleet, self.journal, self.responses, self.incidents, settings, runtime,
            started_ns=started_ns, scheduling=scheduling, scopes=scopes,
        )  # fmt: skip
        self._succession.begin(self.actor, self.loop, self._happenings, self.together, self.tell_problem)
        self.judging = Judging(
            settings.supervisor, self.watched, self.fleet, self.actor, self.together, self.responses, self._succession,
            self.incidents, self._happenings, self._publish,
        )  # fmt: skip
        self._reload = Reload(
            None if self.is_foreground else settings.files[0], self.loop, self.publication, self._tell
        )  # fmt: skip
        if self._adoption.predecessor == os.getpid():
            self._reload.done()
        if not self._adoption.adopted:
            self._furnish()

    def _responses(self, boot_id: int) -> Responses:
        from watchdogd.act.responses import Responses  # noqa: PLC0415 - only where one is configured

        return Responses(
            self.settings, self.watched, self.runtime, self.loop, self.journal, boot_id, self._happenings,
            self._identities, self.fail,
        )  # fmt: skip

    def _furnish(self) -> None:
        """Make all that no deadline needs. Raises CannotStart."""
        from watchdogd.supervisor.commands import Commands  # noqa: PLC0415 - after the first look at adopted workers
        from watchdogd.supervisor.household import Household  # noqa: PLC0415 - as above

        self.commands = Commands(self.runtime.socket, self.watched, self.journal, self._happenings, self._ask_reload)
        self.loop.listen(self.commands.fileno(), self.commands.poll)
        if any(worker.instrument == "driver" for worker in self.settings.workers):
            import watchdogd.instrument.front  # noqa: F401, PLC0415 - here once, rather than in the child of each start

        self.household = Household(
            self.settings, self.runtime, self.loop, self.journal, self.fleet, self.watched, self._identities,
            self.incidents,
        )  # fmt: skip
        self.publication.furnish(self.household, lock_memory())

    def run(self) -> None:
        """Until every worker has ended after ``stop``. Raises CannotStart where workers were adopted."""
        about = self.publication.about
        self._tell("started", **{name: about[name] for name in ("version", "config", "metrics", "scheduling")})
        adoption = self._adoption
        if adoption.adopted or adoption.problems:
            told = {"workers": adoption.adopted, "problems": adoption.problems}
            self._tell("adopted", predecessor=adoption.predecessor, **told)
        if self.responses is not None:
            self.responses.escalator.start(adoption.escalation, time.monotonic_ns())
        self.tick(self._first_look() if adoption.adopted else 0)
        try:
            self._identities.look_up(self.settings.workers)
        except CannotStart as error:  # its restart would fail; those that run go on
            self.tell_problem(str(error))
        gc.collect()
        gc.freeze()  # what lives for ever need not be looked at again
        gc.enable()
        self.notifier.ready()
        if not self.is_foreground:
            listening()
        while not self.finished:
            woke = self.loop.wait(self._next_ns)
            if woke.late_ns:
                self.board.count("wakeup_lateness", woke.late_ns)
            self.tick(woke.stalled_ns)

    def _first_look(self) -> int:
        """At adopted workers, before anything else. How late the next one then is."""
        now_ns = time.monotonic_ns()
        self._judge(self._adoption.unwatched_ns(now_ns), now_ns)
        self.judging.end_round()
        due_ns = [at_ns for at_ns in self.judging.next_ns(now_ns) if at_ns > now_ns]  # what is to be begun is no look
        self._furnish()
        return max(0, time.monotonic_ns() - min(due_ns)) if due_ns else 0

    def _judge(self, late_ns: int, now_ns: int) -> None:
        if late_ns > self.settings.supervisor.late_margin_ns:
            self.board.stalled(late_ns, now_ns)
        self.judging.judge(late_ns, now_ns, stopping=self.stopping)

    def tick(self, stalled_ns: int) -> None:
        """One round. ``stalled_ns``: for how long the machine may have stood still before it."""
        now_ns = time.monotonic_ns()
        self._reload.watch(now_ns)
        self._judge(stalled_ns, now_ns)
        self.household.start_due(now_ns)
        if now_ns >= self._housekeeping_ns and self.judging.may_begin(Piece.HOUSEKEEPING):
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._keep_house(now_ns)
            self.judging.settle(now_ns)
        if forget_retired(self.watched):
            self.publication.changed()
        if self.actor.left is not None and not self.stopping:
            self._leave(*self.actor.left)
        if self.stopping and all(w.state.phase in (Phase.STOPPED, Phase.UNKILLABLE) for w in self.watched):
            self.finished = True
        self._publish()
        self.judging.end_round()
        self._next_ns = self._when_next(now_ns)
        self.board.tick(now_ns, time.monotonic_ns() - now_ns, self._next_ns)
        self.notifier.feed(now_ns)
        is_committed = self.responses is not None and self.responses.escalator.is_committed
        may_go = not self.stopping and not is_committed
        may_go = may_go and not self.incidents.has_more
        if self._reload.is_due and may_go and all(map(self.actor.has_said_who_it_is, self.watched)):
            self._reload.execute(self.runtime, self._publish, self._let_go, self.notifier)
            self._next_ns = now_ns  # it stays, perhaps because it has just been told to end

    def _when_next(self, now_ns: int) -> int:
        instants = [*self.household.next_ns(), *self.judging.next_ns(now_ns)]
        if self._housekeeping_ns > now_ns:  # else it gives way, as judging knows
            instants.append(self._housekeeping_ns)
        if self._happenings:
            instants.append(now_ns)
        if self._reload.deadline_ns is not None:
            instants.append(self._reload.deadline_ns)
        return max(min(instants, default=now_ns), now_ns)

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

    def _leave(self, watched: Watched, order: Leave) -> None:
        """A worker's next start is up to whoever owns us, who is to know why."""
        if order.verdict is not None:
            self.exit_status = exits.VERDICT
        elif watched.ended is not None:
            self.exit_status = exits.of(watched.ended)
        told = f"verdict {order.verdict}" if order.verdict is not None else f"it {watched.ended}"
        self.stop(f"{watched.settings.name}: {told}, and on_verdict is exit")

    def _tell(self, change: str, **fields: Any) -> None:
        """Its own life is on record too: without it a gap in the record could be anything."""
        self.journal.emit(EventKind.SUPERVISOR, time.monotonic_ns(), change=change, pid=os.getpid(), **fields)

    def tell_problem(self, problem: str) -> None:
        self._tell("problem", reason=problem)

    def _reap_orphans(self) -> None:
        """Reap descendants of workers that were orphaned to us; our own children are reaped by those who know them."""
        reap_ended()
        ours = self.household.pids() | self._reload.pids()
        if self.responses is not None:
            ours |= self.responses.runs.pids()
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
            unstamped = watched.notice_uninstrumented()
            if unstamped:
                self.actor.record_report_only(watched, Verdict.UNINSTRUMENTED, unstamped, now_ns)
        self.commands.poll(now_ns)  # connections end, and what they still said counts
        self._reap_orphans()
        phases = [watched.state.phase for watched in self.watched]
        running = sum(phase in (Phase.RUNNING, Phase.OBSERVED) for phase in phases)
        self.notifier.status(f"{running} of {len(phases)} workers running")

    def _publish(self) -> int | None:
        return self.publication.publish(self.stopping)

    def _let_go(self) -> None:
        """The next image knows none of our children by name."""
        if self.responses is not None:
            self.responses.runs.close()
        self.household.let_go()

    def abandon(self) -> None:
        """After an error of ours, as if we had been killed: workers that are to outlive us do, for the next one."""
        self._tell("ended", reason=self._reason)
        if self.publication.household is not None:  # else it ended in its first look
            self.household.close()

    def close(self) -> None:
        """Leave nothing behind: our children ended, the socket removed, the last events with the recorder."""
        self.commands.close()
        if self.responses is not None:
            self.responses.runs.close()
        self._tell("ended", reason=self._reason)
        self.household.close()
        self.board.close()
        self.runtime.close()
