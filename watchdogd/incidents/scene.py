"""What the timeline of an incident shows: windows of time, marks, and the calls of each lane as blocks.

Invariant: pure; however much an incident holds and whatever its numbers are, a scene is bounded (``MOST_*``) and
every time in it lies within its window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from watchdogd import abi
from watchdogd.incident import Call, Incident, Lane, Worker
from watchdogd.model import SECOND

MOST_WORKERS = 24
MOST_LANES = 8  # of one worker
MOST_BLOCKS = 6_000  # in one window
MOST_CAPTURES = 8
_MOST_READ = 64  # calls of one lane in a capture
MOST_BEFORE_NS = 600 * SECOND
MOST_AFTER_NS = 600 * SECOND
_LEAST_BEFORE_NS = 3 * SECOND  # of the beginning of what hung
_LEAST_NEAR_NS = SECOND // 5  # before the verdict, in what is shown from near
_FINEST = 800  # parts of a window that can be told apart


KINDS = frozenset((*abi.OPERATIONS[1:], "step"))
SEVERAL = "several"


class Window(NamedTuple):
    start_ns: int
    end_ns: int

    def share(self, at_ns: int) -> float:
        """0 at its start, 1 at its end; never beyond."""
        return (min(max(at_ns, self.start_ns), self.end_ns) - self.start_ns) / (self.end_ns - self.start_ns)

    def has(self, at_ns: int) -> bool:
        return self.start_ns <= at_ns <= self.end_ns


class Mark(NamedTuple):
    name: str
    at_ns: int
    tone: str  # "past" "limit" "verdict" "act" "end" "good"
    text: str  # what it means


class Block(NamedTuple):
    """One call, or some that are too near each other to be told apart."""

    start_ns: int
    end_ns: int
    kind: str  # of KINDS
    text: str
    depth: int = 0  # in how many others it lies
    open: bool = False  # it did not return, as far as was seen
    hung: bool = False  # the verdict is about it
    calls: int = 1


class Row(NamedTuple):
    name: str
    blocks: tuple[Block, ...]


class Group(NamedTuple):
    """One worker's rows."""

    worker: Worker
    victim: bool
    rows: tuple[Row, ...]
    left_out: int = 0  # lanes


def began_ns(incident: Incident) -> int:
    """What the verdict counts from, as far back as is shown; the verdict itself where nobody knows."""
    verdict = incident.verdict
    known = [at for at in (verdict.entered_ns, verdict.armed_ns) if at is not None and at <= verdict.detected_ns]
    return max(known[0] if known else verdict.detected_ns, verdict.detected_ns - MOST_BEFORE_NS)


