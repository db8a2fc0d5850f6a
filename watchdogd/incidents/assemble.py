"""The document of an incident, out of what was found of it piece by piece.

Invariant: pure; each step only adds, in whatever order the pieces come, and a piece that is missing or spoilt leaves
the rest as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from watchdogd.histogram import Histogram
from watchdogd.incident import Capture, Incident, Load, Other, Outcome, Process, Thread, Times
from watchdogd.incidents import codec, reading
from watchdogd.incidents.collectors.interface import Evidence
from watchdogd.incidents.spool import BadSpool, Spool
from watchdogd.publish.events import EventKind

MOST_EVENTS = 500  # of an incident that does not come to its end
SAME_NS = 2_000_000_000  # two messages of one text within so long are one, if two readers tell of them
EVIDENCE = "evidence"  # the kind of event
_ONE = TypeVar("_ONE", Thread, Process)


def begin(spool: Spool) -> Incident:
    """The first version: all that the supervisor left. Raises BadSpool."""
    own = {item.name for item in fields(Incident)} - {"captures", "state"}
    told = {key: value for key, value in spool.head.items() if key in own and value is not None}
    try:
        incident = codec.from_json({"schema": 1, **told})
        return replace(incident, state="collecting", captures=(_capture(spool),),
                       times=replace(incident.times, opened_ns=incident.verdict.detected_ns))  # fmt: skip
    except (codec.BadDocument, KeyError, TypeError, ValueError) as error:
        raise BadSpool(f"incident {told.get('id')}: {error}") from None


def with_capture(incident: Incident, spool: Spool) -> Incident:
    """Shared memory at a further instant. Raises BadSpool."""
    try:
        capture = _capture(spool)
        loads = tuple(_longer(load, spool.head.get("loads") or ()) for load in incident.loads)
    except (KeyError, TypeError, ValueError) as error:
        raise BadSpool(f"a capture of incident {incident.id}: {error}") from None
    others = [kept for kept in incident.captures if kept.when != capture.when]
    return replace(incident, captures=tuple(sorted((*others, capture), key=lambda kept: kept.at_ns)), loads=loads)


def _longer(load: Load, told: Iterable[Mapping[str, Any]]) -> Load:
    """With its samples of later on."""
    last_ns = max((at_ns for at_ns, _ in load.samples), default=-1)
    later = [sample for of in told if of["accelerator"] == load.accelerator for sample in of["samples"]]
    return replace(load, samples=(*load.samples, *((at_ns, ratio) for at_ns, ratio in later if at_ns > last_ns)))


def _capture(spool: Spool) -> Capture:
    told: Mapping[str, Any] = spool.head["capture"]
    at_ns = int(told["at_ns"])
    return Capture(
        when=str(told["when"]),
        at_ns=at_ns,
        took_ns=int(told["took_ns"]),
        workers=tuple(reading.worker(worker, spool.blobs, at_ns) for worker in spool.head["workers"]),
        left_out=tuple(map(str, told.get("left_out") or ())),
    )


def with_evidence(incident: Incident, found: Iterable[Evidence], outcomes: Iterable[Outcome]) -> Incident:
    """What collectors got, and what became of each."""
    for evidence in found:
        known = {line.text: line.at_ns for line in incident.kernel}
        kernel = {(line.at_ns, line.text): line for line in incident.kernel}
        for line in evidence.kernel:  # what the supervisor remembers has the time at which it came to it
            if line.text not in known or abs(known[line.text] - line.at_ns) > SAME_NS:
                kernel.setdefault((line.at_ns, line.text), line)
        incident = replace(
            incident,
            threads=_merged(incident.threads, evidence.threads),
            processes=_merged(incident.processes, evidence.processes),
            stacks=_with(incident.stacks, evidence.stacks),
            kernels=_with(incident.kernels, evidence.kernels),
            kernel=tuple(sorted(kernel.values(), key=lambda line: line.at_ns)),
        )
    by_name = {outcome.collector: outcome for outcome in (*incident.collectors, *outcomes)}
    return replace(incident, collectors=tuple(by_name.values()))


def _with(known: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*known, *(item for item in more if item not in known))


def _merged(known: tuple[_ONE, ...], more: tuple[_ONE, ...]) -> tuple[_ONE, ...]:
    """Of what two tell of one thread or process: whatever either says, the later one where both do."""
    by_key = {_key(item): item for item in known}
    for item in more:
        before = by_key.get(_key(item))
        told = {part.name: (getattr(item, part.name), part.default) for part in fields(item)}
        said = {name: value for name, (value, default) in told.items() if value != default}
        by_key[_key(item)] = item if before is None else replace(before, **said)
    return tuple(by_key.values())


def _key(item: Thread | Process) -> tuple[int, ...]:
    return (item.pid, item.tid) if isinstance(item, Thread) else (item.pid,)


# --- events ---------------------------------------------------------------------------------------------------------


def with_events(incident: Incident, lines: Iterable[Mapping[str, Any]]) -> Incident:
    """Events of the record with its id, in whatever order, some again: they say when what was done, and the exit."""
    known = {event.get("seq"): event for event in (*incident.events, *lines) if event.get("incident") == incident.id}
    ordered = sorted(known.values(), key=lambda event: cast(int, event.get("seq", 0)))
    kept = ordered if len(ordered) <= MOST_EVENTS else [*ordered[: MOST_EVENTS // 2], *ordered[-MOST_EVENTS // 2 :]]
    incident = replace(incident, events=tuple(dict(event) for event in kept))
    for event in kept:
        incident = _told(incident, event)
    return incident


def _told(incident: Incident, event: Mapping[str, Any]) -> Incident:
    kind, at_ns = event.get("kind"), _instant(event.get("monotonic_ns"))
    if kind == EventKind.GONE and event.get("exit"):
        incident = replace(incident, exit=incident.exit or str(event["exit"]))
    if kind == EVIDENCE:
        incident = replace(incident, moved_ns=incident.moved_ns or _instant(event.get("moved_ns")))
    return replace(incident, times=_filled(incident.times, **_times(kind, event, at_ns)))


def _times(kind: object, event: Mapping[str, Any], at_ns: int | None) -> dict[str, int | None]:
    if kind == EVIDENCE:
        return {name: _instant(event.get(name)) for name in ("evidence_ns", "committed_ns")}
    if kind == EventKind.PROBE:
        return {"usable_ns": at_ns} if event.get("usable") == "yes" else {}
    if kind == EventKind.PHASE:
        return {"started_ns": at_ns} if event.get("phase") == "starting" else {}
    if kind == EventKind.READY:
        return {"ready_ns": _instant(event.get("ready_ns")) or at_ns}
    return {"signal_ns": at_ns} if kind == EventKind.SIGNAL else {"gone_ns": at_ns} if kind == EventKind.GONE else {}


def _filled(times: Times, **instants: int | None) -> Times:
    """The first one counts."""
    return replace(times, **{name: at for name, at in instants.items() if getattr(times, name) is None})


def _instant(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def closed(incident: Incident, outcome: str, at_ns: int | None) -> Incident:
    """It came to its end."""
    times = _filled(incident.times, closed_ns=at_ns)
    return replace(incident, state="closed", outcome=outcome, times=times)


def cut_short(incident: Incident, problem: str) -> Incident:
    """The supervisor ended before the incident did: ``outcome`` is what the events show."""
    outcome = next((told for told in map(_outcome, reversed(incident.events)) if told is not None), None)
    problems = incident.problems if problem in incident.problems else (*incident.problems, problem)
    return replace(incident, state="cut short", outcome=incident.outcome or outcome, problems=problems)


def _outcome(event: Mapping[str, Any]) -> str | None:
    if event.get("kind") == EventKind.READY:
        return "recovered"
    if event.get("kind") == EventKind.NEAR_MISS:
        return "returned"
    if event.get("kind") == EventKind.PHASE and event.get("phase") in ("quarantined", "stopped", "paused"):
        return str(event["phase"])
    return None


# --- the other workers ----------------------------------------------------------------------------------------------


def with_others(incident: Incident, before: Spool, after: Spool) -> Incident:
    """How slow the other workers were from one capture to the other, against their whole life up to the first."""
    return replace(incident, others=others(incident.worker, before, after))


def others(worker: str, before: Spool, after: Spool) -> tuple[Other, ...]:
    """By each other worker's own histograms; one that is in another life by then, or was not read, is left out."""
    lives = {(told.get("name"), told.get("incarnation")) for told in before.head.get("workers", ())}
    found = []
    for told in after.head.get("workers", ()):
        name = str(told.get("name"))
        if name == worker or (told.get("name"), told.get("incarnation")) not in lives:
            continue
        then, now = (reading.histograms(spool.blobs.get(f"{name}/sums", b"")) for spool in (before, after))
        if then and now:
            found.append(_other(name, then, now))
    return tuple(found)


def _other(name: str, then: Mapping[str, Histogram], now: Mapping[str, Histogram]) -> Other:
    """Of its steps; where it has none, of the operation that it does most."""
    operation = "step" if then["step"].count or now["step"].count else max(now, key=lambda key: now[key].count)
    counts = [max(0, late - early) for early, late in zip(then[operation].counts, now[operation].counts, strict=True)]
    before, during = then[operation], Histogram(0, counts)
    return Other(
        worker=name,
        operation=operation,
        before_p50_ns=before.quantile_ns(0.5),
        before_p99_ns=before.quantile_ns(0.99),
        during_p50_ns=during.quantile_ns(0.5),
        during_p99_ns=during.quantile_ns(0.99),
        during_count=during.count,
    )
