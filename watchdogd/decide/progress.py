"""Whether a worker gets on, where its own code does not say: evidence of pending work, and of no progress.

A stall is work known to be pending over the whole of a deadline ``T`` while nothing moved. Each piece of evidence is of
an instant or a span; what is further apart than ``T / LINKS`` is not of the same work. So a program that queued
something after its last synchronize, and then waits for its next request, is idle however long it waits, and its next
request has three quarters of ``T`` at least. A call in flight, and a host function that has not run, is a span of its
own: one that is over was not stuck, and says nothing of the next.

Invariant: pure; what is unknown is no evidence, and no verdict: neither a sample that did not come, nor one that
cannot be read, nor a counter that went back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from watchdogd.abi_driver import LONGEST_TICK_NS
from watchdogd.model import MILLISECOND, SECOND, ProgressSource

LINKS = 4
LEAST_SAMPLES = 8  # of a source within T: one may be late, or missing, and the evidence still holds together
LOOKS = 8  # at the driver's words within T
LONGEST_LOOK_NS = SECOND


class Call(NamedTuple):
    entered_ns: int
    operation: str
    lane: int
    word: int


class HostFunction(NamedTuple):
    """A function of the host that was queued in a stream, and is not done."""

    queued_ns: int
    stream: int  # 0 = the default stream
    lane: int  # of its process
    offset: int  # of its word ``queued_ns``


class Completions(NamedTuple):
    """What the driver shim saw of a worker: the latest of all its lanes. 0 = never."""

    completed: int  # how many pieces of it, of all lanes together
    completed_ns: int
    queued_ns: int
    unready_ns: int
    calls: tuple[Call, ...] = ()  # those in flight, the oldest first
    host_function: HostFunction | None = None  # the oldest


class Sample(NamedTuple):
    """What one attempt to ask a worker found."""

    begun_ns: int
    ok: bool
    why: str = ""  # it found nothing
    counter: float | None = None
    pending: float | None = None


class Course(NamedTuple):
    """What became of one worker's progress, look after look."""

    mark: float | None = None  # how far it has come; None = not known
    moved_ns: int | None = None  # when it was last known to get further
    since_ns: int | None = None  # first evidence of pending work since then, without a gap
    last_ns: int | None = None  # the latest
    pending: str = ""  # for people: what it is
    unknown: str = ""  # why the last look tells nothing; empty: it does
    asked: tuple[int, int] | None = None  # of the evidence, since when and until when by queries and queued work alone


Span = tuple[int, int]


def of_driver(course: Course, seen: Completions, deadline_ns: int, now_ns: int) -> Course:
    """Words that cannot be of now are of nothing."""
    completed = seen.completed_ns if seen.completed_ns <= now_ns + SECOND else 0
    if course.mark is None or completed > course.mark:
        course = Course(completed, completed or None)
    after = int(course.mark or 0)
    instants = [(seen.unready_ns, seen.unready_ns)] if after < seen.unready_ns <= now_ns + SECOND else []
    if after < seen.queued_ns <= now_ns + SECOND:  # it is pending from then on, or from a late tick later
        queued_by_ns = seen.queued_ns + 2 * LONGEST_TICK_NS
        instants.append((queued_by_ns, queued_by_ns))
    calls = [call for call in seen.calls if call.entered_ns <= now_ns]
    spans = [(max(call.entered_ns, after), now_ns) for call in calls]
    host = seen.host_function
    if host is not None and host.queued_ns <= now_ns:
        spans.append((max(host.queued_ns, after), now_ns))
    pending = ""
    if host is not None and is_of_host_function(seen, now_ns):
        stream = f"stream {host.stream:#x}" if host.stream else "the default stream"
        pending = f"a host function queued {_span(now_ns - host.queued_ns)} ago in {stream} has not run"
    elif calls:
        pending = f"a {calls[0].operation} call in flight for {_span(now_ns - calls[0].entered_ns)}"
    elif instants:
        asked = seen.unready_ns >= seen.queued_ns
        at = seen.unready_ns if asked else seen.queued_ns
        pending = f"{'a query found work undone' if asked else 'work queued'} {_span(now_ns - at)} ago"
    since, last = course.asked or (None, None)
    asked_for = _linked(course._replace(since_ns=since, last_ns=last), sorted(instants), deadline_ns)
    if asked_for.since_ns is not None and asked_for.last_ns is not None:
        asked_for = asked_for._replace(asked=(asked_for.since_ns, asked_for.last_ns))
    return _linked(asked_for, sorted(spans), deadline_ns)._replace(pending=pending)


