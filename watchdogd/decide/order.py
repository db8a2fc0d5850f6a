"""Who is started after whom, and who is restarted with whom: questions about names and states.

Invariant: pure; every wait for another worker's ready ends with that worker's own startup deadline. A configuration
in which somebody waits for one that has none is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from watchdogd.decide.orders import TAKEN_ALONG, WorkerState
from watchdogd.model import Phase, WorkerSettings


def cycle(links: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Names that wait for each other, in order, the first again at the end; None where nobody does."""
    left = {name: [other for other in links[name] if other in links] for name in links}
    while free := [name for name, others in left.items() if not any(other in left for other in others)]:
        for name in free:
            del left[name]
    if not left:
        return None
    path = [next(iter(left))]
    while path[-1] not in path[:-1]:
        path.append(next(other for other in left[path[-1]] if other in left))
    return tuple(path[path.index(path[-1]) :])


def company(name: str, links: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Whom a restart of the worker takes along, and whom those do: each once, in order, itself not."""
    found = [name]
    for each in found:
        found += [other for other in links.get(each, ()) if other not in found]
    return tuple(found[1:])


def is_up(state: WorkerState, settings: WorkerSettings, begun_ns: int | None, now_ns: int) -> bool:
    """Whether whoever waits for it need not wait any longer. ``begun_ns``: when its start was begun."""
    if state.ready_ns is not None or state.phase in (Phase.STOPPED, Phase.QUARANTINED):
        return True  # the latter: nobody knows whether it will ever be
    startup_ns = settings.deadlines.startup_ns
    return begun_ns is not None and startup_ns is not None and now_ns >= begun_ns + startup_ns


def is_taken_along(state: WorkerState, settings: WorkerSettings, now_ns: int) -> bool:
    """Whether its restart in company is under way: others that are to follow wait for it."""
    if state.reason != TAKEN_ALONG:
        return False
    if state.phase is Phase.STARTING:
        return not is_up(state, settings, state.spawned_ns, now_ns)
    return state.phase in (Phase.TERMINATING, Phase.KILLING)
