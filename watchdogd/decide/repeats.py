"""How often this happened before, and what all those times have in common.

"Always" takes three times, and is said of nothing that was so in every other incident too, or that could not have been
otherwise: that a worker was in a call says something only if it was once seen not to be.

Invariant: pure; what is told is true of every incident counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from watchdogd.decide.causes.case import Case
from watchdogd.decide.causes.words import DAY, HOUR, MINUTE
from watchdogd.decide.signature import signature
from watchdogd.incident import Incident, Repeats, Worker
from watchdogd.model import SECOND

ENOUGH = 3  # times, for "always"
YOUNG_NS = 60 * SECOND
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True, slots=True)
class Summary:
    """What of an earlier incident this asks for."""

    id: str
    signature: str
    worker: str
    opened: str  # RFC 3339
    opened_unix_ns: int
    accelerator: str | None = None
    stage: str | None = None
    active: frozenset[str] = frozenset()  # other workers that were in a call or step at the verdict
    idle: frozenset[str] = frozenset()  # others that ran and were in none
    accelerators: frozenset[str] = frozenset()  # of all workers
    up_ns: int | None = None  # since its worker was ready


def summary(incident: Incident) -> Summary:
    case = Case(incident)
    own = case.own
    running = [worker for worker in case.others if worker.unread is None and worker.lanes]
    everyone = [*case.others, *([] if own is None else [own])]
    stage = incident.verdict.stage or (case.hung.call.stage if case.hung is not None else None)
    up = None if own is None or own.ready_ns is None else case.verdict.detected_ns - own.ready_ns
    return Summary(
        id=incident.id,
        signature=incident.signature or signature(incident)[0],
        worker=incident.worker,
        opened=incident.opened,
        opened_unix_ns=incident.opened_unix_ns,
        accelerator=incident.accelerator,
        stage=stage,
        active=frozenset(worker.name for worker in running if _is_active(worker)),
        idle=frozenset(worker.name for worker in running if not _is_active(worker)),
        accelerators=frozenset(worker.accelerator for worker in everyone if worker.accelerator is not None),
        up_ns=up,
    )


def _is_active(worker: Worker) -> bool:
    return any(lane.in_flight for lane in worker.lanes if not lane.orphaned)


def repeats(incident: Incident, earlier: Sequence[Incident | Summary]) -> Repeats:
    """``earlier``: incidents of all signatures, in any order; later ones and this one itself are passed over."""
    this = summary(incident)
    known = [item if isinstance(item, Summary) else summary(item) for item in earlier]
    before = {s.id: s for s in known if s.id != this.id and s.opened_unix_ns <= this.opened_unix_ns}.values()
    same = [s for s in before if s.signature == this.signature]
    others = [s for s in before if s.signature != this.signature]
    first = min((*same, this), key=lambda s: (s.opened_unix_ns, s.id))
    count = len(same) + 1
    if count == 1:
        return Repeats(1, this.opened, "first time")
    ordinal = _ORDINALS[count - 1] if count <= len(_ORDINALS) else f"{count}{_suffix(count)}"
    common = _common([this, *same], others) if count >= ENOUGH else []
    sentence = f"{ordinal} time in {_within(this.opened_unix_ns - first.opened_unix_ns)}"
    return Repeats(count, first.opened, ", ".join([sentence, *(f"always {text}" for text in common)]))


def _common(same: Sequence[Summary], others: Sequence[Summary]) -> list[str]:
    one = same[0]
    oldest = max((s.up_ns for s in same if s.up_ns is not None), default=0)
    told_of: list[tuple[str, Callable[[Summary], bool], bool]] = [  # the last: whether it could have been otherwise
        (f"stage {one.stage}", lambda s: one.stage is not None and s.stage == one.stage, True),
        (f"worker {one.worker}", lambda s: s.worker == one.worker, any(s.active | s.idle for s in same)),
        (f"within {max(1, -(-oldest // SECOND))} s of ready", _is_young, True),
    ]
    if any(s.worker != one.worker for s in same):
        elsewhere = any(s.accelerators - {one.accelerator} for s in same)
        told_of.append((f"on {one.accelerator}", lambda s: None is not s.accelerator == one.accelerator, elsewhere))
    found = [
        text for text, holds, could_differ in told_of
        if could_differ and all(map(holds, same)) and not _everywhere(map(holds, others))
    ]  # fmt: skip
    active = frozenset.intersection(*(s.active for s in same))
    told = sorted(name for name in active if any(name in s.idle for s in others))
    return [*found, *([f"with {' and '.join(told)} active"] if told else [])]


def _is_young(one: Summary) -> bool:
    return one.up_ns is not None and 0 <= one.up_ns <= YOUNG_NS


def _everywhere(truths: Iterable[bool]) -> bool:
    """Of nothing it is not known that it is so everywhere."""
    seen = list(truths)
    return bool(seen) and all(seen)


def _suffix(count: int) -> str:
    return "th" if count % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")


def _within(ns: int) -> str:
    """Rounded up: all of them were within that."""
    for unit_ns, unit in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if ns > unit_ns:
            return f"{-(-ns // unit_ns)} {unit}s"
    return "a minute"
