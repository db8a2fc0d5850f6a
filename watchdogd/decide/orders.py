"""The words between policy and the rest: what happened to a worker, what is remembered of it, what is ordered.

Invariant: pure and immutable; whatever ``policy.decide`` may look at is in here, and so is whatever it may order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from watchdogd.model import Finding, IncidentId, Phase, Verdict, WorkerSettings

TERM, KILL = "TERM", "KILL"

# Reported, never acted on: evidence that is missing or spoilt condemns nobody.
REPORT_ONLY = frozenset((Verdict.UNREADABLE, Verdict.UNINSTRUMENTED))
HANGS = frozenset((Verdict.STARTUP, Verdict.FIRST_STEP, Verdict.STEP, Verdict.CALL, Verdict.STALL))
ALIVE = frozenset((Phase.STARTING, Phase.RUNNING, Phase.OBSERVED, Phase.PAUSED))


OPERATOR, SUPERVISOR, TAKEN_ALONG = "operator", "supervisor", "restart_with"
AUTOMATIC = "bisect_after"
ASKED_FOR = frozenset((OPERATOR, SUPERVISOR, TAKEN_ALONG))
# Reasons of an end that is no failure: no budget, no wait. A worker that leaks works, and is ended in order.
NO_FAILURE = ASKED_FOR | {Verdict.LEAK.value}


class Trigger(str, Enum):
    """One thing that happened to a worker."""

    START = "start"  # by the operator, or at the supervisor's own start
    STOP = "stop"
    RESTART = "restart"
    RESTART_WITH = "restart_with"  # another was restarted, and takes it along
    PAUSE = "pause"
    RESUME = "resume"
    RESET = "reset"
    READY = "ready"
    VERDICT = "verdict"  # a finding; held or not
    RELEASED = "released"  # nothing holds the kill of the standing finding any longer
    RETURNED = "returned"  # the standing finding's word moved: not hung after all
    EXITED = "exited"  # the process that was spawned is gone
    CLEARED = "cleared"  # it is reaped, and no descendant is left
    COLLECTED = "collected"  # what was to be had of its evidence by now, or nobody is there to take any
    COMMITTED = "committed"  # its finding was read again, and stands: its evidence may be taken by force
    TIMEOUT = "timeout"  # the phase's own deadline passed
    PROBED = "probed"  # the probe before a start has answered
    BISECT_ON = "bisect on"  # by the operator: from its next start on
    BISECT_OFF = "bisect off"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start this incarnation."""

    incarnation: int
    bisect: bool = False  # to synchronize after each stage


@dataclass(frozen=True, slots=True)
class Signal:
    """End the worker: TERM asks, KILL does. ``confirm`` is read again first; if it moved, there is no signal."""

    kind: str
    confirm: Finding | None = None


@dataclass(frozen=True, slots=True)
class Collect:
    """Have the evidence taken that harms nobody. Its kill comes whether that succeeds or not."""

    incident: IncidentId
    until_ns: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Read the finding again: only if it stands may evidence be taken that makes the hung call return."""

    confirm: Finding


@dataclass(frozen=True, slots=True)
class Dump:
    """Have that evidence taken."""

    incident: IncidentId
    until_ns: int


@dataclass(frozen=True, slots=True)
class Clear:
    """See to it that no descendant of the worker is left."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Find out whether the accelerator is usable before the successor of this incarnation is started."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Refrain:
    """Observe only: what would have been done is recorded, nothing is."""

    deed: str


@dataclass(frozen=True, slots=True)
class Bisect:
    """Turned on or off for the next start with no operator's word; on record."""

    change: str  # "on" or "off"
    reason: str


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """A verdict is to be on record, before anything is done about it."""

    incident: IncidentId
    finding: Finding
    would_kill: bool = False  # observe only: what would have been done is recorded, nothing is


@dataclass(frozen=True, slots=True)
class CloseIncident:
    """How the story ended."""

    incident: IncidentId
    outcome: str  # "recovered", "hung again", "ended again", "overtaken", or one of NOT_RECOVERED


NOT_RECOVERED = frozenset(("returned", "paused", "stopped", "quarantined"))  # nothing is left to recover from


@dataclass(frozen=True, slots=True)
class Leave:
    """The supervisor is to end: the next start of this worker is up to whoever owns it."""

    verdict: str | None  # that ended the worker; None = it ended by itself


Action = (
    Spawn | Signal | Collect | Commit | Dump | Clear | Probe | Refrain | Bisect | OpenIncident | CloseIncident | Leave
)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """All that is remembered of one worker."""

    name: str
    phase: Phase = Phase.STOPPED
    since_ns: int = 0
    deadline_ns: int | None = None  # of the phase
    incarnation: int = 0
    wanted: bool = False  # with STOPPED: its start waits
    spawned_ns: int | None = None
    ready_ns: int | None = None
    ended_ns: int | None = None  # the life before this one
    armed_ns: int | None = None  # nothing in flight counts as older than this
    finding: Finding | None = None  # the standing verdict; the last one where they are only observed
    incident: IncidentId | None = None
    reason: str = OPERATOR  # why the next start happens: a verdict's name, or one of ASKED_FOR
    restarts: tuple[int, ...] = ()  # instants of budgeted restarts within the window
    quarantined: bool = False  # until a reset, whatever else an operator asks for
    follows: tuple[str, int] | None = None  # to be restarted with whom, unless it was started after this instant
    probing: bool = False  # in BACKOFF: the probe before its start runs
    unusable: int = 0  # probes in a row that found its accelerator not usable
    bisect: str | None = None  # who wants its next incarnation bisected: OPERATOR or AUTOMATIC; None = nobody
    bisecting: bool = False  # whether this incarnation is
    untold: int = 0  # kills for hangs whose stage did not tell where, while ``bisect_after`` is set
    by_itself: bool = False  # this incarnation ended with nobody's doing
    committed: bool = False  # its kill, whatever its finding's fact says by now: evidence was taken by force
    spent: int = 0  # restarts that nobody asked for; ``before_exit`` counts them


class Occasion(NamedTuple):
    """What the handlers may look at besides the state."""

    now_ns: int
    settings: WorkerSettings
    kill_grace_ns: int
    finding: Finding | None = None  # with VERDICT and EXITED
    held: bool = False  # with VERDICT: the kill must wait
    observe_only: bool = False
    incident: IncidentId | None = None  # the id to use if one is opened
    ready_ns: int | None = None  # with READY: when, by the worker's own stamp
    usable: bool | None = None  # with PROBED; None = unknown
    collects: bool = False  # somebody is there to take evidence
    may_fork: bool = True  # with CLEARED: else a start without delay waits for a look, too
