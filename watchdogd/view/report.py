"""``watchdogd report``: what the record of some days amounts to, as text, as JSON, and as deadlines to copy.

Invariant: pure; every proposal is told with the rule that made it and with what it would have done to the calls on
record, and one that rests on too little is not made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from watchdogd import duration
from watchdogd.decide import reporting
from watchdogd.decide.reporting import Calls, Ended, NearMiss, OfSignature, OfWorker, Proposal, Snapshot, WhatIf
from watchdogd.model import SECOND
from watchdogd.publish.event_text import printable
from watchdogd.publish.events import rfc3339
from watchdogd.span import span

WHAT_IF_NS = 30 * 24 * 3600 * SECOND
SCHEMA = 1
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
MOST_SIGNATURES = 20


@dataclass(frozen=True, slots=True)
class Report:
    since_ns: int  # Unix time
    now_ns: int
    calls_since_ns: int | None  # on record; None: none are
    workers: list[OfWorker]
    signatures: list[OfSignature]
    near: tuple[int, ...]  # near misses by their share of the deadline
    calls: list[Calls]
    proposals: list[Proposal]  # of each of ``calls``
    what_if: WhatIf  # over WHAT_IF_NS
    problems: list[str]


def make(
    ended: Sequence[Ended], near: Sequence[NearMiss], snapshots: Sequence[Snapshot], problems: Sequence[str],
    since_ns: int, now_ns: int, worker: str | None = None,
) -> Report:  # fmt: skip
    """``worker``: of this one alone."""

    def of(name: str) -> bool:
        return worker in (None, name)

    ended = [one for one in ended if of(one.worker)]
    snapshots = [one for one in snapshots if of(one.worker)]
    near = [one for one in near if one.unix_ns >= since_ns and of(one.worker)]
    lately = [one for one in ended if one.unix_ns >= since_ns]
    calls = reporting.calls(snapshots, since_ns)
    proposals = reporting.suggest_all(calls)
    proposed = {
        (row.worker, row.operation): proposal.deadline_ns
        for row, proposal in zip(calls, proposals, strict=True)
        if proposal.deadline_ns is not None
    }
    month_ns = now_ns - WHAT_IF_NS
    what_if = reporting.what_if(
        reporting.calls(snapshots, month_ns), proposed, [one for one in ended if one.unix_ns >= month_ns]
    )
    names = dict.fromkeys(row.worker for row in calls)
    return Report(
        since_ns, now_ns, reporting.since_ns(snapshots), reporting.of_workers(lately, near, names),
        reporting.of_signatures(lately), reporting.of_deadline(near), calls, proposals, what_if, list(problems),
    )  # fmt: skip


# --- text -----------------------------------------------------------------------------------------------------------


def text(report: Report) -> str:
    lines = [f"{_when(report.since_ns)} to {_when(report.now_ns)} UTC, {span(report.now_ns - report.since_ns)}"]
    lines += ["", *_workers(report)]
    if report.signatures:
        lines += ["", *_signatures(report)]
    if sum(report.near):
        lines += ["", *_near(report)]
    lines += ["", *_calls(report)]
    what_if = list(_what_if(report))
    lines += ["", *what_if] if what_if else []
    lines += [f"! {problem}" for problem in report.problems]
    return "".join(f"{printable(line)}\n" for line in lines)


def _when(unix_ns: int) -> str:
    return rfc3339(unix_ns)[:16].replace("T", " ")


def _workers(report: Report) -> list[str]:
    if not report.workers:
        return ["No worker is on record."]
    head = ("WORKER", "HANGS", "OTHER", "NEAR MISSES", "RECOVERED", "MEDIAN", "WORST", "TIME LOST")
    rows = [
        (
            one.worker, str(one.hangs), str(one.other), str(one.near_misses),
            f"{one.recovered} of {ends}" if (ends := one.recovered + one.not_recovered) else "-",
            span(one.median_recovery_ns), span(one.worst_recovery_ns), span(one.lost_ns),
        )
        for one in report.workers
    ]  # fmt: skip
    return columns(head, rows)


def _signatures(report: Report) -> list[str]:
    head = ("TIMES", "WORKER", "TIME LOST", "LAST", "INCIDENT", "WHAT")
    rows = [
        (str(one.count), ",".join(one.workers), span(one.lost_ns), _when(one.last_ns), one.last_id, one.words)
        for one in report.signatures[:MOST_SIGNATURES]
    ]
    more = len(report.signatures) - len(rows)
    return [*columns(head, rows, left={1, 4, 5}), *([f"and {more} more"] if more > 0 else [])]


def _near(report: Report) -> list[str]:
    head = (*(f"<= {share:.0%}" for share in reporting.NEAR), "more", "unknown")
    return [
        "Near misses, by how much of their deadline had passed when they were seen to have returned:",
        *columns(head, [tuple(map(str, report.near))]),
    ]


def _calls(report: Report) -> list[str]:
    if not report.calls:
        return ["No calls are on record for this time."]
    head = ("WORKER", "OPERATION", "CALLS", "P99.9", "LONGEST", "DEADLINE", *_share_names(), "PROPOSED")
    rows = []
    for row, proposal in zip(report.calls, report.proposals, strict=True):
        shares = reporting.shares(row)
        parts = ["-"] * (len(reporting.SHARES) + 1) if shares is None else [_percent(n, sum(shares)) for n in shares]
        proposed = duration.show(proposal.deadline_ns) if proposal.deadline_ns is not None else "-"
        rows.append(
            (row.worker, row.operation, f"{row.histogram.count:,}", span(proposal.p999_ns), span(proposal.longest_ns),
             span(row.deadline_ns) if row.deadline_ns is not None else "none", *parts, proposed)
        )  # fmt: skip
    since = f"calls are on record since {_when(report.calls_since_ns)}" if report.calls_since_ns else ""
    return [
        f"Calls that returned, and how much of their deadline they took ({since}):",
        *columns(head, rows, left={1}),
        f"PROPOSED: {reporting.RULE}.",
        "P99.9 and LONGEST are at most 25 % above the true ones. Of steps, the longest of each incarnation is",
        "left out: a first step has a deadline of its own.",
    ]


def _share_names() -> Iterator[str]:
    for share in reporting.SHARES:
        yield f"<=1/{round(1 / share)}" if share < 1 else "<=1"
    yield "MORE"


def _percent(count: int, total: int) -> str:
    """What is there never looks like nothing."""
    if not count:
        return "0"
    return "<0.1%" if count / total < 0.001 else f"{count / total:.1%}"


def _what_if(report: Report) -> Iterator[str]:
    if all(proposal.deadline_ns is None for proposal in report.proposals):
        return
    found = report.what_if
    covered_ns = min(WHAT_IF_NS, report.now_ns - (report.calls_since_ns or report.now_ns))
    told = "the last 30 days" if covered_ns == WHAT_IF_NS else f"the last 30 days ({span(covered_ns)} on record)"
    yield f"With these deadlines {told} would have killed {found.more:,} more, {found.fewer:,} fewer,"
    yield "counted in calls that returned."
    if found.earlier_ns:
        how = "earlier" if found.earlier_ns > 0 else "later"
        yield f"The hangs of that time would have been found {span(abs(found.earlier_ns))} {how} in all."


def columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: frozenset[int] | set[int] = frozenset()
) -> list[str]:
    """The first column and those of ``left`` begin at their left edge."""
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = (cell.ljust(width) if place == 0 or place in left else cell.rjust(width)
                 for place, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        return "  ".join(cells).rstrip()

    return [line(row) for row in (head, *rows)]


# --- for programs, and to copy --------------------------------------------------------------------------------------


def to_json(report: Report) -> dict[str, Any]:
    """Times of day are Unix time in ns, durations ns."""
    calls = [
        {
            "worker": row.worker,
            "operation": row.operation,
            "calls": row.histogram.count,
            "deadline_ns": row.deadline_ns,
            "shares": reporting.shares(row),
            "p999_ns": proposal.p999_ns,
            "longest_ns": proposal.longest_ns,
            "proposed_ns": proposal.deadline_ns,
            "reason": proposal.reason,
        }
        for row, proposal in zip(report.calls, report.proposals, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "since_ns": report.since_ns,
        "now_ns": report.now_ns,
        "calls_since_ns": report.calls_since_ns,
        "workers": [asdict(one) for one in report.workers],
        "signatures": [asdict(one) for one in report.signatures],
        "near_miss_shares": {"upto": reporting.NEAR, "counts": report.near},
        "shares": reporting.SHARES,
        "calls": calls,
        "rule": reporting.RULE,
        "what_if": asdict(report.what_if),
        "problems": report.problems,
    }


def toml(report: Report) -> str:
    """Deadlines for a human to look at and copy."""
    lines = [f"# Proposed by `watchdogd report` of {_when(report.since_ns)} to {_when(report.now_ns)} UTC.",
             f"# The rule: {reporting.RULE}.", *(f"# {line}" for line in _what_if(report))]  # fmt: skip
    worker = None
    for row, proposal in zip(report.calls, report.proposals, strict=True):
        if _BARE_KEY.fullmatch(row.worker) is None:
            continue  # no name that a configuration may have
        if row.worker != worker:
            worker = row.worker
            lines += ["", f"[workers.{worker}.deadlines]"]
        lines.append(_deadline(row, proposal))
    if worker is None:
        lines += ["", "# No calls are on record for this time."]
    return "".join(f"{line}\n" for line in lines)


def _deadline(row: Calls, proposal: Proposal) -> str:
    now = f"now {duration.show(row.deadline_ns)}" if row.deadline_ns is not None else "none now"
    if proposal.deadline_ns is None:
        return f"# {row.operation}: {proposal.reason}; {now}"
    basis = f"p99.9 {span(proposal.p999_ns)}, longest {span(proposal.longest_ns)} of {row.histogram.count:,}"
    return f'{row.operation} = "{duration.show(proposal.deadline_ns)}"  # {now}; {basis}'
