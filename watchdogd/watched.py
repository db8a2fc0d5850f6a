"""One worker's effects: reads its heartbeat, launches and signals its process, and remembers what was seen.

Decides nothing: what is overdue is ``liveness``'s word, what to do about it ``policy``'s. Invariant: nothing here
waits.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import replace
from typing import Any

from watchdogd import abi, liveness, procfs, snapshot
from watchdogd.heartbeat import HeartbeatError, HeartbeatReader, Unreadable
from watchdogd.histogram import Histogram
from watchdogd.liveness import Look, Patience, Pending, Threads, Wait
from watchdogd.model import MILLISECOND, SECOND, Exit, Finding, Phase, Verdict, WorkerSettings
from watchdogd.policy import WorkerState
from watchdogd.process import Process
from watchdogd.pulse import Pulse, word_offset
from watchdogd.suspicion import Stuck, stuck
from watchdogd.sweep import Sweeper, SweepFailed, Swept, members

START_TOLERANCE_NS = 20 * MILLISECOND  # a process's start is known to a clock tick
BASELINE_EVERY_NS = 50 * MILLISECOND  # a worker that is always slow is sampled this often at most
NAMED_AT_MOST = 8  # pids in a note
LONGEST_NOTE = 500  # characters: the snapshot has room for so much of every worker
SWEEP_AGAIN_NS = 20 * MILLISECOND
SWEEP_ABANDON_NS = 5 * SECOND
_UNREADABLE = frozenset(reason.value for reason in Unreadable)


class Watched:
    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.rules = liveness.prepare(settings.deadlines, settings.soft)
        self.state = WorkerState(settings.name)
        self.reader: HeartbeatReader | None = None
        self.process: Process | None = None
        self.sweeper: Sweeper | None = None
        self.sweep_deadline_ns = 0
        self.sweep_again_ns: int | None = None
        self.exit: Exit | None = None
        self.pulse: Pulse | None = None
        self.look = Look(0)
        self.patience: dict[tuple[int, int], Patience] = {}
        self.waiting_ns: int | None = None  # look again then: a verdict waits for it
        self._baseline_ns = 0
        self._stalls: deque[tuple[int, int]] = deque(maxlen=64)  # (when, how long) the supervisor woke late
        self.orphaned: set[tuple[int, int]] = set()  # (offset, word) of calls whose thread or process is gone
        # what is told about it
        self.heartbeat_error: str | None = None
        self.uninstrumented = False
        self.note = ""
        self.held: str | None = None
        self.gone_ns: int | None = None  # when its last incarnation was gone because of a verdict
        self.restarts: dict[str, int] = {}
        self.hangs = dict.fromkeys(snapshot.HANG_KEYS, 0)
        self.would_have_killed = 0
        self.near_misses = 0
        self.soft_exceeded = 0
        self.recovery = [0] * (len(snapshot.RECOVERY_BOUNDS_NS) + 1)
        self.recovery_total_ns = 0
        self.stuck_since_ns: int | None = None  # entry of the call that the current recovery is from
        self.last_incident: dict[str, Any] | None = None
        self.last_error: int | None = None
        self.budget_left = settings.restart.budget
        self._fragment: str | None = None

    # --- observe ---

    def read(self) -> str | None:
        """Take its pulse. Returns the reason when it has just become unreadable."""
        self.pulse = None
        if self.reader is None:
            return None
        try:
            self.pulse = self.reader.read()
        except HeartbeatError as error:
            told, self.heartbeat_error = self.heartbeat_error, error.reason.value
            if told != self.heartbeat_error:
                self.changed()
                return self.heartbeat_error
            return None
        if self.heartbeat_error in _UNREADABLE:  # impossible words are for ``examine`` to take back
            self.heartbeat_error = None
            self.changed()
        self._notice_error_word(self.pulse)
        return None

    def examine(self, now_ns: int) -> list[Pending]:
        """What of its pulse is slow or overdue now. Returns what was slow and has returned since."""
        state = self.state
        self.waiting_ns = None
        spawned_ns = state.spawned_ns or 0
        armed_ns = state.armed_ns or spawned_ns
        if self.pulse is None:
            self.look = Look(now_ns + self.rules.shortest_ns)
            return []  # what cannot be read has not returned
        if state.phase is Phase.STARTING:
            self.look = liveness.look_starting(self.pulse, self.rules, armed_ns, now_ns)
        else:
            self.look = liveness.look(self.pulse, self.rules, spawned_ns, armed_ns, now_ns)
            if self.look.error != self.heartbeat_error:
                self.heartbeat_error = self.look.error
                self.changed()
        if not (self.look.overdue or self.look.slow or self.patience):
            return []
        if self.orphaned:
            self._leave_out_orphaned()
        seen = (*self.look.overdue, *self.look.slow)
        keys = {pending.key for pending in seen}
        returned = [kept.pending for key, kept in self.patience.items() if key not in keys]
        for pending in returned:
            del self.patience[pending.key]
        for pending in seen:
            kept = self.patience.get(pending.key)
            if kept is None or kept.pending.deadline_ns != pending.deadline_ns:  # new, or armed again by a resume
                self.patience[pending.key] = Patience(pending, now_ns, self._baseline(pending, now_ns))
                if pending.verdict is not Verdict.STARTUP:
                    self.soft_exceeded += 1
                    self.changed()
        return [pending for pending in returned if pending.verdict is not Verdict.STARTUP]

    def _leave_out_orphaned(self) -> None:
        """Words whose thread or process was found gone are nobody's, even if its pid is somebody's again."""
        self.orphaned &= {pending.key for pending in self.look.overdue}
        left = tuple(pending for pending in self.look.overdue if pending.key not in self.orphaned)
        self.look = self.look._replace(overdue=left)

    def _notice_error_word(self, pulse: Pulse) -> None:
        code = pulse.header("last_error") & abi.ERROR_MASK or None
        if code != self.last_error:
            self.last_error = code
            self.changed()

    def _baseline(self, pending: Pending, now_ns: int) -> Threads | None:
        if pending.verdict is Verdict.STARTUP or now_ns - self._baseline_ns < BASELINE_EVERY_NS:
            return None
        self._baseline_ns = now_ns
        return self._threads(pending)[0]

    def _owner(self, pending: Pending) -> tuple[int, int]:
        """pid and tid of the lane's owner; tid 0 = the process as a whole."""
        if pending.lane is None or self.pulse is None:
            return (self.process.pid if self.process else 0), 0
        word = self.pulse.lane(pending.lane, "owner")
        return word >> 32, word & 0xFFFF_FFFF

    def _threads(self, pending: Pending) -> tuple[Threads | None, bool]:
        """Scheduler's view of the owner's process, and whether the owner is known to be gone."""
        pid, tid = self._owner(pending)
        if pid == 0:
            return None, pending.lane is not None  # a lane that belongs to nobody
        namespace = self.pulse.header("pid_namespace") if self.pulse else 0
        try:
            foreign = namespace not in (0, procfs.pid_namespace())
            here = procfs.in_namespace(pid, namespace) if foreign else pid
            stat = None if here is None else procfs.stat(here)
            if here is None or stat is None:
                return None, True
            if procfs.started_ns(stat) > pending.entered_ns + START_TOLERANCE_NS:
                return None, True  # the pid is another process's by now
            if self.pulse is not None and liveness.image_is_gone(self.pulse, pid, stat.image):
                return None, True  # it has called exec: nobody is left to clear the word
            found = procfs.threads(here, None if foreign else tid) or {}
        except OSError:  # no descriptors left, or hidden: no scheduler's evidence, and nobody known to be gone
            return None, False
        # A zombie is gone too: nobody has reaped it yet, but no call of its can ever return.
        threads = {number: sample for number, sample in found.items() if sample.state not in "ZX"}
        return threads, not threads or (tid != 0 and not foreign and tid not in threads)

    def verdict(self, late_ns: int, late_margin_ns: int, now_ns: int) -> Finding | None:
        """The first overdue item that is a verdict now, its word read again."""
        if late_ns > late_margin_ns:
            self._stalls.append((now_ns, late_ns))
        for pending in self.look.overdue:
            if self.reader is None or self.reader.word(pending.offset) != pending.word:
                continue
            patience = self.patience[pending.key]
            if pending.verdict is Verdict.STARTUP:
                threads, gone = None, False
            else:
                threads, gone = self._threads(pending)
            if gone:  # its thread or process is no more: a crash, if anything, and told by its exit
                self.orphaned.add(pending.key)
                continue
            # All of them since the call was entered, those before its deadline too.
            stall_ns = sum(stall for at_ns, stall in self._stalls if at_ns > pending.entered_ns)
            judged = liveness.judge(patience, threads, stall_ns, late_margin_ns, now_ns)
            if isinstance(judged, Finding):
                return self._described(judged, pending, threads)
            self._wait(pending, patience, judged, threads, stall_ns > late_margin_ns, now_ns)
        return None

    def _wait(
        self, pending: Pending, patience: Patience, wait: Wait, threads: Threads | None, late: bool, now_ns: int
    ) -> None:
        first = patience.overdue_ns is None
        self.patience[pending.key] = replace(
            patience,
            rearmed=patience.rearmed or late,
            overdue_ns=now_ns if first else patience.overdue_ns,
            overdue_threads=threads if first else patience.overdue_threads,
            until_ns=wait.until_ns,
        )
        self.waiting_ns = wait.until_ns if self.waiting_ns is None else min(self.waiting_ns, wait.until_ns)

    def _described(self, finding: Finding, pending: Pending, threads: Threads | None) -> Finding:
        pid, tid = self._owner(pending)
        stage = None
        if pending.operation is not None and pending.lane is not None and self.pulse and self.reader is not None:
            code = self.pulse.lane(pending.lane, "stage") & abi.CODE_MASK
            stage = self.reader.stage_name(code) if code else None
        sample = (threads or {}).get(tid)
        detail = f"thread state {sample.state}" if sample is not None else ""
        if pending.verdict is Verdict.STARTUP and self.pulse is not None:
            attached = self.pulse.header("attached_pid") != 0
            detail = "attached, but not ready" if attached else "never attached to its heartbeat"
        return replace(finding, stage=stage, pid=pid or None, tid=tid or None, detail=detail)

    def sticky_error(self, now_ns: int) -> Finding | None:
        if self.last_error is None or self.pulse is None or self.reader is None:
            return None
        finding = liveness.sticky_error(self.pulse, self.state.spawned_ns or 0, now_ns)
        return finding if finding is not None and self.still(finding) else None

    def still(self, finding: Finding) -> bool:
        """Whether the fact a finding rests on reads the same right now."""
        if finding.offset is None:
            return True
        word = None if self.reader is None else self.reader.word(finding.offset)
        if finding.verdict is Verdict.STARTUP:  # attaching meanwhile is not being ready
            return word is not None and word & abi.CODE_MASK != abi.STATE["ready"]
        if finding.verdict is Verdict.STICKY_ERROR:  # every call that fails stamps it anew
            return word is not None and word & abi.ERROR_MASK == (finding.word or 0) & abi.ERROR_MASK
        return word is not None and word == finding.word

    def notice_uninstrumented(self) -> bool:
        """Whether it has just been found that its calls are not stamped."""
        if self.pulse is None or self.state.ready_ns is None:
            return False
        found = liveness.uninstrumented(self.pulse, self.rules)
        if found == self.uninstrumented:
            return False
        self.uninstrumented = found
        self.changed()
        return found

    def activity(self) -> tuple[bool, int]:
        """Whether a call is in flight, and how many have completed: for the frozen-load rule."""
        if self.pulse is None:
            return False, 0
        return bool(self._owned("outer")), sum(self.pulse.column("calls"))

    def stuck(self, now_ns: int) -> Stuck | None:
        """Its call that most should have returned by now, against its own history; None if it is in none."""
        if self.pulse is None or self.reader is None:
            return None
        believed = [word for word in self._owned("outer") if self._believable(word, now_ns)]
        calls = [(word, abi.OPERATIONS[word & abi.CODE_MASK]) for word in believed]
        calls = calls or [(word & ~abi.CODE_MASK, "step") for word in self._owned("step")]
        if not calls:
            return None
        try:
            history = self.reader.histograms(self.pulse)
        except HeartbeatError:
            history = {}
        deadlines = self.settings.deadlines
        found = [
            stuck(
                self.settings,
                operation,
                word & ~abi.CODE_MASK,
                deadlines.step_ns if operation == "step" else deadlines.calls_ns[abi.OPERATION[operation]],
                history.get(operation, Histogram()),
                now_ns,
            )
            for word, operation in calls
        ]
        return min(found, key=lambda item: (not item.outside, item.expected_ns))

    def _owned(self, column: str) -> list[int]:
        """Words in flight whose owner was not found gone."""
        if self.pulse is None:
            return []
        words = enumerate(self.pulse.column(column))
        return [word for lane, word in words if word and (word_offset(lane, column), word) not in self.orphaned]

    def _believable(self, word: int, now_ns: int) -> bool:
        known = 0 < word & abi.CODE_MASK < len(abi.OPERATIONS)
        return known and (self.state.spawned_ns or 0) & ~abi.CODE_MASK <= word <= now_ns + SECOND

    # --- act ---

    def signal(self, number: int) -> OSError | None:
        return None if self.process is None else self.process.signal(number)

    def begin_sweep(self, now_ns: int) -> None:
        if self.sweeper is not None or self.process is None or self.reader is None:
            return
        self.sweep_again_ns = None
        root, heartbeat, supervisor = self.process.identity, self.reader.path, os.getpid()
        is_held = self.process.is_child
        try:
            self.sweeper = Sweeper(lambda: members(root, heartbeat, supervisor, is_held=is_held))
        except OSError as error:  # no process to be had: again later, the phase has its own deadline
            self.note = f"cannot look for descendants: {error.strerror}"
            self.sweep_again_ns = now_ns + SECOND
            self.changed()
            return
        self.sweep_deadline_ns = now_ns + SWEEP_ABANDON_NS

    def end_sweep(self, now_ns: int) -> Swept | None:
        """Its result, if it is there; a sweep that does not return is abandoned and begun again."""
        if self.sweeper is None:
            return None
        swept, trouble = None, "did not return"
        try:
            swept = self.sweeper.result()
        except SweepFailed:
            trouble = "failed"
        else:
            if swept is None and now_ns < self.sweep_deadline_ns:
                return None
            if swept is None:
                self.sweeper.abandon()
        self.sweeper = None
        if swept is None:
            self.note = f"the search for descendants {trouble}"
            self.sweep_again_ns = now_ns + SECOND
            self.changed()
            return None
        if swept.left:
            named = ", ".join(map(str, swept.left[:NAMED_AT_MOST]))
            self.note = f"{len(swept.left)} descendants that SIGKILL did not end: {named}"
            # Quickly while a kill is fresh; what outlived its grace is only looked at now and then.
            again = SWEEP_AGAIN_NS if self.state.phase is not Phase.UNKILLABLE else SECOND
            self.sweep_again_ns = now_ns + again
            self.changed()
        return swept

    def forget_incarnation(self) -> None:
        """It is gone: let go of everything that was its."""
        if self.process is not None:
            self.process.reap()
            self.process = None
        if self.reader is not None:
            self.reader.close()
            self.reader = None
        self.pulse = None
        self.patience.clear()
        self.orphaned.clear()
        self.exit = None
        self.held = None
        self.note = ""
        self.heartbeat_error = None
        self.uninstrumented = False
        self.sweep_again_ns = None
        self.changed()

    def recovered(self, ready_ns: int) -> int | None:
        """Count the time from the hung call's entry to the successor's ready; None if it was no recovery."""
        if self.stuck_since_ns is None:
            return None
        duration = ready_ns - self.stuck_since_ns
        self.stuck_since_ns = None
        index = sum(duration > bound for bound in snapshot.RECOVERY_BOUNDS_NS)
        self.recovery[index] += 1
        self.recovery_total_ns += duration
        return duration

    def close_incident(self, incident: str, outcome: str) -> None:
        if self.last_incident is not None and self.last_incident["id"] == incident:
            self.last_incident = {**self.last_incident, "outcome": outcome}
            self.changed()

    # --- publish ---

    def changed(self) -> None:
        self._fragment = None

    @property
    def is_changed(self) -> bool:
        return self._fragment is None

    def fragment(self) -> str:
        """Its part of the snapshot; encoded again only after a change."""
        if self._fragment is None:
            self._fragment = snapshot.fragment(self._describe())
        return self._fragment

    def _describe(self) -> dict[str, Any]:
        state, settings = self.state, self.settings
        return {
            "name": settings.name,
            "phase": state.phase.value,
            "phase_since_ns": state.since_ns,
            "required": settings.required,
            "observe_only": settings.observe_only,
            "accelerator": settings.accelerator,
            "note": self.note[:LONGEST_NOTE],
            "pid": self.process.pid if self.process else None,
            "incarnation": state.incarnation,
            "heartbeat": self.reader.path if self.reader else None,
            "spawned_ns": state.spawned_ns,
            "ready_ns": state.ready_ns,
            "restarts": self.restarts,
            "budget_left": self.budget_left,
            "next_start_ns": state.deadline_ns if state.phase is Phase.BACKOFF else None,
            "deadlines": snapshot.deadlines_seconds(settings.deadlines),
            "soft": settings.soft,
            "hangs": self.hangs,
            "would_have_killed": self.would_have_killed,
            "near_misses": self.near_misses,
            "soft_exceeded": self.soft_exceeded,
            "uninstrumented": self.uninstrumented,
            "heartbeat_error": self.heartbeat_error,
            "last_error": self.last_error,
            "held": self.held,
            "recovery": {"counts": self.recovery, "total_ns": self.recovery_total_ns},
            "last_incident": self.last_incident,
        }
