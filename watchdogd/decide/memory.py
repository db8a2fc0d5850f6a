"""What one supervisor leaves for the next: its memory of a worker, and what is to be made of it.

Invariant: pure. Memory that is not whole is none (``ValueError``); a worker that lives is never started a second time,
and a kill that was decided is still only carried out on the word it was decided for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from watchdogd.decide.orders import ALIVE, AUTOMATIC, SUPERVISOR, Trigger, WorkerState
from watchdogd.model import SECOND, Finding, IncidentId, Phase, Verdict

RESTART_NS = SECOND  # RestartSec= of our unit and the way to the first look, several times over; WatchdogSec= is longer
HAS_PROCESS = ALIVE | {Phase.TERMINATING, Phase.COLLECTING, Phase.KILLING, Phase.UNKILLABLE}


def unwatched_ns(due_ns: int, now_ns: int) -> int:
    """How late a look counts as that another supervisor had promised for ``due_ns``.

    0 if no more was lost than a restart costs: what is overdue now is a hang. Longer, and nobody knows whether the
    machine stood still, and the supervisor was killed for it, or the supervisor alone was not there: the workers get
    the benefit of the doubt as after any late wake-up, once per call and no longer than the call's own deadline.
    """
    late_ns = now_ns - due_ns
    return late_ns if late_ns > RESTART_NS else 0


def remember(state: WorkerState) -> dict[str, Any]:
    """What the snapshot does not tell of it anyway."""
    return {
        "wanted": state.wanted,
        "reason": state.reason,
        "incident": state.incident,
        "finding": None if state.finding is None else asdict(state.finding),
        "deadline_ns": state.deadline_ns,
        "ended_ns": state.ended_ns,
        "armed_ns": state.armed_ns,
        "restarts": state.restarts,
        "quarantined": state.quarantined,
        "follows": state.follows,
        "untold": state.untold,
        "by_itself": state.by_itself,
        "spent": state.spent,
        "committed": state.committed,
    }


def recall(told: Mapping[str, Any]) -> WorkerState:
    """From a worker's object of the snapshot. Raises ValueError. What ``get`` takes, not every version remembers."""
    try:
        remembered = told["remembered"]
        finding, incident = remembered["finding"], remembered["incident"]
        bisect = told.get("bisect", {"next": None, "now": False})
        return WorkerState(
            name=_is(str, told["name"]),
            phase=Phase(told["phase"]),
            since_ns=_is(int, told["phase_since_ns"]),
            deadline_ns=_maybe(int, remembered["deadline_ns"]),
            incarnation=_is(int, told["incarnation"]),
            wanted=_is(bool, remembered["wanted"]),
            spawned_ns=_maybe(int, told["spawned_ns"]),
            ready_ns=_maybe(int, told["ready_ns"]),
            ended_ns=_maybe(int, remembered.get("ended_ns")),
            armed_ns=_maybe(int, remembered["armed_ns"]),
            finding=None if finding is None else Finding(**{**finding, "verdict": Verdict(finding["verdict"])}),
            incident=None if incident is None else IncidentId(_is(str, incident)),
            reason=_is(str, remembered["reason"]),
            restarts=tuple(_is(int, instant) for instant in remembered["restarts"]),
            quarantined=_is(bool, remembered["quarantined"]),
            unusable=_is(int, told.get("unusable", 0)),
            follows=_follows(remembered.get("follows")),
            bisect=_maybe(str, bisect["next"]),
            bisecting=_is(bool, bisect["now"]),
            untold=_is(int, remembered.get("untold", 0)),
            by_itself=_is(bool, remembered.get("by_itself", False)),
            spent=_is(int, remembered.get("spent", 0)),
            committed=_is(bool, remembered.get("committed", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not the memory of a worker: {error!r}") from None


def recall_kills(told: Mapping[str, Any]) -> tuple[int, ...]:
    """From the supervisor's object of the snapshot. Raises ValueError."""
    try:
        return tuple(_is(int, instant) for instant in told.get("kills", ()))
    except TypeError as error:
        raise ValueError(f"not the memory of kills: {error!r}") from None


def unremembered(
    name: str, incarnation: int, spawned_ns: int, ready_ns: int | None, now_ns: int, *, bisecting: bool = False
) -> WorkerState:
    """A worker that lives, as far as it says itself what it is. Nobody knows what was in flight with whose leave (a
    pause, a stall), so its deadlines count from now. Who had it bisected is not known either: until its next hang.
    """
    phase = Phase.STARTING if ready_ns is None else Phase.RUNNING
    return WorkerState(
        name, phase, now_ns, incarnation=incarnation, wanted=True, spawned_ns=min(spawned_ns, now_ns),
        ready_ns=ready_ns, armed_ns=now_ns, bisect=AUTOMATIC if bisecting else None, bisecting=bisecting,
    )  # fmt: skip


def resume(
    state: WorkerState, *, has_begun: bool, is_alive: bool, keeps: bool, now_ns: int
) -> tuple[WorkerState, Trigger | None]:
    """How to go on with it, and what has happened meanwhile.

    ``has_begun``: its process was there at all; ``is_alive``: it still is; ``keeps``: it was to outlive its supervisor.
    """
    had_process = state.phase in HAS_PROCESS
    if had_process and not has_begun:  # its start was ordered, and not carried out
        return replace(state, phase=Phase.STOPPED, deadline_ns=None), Trigger.START
    if had_process and not keeps and state.wanted:  # it ends with its supervisor: no fault, and no restart, of its own
        state = replace(state, phase=Phase.TERMINATING, reason=SUPERVISOR, finding=None)
    if is_alive:
        return _resume_alive(state, now_ns)
    if state.phase is Phase.BACKOFF and state.deadline_ns is None:  # it waited for an answer that nobody gets any more
        return replace(state, phase=Phase.STOPPED), Trigger.START
    if state.phase is Phase.STOPPED and state.wanted:  # its start waited
        return state, Trigger.START
    return state, Trigger.EXITED if had_process else None


def _resume_alive(state: WorkerState, now_ns: int) -> tuple[WorkerState, Trigger | None]:
    is_condemned = state.phase in (Phase.COLLECTING, Phase.KILLING)
    if is_condemned and state.finding is not None and not state.committed:  # read once more, and then killed
        phase = Phase.STARTING if state.ready_ns is None else Phase.RUNNING
        return replace(state, phase=phase, deadline_ns=None), Trigger.RELEASED
    if state.phase in (Phase.UNKILLABLE, *ALIVE):
        return state, None
    # Its patience is over: it was told to end, or was gone by our memory, so that it cannot go on.
    deadline_ns = state.deadline_ns if state.phase is Phase.TERMINATING else now_ns
    return replace(state, phase=Phase.TERMINATING, deadline_ns=deadline_ns or now_ns), None


def _follows(told: Any) -> tuple[str, int] | None:
    if told is None:
        return None
    origin, ended_ns = told
    return _is(str, origin), _is(int, ended_ns)


def _is(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:  # exactly: a bool is an int
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def _maybe(kind: type[Any], value: Any) -> Any:
    return None if value is None else _is(kind, value)
