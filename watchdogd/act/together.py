"""Starts that wait for others (``after``), restarts that follow one (``restart_with``), one after the other, and those
for a new configuration, which wait for the former and for peers of their redundancy group.

Invariant: it only asks, by a ``Happening``: whether a worker is started or restarted is ``policy``'s word. What
somebody else has started, stopped or replaced meanwhile is not asked for any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        self._to_restart: dict[str, tuple[str, int]] = {}  # in order: with whom, and when that one was ready again
        self._restarting: tuple[Watched, int, int] | None = None  # who, which incarnation, since when

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

    def ready(self, watched: Watched, now_ns: int) -> None:
        """It has just become so. If it was restarted, and not in company, others are to follow."""
        state, name = watched.state, watched.settings.name
        if state.incarnation < 2 or state.reason == TAKEN_ALONG:
            return
        for other in order.company(name, self._links()):
            self._to_restart.pop(other, None)
            self._to_restart[other] = (name, now_ns)

    def advance(self, now_ns: int) -> bool:
        """Ask for what is due. Whether anything was."""
        before = len(self._happenings)
        if self._to_start:
            self._start_due(now_ns)
        if self._changes:
            self._change_due(now_ns)
        if self._to_restart or self._restarting:
            self._restart_due(now_ns)
        return len(self._happenings) > before

    def _start_due(self, now_ns: int) -> None:
        for name, worker in self._watched.items():
            if worker.state.incarnation:
                self._begun.setdefault(name, now_ns)
        waiting = {worker.settings.name for worker in self._to_start if worker.state.phase is Phase.STOPPED}
        left = []
        for watched in self._to_start:
            if watched.state.phase is not Phase.STOPPED:
                continue  # by an operator
            missing = [name for name in watched.settings.after if name in waiting or not self._is_up(name, now_ns)]
            if not missing:
                self._happenings.append(Happening(watched, Trigger.START))
                continue
            left.append(watched)
            _note(watched, f"starts after {', '.join(missing)}")
        self._to_start = left

    def _is_up(self, name: str, now_ns: int) -> bool:
        worker = self._watched[name]
        return order.is_up(worker.state, worker.settings, self._begun.get(name), now_ns)

    def _change_due(self, now_ns: int) -> None:
        going: list[str] = []
        members = [(worker.settings, worker.state) for worker in self._watched.values()]
        for name, change in list(self._changes.items()):
            watched = self._watched[name]
            state = watched.state
            if change.asked_ns is not None or name in self._to_restart or self._comes_back(change.leader, now_ns):
                continue
            if state.incarnation != change.incarnation or state.phase not in ALIVE:  # its end has come otherwise
                del self._changes[name]
                continue
            peer = redundancy.absent(watched.settings, members, going)
            if peer is not None and redundancy.serves(state):
                _note(watched, f"is restarted for its new configuration once {peer} of its redundancy group serves")
                continue
            change.asked_ns = now_ns
            going.append(name)
            self._happenings.append(Happening(watched, Trigger.RESTART))
        if all(change.asked_ns is not None for change in self._changes.values()):
            self._changes.clear()

    def _comes_back(self, leader: str | None, now_ns: int) -> bool:
        """Whether a changed worker is still on its way through the restart that takes others along."""
        change = None if leader is None else self._changes.get(leader)
        if leader is None or change is None:
            return False
        worker = self._watched[leader]
        state = worker.state
        if change.asked_ns is None or state.incarnation == change.incarnation:
            return state.phase in (Phase.TERMINATING, Phase.KILLING, *ALIVE)
        return not order.is_up(state, worker.settings, max(change.asked_ns, state.spawned_ns or 0), now_ns)

    def _restart_due(self, now_ns: int) -> None:
        if self._restarting is not None:
            watched, incarnation, since_ns = self._restarting
            state = watched.state
            begun_ns = max(since_ns, state.spawned_ns or 0)
            if state.incarnation == incarnation and state.phase in (Phase.TERMINATING, Phase.KILLING, *_TAKEN):
                return  # its end takes its time
            if not order.is_up(state, watched.settings, begun_ns, now_ns):
                return
            self._restarting = None
        for name, (origin, ready_ns) in list(self._to_restart.items()):
            watched = self._watched[name]
            state = watched.state
            if state.phase not in _TAKEN or (state.spawned_ns or 0) > ready_ns:  # it is not there, or is new already
                del self._to_restart[name]
                continue
            members = [(worker.settings, worker.state) for worker in self._watched.values()]
            peer = redundancy.absent(watched.settings, members, ())
            if peer is not None and redundancy.serves(state):
                _note(watched, f"is restarted with {origin} once {peer} of its redundancy group serves")
                return
            del self._to_restart[name]
            self._restarting = (watched, state.incarnation, now_ns)
            self._happenings.append(Happening(watched, Trigger.RESTART_WITH))
            return


def _note(watched: Watched, text: str) -> None:
    if watched.note != text:
        watched.note = text
        watched.changed()