def is_of_host_function(seen: Completions, now_ns: int) -> bool:
    """Whether a host function has been pending for longer than every call in flight."""
    host = seen.host_function
    oldest_ns = min((call.entered_ns for call in seen.calls), default=now_ns)
    return host is not None and host.queued_ns <= min(oldest_ns, now_ns)


def of_metrics(course: Course, sample: Sample, deadline_ns: int, now_ns: int) -> Course:
    """``now_ns``: its arrival."""
    if not sample.ok:
        return course._replace(unknown=sample.why)
    counter, pending = sample.counter, sample.pending
    if counter is None or not math.isfinite(counter):
        return course._replace(unknown="its counter is not there" if counter is None else "its counter is no number")
    if pending is None or not pending >= 0:
        return course._replace(
            unknown="its pending gauge is not there" if pending is None else "nothing can be pending"
        )
    if course.mark is not None and counter < course.mark:  # of another process than before
        return Course(counter, now_ns, unknown="its counter went back")
    if course.mark is None or counter > course.mark:
        course = Course(counter, None if course.mark is None else now_ns)
    course = course._replace(unknown="", pending=f"{pending:g}")
    if pending == 0:
        return course._replace(since_ns=None, last_ns=None)
    return _linked(course, [(now_ns, now_ns)], deadline_ns)


def of_probe(course: Course, sample: Sample, deadline_ns: int, now_ns: int) -> Course:
    """A failure is what it says: something to be told of, over time."""
    if sample.ok:
        return Course(now_ns, now_ns)
    return _linked(course._replace(pending=sample.why), [(now_ns, now_ns)], deadline_ns)


def _linked(course: Course, spans: Sequence[Span], deadline_ns: int) -> Course:
    since, last = course.since_ns, course.last_ns
    for begin, end in spans:
        if since is None or last is None or begin - last > deadline_ns // LINKS:
            since, last = begin, end
        else:
            since, last = min(since, begin), max(last, end)
    return course._replace(since_ns=since, last_ns=last, unknown="")


def overdue_since(course: Course, armed_ns: int, deadline_ns: int, now_ns: int) -> int | None:
    """Since when work is pending with no progress, where that is all of a deadline and still so; None: it is not.

    ``armed_ns``: when it became ready, or was resumed: nothing counts as older than that.
    """
    if course.unknown or course.since_ns is None or course.last_ns is None:
        return None
    since = max(course.since_ns, armed_ns)
    if course.last_ns - since < deadline_ns or now_ns - course.last_ns > deadline_ns // LINKS:
        return None
    return since


def is_half_over(course: Course, armed_ns: int, deadline_ns: int) -> bool:
    """Whether it is worth knowing from now on if it gets the CPU that it could use."""
    if course.since_ns is None or course.last_ns is None:
        return False
    return course.last_ns - max(course.since_ns, armed_ns) >= deadline_ns // 2


def next_look_ns(course: Course, armed_ns: int, deadline_ns: int | None, now_ns: int) -> int:
    """When to look at the driver's words again; at the deadline, where there is one to come."""
    if deadline_ns is None:
        return now_ns + LONGEST_LOOK_NS
    soon = now_ns + max(min(deadline_ns // LOOKS, LONGEST_LOOK_NS), MILLISECOND)
    if course.since_ns is None:
        return soon
    due = max(course.since_ns, armed_ns) + deadline_ns
    return min(soon, due) if due > now_ns else soon


def text(course: Course, source: ProgressSource, counter: str | None, now_ns: int) -> str:
    """What is pending, since when, and what moved last: for the record of a stall."""
    since = "ever" if course.moved_ns is None else f"for {_span(now_ns - course.moved_ns)}"
    if source.is_probe:
        known = "never answered" if course.moved_ns is None else f"last answered {_span(now_ns - course.moved_ns)} ago"
        return f"{source}: {course.pending}; {known}"
    began = _span(now_ns - (course.since_ns or now_ns))
    if source.kind == "metrics":
        return f"{counter} stands at {course.mark:g} for {began} at least, with {course.pending} pending"
    return f"{course.pending}, pending for {began} at least; nothing completed {since}"


def _span(ns: int) -> str:
    return f"{max(0, ns) / SECOND:.1f} s"
