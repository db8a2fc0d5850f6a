"""Workers that do the same work, so that one of them always does it: never two of a group down together by our hand.

What serves is not taken away while a peer does not serve: a restart that somebody asks for waits, or is refused. A
hung worker serves nobody, so nothing is lost by its kill; but while a peer comes back (loading its engines, allocating)
a call of the others may well be slow for that reason, and it is all that is left of the group. So its kill waits, until
``hold_max`` at the longest. A peer that will not come back by itself (stopped, in quarantine) delays no kill: then the
restart of the hung one is the way to have the work done again.

Invariant: pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from watchdogd.decide.orders import WorkerState
from watchdogd.model import Phase, WorkerSettings

Member = tuple[WorkerSettings, WorkerState]
_RETURNING = frozenset((Phase.STARTING, Phase.TERMINATING, Phase.COLLECTING, Phase.KILLING, Phase.BACKOFF))
_BY_HAND = {
    Phase.STOPPED: "watchdogd start {}",
    Phase.PAUSED: "watchdogd resume {}",
    Phase.UNKILLABLE: "restart the machine once that is safe",
}


def serves(state: WorkerState) -> bool:
    """It runs, and there is no verdict on it; while paused nobody knows."""
    return state.phase in (Phase.RUNNING, Phase.OBSERVED) and state.finding is None


def peers(settings: WorkerSettings, members: Iterable[Member]) -> Iterator[Member]:
    group = settings.redundancy
    return (
        each for each in members if group is not None and each[0].redundancy == group and each[0].name != settings.name
    )


def absent(settings: WorkerSettings, members: Iterable[Member], going: Collection[str]) -> str | None:
    """A peer that does not serve. ``going``: names of those whose end is on its way."""
    names = (other.name for other, state in peers(settings, members) if other.name in going or not serves(state))
    return next(names, None)


def remedy(state: WorkerState) -> str:
    """What has an absent peer serve again."""
    if state.quarantined:
        return f"watchdogd reset {state.name}"
    starts = state.phase is Phase.STOPPED and state.wanted
    text = None if starts else _BY_HAND.get(state.phase)
    return (text or "wait for {}").format(state.name)


def returning(settings: WorkerSettings, members: Iterable[Member], going: Collection[str]) -> str | None:
    """A peer that does not serve, and will again."""
    for other, state in peers(settings, members):
        if other.name in going or (state.phase in _RETURNING and state.wanted):
            return other.name
    return None
