"""Who stands in D state: threads of workers where something is amiss, and of whoever else holds an accelerator.

Invariant: evidence alone. A worker's own threads are looked at by reads that cannot block, at housekeeping's pace, and
never while all is well; everything else (who holds a device, where in the kernel a thread waits) by a child that is
given up if it does not return.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from watchdogd.act.evidence import Thread, blocked
from watchdogd.act.glance import Glance
from watchdogd.act.watched import Watched
from watchdogd.decide import dstate
from watchdogd.decide.dstate import Standing
from watchdogd.model import SECOND, Phase
from watchdogd.observe import holders, procfs
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal

MOST_TOLD = 8
OFTEN = 10  # glances a second apart; then rarely, for what may stand for days
RARELY_NS = 10 * SECOND
_ENDING = (Phase.TERMINATING, Phase.COLLECTING, Phase.KILLING, Phase.UNKILLABLE)


class Blocked:
    def __init__(
        self, watched: Sequence[Watched], journal: Journal, haunted: Callable[[], bool],
        look: Callable[[Collection[int]], list[dict[str, Any]]] = holders.look,
    ) -> None:  # fmt: skip
        """``haunted``: whether an accelerator is busy with nobody there."""
        self._look = look
        self._watched = watched
        self._journal = journal
        self._haunted = haunted
        self._glance: Glance | None = None
        self._glances = 0
        self._next_ns = 0
        self._waits: dict[Thread, Standing] = {}  # of those that are no worker's
        self._places: dict[Thread, str] = {}
        self._holders: list[dict[str, Any]] = []

    def look(self, now_ns: int) -> bool:
        """Whether what ``describe`` tells has changed."""
        before = self._holders
        self._take(now_ns)  # first: it may know where those wait that are told now
        for watched in self._watched:
            self._look_at(watched, now_ns)
        wanted = self._haunted() or any(map(_is_amiss, self._watched))
        if not wanted:
            self._glances = 0
            self._holders, self._waits, self._places = [], {}, {}
        elif self._glance is None and now_ns >= self._next_ns:
            self._begin(now_ns)
        return self._holders != before

    def _look_at(self, watched: Watched, now_ns: int) -> None:
        evidence, waiting = watched.evidence, dict[Thread, int]()
        if _may_be_stuck(watched):
            for pid in watched.pids(procfs.pid_namespace()):
                try:
                    threads = procfs.threads(pid) or {}
                except OSError:  # no descriptors left, or hidden from us: not known
                    continue
                waiting |= {(pid, tid): sample.ran_ns for tid, sample in threads.items() if sample.state == "D"}
        if not waiting and not evidence.waits:
            return
        was = evidence.blocked_texts()
        for pid, tid in evidence.follow(dstate.follow(evidence.waits, waiting, now_ns)):
            self._tell(watched, pid, tid, procfs.name(pid), evidence.places.get((pid, tid)), (), now_ns)
        if evidence.blocked_texts() != was:
            watched.changed()

    # --- the others, by a child ---

    def _begin(self, now_ns: int) -> None:
        self._next_ns = now_ns + (SECOND if self._glances < OFTEN else RARELY_NS)
        self._glances += 1
        pids = {pid for watched in self._watched for pid, _ in watched.evidence.waits}
        pids.update(pid for watched in self._watched for pid in watched.clearing.left)
        try:
            self._glance = Glance(lambda: self._look(pids), now_ns)
        except OSError:  # no process to be had: tried again in a while
            self._glance = None

    def _take(self, now_ns: int) -> None:
        if self._glance is None:
            return
        over, found = self._glance.result(now_ns)
        if not over:
            return
        self._glance = None
        if found is None:  # it did not return: what it saw last time is not known any more
            self._holders, self._waits = [], {}
            return
        owners = {pid: w for w in self._watched for pid in w.pids(procfs.pid_namespace())}
        waiting: dict[Thread, int] = {}
        for holder in found:
            holder["worker"] = next((owners[pid].settings.name for pid in holder["lineage"] if pid in owners), None)
            places = {(holder["pid"], wait["tid"]): wait["place"] for wait in holder["waits"] if wait["place"]}
            if holder["pid"] in owners:
                watched = owners[holder["pid"]]
                if places.items() - watched.evidence.places.items():
                    watched.evidence.places |= places
                    watched.changed()
                continue
            self._places |= places
            waiting |= {(holder["pid"], wait["tid"]): wait["ran_ns"] for wait in holder["waits"]}
        self._follow(found, waiting, now_ns)

    def _follow(self, found: list[dict[str, Any]], waiting: dict[Thread, int], now_ns: int) -> None:
        before, self._waits = self._waits, dstate.follow(self._waits, waiting, now_ns)
        by_pid = {holder["pid"]: holder for holder in found}
        for (pid, tid), wait in self._waits.items():
            if wait.looks == dstate.STUCK_LOOKS and before[pid, tid].looks < wait.looks:
                holder = by_pid[pid]
                whose = next((w for w in self._watched if w.settings.name == holder["worker"]), None)
                self._tell(whose, pid, tid, holder["name"], self._places.get((pid, tid)), holder["devices"], now_ns)
        haunted = self._haunted()
        told = []
        for pid, holder in by_pid.items():
            threads = blocked({key: wait for key, wait in self._waits.items() if key[0] == pid}, self._places)
            if threads or (haunted and holder["devices"] and holder["worker"] is None):
                kept = {key: holder[key] for key in ("pid", "name", "devices", "worker")}
                told.append({**kept, "blocked": threads})
        self._holders = told[:MOST_TOLD]

    def _tell(
        self, watched: Watched | None, pid: int, tid: int, name: str, place: str | None, devices: Sequence[str],
        now_ns: int,
    ) -> None:  # fmt: skip
        self._journal.emit_limited(
            EventKind.BLOCKED, now_ns, worker=None if watched is None else watched.settings.name,
            incarnation=None if watched is None else watched.state.incarnation,
            incident=None if watched is None else watched.state.incident, pid=pid, tid=tid, name=name,
            place=place, devices=list(devices), reason="in D state, look after look",
        )  # fmt: skip

    def close(self) -> None:
        if self._glance is not None:
            self._glance.abandon()
            self._glance = None

    def describe(self) -> list[dict[str, Any]]:
        return self._holders


def _may_be_stuck(watched: Watched) -> bool:
    """Whether a look at its threads may tell anything: not while its calls and steps return in time."""
    if watched.process is None or watched.state.phase is Phase.PAUSED:
        return False
    look, deadlines = watched.examination.look, watched.settings.deadlines
    returns = bool(deadlines.step_ns or any(deadlines.calls_ns)) and watched.pulse is not None
    in_time = not look.slow and not look.overdue and watched.state.finding is None
    return not (watched.state.phase in (Phase.RUNNING, Phase.OBSERVED) and returns and in_time)


def _is_amiss(watched: Watched) -> bool:
    """Whether it is worth a look at everybody who holds an accelerator."""
    state = watched.state
    return state.phase in _ENDING or state.finding is not None or bool(watched.evidence.waits)
