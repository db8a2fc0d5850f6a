"""What a soak prints: a line for each kind, the totals, and what so many runs exclude with 95 %.

Invariant: a bound is over what is named beside it, with this mixture of kinds, and over nothing else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.bench.hours_report import upper_bound as most_expected
from tests.bench.soak.fleet import CALLS
from tests.bench.soak.judge import MISSED, NOT_BEGUN, WRONG, Episode, Judged, Judgement, add
from tests.bench.soak.kinds import BY_NAME, KINDS, MODELS

HEADS = ("kind", "happened", "found", "missed", "after its deadline, ms", "serves again, ms", "frames lost by it",
         "by the others", "others killed")  # fmt: skip
NONE_DUE = "none is due"
PAIRS = "two at once"
RESTART = "restart by an operator"


@dataclass(frozen=True)
class Run:
    """What is known of a soak beside its judgement."""

    seed: int
    seconds: float
    quiet: tuple[int, int]  # frames lost and due while nothing had happened yet
    all: tuple[int, int]
    ended: str = ""  # why before its time


def most_likely_part(found: int, of: int) -> float:
    """The part that so few of so many exclude with 95 %, one-sided (Clopper and Pearson): 0 of n gives about 3/n."""
    if found >= of:
        return 1.0
    low, high = found / of, 1.0
    for _ in range(60):
        part = (low + high) / 2
        terms = (math.comb(of, k) * part**k * (1 - part) ** (of - k) for k in range(found + 1))
        low, high = (part, high) if math.fsum(terms) > 0.05 else (low, part)
    return high


def page(judgement: Judgement, run: Run) -> str:
    lines = [_row(kind.name, judgement) for kind in KINDS]
    pairs = [episode for episode in judgement.episodes if len(episode.faults) > 1]
    lines.append((PAIRS, str(len(pairs)), "", "", "", "", *_frames(pairs)))
    parts = [aligned([HEADS, *lines]), "", *_totals(judgement, run), *_complaints(judgement, run)]
    return "\n".join(parts)


def _row(name: str, judgement: Judgement) -> tuple[str, ...]:
    items = [item for item in judgement.judged if item.fault.kind == name]
    told = bool(BY_NAME[name].verdicts)
    alone = [e for e in judgement.episodes if len(e.faults) == 1 and e.faults[0].kind == name]
    found = sum(item.is_found for item in items)
    return (
        name, str(len(items)), str(found) if told else NONE_DUE,
        str(sum(item.problem in (MISSED, WRONG, NOT_BEGUN) for item in items)),
        _middle_and_most(item.late_ms for item in items), _middle_and_most(item.back_ms for item in items),
        *_frames(alone),
    )  # fmt: skip


def _frames(episodes: Sequence[Episode]) -> tuple[str, str, str]:
    own, others = add(e.own for e in episodes), add(e.others for e in episodes)
    killed = sum(len(e.victims) for e in episodes)
    return str(own[0]) if own[1] else "", _part(others), str(killed) if killed else ""


def _totals(judgement: Judgement, run: Run) -> list[str]:
    told = [item for item in judgement.judged if item.fault.of.verdicts]
    missed, false = sum(not item.is_found for item in told), len(judgement.false)
    back = sum(item.back_ms is not None for item in told)
    lost, due = run.all
    hours, calls = run.seconds * len(MODELS) / 3600, (due - lost) * CALLS / 1e6
    most = most_expected(false)
    alone = _lost_by_others(judgement, lambda e: e.faults[0].kind == RESTART)
    local = _lost_by_others(judgement, lambda e: e.faults[0].kind != RESTART and all(f.of.is_local for f in e.faults))
    spread = _lost_by_others(judgement, lambda e: e.faults[0].of.spreads)
    meanwhile = add(count for e in judgement.episodes for count in (e.own, e.others))
    between = lost - meanwhile[0], due - meanwhile[1]
    return [
        f"- {run.seconds / 60:.1f} minutes, seed {run.seed}: {len(judgement.judged)} faults."
        f" After {len(told)} a verdict is due, after {len(judgement.judged) - len(told)} none.",
        f"- Missed, or told as something else: {missed} of {len(told)};"
        f" with 95 % fewer than {100 * most_likely_part(missed, len(told)):.2g} %.",
        f"- Recovered: {back} of {len(told) - missed} found.",
        f"- False verdicts and kills: {false} in {hours:.2g} worker-hours and {calls:.2g} million calls;"
        f" with 95 % fewer than {most / hours:.2g} a worker-hour, {most / calls:.2g} a million calls.",
        f"- Frames: {due} due, {lost} lost. Lost by the others while a fault stayed in its process: {_part(local)};"
        f" while an operator restarted one: {_part(alone)}; while nothing had happened yet: {_part(run.quiet)};"
        f" between faults: {_part(between)}; while the device stood still: {_part(spread)}.",
    ]


def _lost_by_others(judgement: Judgement, which: Callable[[Episode], bool]) -> tuple[int, int]:
    return add(episode.others for episode in judgement.episodes if which(episode))


def _complaints(judgement: Judgement, run: Run) -> list[str]:
    lines = [f"- {_complaint(item)}" for item in judgement.problems]
    lines += [
        f"- false: {event['kind']} {event.get('verdict', '')} of {event['worker']} {event['incarnation']} at"
        f" {event['monotonic_ns']}: {event.get('operation')} {event.get('detail', '')}{event.get('exit', '')}"
        for event in judgement.false
    ]
    return [*lines, *([f"- ended before its time: {run.ended}"] if run.ended else [])]


def _complaint(item: Judged) -> str:
    fault = item.fault
    whose = f"{fault.kind} of {fault.worker} {fault.incarnation}, number {fault.id}, at {fault.began_ns}"
    return f"{item.problem}: {whose}" + (f": {item.why}" if item.why else "")


def _middle_and_most(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0f} / {max(known):.0f}" if known else ""


def _part(counts: tuple[int, int]) -> str:
    lost, due = counts
    return f"{lost} of {due}" + (f" ({100 * lost / due:.1f} %)" if lost else "") if due else ""


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """A table that people and Markdown can read; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {row} |" for row in rows)
