"""One worker's effects: reads its heartbeat, holds and signals its process, and tells what is known of it.

Decides nothing: what is overdue is ``liveness``'s word, what to do about it ``policy``'s. Invariant: nothing here
waits.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from watchdogd import abi, abi_driver
from watchdogd.act.clearing import AGAIN_NS, RETRY_NS, Clearing
from watchdogd.act.evidence import Evidence
from watchdogd.act.growing import Growing
from watchdogd.act.process import Process
from watchdogd.act.progressing import Progressing
from watchdogd.act.shimmed import Shimmed
from watchdogd.act.sweep import Swept
from watchdogd.decide import bisecting, budget, liveness, memory, outputs
from watchdogd.decide.facts import fact, stands
from watchdogd.decide.liveness import Pending, Threads
from watchdogd.decide.orders import ALIVE, HANGS, CloseIncident, OpenIncident, WorkerState
from watchdogd.decide.requests import Left
from watchdogd.decide.suspicion import Stuck
from watchdogd.model import MILLISECOND, Exit, Finding, Phase, Verdict, WorkerSettings
from watchdogd.observe import inflight, owners, procfs
from watchdogd.observe.examination import Examination
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader, Unreadable
from watchdogd.publish import snapshot
from watchdogd.publish.tally import Tally
from watchdogd.pulse import Pulse

HELD_CHECK_NS = 5 * MILLISECOND
LONGEST_NOTE = 500  # characters: the snapshot has room for so much of every worker
_ERROR_OWNER = abi_driver.OFFSET + abi_driver.HEADER.index("error_owner") * abi.WORD
_UNREADABLE = frozenset(reason.value for reason in Unreadable)


class Watched:
    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.rules = liveness.prepare(settings.deadlines, settings.soft)
        self.state = WorkerState(settings.name)
        self.reader: HeartbeatReader | None = None
        self.process: Process | None = None
        self.exit: Exit | None = None
        self.ended: Exit | None = None  # how the last incarnation did that has
        self.pulse: Pulse | None = None
        self._owners: owners.Owners | None = None  # of that pulse's words
        self.examination = Examination(self.rules, self._threads, spares_stopped=settings.foreground)
        self.clearing = Clearing()
        self.evidence = Evidence()
        self.growing = Growing(settings.growth)
        self.progressing = Progressing(settings)
        self.shimmed = Shimmed(is_wanted=settings.instrument == "driver")
        self.tally = Tally()
        self.launched = ""  # fingerprint of the settings that its process was started with
        self.is_retired = False  # no longer in the configuration: to be forgotten once it has ended
        self.left: Left | None = None  # for its next incarnation, while there is no file to write it to
        self.gone_ns: int | None = None  # when its last incarnation was gone because of a verdict
        # what is told about it
        self.heartbeat_error: str | None = None
        self.uninstrumented = False
        self.note = ""
        self.waits = ""  # for which other workers, to be started or restarted
        self.held: str | None = None
        self.last_error: int | None = None
        self._startup_unseen = False
        self._stood: int | None = None  # its run of bad outputs at the first look, or at the last one of a pause
        self._budget_left = settings.restart.budget
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
        if self._stood is None or self.state.phase is Phase.PAUSED:
            self._stood = self.pulse.header("bad_outputs")
        self._notice_error_word(self.pulse)
        return None

    def examine(self, now_ns: int) -> list[Pending]:
        """What of its pulse is slow or overdue now. Returns what was slow and has returned since."""
        soft_exceeded = self.examination.soft_exceeded
        returned = self.examination.examine(self.pulse, self.state, now_ns)
        if self.examination.soft_exceeded != soft_exceeded:
            self.changed()
        if self.pulse is not None and self.state.phase is not Phase.STARTING:
            error = self.examination.look.error
            if error != self.heartbeat_error:
                self.heartbeat_error = error
                self.changed()
        self._notice_unseen_startup(now_ns)
        if self.progressing.look(self.reader, self.pulse, self.state, now_ns):
            self.changed()
        return returned

    def declare_ready(self, now_ns: int) -> None:
        """In its header, where a probe or a time says so: all behind it goes by what stands there."""
        if self.pulse is None or self.reader is None or liveness.is_ready(self.pulse):
            return
        if self.progressing.is_ready(self.pulse, self.state, now_ns):
            try:
                self.reader.write_ready(now_ns)
            except OSError as error:  # it is tried again at the next look; its startup deadline holds
                self.note = f"cannot be made ready: {error.strerror}"
                self.changed()
                return
            self.read()

    def _notice_unseen_startup(self, now_ns: int) -> None:
        """Past its startup deadline, and whether it is ready cannot be read: shown, and condemns nobody."""
        startup_ns = self.settings.deadlines.startup_ns
        begun_ns = self.state.armed_ns or self.state.spawned_ns or 0
        unreadable = self.pulse is None and self.state.phase is Phase.STARTING
        unseen = unreadable and startup_ns is not None and now_ns >= begun_ns + startup_ns
        if unseen != self._startup_unseen:
            self._startup_unseen = unseen
            self.changed()

    def _notice_error_word(self, pulse: Pulse) -> None:
        code = pulse.header("last_error") & abi.ERROR_MASK or None
        if code != self.last_error:
            self.last_error = code
            self.changed()

    @property
    def _root(self) -> int:
        return self.process.pid if self.process is not None else 0

    def _threads(self, pending: Pending) -> tuple[Threads | None, bool]:
        if self.pulse is None:
            return None, False
        if self._owners is None or self._owners.pulse is not self.pulse:
            self._owners = owners.Owners(self.pulse, self._root)
        return self._owners.threads(pending)

    def verdict(self, late_ns: int, late_margin_ns: int, now_ns: int) -> Finding | None:
        """The first overdue item that is a verdict now; one that is only observed is found once."""
        observed = self.state.phase is Phase.OBSERVED
        self.examination.stalled(late_ns, late_margin_ns, now_ns)
        if self.reader is None:
            return None
        judged = self.examination.judge(self.reader, late_margin_ns, now_ns, observed=observed)
        if judged is not None:
            return self._described(*judged)
        for found in (self.sticky_error(now_ns), self._silent_output(now_ns)):
            if found is not None and not (observed and fact(found) in self.examination.reported):
                return found
        stall_ns = self.examination.stall_ns
        return self.progressing.judge(self.state, self._threads, stall_ns, late_margin_ns, now_ns)

    def _described(self, finding: Finding, pending: Pending, threads: Threads | None) -> Finding:
        if self.pulse is None or self.reader is None:
            return finding
        pid, tid = owners.owner(self.pulse, pending, self._root)
        code = 0
        if pending.lane is not None and tid != 0:  # a process lane's word says something else
            code = self.pulse.lane(pending.lane, "stage") & abi.CODE_MASK
        sample = (threads or {}).get(tid)
        detail = f"thread state {sample.state}" if sample is not None else ""
        if pending.verdict is Verdict.STARTUP:
            attached = self.pulse.header("attached_pid") != 0
            never = "no CUDA seen yet" if self.shimmed.is_wanted else "never attached to its heartbeat"
            detail = "attached, but not ready" if attached else never
        stage = self.reader.stage_name(code) if code else None
        found = replace(finding, stage=stage, pid=pid or None, tid=tid or None, detail=detail)
        return bisecting.described(found, self.pulse.header("bisect"), self.beside(found, found.detected_ns))

    def sticky_error(self, now_ns: int) -> Finding | None:
        if self.last_error is None or self.pulse is None or self.reader is None:
            return None
        finding = liveness.sticky_error(self.pulse, self.state.spawned_ns or 0, now_ns)
        return finding if finding is not None and self.still(finding) else None

    def _error_has_died(self) -> bool:
        """With a child process whose error it was, or by an exec: those that are left may be well."""
        if self.last_error is None or self.reader is None or self.pulse is None or not self.shimmed.is_wanted:
            return False
        if self.pulse.header("pid_namespace") not in (0, procfs.pid_namespace()):
            return False
        pid = (self.reader.word(_ERROR_OWNER) or 0) >> 32
        there = procfs.stat(pid) if pid else None
        if there is None or there.state in "ZX":
            return pid not in (0, self._root)
        return liveness.image_is_gone(self.pulse, pid, there.image)

    def _silent_output(self, now_ns: int) -> Finding | None:
        if self.pulse is None:
            return None
        finding = outputs.silent(self.pulse, self.settings.outputs, now_ns, self._stood or 0)
        return finding if finding is not None and self.still(finding) else None

    def still(self, finding: Finding, now_ns: int | None = None) -> bool:
        """Whether the fact a finding rests on reads the same right now."""
        if finding.verdict is Verdict.STALL:
            return self._is_stalled(finding.detected_ns if now_ns is None else now_ns)
        if finding.verdict is Verdict.STICKY_ERROR and self.exit is None and self._error_has_died():
            return False
        if self.reader is None or finding.offset is None:
            return stands(finding, None)
        return stands(finding, self.reader.word(finding.offset))

    def _is_stalled(self, now_ns: int) -> bool:
        """No single word says so: looked at anew, as far as there is something to look at."""
        self.read()
        if self.reader is not None and self.settings.progress is not None and self.settings.progress.kind == "sync":
            self.progressing.see(self.reader, self.pulse, self.state, now_ns)
        return self.progressing.stands(self.state, now_ns)

    def gets_on_again(self, now_ns: int) -> bool:
        """Whether the stall is over that its standing verdict is about."""
        finding = self.state.finding
        stalled = finding is not None and finding.verdict is Verdict.STALL and self.state.phase is not Phase.OBSERVED
        return stalled and not self.progressing.stands(self.state, now_ns)

    def is_rid_of_its_error(self) -> bool:
        """Whether the sticky error that its standing verdict is about has ended with its process."""
        finding = self.state.finding
        return finding is not None and finding.verdict is Verdict.STICKY_ERROR and self._error_has_died()

    def is_good_again(self) -> bool:
        """Whether the run of bad outputs is over that its standing verdict is about."""
        finding = self.state.finding
        if finding is None or finding.verdict is not Verdict.SILENT_OUTPUT or self.pulse is None:
            return False
        return not stands(finding, self.pulse.header("bad_outputs"))

    def ready_ns(self) -> int | None:
        """When it became ready, by its own stamp."""
        return None if self.pulse is None else self.pulse.header("state") & ~abi.CODE_MASK

    def due_ns(self, now_ns: int) -> Iterator[int]:
        """When to look at it again, for each reason there is."""
        if self.state.phase in ALIVE and self.state.phase is not Phase.PAUSED:
            yield self.examination.look.next_check_ns
            if self.examination.waiting_ns is not None:
                yield self.examination.waiting_ns
            progress_ns = self.progressing.due_ns()
            if progress_ns is not None and self.state.phase is not Phase.STARTING:
                yield progress_ns
            if self.held is not None:
                yield now_ns + HELD_CHECK_NS
        elif self.state.deadline_ns is not None:
            yield self.state.deadline_ns
            if self.state.phase is Phase.COLLECTING and not self.state.committed:
                yield now_ns + HELD_CHECK_NS
        if self.clearing.again_ns is not None:
            yield self.clearing.again_ns

    def notice_uninstrumented(self) -> str:
        """In words, if it has just been found that calls of it are not stamped."""
        why = self.shimmed.why
        if not why and self.pulse is not None and self.state.ready_ns is not None:
            why = "steps go by, but no call was ever stamped" * liveness.uninstrumented(self.pulse, self.rules)
        if bool(why) == self.uninstrumented:
            return ""
        self.uninstrumented = bool(why)
        self.changed()
        return why

    def activity(self) -> tuple[bool, int]:
        """As ``inflight.activity``; nothing while its heartbeat cannot be read."""
        return (False, 0) if self.pulse is None else inflight.activity(self.pulse, self.examination.orphaned)

    def stuck(self, now_ns: int) -> Stuck | None:
        """As ``inflight.most_stuck``."""
        if self.pulse is None or self.reader is None:
            return None
        orphaned, spawned_ns = self.examination.orphaned, self.state.spawned_ns or 0
        return inflight.most_stuck(self.settings, self.reader, self.pulse, orphaned, spawned_ns, now_ns)

    def armed_later_ns(self, finding: Finding) -> int | None:
        """Where it matters: its deadline counts from then, since a ready or a resume came after the entry."""
        armed_ns, entered_ns = self.state.armed_ns, finding.entered_ns
        if armed_ns is None or entered_ns is None or finding.deadline_ns is None:
            return None
        return armed_ns if armed_ns > entered_ns else None

    def beside(self, finding: Finding, now_ns: int) -> list[dict[str, Any]]:
        """As ``inflight.beside``, with the verdict on a hang."""
        if self.pulse is None or self.reader is None or finding.verdict not in HANGS:
            return []
        orphaned, spawned_ns = self.examination.orphaned, self.state.spawned_ns or 0
        return inflight.beside(self.reader, self.pulse, orphaned, finding, spawned_ns, now_ns)

    # --- act ---

    def signal(self, number: int, now_ns: int) -> OSError | None:
        if self.process is None:
            return None
        refusal = self.process.signal(number, alone=self.settings.foreground and number != signal.SIGKILL)
        self.evidence.killed(self.pids(procfs.pid_namespace()), now_ns)
        return refusal

    def pids(self, namespace: int | None) -> frozenset[int]:
        """Its processes that are known: the one that was spawned, and those with a lane. ``namespace``: ours."""
        if self.process is None:
            return frozenset()
        return frozenset((self._root, *(self.stamped(namespace) or ())))

    def stamped(self, namespace: int | None) -> frozenset[int] | None:
        """Its processes that own a lane; None if that is not known. ``namespace``: ours."""
        if self.pulse is None or self.pulse.header("pid_namespace") not in (0, namespace):
            return None
        return frozenset(owner >> 32 for owner in self.pulse.column("owner") if owner >> 32)

    def begin_sweep(self, cgroup: str | None, now_ns: int) -> None:
        if self.process is not None:
            heartbeat = "" if self.reader is None else self.reader.path
            is_in_order = self.exit is not None and (self.state.by_itself or self.exit.signal != signal.SIGKILL)
            # In the foreground nobody waits for a next incarnation, and a shell would leave them alone.
            patiently = self.settings.foreground and is_in_order
            self.clearing.begin(self.process, heartbeat, cgroup, now_ns, patiently=patiently)
            self.changed()

    def end_sweep(self, now_ns: int) -> Swept | None:
        """Its result, if it is there."""
        unkillable = self.state.phase is Phase.UNKILLABLE
        swept = self.clearing.end(RETRY_NS if unkillable else AGAIN_NS, now_ns)
        if swept is not None:
            self.evidence.killed(swept.killed, now_ns)
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
        self.pulse = self._owners = None
        self.examination.forget()
        self.clearing.forget()
        self.evidence.forget()
        self.growing.forget()
        self.progressing.forget()
        self.shimmed.forget()
        self.exit = None
        self.held = None
        self.note = ""
        self.heartbeat_error = None
        self.uninstrumented = False
        self._startup_unseen = False
        self._stood = None
        self.changed()

    # --- what is told ---

    def opened(self, opening: OpenIncident, time: str) -> None:
        """From here on its fact is known to be a verdict. ``time``: for people."""
        beside = self.beside(opening.finding, opening.finding.detected_ns)
        self.tally.opened(opening, time, [str(call["operation"]) for call in beside])
        known = fact(opening.finding)
        if known is not None:
            self.examination.report(known, opening.incident)
        self.changed()

    def closed(self, closing: CloseIncident) -> None:
        self.tally.closed(closing)
        self.changed()

    def count_budget(self, now_ns: int) -> None:
        """In quarantine nothing is left, however long ago the restarts were."""
        left = 0 if self.state.quarantined else budget.left(self.state.restarts, now_ns, self.settings.restart)
        if left != self._budget_left:
            self._budget_left = left
            self.changed()

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

    def _note(self) -> str:
        note = self.note or self.waits or self.clearing.trouble or self.growing.waits
        if not note and self._startup_unseen and self.state.phase is Phase.STARTING:
            return "past its startup deadline, but whether it is ready cannot be read from its heartbeat"
        if not note and self.state.quarantined and self.state.phase is Phase.STOPPED:
            return f"stopped in quarantine; it starts again after: watchdogd reset {self.settings.name}"
        return note[:LONGEST_NOTE]

    def _describe(self) -> dict[str, Any]:
        state, settings = self.state, self.settings
        return {
            "name": settings.name,
            "phase": state.phase.value,
            "phase_since_ns": state.since_ns,
            "required": settings.required,
            "observe_only": settings.observe_only,
            "accelerator": settings.accelerator,
            "note": self._note(),
            "pid": self.process.pid if self.process else None,
            "incarnation": state.incarnation,
            "heartbeat": self.reader.path if self.reader else None,
            "spawned_ns": state.spawned_ns,
            "ready_ns": state.ready_ns,
            "budget_left": self._budget_left,
            "next_start_ns": state.deadline_ns if state.phase is Phase.BACKOFF and not state.probing else None,
            "unusable": state.unusable,
            "bisect": {"next": state.bisect, "now": state.bisecting},
            "deadlines": snapshot.deadlines_seconds(settings.deadlines),
            "soft": settings.soft,
            "bad_in_a_row": settings.outputs.bad_in_a_row,
            "soft_exceeded": self.examination.soft_exceeded,
            "uninstrumented": self.uninstrumented,
            "shim": self.shimmed.describe(),
            "heartbeat_error": self.heartbeat_error,
            "last_error": self.last_error,
            "held": self.held,
            "launched": self.launched,
            "growth": self.growing.describe(),
            "progress": self.progressing.describe(),
            "remembered": memory.remember(state),
            **self.evidence.describe(settings.name),
            **self.tally.describe(),
        }
