"""What to do when no restart will help: the (stage x trigger) table of the escalation beyond the workers.

A cause; then the vehicle is asked for its safe state; then its consent; then a note on disk; only then the action.

Invariant: pure; no action without consent, without a record and a note before it, within ``min_interval`` of the last
one, or twice for one cause. A step's answer counts only for the attempt that asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from watchdogd.decide.escalation_memory import Memory
from watchdogd.decide.escalation_orders import (
    Act,
    Ask,
    Await,
    Cause,
    Note,
    Occasion,
    Order,
    Record,
    Stage,
    State,
    Trigger,
)
from watchdogd.model import SECOND

BACKOFF_NS, BACKOFF_MAX_NS = 10 * SECOND, 600 * SECOND  # between two times of asking
NOTE_NS = 2 * SECOND  # longest from the consent that came last (the file's, where one is awaited) to the action
ACT_NS = 30 * SECOND
CONSENT_FILE = "consent_file is there"


Step = tuple[State, tuple[Order, ...]]
Handler = Callable[[State, Occasion], Step]


def decide(state: State, trigger: Trigger, occasion: Occasion) -> Step:
    if trigger is Trigger.TIMEOUT and (state.deadline_ns is None or occasion.now_ns < state.deadline_ns):
        return state, ()
    if trigger in (Trigger.YES, Trigger.NO) and occasion.attempt != state.attempt:
        return state, ()
    return TABLE[state.stage, trigger](state, occasion)


def _enter(state: State, stage: Stage, now_ns: int, deadline_ns: int | None = None) -> State:
    return replace(state, stage=stage, since_ns=now_ns, deadline_ns=deadline_ns)


def _why(state: State) -> str:
    return "; ".join(cause.reason for cause in state.causes)


def _record(state: State, step: str, reason: str) -> Record:
    return Record(step, reason, state.causes[0] if state.causes else None)


# --- handlers -------------------------------------------------------------------------------------------------------


def _ignore(state: State, _occasion: Occasion) -> Step:
    return state, ()


def _cause(state: State, occasion: Occasion) -> Step:
    cause, settings, now = occasion.cause, occasion.settings, occasion.now_ns
    if cause is None or cause in state.causes:
        return state, ()
    interval = settings.min_interval_ns
    known = state.memory.repeated(cause.name, cause.since_ns, occasion.boot_id, interval, now)
    if known is not None:
        record = Record("refused", f"{cause.reason}: {known}", cause)
        memory = _noticed(state.memory, (cause,), occasion)
        noted = None if state.noted is None else _noticed(state.noted, (cause,), occasion)
        return replace(state, memory=memory, noted=noted), (record, *_note(noted or memory, occasion))
    begun = Record("cause", cause.reason, cause)
    if state.stage not in (Stage.IDLE, Stage.DONE):
        return replace(state, causes=(*state.causes, cause)), (begun,)
    state = replace(state, causes=(cause,), refusals=0)
    until_ns = state.memory.blocked_until_ns(occasion.boot_id, interval)
    if now < until_ns:
        waits = f"the last escalation was less than min_interval ago; goes on in {(until_ns - now) / SECOND:.0f} s"
        return _enter(state, Stage.WAITING, now, until_ns), (begun, _record(state, "waits", waits))
    state, orders = _ask(state, occasion)
    return state, (begun, *orders)


def _note(memory: Memory, occasion: Occasion) -> tuple[Order, ...]:
    """For the next start; nothing waits for it, so its answer is nobody's."""
    return () if occasion.settings.dry_run else (Note(-1, occasion.now_ns + NOTE_NS, memory),)


def _noticed(memory: Memory, causes: tuple[Cause, ...], occasion: Occasion) -> Memory:
    told = tuple((cause.name, cause.since_ns) for cause in causes)
    return memory.notice(told, occasion.boot_id, occasion.now_ns)


def _drop(state: State, occasion: Occasion) -> Step:
    """What is committed goes on; what comes of it is for those that are left."""
    return replace(state, causes=tuple(cause for cause in state.causes if cause != occasion.cause)), ()


def _over(state: State, occasion: Occasion) -> Step:
    left, _ = _drop(state, occasion)
    if left.causes:
        return left, ()
    record = _record(state, "withdrawn", f"{state.causes[0].name} is over")
    return _enter(left, Stage.IDLE, occasion.now_ns), (record,)


def _over_when_done(state: State, occasion: Occasion) -> Step:
    left, _ = _drop(state, occasion)
    return (left if left.causes else _enter(left, Stage.IDLE, occasion.now_ns)), ()


def _ask(state: State, occasion: Occasion) -> Step:
    settings, now = occasion.settings, occasion.now_ns
    state = replace(state, attempt=state.attempt + 1)
    if settings.dry_run:
        would = [_record(state, "ask", f"dry run, nobody is asked: {_why(state)}")]
        would.append(_record(state, "action", f"dry run, would be: {settings.action}"))
        return _enter(replace(state, memory=_acted(state, "in a dry run", occasion)), Stage.DONE, now), tuple(would)
    deadline_ns = now + settings.consent_timeout_ns
    if settings.ask:
        asked = _record(state, "ask", _why(state))
        return _enter(state, Stage.ASKING, now, deadline_ns), (asked, Ask(state.attempt, deadline_ns))
    if settings.consent_file:
        return _await(_enter(state, Stage.ASKING, now, deadline_ns), occasion)
    return _consented(state, occasion)


