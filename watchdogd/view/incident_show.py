"""One incident as a person reads it the next morning, on one screen.

The first three lines tell what hung, where and since when; what it was; and who froze first. Then what was done and how
long each step took, what the judgement rests on, and what to do next.

Invariant: pure; no text of a worker, a device or a kernel reaches the terminal with control characters in it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone

from watchdogd.incident import Incident, Lane, Other, Outcome, Stack, Worker
from watchdogd.publish.event_text import printable
from watchdogd.span import span

MOST_FACTS, MOST_STEPS, MOST_OTHERS, MOST_STACKS, MOST_FRAMES = 6, 4, 4, 2, 4
LABEL = 10  # columns
HANGS = frozenset(("startup", "first_step", "step", "call", "stall"))
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_STEPS = (
    ("evidence_ns", "collecting began"), ("committed_ns", "kill committed"), ("signal_ns", "signalled"),
    ("gone_ns", "gone"), ("usable_ns", "accelerator usable"), ("started_ns", "started again"), ("ready_ns", "ready"),
    ("closed_ns", "closed"),
)  # fmt: skip


def text(incident: Incident, path: str, width: int, *, where: str = "", has_events: bool = True) -> str:
    """The whole, newline at the end. ``path``: of its folder; ``where``: options that the commands it names need."""
    lines = [
        *_head(incident), ("", ""), *_done(incident), *_evidence(incident), *_others(incident), *_rests(incident),
        *_next(incident), *_kept(incident, path, where, has_events),
    ]  # fmt: skip
    return "".join(f"{line}\n" for label, told in lines for line in _wrapped(label, printable(told), width))


def first_lines(incident: Incident) -> tuple[str, ...]:
    """What it was, for whoever lists or exports it."""
    return tuple(f"{label:<{LABEL}}{printable(told)}" for label, told in _head(incident))


def _wrapped(label: str, told: str, width: int) -> list[str]:
    """A single word that is longer than the terminal (a path, to be copied) is left whole."""
    indent = " " * LABEL
    return textwrap.wrap(
        told, max(width, 3 * LABEL), initial_indent=f"{label:<{LABEL}}", subsequent_indent=f"{indent}  ",
        break_long_words=False, break_on_hyphens=False,
    ) or [label]  # fmt: skip


# --- the first lines ------------------------------------------------------------------------------------------------


def _head(incident: Incident) -> Iterator[tuple[str, str]]:
    yield "what", _what(incident)
    diagnosis = incident.diagnosis
    yield "cause", f"{diagnosis.cause}: {diagnosis.sentence}" if diagnosis else "not judged yet"
    yield "first", _first(incident)
    if incident.repeats is not None and incident.repeats.count > 1:
        yield "again", f"{incident.repeats.sentence} (first at {incident.repeats.first})"


def _what(incident: Incident) -> str:
    verdict = incident.verdict
    verb = "hung" if verdict.verdict in HANGS else "ended" if verdict.verdict in ("crashed", "exited") else "was judged"
    told = f"{incident.worker}#{incident.incarnation} {verb}: {what(incident)}"
    if incident.accelerator:
        told += f" on {incident.accelerator}"
    if verdict.pid:
        told += f", pid {verdict.pid}" + (f" thread {verdict.tid}" if verdict.tid not in (None, 0, verdict.pid) else "")
    if verdict.entered_ns is not None:
        told += f", since {clock(incident, verdict.entered_ns)} ({span(verdict.detected_ns - verdict.entered_ns)}"
        if verdict.deadline_ns is not None:
            armed_ns = max(verdict.entered_ns, verdict.armed_ns or 0)
            told += f", deadline {span(verdict.deadline_ns - armed_ns)}"
        told += ")"
    else:
        told += f", at {clock(incident, verdict.detected_ns)}"
    return f"{told}; {verdict.detail}" if verdict.detail else told


def what(incident: Incident) -> str:
    """The verdict in a few words."""
    verdict = incident.verdict
    told = " ".join(filter(None, (verdict.verdict, verdict.operation)))
    return f"{told} in stage {verdict.stage}" if verdict.stage not in (None, verdict.operation) else told


def _first(incident: Incident) -> str:
    """Who froze first, as far as that is known; else who is in a call the longest."""
    verdict = incident.verdict
    told = []
    for suspect in incident.suspects:
        ago = (
            ""
            if suspect.entered_ns is None
            else f" {span(verdict.detected_ns - suspect.entered_ns)} before the verdict"
        )
        sure = "" if suspect.confidence is None else f", {suspect.confidence:.0%} sure"
        told.append(f"{suspect.worker} ({suspect.operation or 'unknown'}{ago}{sure})")
    if told:
        return ", then ".join(told[:MOST_OTHERS])
    calls: dict[str, tuple[int, str]] = {}
    for worker, at_ns, operation in _calls(incident):
        calls[worker] = min(calls.get(worker, (at_ns, operation)), (at_ns, operation))
    if not calls:
        read = incident.captures[0].workers if incident.captures and not incident.captures[0].left_out else ()
        all_read = bool(read) and all(worker.unread is None for worker in read)
        return "nobody stood still in a call" if all_read else "not known; nobody is known to have been in a call"
    oldest = sorted((at_ns, operation, worker) for worker, (at_ns, operation) in calls.items())[:MOST_OTHERS]
    shown = (f"{worker} ({operation} {span(verdict.detected_ns - at_ns)})" for at_ns, operation, worker in oldest)
    return f"not known; in a call at the verdict: {', '.join(shown)}"


def _calls(incident: Incident) -> Iterator[tuple[str, int, str]]:
    """Calls in flight at the verdict; of a worker that is in none, its oldest step."""
    for worker in incident.captures[0].workers if incident.captures else ():
        lanes = [lane for lane in worker.lanes if lane.in_flight and not lane.orphaned]
        for lane in [lane for lane in lanes if lane.tid] or lanes:
            yield worker.name, lane.in_flight[0].entered_ns, lane.in_flight[-1].operation


def clock(incident: Incident, at_ns: int) -> str:
    """An instant as the wall clock told it then, in UTC."""
    unix_ns = incident.opened_unix_ns + at_ns - incident.verdict.detected_ns
    try:
        return (_EPOCH + timedelta(microseconds=unix_ns // 1000)).isoformat(" ", "milliseconds")[:23] + "Z"
    except OverflowError:
        return "?"


# --- what was done --------------------------------------------------------------------------------------------------


def _done(incident: Incident) -> Iterator[tuple[str, str]]:
    opened_ns = incident.times.opened_ns or incident.verdict.detected_ns
    yield "done", f"verdict at {clock(incident, opened_ns)}" + (" (only observed)" * incident.verdict.would_have_killed)
    done = [(getattr(incident.times, name), step) for name, step in _STEPS]
    done.append((incident.moved_ns, "its call returned, too late for its kill"))
    more = {"gone": incident.exit, "closed": incident.outcome}
    before_ns = opened_ns
    for at_ns, step in sorted((at_ns, step) for at_ns, step in done if at_ns is not None):
        told = f"{step}: {more[step]}" if more.get(step) else step
        yield "", f"{_after(at_ns - opened_ns):>10}  {told}{_took(at_ns - before_ns)}"
        before_ns = max(before_ns, at_ns)
    if incident.state != "closed":
        yield "", f"not closed: {incident.state}{f', {incident.outcome}' if incident.outcome else ''}"


def _after(ns: int) -> str:
    return f"+{span(ns)}" if ns >= 0 else f"-{span(-ns)}"


def _took(ns: int) -> str:
    return f"  ({span(ns)})" if ns > 0 else ""


def _evidence(incident: Incident) -> Iterator[tuple[str, str]]:
    budget = f", budget {span(incident.budget_ns)}" if incident.budget_ns is not None else ""
    capture = f", memory read in {span(incident.captures[0].took_ns)}" if incident.captures else ""
    yield "evidence", f"{incident.level}{budget}{capture}"
    went = [f"{one.collector} {span(one.took_ns)}" for one in incident.collectors if one.outcome == "ok"]
    if went:
        yield "", ", ".join(went)
    yield from (("", told) for told in _failed(incident.collectors))
    skipped = [event for event in incident.events if event.get("step") == "skipped"]
    yield from (("", f"no collectors: {event.get('reason')}") for event in skipped)
    if incident.export is not None:
        yield "", ": ".join(filter(None, ("export_hook", incident.export.outcome, incident.export.detail)))
    yield from (("", f"! {problem}") for problem in incident.problems)


def _failed(collectors: Iterable[Outcome]) -> Iterator[str]:
    """Those that got nothing, with one reason together; not those that nobody asked for."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in collectors:
        if one.outcome not in ("ok", "not asked for"):
            after = f" after {span(one.took_ns)}" if one.outcome == "timed out" and one.took_ns is not None else ""
            alike.setdefault((one.outcome + after, one.detail), []).append(one.collector)
    for (outcome, detail), names in alike.items():
        yield f"{', '.join(names)}: {outcome}{f': {detail}' if detail else ''}"


