"""What is remembered of one worker's pulse between two looks: what is slow, what was granted time, what was reported.

Invariant: a word is judged by its own patience alone, read again first; one whose owner was found gone is nobody's for
good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from watchdogd.decide import liveness
from watchdogd.decide.facts import Fact
from watchdogd.decide.liveness import Look, Patience, Pending, Rules, Threads, Wait
from watchdogd.decide.orders import WorkerState
from watchdogd.model import MILLISECOND, Finding, Phase, Verdict
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.pulse import Pulse, word_at

STOPPED_CHECK_NS = 50 * MILLISECOND  # whether one that is stopped goes on
BASELINE_EVERY_NS = 50 * MILLISECOND  # a worker that is always slow is sampled this often at most

ThreadsOf = Callable[[Pending], tuple[Threads | None, bool]]  # as ``Owners.threads``


class Examination:
    def __init__(self, rules: Rules, threads_of: ThreadsOf, *, spares_stopped: bool = False) -> None:
        """``spares_stopped``: who stopped it, at a terminal or with a debugger, wants it to stand."""
        self.look = Look(0)
        self.waiting_ns: int | None = None  # look again then: a verdict waits for it
        self.orphaned: set[Fact] = set()  # calls whose thread or process is gone
        self.reported: dict[Fact, str] = {}  # facts that are a verdict already, with their incidents
        self.soft_exceeded = 0
        self._spares_stopped = spares_stopped
        self._rules = rules
        self._threads_of = threads_of
        self._patience: dict[Fact, Patience] = {}
        self._baseline_ns = 0
        self._stalls: deque[tuple[int, int]] = deque(maxlen=64)  # (when, how long) the supervisor woke late

    @property
    def due_ns(self) -> int | None:
        """The first instant at which it may have to be condemned, as far as is known."""
        known = [at_ns for at_ns in (self.look.due_ns, self.waiting_ns) if at_ns is not None]
        return min(known, default=None)

    def forget(self) -> None:
        """The incarnation is gone."""
        self._patience.clear()
        self.orphaned.clear()
        self.reported.clear()

    def report(self, fact: Fact, incident: str) -> None:
        """A fact is a verdict from here on; what its word said before is none any more."""
        self.reported = {known: told for known, told in self.reported.items() if known[0] != fact[0]}
        self.reported[fact] = incident

    def stalled(self, late_ns: int, late_margin_ns: int, now_ns: int) -> None:
        """We stood still so long: if that was more than the margin, whatever is in flight was held up as well."""
        if late_ns > late_margin_ns:
            self._stalls.append((now_ns, late_ns))

    def examine(self, pulse: Pulse | None, state: WorkerState, now_ns: int) -> list[Pending]:
        """What is slow or overdue now. Returns what was slow and has returned since."""
        self.waiting_ns = None
        spawned_ns = state.spawned_ns or 0
        armed_ns = state.armed_ns or spawned_ns
        if pulse is None:
            self.look = Look(now_ns + self._rules.shortest_ns)
            return []  # what cannot be read has not returned
        if state.phase is Phase.STARTING:
            self.look = liveness.look_starting(pulse, self._rules, armed_ns, now_ns)
        else:
            self.look = liveness.look(pulse, self._rules, spawned_ns, armed_ns, now_ns)
        if not (self.look.overdue or self.look.slow or self._patience):
            return []
        if self.orphaned:
            self._leave_out_orphaned()
        seen = (*self.look.overdue, *self.look.slow)
        keys = {pending.key for pending in seen}
        over = [kept.pending for key, kept in self._patience.items() if key not in keys]
        for pending in over:
            del self._patience[pending.key]
        for pending in seen:
            kept = self._patience.get(pending.key)
            if kept is None or kept.pending.deadline_ns != pending.deadline_ns:  # new, or armed again by a resume
                self._patience[pending.key] = Patience(pending, now_ns, self._baseline(pending, now_ns))
                self.reported.pop(pending.key, None)
                self.soft_exceeded += pending.verdict is not Verdict.STARTUP
        return [pending for pending in over if pending.verdict is not Verdict.STARTUP and _moved(pulse, pending)]

    def _leave_out_orphaned(self) -> None:
        """Words whose thread or process was found gone are nobody's, even if its pid is somebody's again."""
        self.orphaned &= {pending.key for pending in self.look.overdue}
        left = tuple(pending for pending in self.look.overdue if pending.key not in self.orphaned)
        self.look = self.look._replace(overdue=left)

    def _baseline(self, pending: Pending, now_ns: int) -> Threads | None:
        if pending.verdict is Verdict.STARTUP or now_ns - self._baseline_ns < BASELINE_EVERY_NS:
            return None
        self._baseline_ns = now_ns
        return self._threads_of(pending)[0]

    def judge(
        self, reader: HeartbeatReader, late_margin_ns: int, now_ns: int, *, observed: bool
    ) -> tuple[Finding, Pending, Threads | None] | None:
        """The first overdue item that is a verdict now, its word read again, with the evidence.

        ``observed``: nothing will end what was reported, so it is left out, and others may be overdue beside it.
        """
        for pending in self.look.overdue:
            if observed and pending.key in self.reported:
                continue
            if reader.word(pending.offset) != pending.word:
                continue
            threads, gone = (None, False) if pending.verdict is Verdict.STARTUP else self._threads_of(pending)
            if gone:  # its thread or process is no more: a crash, if anything, and told by its exit
                self.orphaned.add(pending.key)
                continue
            patience = self._patience[pending.key]
            if self._spares_stopped and threads and all(sample.state in "Tt" for sample in threads.values()):
                self._wait_for_stopped(pending, patience, now_ns)
                continue
            # All of them since its deadline began to count, those before its deadline too.
            judged = liveness.judge(patience, threads, self.stall_ns(pending.since_ns), late_margin_ns, now_ns)
            if isinstance(judged, Finding):
                self.waiting_ns = now_ns if observed else self.waiting_ns
                return judged, pending, threads
            self._wait(pending, patience, judged, threads, now_ns)
        return None

    def _wait_for_stopped(self, pending: Pending, patience: Patience, now_ns: int) -> None:
        """Once it goes on it has its deadline anew: what it waited for has come meanwhile, but it was not told."""
        until_ns = now_ns + STOPPED_CHECK_NS + pending.deadline_ns - pending.since_ns
        self._patience[pending.key] = patience._replace(until_ns=until_ns)
        check_ns = now_ns + STOPPED_CHECK_NS
        self.waiting_ns = check_ns if self.waiting_ns is None else min(self.waiting_ns, check_ns)

    def stall_ns(self, since_ns: int) -> int:
        """For how long the machine stood still since then."""
        return sum(stall for at_ns, stall in self._stalls if at_ns > since_ns)

    def _wait(self, pending: Pending, patience: Patience, wait: Wait, threads: Threads | None, now_ns: int) -> None:
        self._patience[pending.key] = waited(patience, wait, threads, now_ns)
        self.waiting_ns = wait.until_ns if self.waiting_ns is None else min(self.waiting_ns, wait.until_ns)


def waited(patience: Patience, wait: Wait, threads: Threads | None, now_ns: int) -> Patience:
    """What is remembered once a wait was granted."""
    first = patience.overdue_ns is None
    return patience._replace(
        stalls=patience.stalls + bool(wait.stalled_ns),
        stalled_ns=max(patience.stalled_ns, wait.stalled_ns),
        overdue_ns=now_ns if first else patience.overdue_ns,
        overdue_threads=threads if first else patience.overdue_threads,
        until_ns=wait.until_ns,
    )


def _moved(pulse: Pulse, pending: Pending) -> bool:
    """Else the word stands, and only its deadline has: armed again by a resume, or the owner is gone."""
    return word_at(pulse.raw, pending.offset) != pending.word
