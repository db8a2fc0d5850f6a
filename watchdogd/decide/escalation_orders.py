"""The words between the escalation and the rest: its stages, what calls for it, what it orders.

Invariant: pure and immutable; whatever ``escalation.decide`` may look at is in here, and so is whatever it may order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from watchdogd.decide.escalation_memory import Memory
from watchdogd.model import EscalationSettings


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
    kind: str  # "unkillable" "quarantined" "blocked" "hangs"
    subject: str  # a worker; of hangs an accelerator
    since_ns: int  # tells it from an earlier one of the same name
    reason: str = field(compare=False)
    incident: str | None = field(default=None, compare=False)
    way_out: str | None = field(default=None, compare=False)  # the command that ends it

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
    """All that is remembered of the escalation."""

    stage: Stage = Stage.IDLE
    since_ns: int = 0
    deadline_ns: int | None = None
    causes: tuple[Cause, ...] = ()
    attempt: int = 0  # of all; the answer to an earlier one means nothing
    refusals: int = 0  # in a row
    memory: Memory = field(default_factory=Memory)
    noted: Memory | None = None  # what is on disk instead, while what was consented to is under way


@dataclass(frozen=True, slots=True)
class Occasion:
    now_ns: int
    settings: EscalationSettings
    boot_id: str
    time: str  # for people
    cause: Cause | None = None  # with CAUSE and OVER
    attempt: int = 0  # with YES and NO
    reason: str = ""  # with YES and NO