def _others(incident: Incident) -> Iterator[tuple[str, str]]:
    told = [_meanwhile(other) for other in incident.others]
    capture = incident.captures[0] if incident.captures else None
    busy = {worker.name for worker in capture.workers if any(map(_is_busy, worker.lanes))} if capture else set()
    quiet = sorted(worker.name for worker in (capture.workers if capture else ()) if _was_idle(worker, busy))
    if quiet:
        told.append(f"in no call at the verdict: {', '.join(quiet)}")
    yield from zip(("others", *[""] * MOST_OTHERS), told[:MOST_OTHERS], strict=False)


def _is_busy(lane: Lane) -> bool:
    return bool(lane.in_flight) and not lane.orphaned


def _was_idle(worker: Worker, busy: Iterable[str]) -> bool:
    return worker.name not in busy and worker.unread is None and bool(worker.lanes)


def _meanwhile(other: Other) -> str:
    if not other.during_count:
        return f"{other.worker}: no {other.operation} ended meanwhile"
    p50, p99 = (f"{span(b)} -> {span(d)}" for b, d in (
        (other.before_p50_ns, other.during_p50_ns), (other.before_p99_ns, other.during_p99_ns)))  # fmt: skip
    return f"{other.worker}: {other.operation} p50 {p50}, p99 {p99} ({other.during_count} meanwhile)"


