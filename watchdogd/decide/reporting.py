"""What the record of some days amounts to: hangs and what they cost, and deadlines against how long calls take.

Invariant: pure; what is not known is None and is counted as unknown, never as 0. A figure that comes out of a
histogram is the upper edge of a bucket, at most 25 % above the true one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

from watchdogd import abi
from watchdogd.decide.orders import HANGS
from watchdogd.histogram import Histogram, add
from watchdogd.model import MILLISECOND

LEAST_CALLS = 10_000  # that a proposal rests on: ten of them are beyond p99.9
TIMES_P999, TIMES_LONGEST = 4, 2
LEAST_DEADLINE_NS = 50 * MILLISECOND  # a busy machine holds up a healthy worker for so long
RULE = (
    f"{TIMES_P999} x p99.9 or {TIMES_LONGEST} x the longest that returned, whichever is more, rounded up; "
    f"never below {LEAST_DEADLINE_NS // MILLISECOND} ms, and a step's "
    f"never below a call's; from {LEAST_CALLS:,} calls on"
)
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of a deadline
OPERATIONS = ("step", *abi.OPERATIONS[1:])
_ROUND = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100)
_HANGS = frozenset(verdict.value for verdict in HANGS)


# --- the record -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """One incident."""

    id: str
    worker: str
    unix_ns: int
    verdict: str
    operation: str | None = None
    signature: str = ""
    words: str = ""  # of the signature, for people
    outcome: str | None = None
    waited_ns: int | None = None  # from what the verdict counts from to the verdict
    recovery_ns: int | None = None  # from the same to the successor's being ready
    killed: bool = True

    @property
    def is_hang(self) -> bool:
        return self.verdict in _HANGS


@dataclass(frozen=True, slots=True)
class NearMiss:
    worker: str
    unix_ns: int
    operation: str
    elapsed_ns: int | None = None
    deadline_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All calls of one incarnation until then."""

    unix_ns: int
    began_ns: int  # Unix time
    life: tuple[str, str, int]  # boot, worker and when it was spawned: one incarnation for ever
    deadlines_ns: Mapping[str, int]  # in force then
    histograms: Mapping[str, Histogram]

    @property
    def worker(self) -> str:
        return self.life[1]


# --- hangs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfWorker:
    worker: str
    hangs: int
    other: int  # verdicts that were no hangs
    near_misses: int
    recovered: int
    not_recovered: int  # or it is not known
    median_recovery_ns: int | None
    worst_recovery_ns: int | None
    lost_ns: int  # of the recoveries that are known


@dataclass(frozen=True, slots=True)
class OfSignature:
    words: str
    count: int
    workers: tuple[str, ...]
    first_ns: int  # Unix time
    last_ns: int
    last_id: str
    lost_ns: int


def of_workers(ended: Sequence[Ended], near: Sequence[NearMiss], workers: Iterable[str] = ()) -> list[OfWorker]:
    """Those of ``workers`` too that nothing happened to."""
    names = sorted({*workers, *(one.worker for one in ended), *(one.worker for one in near)})
    return [_of_worker(name, [one for one in ended if one.worker == name], near) for name in names]


def _of_worker(name: str, ended: Sequence[Ended], near: Sequence[NearMiss]) -> OfWorker:
    known = [one.recovery_ns for one in ended if one.recovery_ns is not None]
    return OfWorker(
        name, sum(one.is_hang for one in ended), sum(not one.is_hang for one in ended),
        sum(one.worker == name for one in near), len(known), sum(one.killed for one in ended) - len(known),
        median_low(known) if known else None, max(known, default=None), sum(known),
    )  # fmt: skip


def of_signatures(ended: Sequence[Ended]) -> list[OfSignature]:
    """The most frequent first."""
    found: dict[str, list[Ended]] = {}
    for one in sorted(ended, key=lambda one: one.unix_ns):
        found.setdefault(one.signature or _words(one), []).append(one)
    rows = [
        OfSignature(
            _words(of[-1]), len(of), tuple(dict.fromkeys(one.worker for one in of)), of[0].unix_ns, of[-1].unix_ns,
            of[-1].id, sum(one.recovery_ns or 0 for one in of),
        )
        for of in found.values()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (-row.count, -row.last_ns))


def _words(one: Ended) -> str:
    return one.words or " ".join(filter(None, (one.verdict, one.operation)))


# --- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calls:
    """One operation of one worker."""

    worker: str
    operation: str
    histogram: Histogram
    deadline_ns: int | None  # in force at last
    lives: int = 1  # incarnations


@dataclass(frozen=True, slots=True)
class Proposal:
    deadline_ns: int | None
    reason: str  # why there is none, or empty
    p999_ns: int | None = None
    longest_ns: int | None = None


def calls(snapshots: Iterable[Snapshot], since_ns: int) -> list[Calls]:
    """What was done since then (Unix time): of each life, its last snapshot less the last one before."""
    lives: dict[tuple[str, str, int], list[Snapshot]] = {}
    for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.unix_ns):
        lives.setdefault(snapshot.life, []).append(snapshot)
    rows: dict[tuple[str, str], Calls] = {}
    for life in sorted(lives.values(), key=lambda life: life[-1].unix_ns):
        last = life[-1]
        if last.unix_ns < since_ns:
            continue
        before = next((one for one in reversed(life) if one.unix_ns < since_ns), None)
        for operation in OPERATIONS:
            done = _less(last.histograms.get(operation), before.histograms.get(operation) if before else None)
            deadline_ns = last.deadlines_ns.get(operation)
            if not done.count and deadline_ns is None:
                continue
            earlier = rows.get((last.worker, operation))
            total = done if earlier is None else add(earlier.histogram, done)
            number = 1 if earlier is None else earlier.lives + 1
            rows[last.worker, operation] = Calls(last.worker, operation, total, deadline_ns, number)
    return sorted(rows.values(), key=lambda row: (row.worker, OPERATIONS.index(row.operation)))


