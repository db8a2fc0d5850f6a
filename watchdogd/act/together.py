"""Starts that wait for others (``after``), restarts that follow one (``restart_with``), one after the other, and those
for a new configuration, which wait for the former and for peers of their redundancy group.

Invariant: it only asks, by a ``Happening``: whether a worker is started or restarted is ``policy``'s word. What
somebody else has started, stopped or replaced meanwhile is not asked for any more. Who waits is in the workers' states,
so that it is not lost with the supervisor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from watchdogd.act.acting import Happening
from watchdogd.act.watched import Watched
from watchdogd.decide import order, redundancy
from watchdogd.decide.orders import ALIVE, TAKEN_ALONG, Trigger
from watchdogd.model import Phase

_TAKEN = frozenset((Phase.STARTING, Phase.RUNNING, Phase.OBSERVED))  # not one that is paused: somebody looks at it


@dataclass(slots=True)
class _Change:
    """A worker that runs with other settings than it is to."""

    incarnation: int  # that is to end
    leader: str | None  # another changed one, whose restart takes it along
    asked_ns: int | None = None  # when its restart was asked for


class Together:
    def __init__(self, watched: Sequence[Watched], happenings: deque[Happening]) -> None:
        self._watched = {worker.settings.name: worker for worker in watched}
        self._happenings = happenings
        self._to_start: list[Watched] = []
        self._begun: dict[str, int] = {}  # when a worker was started first: its later lives prolong nobody's wait
        self._changes: dict[str, _Change] = {}
        self._to_restart = [worker for worker in watched if worker.state.follows is not None]  # in order

    def start(self, workers: Iterable[Watched]) -> None:
        """As soon as those they come after are up."""
        self._to_start += workers

    def change(self, workers: Iterable[Watched]) -> None:
        """Restart them for their new settings: each once, and none while a peer of its redundancy group is absent."""
        links = self._links()
        for watched in workers:
            name = watched.settings.name
            leader = next((other for other in self._changes if name in order.company(other, links)), None)
            self._changes[name] = _Change(watched.state.incarnation, leader)

    def _links(self) -> dict[str, tuple[str, ...]]:
        return {name: worker.settings.restart_with for name, worker in self._watched.items()}

    def ready(self, watched: Watched) -> None:
        """It has just become so. If it was restarted, and not in company, others are to follow."""
        state, name = watched.state, watched.settings.name
        if state.incarnation < 2 or state.reason == TAKEN_ALONG:
            return
        ended_ns = state.ended_ns or state.spawned_ns or 0  # whoever was started since has nothing of its last life
        for other in map(self._watched.__getitem__, order.company(name, self._links())):
            other.state = replace(other.state, follows=(name, ended_ns))
            other.changed()
            self._to_restart = [worker for worker in self._to_restart if worker is not other] + [other]

    def advance(self, now_ns: int) -> bool:
        """Ask for what is due. Whether anything was."""
        before = len(self._happenings)
        waits = self._start_due(now_ns) | self._change_due(now_ns) | self._restart_due(now_ns)
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

    def _change_due(self, now_ns: int) -> dict[str, str]:
        """As ``_restart_due``."""
        waits: dict[str, str] = {}
        for name, change in list(self._changes.items()):
            watched = self._watched[name]
            state = watched.state
            follows = watched in self._to_restart
            if state.phase is Phase.COLLECTING:  # its call may return yet, and then its end has not come
                continue
            if change.asked_ns is not None or follows or self._comes_back(change.leader, now_ns):
                continue
            if state.incarnation != change.incarnation or state.phase not in ALIVE:  # its end has come otherwise
                del self._changes[name]
                continue
            peer = self._missed(watched)
            if peer is not None:
                waits[name] = f"is restarted for its new configuration once {peer}"
                continue
            change.asked_ns = now_ns
            self._happenings.append(Happening(watched, Trigger.RESTART))
        if all(change.asked_ns is not None for change in self._changes.values()):
            self._changes.clear()
        return waits

    def _comes_back(self, leader: str | None, now_ns: int) -> bool:
        """Whether a changed worker is still on its way through the restart that takes others along."""
        change = None if leader is None else self._changes.get(leader)
        if leader is None or change is None:
            return False
        worker = self._watched[leader]
        state = worker.state
        if change.asked_ns is None or state.incarnation == change.incarnation:
            return state.phase in (Phase.TERMINATING, Phase.COLLECTING, Phase.KILLING, *ALIVE)
        return not order.is_up(state, worker.settings, max(change.asked_ns, state.spawned_ns or 0), now_ns)

    def _missed(self, watched: Watched) -> str | None:
        """What of its redundancy group it must wait for, as it serves and a peer does not, or will not in a moment."""
        members = [(worker.settings, worker.state) for worker in self._watched.values()]
        asked_for = [happening.watched.settings.name for happening in self._happenings]
        peer = redundancy.absent(watched.settings, members, asked_for)
        if peer is None or not redundancy.serves(watched.state):
            return None
        return f"{peer} of its redundancy group serves: {redundancy.remedy(self._watched[peer].state)}"

    def _restart_due(self, now_ns: int) -> dict[str, str]:
        """Those that wait for somebody of their redundancy group, and for whom."""
        waits: dict[str, str] = {}
        under_way = any(order.is_taken_along(w.state, w.settings, now_ns) for w in self._watched.values())
        left = []
        for watched in self._to_restart:
            state = watched.state
            origin, ended_ns = state.follows or ("", 0)  # the latter: policy has had its word
            if state.phase is Phase.COLLECTING:
                left.append(watched)
                continue
            if state.phase not in _TAKEN or (state.spawned_ns or 0) > ended_ns:  # it is not there, or is new already
                watched.state = replace(state, follows=None)
                watched.changed()
                continue
            peer = self._missed(watched)
            if peer is not None:
                waits[watched.settings.name] = f"is restarted with {origin} once {peer}"
            elif not under_way:
                under_way = True
                self._happenings.append(Happening(watched, Trigger.RESTART_WITH))
            left.append(watched)
        self._to_restart = left
        return waits