# --- what it was ----------------------------------------------------------------------------------------------------


def _rests(incident: Incident) -> Iterator[tuple[str, str]]:
    facts = incident.diagnosis.facts if incident.diagnosis else ()
    yield from _list("because", facts, MOST_FACTS)
    for kernel in incident.kernels[:MOST_STACKS]:
        yield (
            "on GPU",
            " ".join(filter(None, (kernel.name, kernel.grid, f"at {kernel.location}" * bool(kernel.location)))),
        )
    wanted = [stack for stack in incident.stacks if stack.tid == incident.verdict.tid] or list(incident.stacks)
    once: dict[tuple[int, int | None, str], Stack] = {}  # two collectors may have got it
    for stack in wanted:
        once.setdefault((stack.pid, stack.tid, stack.kind), stack)
    for stack in list(once.values())[:MOST_STACKS]:
        yield "stack", f"{stack.kind}, thread {stack.tid}: {' < '.join(stack.frames[:MOST_FRAMES])}"


def _next(incident: Incident) -> Iterator[tuple[str, str]]:
    steps = incident.diagnosis.next_steps if incident.diagnosis else ()
    yield from _list("next", steps, MOST_STEPS)


def _list(label: str, items: tuple[str, ...], most: int) -> Iterator[tuple[str, str]]:
    for number, item in enumerate(items[:most]):
        yield "" if number else label, f"- {item}"
    if len(items) > most:
        yield "", f"- and {len(items) - most} more, in its incident.json"


def _kept(incident: Incident, path: str, where: str, has_events: bool) -> Iterator[tuple[str, str]]:
    if incident.signature:
        yield "alike", f"`watchdogd incidents{where} --signature {incident.signature}` ({incident.signature_words})"
    if has_events:
        yield "story", f"`watchdogd events{where} --incident {incident.id}`"
    yield "kept in", path
    if incident.files:
        yield "", ", ".join(incident.files)


def lasted_ns(incident: Incident) -> int | None:
    """Its first evidence to ready; None while that is not known."""
    ready_ns, verdict = incident.times.ready_ns, incident.verdict
    return None if ready_ns is None else max(0, ready_ns - (verdict.entered_ns or verdict.detected_ns))