def _await(state: State, occasion: Occasion) -> Step:
    """Within the time that asking began."""
    deadline_ns = state.deadline_ns or occasion.now_ns
    awaited = _record(state, "await", f"until {occasion.settings.consent_file} is there")
    return _enter(state, Stage.AWAITING, occasion.now_ns, deadline_ns), (awaited, Await(state.attempt, deadline_ns))


def _asked(state: State, occasion: Occasion) -> Step:
    return (_await if occasion.settings.consent_file else _consented)(state, occasion)


def _consented(state: State, occasion: Occasion) -> Step:
    settings, now = occasion.settings, occasion.now_ns
    consent = _record(state, "consent", occasion.reason or "none is asked for")
    action = _record(state, "action", f"{settings.action}: {_why(state)}")
    if settings.action == "none":
        memory = _acted(state, "done", occasion)
        done = _enter(replace(state, memory=memory), Stage.DONE, now)
        return done, (consent, action, *_note(memory, occasion))
    memory, deadline_ns = _acted(state, "", occasion), now + NOTE_NS
    noting = _enter(replace(state, noted=memory), Stage.NOTING, now, deadline_ns)
    return noting, (consent, action, Note(state.attempt, deadline_ns, memory))


def _acted(state: State, outcome: str, occasion: Occasion) -> Memory:
    now, boot_id = occasion.now_ns, occasion.boot_id
    noticed = _noticed(state.memory, state.causes, occasion)
    return noticed.act(occasion.settings.action, outcome, _why(state), occasion.time, boot_id, now)


def _act(state: State, occasion: Occasion) -> Step:
    deadline_ns, reason = occasion.now_ns + ACT_NS, state.noted.reason if state.noted else ""
    acting = _enter(state, Stage.ACTING, occasion.now_ns, deadline_ns)
    return acting, (Act(state.attempt, deadline_ns, occasion.settings.action, reason),)


def _not_noted(state: State, occasion: Occasion) -> Step:
    """Without the note nothing would keep the next start from doing it again, and again."""
    return _failed(state, occasion, f"not done, since it cannot be noted: {occasion.reason or 'no answer'}")


def _not_done(state: State, occasion: Occasion) -> Step:
    return _failed(state, occasion, occasion.reason or "no answer")


def _failed(state: State, occasion: Occasion, reason: str) -> Step:
    """It may be tried again, by the next supervisor too, which is told so."""
    memory = state.memory if state.noted is None else state.memory.failed(state.noted)
    state, records = _back_off(replace(state, memory=memory, noted=None), occasion, "failed", reason)
    return state, (*records, *_note(memory, occasion))


def _no_consent(state: State, occasion: Occasion) -> Step:
    return _back_off(state, occasion, "no consent", occasion.reason or "no answer")


def _back_off(state: State, occasion: Occasion, step: str, reason: str) -> Step:
    if not state.causes:
        over = Record("withdrawn", "what called for it is over", None)
        return _enter(state, Stage.IDLE, occasion.now_ns), (Record(step, reason, None), over)
    delay_ns = min(BACKOFF_NS << min(state.refusals, 20), BACKOFF_MAX_NS)
    record = _record(state, step, f"{reason}; asked again in {delay_ns / SECOND:.0f} s")
    later = replace(state, refusals=state.refusals + 1)
    return _enter(later, Stage.BACKOFF, occasion.now_ns, occasion.now_ns + delay_ns), (record,)


def _done(state: State, occasion: Occasion) -> Step:
    memory = replace(_noticed(state.noted or state.memory, state.causes, occasion), outcome="done")
    stage = Stage.DONE if state.causes else Stage.IDLE
    done = _enter(replace(state, memory=memory, noted=None), stage, occasion.now_ns)
    return done, (_record(state, "done", occasion.reason), *_note(memory, occasion))


# --- the table ------------------------------------------------------------------------------------------------------

S, T = Stage, Trigger
TABLE: dict[tuple[Stage, Trigger], Handler] = {
    **{(stage, trigger): _ignore for stage in S for trigger in T},
    **{(stage, T.CAUSE): _cause for stage in S},
    **{(stage, T.OVER): _over for stage in (S.WAITING, S.ASKING, S.AWAITING, S.BACKOFF)},
    **{(stage, T.OVER): _drop for stage in (S.NOTING, S.ACTING)},
    (S.DONE, T.OVER): _over_when_done,
    (S.WAITING, T.TIMEOUT): _ask,
    (S.BACKOFF, T.TIMEOUT): _ask,
    (S.ASKING, T.YES): _asked,
    (S.AWAITING, T.YES): _consented,
    **{(stage, trigger): _no_consent for stage in (S.ASKING, S.AWAITING) for trigger in (T.NO, T.TIMEOUT)},
    (S.NOTING, T.YES): _act,
    (S.NOTING, T.NO): _not_noted,
    (S.NOTING, T.TIMEOUT): _not_noted,
    (S.ACTING, T.YES): _done,
    (S.ACTING, T.NO): _not_done,
    (S.ACTING, T.TIMEOUT): _not_done,
}