def _less(last: Histogram | None, before: Histogram | None) -> Histogram:
    """A worker may have written nonsense: what would be negative is 0."""
    if last is None or before is None:
        return last or Histogram()
    counts = [max(0, now - then) for now, then in zip(last.counts, before.counts, strict=True)]
    return Histogram(max(0, last.total_ns - before.total_ns), counts)


def suggest(row: Calls) -> Proposal:
    """By ``RULE``. A process's first step has a deadline of its own: of steps, the longest of each life is left out."""
    histogram = _without_longest(row.histogram, row.lives) if row.operation == "step" else row.histogram
    p999_ns, longest_ns = histogram.quantile_ns(0.999), histogram.quantile_ns(1.0)
    if histogram.count < LEAST_CALLS or p999_ns is None or longest_ns is None:
        return Proposal(None, f"too few calls: {histogram.count:,} of {LEAST_CALLS:,}", p999_ns, longest_ns)
    if histogram.counts[-1]:
        return Proposal(None, "some took longer than can be measured", p999_ns, longest_ns)
    least = max(TIMES_P999 * p999_ns, TIMES_LONGEST * longest_ns, LEAST_DEADLINE_NS)
    return Proposal(rounded_up(least), "", p999_ns, longest_ns)


def suggest_all(rows: Sequence[Calls]) -> list[Proposal]:
    """Of each row. A step's deadline below one of its worker's calls is none that a configuration may have."""
    made = [suggest(row) for row in rows]
    in_force = [proposal.deadline_ns or row.deadline_ns for row, proposal in zip(rows, made, strict=True)]
    for place, (row, own_ns) in enumerate(zip(rows, in_force, strict=True)):
        if row.operation == "step" and own_ns is not None:
            longest_ns = max(ns or 0 for other, ns in zip(rows, in_force, strict=True) if other.worker == row.worker)
            if longest_ns > own_ns:
                made[place] = replace(made[place], deadline_ns=longest_ns, reason="")
    return made


def _without_longest(histogram: Histogram, most: int) -> Histogram:
    counts = list(histogram.counts)
    for index in range(len(counts) - 1, -1, -1):
        taken = min(counts[index], most)
        counts[index] -= taken
        most -= taken
    return Histogram(histogram.total_ns, counts)


def rounded_up(ns: int) -> int:
    """To 1, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times a power of ten."""
    scale = 1
    while ns > 100 * scale:
        scale *= 10
    return next(step * scale for step in _ROUND if step * scale >= ns)


def shares(row: Calls) -> tuple[int, ...] | None:
    """How many took up to each of ``SHARES`` of their deadline, and how many more; a bucket counts where it ends."""
    if row.deadline_ns is None:
        return None
    upto = row.histogram.cumulative(round(share * row.deadline_ns) for share in SHARES)
    return tuple(more - less for more, less in zip([*upto, row.histogram.count], [0, *upto], strict=True))


def beyond(histogram: Histogram, deadline_ns: int | None) -> int:
    """How many returned that such a deadline would have, or may have, ended."""
    return 0 if deadline_ns is None else histogram.count - histogram.cumulative([deadline_ns])[0]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What other deadlines would have made of calls that returned. One that never did would have been ended anyway."""

    more: int
    fewer: int
    earlier_ns: int  # by so much in all, the hangs on record would have been found; negative: later


def what_if(rows: Iterable[Calls], proposed_ns: Mapping[tuple[str, str], int], ended: Iterable[Ended]) -> WhatIf:
    """``proposed_ns``: by worker and operation; whatever is not in it stays as it is."""
    more = fewer = 0
    changed: dict[tuple[str, str], int] = {}
    for row in rows:
        new = proposed_ns.get((row.worker, row.operation))
        if new is None:
            continue
        histogram = _without_longest(row.histogram, row.lives) if row.operation == "step" else row.histogram
        change = beyond(histogram, new) - beyond(histogram, row.deadline_ns)
        more, fewer = more + max(0, change), fewer + max(0, -change)
        if row.deadline_ns is not None:
            changed[row.worker, row.operation] = row.deadline_ns - new
    earlier = sum(changed.get((one.worker, one.operation or one.verdict), 0) for one in ended)
    return WhatIf(more, fewer, earlier)


NEAR = (0.6, 0.7, 0.8, 0.9, 1.0)  # of a deadline; a near miss began to be one at its soft level


def of_deadline(near: Iterable[NearMiss]) -> tuple[int, ...]:
    """How many took up to each of ``NEAR`` of their deadline, how many took more, and of how many nobody knows."""
    counts = [0] * (len(NEAR) + 2)
    for one in near:
        if one.elapsed_ns is None or not one.deadline_ns:
            counts[-1] += 1
        else:
            counts[bisect_left(NEAR, one.elapsed_ns / one.deadline_ns)] += 1
    return tuple(counts)


def since_ns(snapshots: Iterable[Snapshot]) -> int | None:
    """Since when calls are on record (Unix time)."""
    return min((snapshot.began_ns for snapshot in snapshots), default=None)
