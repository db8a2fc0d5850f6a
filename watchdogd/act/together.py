"""Starts that wait for others (``after``), and restarts that follow one (``restart_with``), one after the other.

Invariant: it only asks, by a ``Happening``: whether a worker is started or restarted is ``policy``'s word. What
somebody else has started, stopped or replaced meanwhile is not asked for any more. Who waits is in the workers' states,
so that it is not lost with the supervisor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from watchdogd.act.acting import Happening
from watchdogd.act.watched import Watched
from watchdogd.decide import order, redundancy
from watchdogd.decide.orders import TAKEN_ALONG, Trigger
from watchdogd.model import Phase

_TAKEN = frozenset((Phase.STARTING, Phase.RUNNING, Phase.OBSERVED))  # not one that is paused: somebody looks at it


class Together:
    def __init__(self, watched: Sequence[Watched], happenings: deque[Happening]) -> None:
        self._watched = {worker.settings.name: worker for worker in watched}
        self._happenings = happenings
        self._to_start: list[Watched] = []
        self._begun: dict[str, int] = {}  # when a worker was started first: its later lives prolong nobody's wait
        self._to_restart = [worker for worker in watched if worker.state.follows is not None]  # in order

    def start(self, workers: Iterable[Watched]) -> None:
        """As soon as those they come after are up."""
        self._to_start += workers

    def ready(self, watched: Watched) -> None:
        """It has just become so. If it was restarted, and not in company, others are to follow."""
        state, name = watched.state, watched.settings.name
        if state.incarnation < 2 or state.reason == TAKEN_ALONG:
            return
        links = {each: worker.settings.restart_with for each, worker in self._watched.items()}
        ended_ns = state.ended_ns or state.spawned_ns or 0  # whoever was started since has nothing of its last life
        for other in map(self._watched.__getitem__, order.company(name, links)):
            other.state = replace(other.state, follows=(name, ended_ns))
            other.changed()
            self._to_restart = [worker for worker in self._to_restart if worker is not other] + [other]

    def advance(self, now_ns: int) -> bool:
        """Ask for what is due. Whether anything was."""
        before = len(self._happenings)
        waits = self._start_due(now_ns) | self._restart_due(now_ns)
        for name, worker in self._watched.items():
            if worker.waits != waits.get(name, ""):
                worker.waits = waits.get(name, "")
                worker.changed()
        return len(self._happenings) > before

    def _start_due(self, now_ns: int) -> dict[str, str]:
        """Those that wait, and for what."""
        waits: dict[str, str] = {}
        self._to_start = [w for w in self._to_start if w.state.phase is Phase.STOPPED and w.state.wanted]
        if not self._to_start:
            return waits
        for name, worker in self._watched.items():
            if worker.state.incarnation:
                self._begun.setdefault(name, now_ns)
        waiting = {worker.settings.name for worker in self._to_start}
        for watched in self._to_start:
            missing = [name for name in watched.settings.after if name in waiting or not self._is_up(name, now_ns)]
            if missing:
                waits[watched.settings.name] = f"starts after {', '.join(missing)}"
            else:
                self._happenings.append(Happening(watched, Trigger.START))
        return waits

    def _is_up(self, name: str, now_ns: int) -> bool:
        worker = self._watched[name]
        return order.is_up(worker.state, worker.settings, self._begun.get(name), now_ns)

    def _restart_due(self, now_ns: int) -> dict[str, str]:
        """Those that wait for somebody of their redundancy group, and for whom."""
        waits: dict[str, str] = {}
        under_way = any(order.is_taken_along(w.state, w.settings, now_ns) for w in self._watched.values())
        left = []
        for watched in self._to_restart:
            state = watched.state
            origin, ended_ns = state.follows or ("", 0)  # the latter: policy has had its word
            if state.phase not in _TAKEN or (state.spawned_ns or 0) > ended_ns:  # it is not there, or is new already
                watched.state = replace(state, follows=None)
                watched.changed()
                continue
            members = [(worker.settings, worker.state) for worker in self._watched.values()]
            peer = redundancy.absent(watched.settings, members, ())
            if peer is not None and redundancy.serves(state):
                remedy = redundancy.remedy(self._watched[peer].state)
                group = f"{peer} of its redundancy group serves"
                waits[watched.settings.name] = f"is restarted with {origin} once {group}: {remedy}"
            elif not under_way:
                under_way = True
                self._happenings.append(Happening(watched, Trigger.RESTART_WITH))
            left.append(watched)
        self._to_restart = left
        return waits
