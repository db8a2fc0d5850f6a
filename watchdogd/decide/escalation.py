"""What to do when no restart will help: the (stage x trigger) table of the escalation beyond the workers.

A cause; then the vehicle is asked for its safe state; then its consent; then a note on disk; only then the action.

Invariant: pure; no action without consent, without a record and a note before it, within ``min_interval`` of the last
one, or twice for one cause. A step's answer counts only for the attempt that asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from watchdogd.decide.escalation_memory import Memory
from watchdogd.model import SECOND, EscalationSettings

BACKOFF_NS, BACKOFF_MAX_NS = 10 * SECOND, 600 * SECOND  # between two times of asking
NOTE_NS = 2 * SECOND  # a consent is not older than this when it is acted on
ACT_NS = 30 * SECOND
CONSENT_FILE = "consent_file is there"


class Stage(str, Enum):
    IDLE = "idle"
    WAITING = "waiting"  # the last escalation is too recent
    ASKING = "asking"  # ``ask`` runs
    AWAITING = "awaiting"  # consent_file is not there yet
    BACKOFF = "backoff"  # no consent; asked again later
    NOTING = "noting"  # from here on it is committed
    ACTING = "acting"
    DONE = "done"  # for the causes that stand


class Trigger(str, Enum):
    CAUSE = "cause"
    OVER = "over"  # a cause is no more
    YES = "yes"  # what was ordered went well: consent, noted, done
    NO = "no"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Cause:
    kind: str  # "unkillable" "quarantined" "hangs"
    subject: str  # a worker; of hangs an accelerator
    since_ns: int  # tells it from an earlier one of the same name
    reason: str = field(compare=False)
    incident: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.subject}"


@dataclass(frozen=True, slots=True)
class Record:
    """Before anything else is done of what was ordered with it."""

    step: str
    reason: str
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Ask:
    attempt: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Await:
    """Until consent_file is there."""

    attempt: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Note:
    """Write the memory to disk, and say whether it is there."""

    attempt: int
    deadline_ns: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Act:
    attempt: int
    deadline_ns: int
    action: str
    reason: str


Order = Record | Ask | Await | Note | Act


@dataclass(frozen=True, slots=True)
class State:
    stage: Stage = Stage.IDLE
    since_ns: int = 0
    deadline_ns: int | None = None
    causes: tuple[Cause, ...] = ()
    attempt: int = 0  # of all; the answer to an earlier one means nothing
    refusals: int = 0  # in a row
    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True, slots=True)
class Occasion:
    now_ns: int
    settings: EscalationSettings
    boot_id: str
    time: str  # for people
    cause: Cause | None = None  # with CAUSE and OVER
    attempt: int = 0  # with YES and NO
    reason: str = ""  # with YES and NO


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
        memory = state.memory.notice(((cause.name, cause.since_ns),), occasion.boot_id, now)
        record = Record("refused", f"{cause.reason}: {known}", cause)
        return replace(state, memory=memory), (record, *_noted(state, memory, occasion))
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


def _noted(state: State, memory: Memory, occasion: Occasion) -> tuple[Order, ...]:
    """For the next start; nothing waits for it, so its answer is nobody's."""
    return () if occasion.settings.dry_run or memory == state.memory else (Note(-1, occasion.now_ns + NOTE_NS, memory),)


def _over(state: State, occasion: Occasion) -> Step:
    left = tuple(cause for cause in state.causes if cause != occasion.cause)
    if left or not state.causes:
        return replace(state, causes=left), ()
    record = _record(state, "withdrawn", f"{state.causes[0].name} is over")
    return _enter(replace(state, causes=()), Stage.IDLE, occasion.now_ns), (record,)


def _over_when_done(state: State, occasion: Occasion) -> Step:
    left = tuple(cause for cause in state.causes if cause != occasion.cause)
    state = replace(state, causes=left)
    return (state, ()) if left else (_enter(state, Stage.IDLE, occasion.now_ns), ())


def _ask(state: State, occasion: Occasion) -> Step:
    settings, now = occasion.settings, occasion.now_ns
    state = replace(state, attempt=state.attempt + 1)
    if settings.dry_run:
        would = [_record(state, "ask", f"dry run, nobody is asked: {_why(state)}")]
        would.append(_record(state, "action", f"dry run, would be: {settings.action}"))
        return _enter(replace(state, memory=_acted(state, occasion)), Stage.DONE, now), tuple(would)
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
    deadline_ns = now + NOTE_NS
    memory = _acted(state, occasion)
    if settings.action == "none":
        done = _enter(replace(state, memory=memory), Stage.DONE, now)
        return done, (consent, action, Note(-1, deadline_ns, memory))
    return _enter(state, Stage.NOTING, now, deadline_ns), (consent, action, Note(state.attempt, deadline_ns, memory))


def _acted(state: State, occasion: Occasion) -> Memory:
    now, boot_id = occasion.now_ns, occasion.boot_id
    noticed = state.memory.notice(tuple((cause.name, cause.since_ns) for cause in state.causes), boot_id, now)
    return noticed.act(occasion.settings.action, _why(state), occasion.time, boot_id, now)


def _act(state: State, occasion: Occasion) -> Step:
    now, action = occasion.now_ns, occasion.settings.action
    acting = _enter(replace(state, memory=_acted(state, occasion)), Stage.ACTING, now, now + ACT_NS)
    return acting, (Act(state.attempt, now + ACT_NS, action, _why(state)),)


def _not_noted(state: State, occasion: Occasion) -> Step:
    """Without the note nothing would keep the next start from doing it again, and again."""
    return _back_off(state, occasion, "failed", f"not done, since it cannot be noted: {occasion.reason or 'no answer'}")


def _not_done(state: State, occasion: Occasion) -> Step:
    return _back_off(state, occasion, "failed", occasion.reason or "no answer")


def _no_consent(state: State, occasion: Occasion) -> Step:
    return _back_off(state, occasion, "no consent", occasion.reason or "no answer")


def _back_off(state: State, occasion: Occasion, step: str, reason: str) -> Step:
    delay_ns = min(BACKOFF_NS << min(state.refusals, 20), BACKOFF_MAX_NS)
    record = _record(state, step, f"{reason}; asked again in {delay_ns / SECOND:.0f} s")
    later = replace(state, refusals=state.refusals + 1)
    return _enter(later, Stage.BACKOFF, occasion.now_ns, occasion.now_ns + delay_ns), (record,)


def _done(state: State, occasion: Occasion) -> Step:
    return _enter(state, Stage.DONE, occasion.now_ns), (_record(state, "done", occasion.reason),)


# --- the table ------------------------------------------------------------------------------------------------------

S, T = Stage, Trigger
TABLE: dict[tuple[Stage, Trigger], Handler] = {
    **{(stage, trigger): _ignore for stage in S for trigger in T},
    **{(stage, T.CAUSE): _cause for stage in S},
    **{(stage, T.OVER): _over for stage in (S.WAITING, S.ASKING, S.AWAITING, S.BACKOFF)},
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
