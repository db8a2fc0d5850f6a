"""Taking over the workers that the supervisor before this one left running.

Invariant: nothing is signalled here, and nothing is taken for a worker but the very process that was launched as one:
by its pid and start, told by itself before it was the worker's, in a file that only a supervisor's user can write. What
cannot be proven is left to the search for leftovers, which goes by the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from watchdogd.act import birth, launching
from watchdogd.act.process import adopt
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide import memory
from watchdogd.decide.orders import Trigger
from watchdogd.model import Exit, WorkerSettings
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.publish import board


class Adoption:
    def __init__(self, runtime: Runtime, boot_id: int) -> None:
        self._runtime = runtime
        self.predecessor: int | None = None
        self.next_seq = 0  # of the record, if it is not all written yet
        self.changed: list[Watched] = []  # adopted, but to be started anew: their settings are others
        self.problems: list[str] = []  # what could not be taken over, and why
        self.adopted: list[str] = []  # names of workers whose process lives on
        self.kept: set[str] = set()  # heartbeats still in use, be it only to tell what is left of a worker
        self.escalation: Mapping[str, Any] = {}  # as it was published
        self._workers: dict[str, Mapping[str, Any]] = {}
        try:
            published = board.read(runtime.board)
        except board.BoardError:  # the first one here, or it left nothing that can be believed
            return
        if published.boot_id != boot_id or published.body.get("supervisor", {}).get("stopping", True):
            return  # its workers ended with the machine, or with it
        self.predecessor = published.pid
        self.escalation = published.body["supervisor"].get("escalation") or {}
        self.next_seq = int(published.body.get("events", {}).get("next_seq", 0))
        self._workers = {str(told.get("name")): told for told in published.body.get("workers", ())}

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
        start = Trigger.START if watched.settings.autostart else None
        if told is None:
            return start
        try:
            state = memory.recall(told)
            watched.tally.recall(told)
        except ValueError as error:
            self.problems.append(f"{watched.settings.name}: {error}")
            return start
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
        if watched.process is not None:  # with its heartbeat or without: what cannot be read condemns nobody
            self.kept.add(heartbeat)
        if is_alive:
            self.adopted.append(name)
            watched.launched = str(told.get("launched"))
            if watched.launched != launching.fingerprint(watched.settings):
                self.changed.append(watched)
        if is_alive and watched.state.finding is not None and trigger is None:
            watched.held = "its supervisor was replaced"  # looked at again in the first tick
        watched.changed()
        return trigger

    def _read(self, watched: Watched, heartbeat: str) -> None:
        try:
            watched.reader = HeartbeatReader(heartbeat)
        except HeartbeatError as error:
            watched.heartbeat_error = error.reason.value
        except OSError as error:  # it may have taken it from itself
            watched.heartbeat_error = str(error.strerror)
        if watched.heartbeat_error is not None:
            self.problems.append(f"{watched.settings.name}: heartbeat: {watched.heartbeat_error}")
