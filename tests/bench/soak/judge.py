"""Compares what happened with what the supervisor recorded, fault by fault. Pure.

Every fault must be followed by what its kind says: a verdict of that kind on that incarnation, and a successor; or by
none, and by what is evidence all the same. Every verdict and every end of a worker must be explained by a fault.
Invariant: no fault explains two verdicts, and what nothing explains is false.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.soak.kinds import DEADLINES_MS, MODELS, Fault, deadline_ms

Event = dict[str, Any]
Lost = Callable[[str, int, int], tuple[int, int]]  # frames of a model due between: not done, all
EXACT = DEADLINES_MS.keys() - {"startup"}  # a start is watched from the spawn on, outputs are counted in frames
EARLY_MS = 60.0  # the first of two that wait for each other may have come so much before the harm
NOT_BEGUN, MISSED, WRONG, NOT_RECOVERED = "did not happen", "missed", "wrong", "not recovered"


@dataclass(frozen=True)
class Judged:
    fault: Fault
    problem: str | None = None  # one of the words above
    why: str = ""
    late_ms: float | None = None  # from its deadline to its verdict
    back_ms: float | None = None  # from its beginning to a successor that is ready

    @property
    def is_found(self) -> bool:
        return self.problem in (None, NOT_RECOVERED)


@dataclass(frozen=True)
class Episode:
    """One fault or two at once, and the frames lost meanwhile."""

    faults: tuple[Fault, ...]
    own: tuple[int, int]  # lost and due, of the workers that had the fault
    others: tuple[int, int]
    victims: tuple[str, ...] = ()  # workers that ended with the culprit


@dataclass(frozen=True)
class Judgement:
    judged: list[Judged]
    episodes: list[Episode]
    false: list[Event] = field(default_factory=list)  # verdicts and ends that nothing explains

    @property
    def problems(self) -> list[Judged]:
        return [item for item in self.judged if item.problem is not None]

    @property
    def is_clean(self) -> bool:
        return bool(self.judged) and not self.problems and not self.false


def judge(faults: Sequence[Fault], events: Iterable[Event], lost: Lost) -> Judgement:
    """``events``: of the supervisor's record and told by the workers, in any order."""
    ordered = sorted(events, key=lambda event: int(event["monotonic_ns"]))
    together: dict[int, list[Fault]] = defaultdict(list)
    for fault in faults:
        together[fault.episode].append(fault)
    explained: set[int] = set()
    judged = [_one(fault, ordered, explained) for fault in faults]
    ended = {(f.worker, f.incarnation - before) for f in faults if f.incarnation for before in _ends(f)}
    false, victims = [], defaultdict[int, list[str]](list)
    for event in ordered:
        is_end = event["kind"] == "gone"
        if id(event) in explained or not (is_end or event["kind"] == "verdict"):
            continue
        if is_end and (event["worker"], event["incarnation"]) in ended:
            continue
        spread = next((f for f in faults if f.of.spreads and f.asked_ns <= event["monotonic_ns"] <= f.until_ns), None)
        if spread is not None and is_end and spread.of.others_may_end:
            victims[spread.episode].append(event["worker"])
        elif spread is None or is_end or event["verdict"] not in ("call", "step"):
            false.append(event)
    episodes = [_episode(tuple(group), tuple(victims[number]), lost) for number, group in sorted(together.items())]
    return Judgement(judged, episodes, false)


def _ends(fault: Fault) -> tuple[int, ...]:
    """How many incarnations before its own: those whose end it explains."""
    return (1, 0) if fault.of.successor else (0,) if fault.of.ends else ()


def _one(fault: Fault, events: Sequence[Event], explained: set[int]) -> Judged:
    if fault.began_ns is None:
        return Judged(fault, NOT_BEGUN)
    if not fault.of.verdicts:
        told = any(_is_evidence(fault, event) for event in events)
        return Judged(fault) if told or not fault.of.evidence else Judged(fault, MISSED, f"no {fault.of.evidence}")
    own = [event for event in events if event.get("worker") == fault.worker]
    verdict = next((event for event in own if event["kind"] == "verdict" and _is_about(fault, event)), None)
    if verdict is None:
        return Judged(fault, MISSED)
    explained.add(id(verdict))
    late_ms = (verdict["detected_ns"] - fault.began_ns) / 1e6 - deadline_ms(str(fault.worker), fault.of.deadline)
    is_early = fault.of.deadline in EXACT and late_ms < -EARLY_MS
    why = f"{-late_ms:.0f} ms before its deadline" if is_early else _what_is_wrong(fault, verdict)
    if why:
        return Judged(fault, WRONG, why, late_ms)
    ready = next((event for event in own if event["kind"] == "ready" and _is_after(fault, event, verdict)), None)
    if ready is None:
        return Judged(fault, NOT_RECOVERED, late_ms=late_ms)
    return Judged(fault, late_ms=late_ms, back_ms=(ready["monotonic_ns"] - fault.began_ns) / 1e6)


def _is_about(fault: Fault, verdict: Event) -> bool:
    return bool(verdict["incarnation"] == fault.incarnation and fault.asked_ns <= verdict["monotonic_ns"])


def _is_after(fault: Fault, event: Event, verdict: Event) -> bool:
    return bool(event["incarnation"] > fault.incarnation and event["monotonic_ns"] > verdict["monotonic_ns"])


def _is_evidence(fault: Fault, event: Event) -> bool:
    about = event["kind"] == fault.of.evidence and fault.worker in (None, event["worker"])
    return bool(about and fault.asked_ns <= event["monotonic_ns"] <= fault.until_ns)


def _what_is_wrong(fault: Fault, verdict: Event) -> str:
    kind = fault.of
    if verdict["verdict"] not in kind.verdicts:
        return f"verdict {verdict['verdict']}, not {' or '.join(kind.verdicts)}"
    told = [verdict["operation"], *(each["operation"] for each in verdict["also_in_flight"])]
    if kind.operations and not (told[0] in kind.operations and {*kind.operations} <= {*told}):
        return f"in {' beside '.join(map(str, told))}, not {' beside '.join(kind.operations)}"
    if kind.detail not in verdict["detail"]:
        return f"{verdict['detail']!r}, not {kind.detail}"
    suspects = [each["worker"] for each in verdict["suspects"]]
    if kind.spreads and not kind.others_may_end and suspects[:1] != [fault.worker]:
        return f"suspects {suspects}"
    return ""


def _episode(faults: tuple[Fault, ...], victims: tuple[str, ...], lost: Lost) -> Episode:
    since_ns, until_ns = min(f.asked_ns for f in faults), max(f.until_ns for f in faults)
    counts = {model: lost(model, since_ns, until_ns) for model in MODELS}
    own = {fault.worker for fault in faults}
    return Episode(
        faults, add(counts[m] for m in MODELS if m in own), add(counts[m] for m in MODELS if m not in own), victims
    )


def add(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Frames lost and due."""
    pairs = list(counts)
    return sum(lost for lost, _ in pairs), sum(due for _, due in pairs)
