"""Taking over the workers that the supervisor before this one left running.

Invariant: nothing is signalled here, and nothing is taken for a worker but the very process that was launched as one:
by its pid and start, told by itself before it was the worker's, in a file that only a supervisor's user can write. What
cannot be proven is left to the search for leftovers, which goes by the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from watchdogd import abi
from watchdogd.act import birth, launching, sweep
from watchdogd.act.process import adopt
from watchdogd.act.runtime import CannotStart, Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide import liveness, memory
from watchdogd.decide.orders import Trigger
from watchdogd.model import Exit, WorkerSettings
from watchdogd.observe import procfs
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.publish import board


class Adoption:
    def __init__(self, runtime: Runtime, boot_id: int) -> None:
        self._runtime = runtime
        self._boot_id = boot_id
        self.predecessor: int | None = None
        self.due_ns: int | None = None  # when the predecessor was to look next
        self.kills: tuple[int, ...] = ()
        self.next_seq = 0  # of the record, if it is not all written yet
        self.changed: list[Watched] = []  # adopted, but to be started anew: their settings are others
        self.problems: list[str] = []  # what could not be taken over, and why
        self.adopted: list[str] = []  # names of workers whose process lives on
        self.kept: set[str] = set()  # heartbeats still in use, be it only to tell what is left of a worker
        self.escalation: Mapping[str, Any] = {}  # as it was published
        self._workers: dict[str, Mapping[str, Any]] = {}
        self._stall = (0, 0)
        self._is_lost = False  # what the predecessor knew
        try:
            published = board.read(runtime.board)
        except board.BoardError:  # the first one here, or it left nothing that can be believed
            self._is_lost = True
            return
        if published.boot_id != boot_id or published.body.get("supervisor", {}).get("stopping", True):
            return  # its workers ended with the machine, or with it
        told = published.body.get("workers", ())
        ours = procfs.time_namespace()
        if published.body["supervisor"].get("time_namespace", ours) != ours:
            self._refuse_another_clock(told)
            return  # nobody lives by that clock, and what was remembered is told by it
        self.predecessor = published.pid
        self.due_ns = published.next_tick_ns
        try:
            self.kills = memory.recall_kills(published.body["supervisor"])
        except ValueError as error:
            self.problems.append(str(error))
        self._stall = (published.stall_ns, published.stall_end_ns)
        self.escalation = published.body["supervisor"].get("escalation") or {}
        self.next_seq = int(published.body.get("events", {}).get("next_seq", 0))
        self._workers = {str(worker.get("name")): worker for worker in told}

    def _refuse_another_clock(self, told: Sequence[Mapping[str, Any]]) -> None:
        """By our clock every call of a worker that stamps by another one would be a hang, or never one."""
        living = []
        for worker in told:
            name, incarnation = str(worker.get("name")), int(worker.get("incarnation", 0))
            born = birth.read(self._runtime.birth(name, incarnation))
            heartbeat = self._runtime.heartbeat(name, incarnation)
            if born is not None and sweep.marks(born.identity.pid) == os.fsencode(heartbeat):
                living.append(f"{name} (pid {born.identity.pid})")
        if living:
            raise CannotStart(
                f"the supervisor before this one was in another time namespace, by whose clock its workers still live: "
                f"{', '.join(living)}; start this one there (nsenter --target PID --time), or end them first"
            )

    def unwatched_ns(self, now_ns: int) -> int:
        """How late a first look now is for what was adopted."""
        return 0 if self.due_ns is None or not self.adopted else memory.unwatched_ns(self.due_ns, now_ns)

    def retired(self, known: set[str]) -> list[Watched]:
        """Workers that the configuration no longer has; those of them that live are to be ended."""
        found = []
        for name in self._workers.keys() - known:
            watched = Watched(WorkerSettings(name, (), required=False, autostart=False, on_supervisor_exit="keep"))
            watched.is_retired = True
            found.append(watched)
        return found

    def take(self, watched: Watched, now_ns: int) -> Trigger | None:
        """Make it what it was, as far as that can be proven; what happened to it meanwhile."""
        told = self._workers.get(watched.settings.name)
        if told is None:
            return self._take_unremembered(watched, now_ns) if self._is_lost else _start(watched)
        try:
            state = memory.recall(told)
            watched.tally.recall(told)
        except ValueError as error:
            self.problems.append(f"{watched.settings.name}: {error}")
            return self._take_unremembered(watched, now_ns)
        name, incarnation = state.name, state.incarnation
        born = birth.read(self._runtime.birth(name, incarnation))
        heartbeat = self._runtime.heartbeat(name, incarnation)
        if born is not None:
            watched.process = adopt(born.identity)
            self._read(watched, heartbeat)
        exited = None if watched.process is None else watched.process.exit_status()
        is_alive = watched.process is not None and exited is None
        watched.state, trigger = memory.resume(
            state,
            has_begun=born is not None,
            is_alive=is_alive,
            keeps=watched.settings.on_supervisor_exit == "keep" or self.predecessor == os.getpid(),
            now_ns=now_ns,
        )
        if trigger is Trigger.EXITED:
            watched.exit = exited or Exit()
        if born is None and watched.settings.redeliver:  # what it was to be given is in its file, or still in the last
            self.kept |= {heartbeat, self._runtime.heartbeat(name, incarnation - 1)}
        if watched.process is not None:  # with its heartbeat or without: what cannot be read condemns nobody
            self.kept.add(heartbeat)
        if is_alive:
            self.adopted.append(name)
            stall_ns, end_ns = self._stall  # systemd may have killed for it who had noticed it a moment before
            watched.examination.stalled(stall_ns, 0, end_ns)
            self._recall_growth(watched, told)
            watched.launched = str(told.get("launched"))
            if watched.launched != launching.fingerprint(watched.settings):
                self.changed.append(watched)
        if is_alive and watched.state.finding is not None and trigger is None:
            watched.held = "its supervisor was replaced"  # looked at again in the first tick
        if watched.state.phase not in memory.HAS_PROCESS:  # it was gone then, and all that was its
            watched.forget_incarnation()
            watched.note = str(told.get("note")) if state.unusable else ""
        watched.changed()
        return trigger

    def _recall_growth(self, watched: Watched, told: Mapping[str, Any]) -> None:
        try:
            watched.growing.recall(told.get("growth", {}))
        except ValueError as error:  # its first hour begins anew
            self.problems.append(f"{watched.settings.name}: {error}")

    def _take_unremembered(self, watched: Watched, now_ns: int) -> Trigger | None:
        """The process that says who it is, in its birth and in the header of a heartbeat of this boot."""
        settings = watched.settings
        for incarnation in self._runtime.born(settings.name):
            born = birth.read(self._runtime.birth(settings.name, incarnation))
            process = None if born is None else adopt(born.identity)
            if process is None or process.exit_status() is not None:
                continue
            heartbeat = self._runtime.heartbeat(settings.name, incarnation)
            try:
                watched.reader = HeartbeatReader(heartbeat)
                pulse = watched.reader.read()
            except (HeartbeatError, OSError):
                pulse = None
            if pulse is None or pulse.header("boot_id_high") << 64 | pulse.header("boot_id_low") != self._boot_id:
                process.close()
                watched.forget_incarnation()
                continue
            ready_ns = pulse.header("state") & ~abi.CODE_MASK if liveness.is_ready(pulse) else None
            spawned_ns = pulse.header("spawned_ns")
            bisecting = pulse.header("bisect") != abi.BISECT["off"]
            watched.process = process
            watched.launched = launching.fingerprint(settings)
            watched.state, trigger = memory.resume(
                memory.unremembered(settings.name, incarnation, spawned_ns, ready_ns, now_ns, bisecting=bisecting),
                has_begun=True,
                is_alive=True,
                keeps=settings.on_supervisor_exit == "keep",
                now_ns=now_ns,
            )
            self.kept.add(heartbeat)
            self.adopted.append(settings.name)
            lost = "its budget begins anew, and whether it was paused, or its settings were others, is not known"
            self.problems.append(f"{settings.name}: adopted without a memory of it: {lost}")
            return trigger
        return _start(watched)

    def _read(self, watched: Watched, heartbeat: str) -> None:
        try:
            watched.reader = HeartbeatReader(heartbeat)
        except HeartbeatError as error:
            watched.heartbeat_error = error.reason.value
        except OSError as error:  # it may have taken it from itself
            watched.heartbeat_error = str(error.strerror)
        if watched.heartbeat_error is not None:
            self.problems.append(f"{watched.settings.name}: heartbeat: {watched.heartbeat_error}")


def _start(watched: Watched) -> Trigger | None:
    return Trigger.START if watched.settings.autostart else None
