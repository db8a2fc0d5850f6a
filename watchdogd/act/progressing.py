"""What is remembered of how one worker gets on, where something else than its code tells, in this incarnation.

Invariant: ``decide.progress`` judges; what was seen of an incarnation before, or before the last resume, counts not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from watchdogd import abi, abi_driver
from watchdogd.decide import liveness, progress
from watchdogd.decide.facts import Fact
from watchdogd.decide.liveness import Patience, Pending
from watchdogd.decide.orders import WorkerState
from watchdogd.decide.progress import Completions, Course, Sample
from watchdogd.model import SECOND, Finding, Phase, Verdict, WorkerSettings
from watchdogd.observe import completions
from watchdogd.observe.examination import ThreadsOf, waited
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.pulse import Pulse, word_offset

NOT_LOADED = "the driver shim is not loaded in it"
NOT_ALL_SEEN = "it has had more threads than there are lanes: what those without one complete is not seen"
LONGEST_TEXT = 200  # characters: the snapshot has room for so much of every worker
_SHOWN_NS = SECOND  # what a busy worker completes is told anew once in so long


class Progressing:
    def __init__(self, settings: WorkerSettings) -> None:
        self.source = settings.progress
        self.silent = ""  # why nobody tells; empty: somebody does
        self._settings = settings
        self._deadline_ns = settings.deadlines.progress_ns
        self.forget()

    def forget(self) -> None:
        """The incarnation is gone."""
        self._course = Course()
        self._seen: Completions | None = None
        self._sample: tuple[Sample, int] | None = None  # with its arrival
        self._gone: set[Fact] = set()  # words of calls whose owner is
        self._patience: Patience | None = None
        self._is_told = False  # of what nothing will be done about
        self._look_ns = 0
        self._shown_ns = 0
        self.waiting_ns: int | None = None  # judge it again then

    @property
    def is_asked(self) -> bool:
        """Whether a reader asks it; else what it tells is in its heartbeat."""
        return self.source is not None and self.source.kind != "sync"

    @property
    def only_tells(self) -> bool:
        """Whether its verdict is reported, and no more: of a probe that may not kill."""
        return self.source is not None and self.source.is_probe and not self._settings.progress_kills

    # --- observe ---

    def look(self, reader: HeartbeatReader | None, pulse: Pulse | None, state: WorkerState, now_ns: int) -> bool:
        """At what the driver shim tells, if it is time. Whether something is to be shown anew."""
        self.waiting_ns = None
        if self.source is None or self.source.kind != "sync" or now_ns < self._look_ns:
            return False
        if reader is not None:
            self.see(reader, pulse, state, now_ns)
        self._look_ns = progress.next_look_ns(self._course, state.armed_ns or 0, self._deadline_ns, now_ns)
        if now_ns - self._shown_ns < _SHOWN_NS:
            return False
        self._shown_ns = now_ns
        return True

    def see(self, reader: HeartbeatReader, pulse: Pulse | None, state: WorkerState, now_ns: int) -> None:
        """What cannot be read is not known."""
        loaded = reader.word(abi_driver.OFFSET + abi_driver.HEADER.index("loaded_ns") * abi.WORD)
        seen = completions.read(reader, pulse, self._gone, state.spawned_ns or 0) if pulse and loaded else None
        if seen is None:
            self._course = self._course._replace(unknown=NOT_LOADED if pulse else "its heartbeat cannot be read")
            return
        self._seen = seen
        if pulse and pulse.header("laneless_cas"):
            self._course = self._course._replace(unknown=NOT_ALL_SEEN)
            return
        self._follow(progress.of_driver(self._course, seen, self._deadline_ns or 0, now_ns))

    def take(self, sample: Sample, state: WorkerState, now_ns: int) -> None:
        """Of its reader; ``now_ns``: its arrival. An attempt that was begun before the worker was is another's."""
        if self.source is None or state.spawned_ns is None or sample.begun_ns < state.spawned_ns:
            return
        self._sample = sample, now_ns
        of_kind = progress.of_metrics if self.source.kind == "metrics" else progress.of_probe
        self._follow(of_kind(self._course, sample, self._deadline_ns or 0, now_ns))

    def _follow(self, course: Course) -> None:
        if course.mark != self._course.mark:
            self._is_told = False
        self._course = course

    def is_ready(self, pulse: Pulse, state: WorkerState, now_ns: int) -> bool:
        """Whether it counts as ready by what others say: so long after its spawn, or at the first answer.

        A worker that attached says itself when it is ready, or the shim does; a program that did not has its metrics.
        """
        if state.spawned_ns is None or state.ready_ns is not None:
            return False
        after_ns = self._settings.ready_after_ns
        if after_ns is not None and now_ns >= state.spawned_ns + after_ns:
            return True
        if self.source is None or self._course.mark is None:
            return False
        return self.source.is_probe or (self.source.kind == "metrics" and pulse.header("attached_pid") == 0)

    def due_ns(self) -> int | None:
        """When to look again; None: whenever something arrives."""
        due = [] if self.waiting_ns is None else [self.waiting_ns]
        if self.source is not None and self.source.kind == "sync":
            due.append(self._look_ns)
        return min(due, default=None)

    # --- judge ---

    def judge(
        self,
        state: WorkerState,
        threads_of: ThreadsOf,
        stall_ns: Callable[[int], int],
        late_margin_ns: int,
        now_ns: int,
    ) -> Finding | None:
        """``stall_ns``: for how long the machine stood still since an instant.

        As patient as with a call: a worker that starves, or a machine that stood still, is no stall.
        """
        self.waiting_ns = None
        armed_ns, deadline_ns = state.armed_ns or 0, self._deadline_ns
        if self.source is None or deadline_ns is None or state.ready_ns is None:
            return None
        if not progress.is_half_over(self._course, armed_ns, deadline_ns):
            self._patience = None
            return None
        since_ns = max(self._course.since_ns or 0, armed_ns)
        if self._patience is None or self._patience.pending.since_ns != since_ns:
            pending = self._pending(since_ns, deadline_ns)
            self._patience = Patience(pending, now_ns, threads_of(pending)[0])
        if self._is_told or progress.overdue_since(self._course, armed_ns, deadline_ns, now_ns) is None:
            return None
        pending = self._pending(since_ns, deadline_ns)
        threads, gone = threads_of(pending)
        if gone:  # nobody is left to return from that call; what else is pending is found by the next looks
            self._gone.add(pending.key)
            self._course = self._course._replace(since_ns=None, last_ns=None)
            return None
        judged = liveness.judge(self._patience, threads, stall_ns(since_ns), late_margin_ns, now_ns)
        if not isinstance(judged, Finding):
            self._patience = waited(self._patience, judged, threads, now_ns)
            self.waiting_ns = judged.until_ns
            return None
        self._is_told = self.only_tells or state.phase is Phase.OBSERVED
        # Evidence that comes from time to time cannot be there at the deadline: it counts from when it could be known.
        known_ns = pending.deadline_ns if pending.lane is not None else self._patience.overdue_ns or now_ns
        return replace(
            judged, word=None, offset=None, deadline_ns=max(pending.deadline_ns, known_ns), detail=self.text(now_ns)
        )

    def _pending(self, since_ns: int, deadline_ns: int) -> Pending:
        """The oldest call in flight, or host function that has not run, if it is one that the stall is about."""
        seen = self._seen
        host = seen.host_function if seen is not None else None
        call = seen.calls[0] if seen is not None and seen.calls else None
        if host is not None and (call is None or host.queued_ns <= call.entered_ns):
            due_ns = since_ns + deadline_ns
            return Pending(
                Verdict.STALL, None, host.queued_ns, since_ns, due_ns, host.queued_ns, host.offset, host.lane
            )
        if call is None:
            return Pending(Verdict.STALL, None, since_ns, since_ns, since_ns + deadline_ns, 0, -1, None)
        offset = word_offset(call.lane, "outer")
        return Pending(
            Verdict.STALL, None, call.entered_ns, since_ns, since_ns + deadline_ns, call.word, offset, call.lane
        )

    def stands(self, state: WorkerState, now_ns: int) -> bool:
        """Whether its work is still pending with no progress."""
        armed_ns, deadline_ns = state.armed_ns or 0, self._deadline_ns
        return deadline_ns is not None and (
            progress.overdue_since(self._course, armed_ns, deadline_ns, now_ns) is not None
        )

    # --- told ---

    def text(self, now_ns: int) -> str:
        if self.source is None:
            return ""
        return progress.text(self._course, self.source, self._settings.progress_counter, now_ns)

    def describe(self) -> dict[str, Any] | None:
        """For the snapshot."""
        if self.source is None:
            return None
        value: float | None = self._course.mark if self.source.kind == "metrics" else None
        if self.source.kind == "sync" and self._seen is not None:
            value = self._seen.completed
        failed = self._sample[0].why if self.source.is_probe and self._sample is not None else ""
        return {
            "kind": self.source.kind,
            "source": str(self.source)[:LONGEST_TEXT],
            "value": value,
            "moved_ns": self._course.moved_ns,
            "pending": self._course.pending[:LONGEST_TEXT] or None,
            "pending_since_ns": self._course.since_ns,
            "unknown": (self.silent or self._course.unknown)[:LONGEST_TEXT],
            "silent_since_ns": self._sample[1] if self.silent and self._sample is not None else None,
            "failed": failed[:LONGEST_TEXT],
            "failing": self._is_told and self.only_tells,
        }