def whole(incident: Incident) -> Window:
    """The seconds before and after."""
    began, verdict_ns = began_ns(incident), incident.verdict.detected_ns
    took_ns = verdict_ns - began
    start = began - max(_LEAST_BEFORE_NS, took_ns // 2)
    latest = verdict_ns + min(MOST_AFTER_NS, max(10 * SECOND, 3 * took_ns))
    end = max([verdict_ns + SECOND, *(mark.at_ns for mark in marks(incident) if mark.at_ns <= latest)])
    return Window(start, end + (end - start) // 20)


def close(incident: Incident) -> Window | None:
    """From the beginning of the call, or the last seconds before the verdict, to the end of the worker.

    None where the whole shows that well enough.
    """
    verdict_ns, all_of_it, times = incident.verdict.detected_ns, whole(incident), incident.times
    start = min(max(began_ns(incident), verdict_ns - _LEAST_BEFORE_NS), verdict_ns - _LEAST_NEAR_NS)
    last = [verdict_ns, *(at for at in (times.signal_ns, times.gone_ns) if at is not None)]
    width = max(at for at in last if at <= all_of_it.end_ns) - start
    near = Window(start - width // 4, start + width + width // 4)
    return near if 2.5 * (near.end_ns - near.start_ns) < all_of_it.end_ns - all_of_it.start_ns else None


def marks(incident: Incident) -> list[Mark]:
    """In the order of time."""
    verdict, times = incident.verdict, incident.times
    what = verdict.operation or verdict.verdict
    known = (
        ("entered", verdict.entered_ns, "past", f"{what} began"),
        ("resumed", verdict.armed_ns, "past", "the deadline counts from here"),
        ("deadline", verdict.deadline_ns, "limit", f"the deadline of {what} was over"),
        ("verdict", verdict.detected_ns, "verdict", f"the verdict: {verdict.verdict}"),
        ("evidence", times.evidence_ns, "act", "collectors of evidence began"),
        ("commit", times.committed_ns, "act", "from here on the kill was committed"),
        ("moved", incident.moved_ns, "good", "the call returned although its kill was committed"),
        ("signal", times.signal_ns, "act", "the worker was signalled"),
        ("gone", times.gone_ns, "end", "no process of the worker was left"),
        ("usable", times.usable_ns, "good", "the accelerator was usable"),
        ("started", times.started_ns, "good", "the next incarnation was started"),
        ("ready", times.ready_ns, "good", "the next incarnation was ready"),
    )
    found = [Mark(name, at_ns, tone, text) for name, at_ns, tone, text in known if at_ns is not None]
    return sorted(found, key=lambda mark: mark.at_ns)


class _Seen(NamedTuple):
    """A call as the captures know it."""

    call: Call
    until_ns: int  # it had not returned by then


_Lanes = dict[tuple[int, int, int], dict[tuple[str, int], _Seen]]  # by incarnation, pid, tid; then by call


def groups(incident: Incident, window: Window) -> list[Group]:
    """The worker that the incident is about first, then the others as they were captured."""
    latest: dict[str, Worker] = {}
    lanes: dict[str, _Lanes] = {}
    for capture in incident.captures[:MOST_CAPTURES]:
        for worker in capture.workers[:MOST_WORKERS]:
            latest.setdefault(worker.name, worker)
            of_worker = lanes.setdefault(worker.name, {})
            for lane in worker.lanes:
                _take(of_worker.setdefault((worker.incarnation, lane.pid, lane.tid), {}), lane, capture.at_ns)
    names = sorted(latest, key=lambda name: name != incident.worker)[:MOST_WORKERS]
    rows = sum(min(MOST_LANES, len(lanes[name])) for name in names)
    most = MOST_BLOCKS // max(1, rows)
    return [_group(incident, latest[name], lanes[name], window, most) for name in names]


def _take(into: dict[tuple[str, int], _Seen], lane: Lane, at_ns: int) -> None:
    for call in (*lane.ring[-_MOST_READ:], *lane.in_flight[:_MOST_READ]):
        key = call.operation, call.entered_ns
        if key not in into or into[key].call.duration_ns is None:
            into[key] = _Seen(call, at_ns)


def _group(incident: Incident, worker: Worker, lanes: _Lanes, window: Window, most: int) -> Group:
    victim = worker.name == incident.worker
    rows = []
    for (incarnation, pid, tid), seen in lanes.items():
        it = victim and incarnation == incident.incarnation
        blocks = [
            _block(found, incident.times.gone_ns if it else None,
                   hung=it and found.call.entered_ns == incident.verdict.entered_ns)
            for found in seen.values()
        ]  # fmt: skip
        shown = merged([block for block in blocks if _overlaps(block, window)], window, most)
        new = f", #{incarnation}" if incarnation != worker.incarnation else ""
        rows.append(Row(f"steps of {pid}{new}" if tid == 0 else f"thread {tid}{new}", tuple(shown)))
    rows = [row for row in rows if row.blocks]
    rows.sort(key=lambda row: not any(block.hung for block in row.blocks))  # stable: in the order of the lanes
    return Group(worker, victim, tuple(rows[:MOST_LANES]), max(0, len(rows) - MOST_LANES))


def _overlaps(block: Block, window: Window) -> bool:
    return block.start_ns < window.end_ns and block.end_ns > window.start_ns


def _block(seen: _Seen, gone_ns: int | None, hung: bool) -> Block:
    call = seen.call
    returned = call.duration_ns is not None
    end_ns = call.entered_ns + call.duration_ns if call.duration_ns is not None else gone_ns or seen.until_ns
    stage = f" in {call.stage}" if call.stage else ""
    kind = call.operation if call.operation in KINDS else "other"
    return Block(call.entered_ns, max(end_ns, call.entered_ns), kind, f"{call.operation}{stage}",
                 open=not returned, hung=hung)  # fmt: skip


def merged(blocks: Sequence[Block], window: Window, most: int = MOST_BLOCKS) -> list[Block]:
    """Nested ones one below the other; what cannot be told apart at this width is one block."""
    fine_ns = (window.end_ns - window.start_ns) // min(_FINEST, most)

    def small(block: Block) -> bool:
        short = block.calls > 1 or block.end_ns - block.start_ns <= 2 * fine_ns
        return short and not (block.open or block.hung)

    placed: list[Block] = []
    last: dict[int, int] = {}  # place of the last one of each depth
    for block in _nested(blocks):
        before = placed[last[block.depth]] if block.depth in last else None
        if before is not None and small(before) and small(block) and block.start_ns - before.end_ns <= fine_ns:
            placed[last[block.depth]] = _with(before, block)
        else:
            last[block.depth] = len(placed)
            placed.append(block)
    return [block for place, block in enumerate(placed) if block.hung or place >= len(placed) - most]


def _with(first: Block, other: Block) -> Block:
    calls = first.calls + other.calls
    kind = first.kind if first.kind == other.kind else SEVERAL
    text = f"{calls} calls" if kind == SEVERAL else f"{calls} × {kind}"
    return first._replace(end_ns=max(first.end_ns, other.end_ns), kind=kind, text=text, calls=calls)


def _nested(blocks: Iterable[Block]) -> Iterator[Block]:
    around: list[Block] = []
    for block in sorted(blocks, key=lambda block: (block.start_ns, -block.end_ns)):
        around = [outer for outer in around if outer.end_ns > block.start_ns]
        around.append(block)
        yield block._replace(depth=min(2, len(around) - 1))


def operations(shown: Iterable[Group]) -> list[str]:
    """Those that occur, most frequent first."""
    counted = Counter(block.kind for group in shown for row in group.rows for block in row.blocks)
    return [kind for kind, _ in counted.most_common()]
