"""What ``watchdogd report`` is made of: kept incidents, the events, and the history of calls.

An incident whose folder was pruned is taken from the events as long as these are there. Invariant: what cannot be
read, or is no record, is named in ``problems`` and never silently taken for nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from watchdogd.decide.orders import REPORT_ONLY
from watchdogd.decide.reporting import Ended, NearMiss, Snapshot
from watchdogd.incident import Incident
from watchdogd.incidents import folders, history
from watchdogd.model import SECOND
from watchdogd.publish import events
from watchdogd.publish.events import EventKind

_REPORTED = frozenset(verdict.value for verdict in REPORT_ONLY)


@dataclass(slots=True)
class Record:
    ended: list[Ended] = field(default_factory=list)  # oldest first
    near: list[NearMiss] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def workers(self) -> set[str]:
        records: tuple[Ended | NearMiss | Snapshot, ...] = (*self.ended, *self.near, *self.snapshots)
        return {one.worker for one in records}


def read(state_dir: str, runtime_dir: str) -> Record:
    """``runtime_dir``: what workers have done since the last line of the history is in their heartbeats."""
    record = Record()
    ended: dict[str, Ended] = {}
    parts: dict[str, Callable[[], None]] = {
        events.FILE_NAME: lambda: _events(state_dir, ended, record),
        folders.DIRECTORY: lambda: _incidents(state_dir, ended, record),
        history.DIRECTORY: lambda: record.snapshots.extend(history.read(state_dir)),
    }
    for what, take in parts.items():
        try:
            take()
        except OSError as error:
            record.problems.append(f"{os.path.join(state_dir, what)}: {error.strerror}")
    now_ns = time.monotonic_ns()
    alive = history.Follower(runtime_dir, now_ns - history.EVERY_NS).look(now_ns, time.time_ns())
    record.snapshots += filter(None, map(history.decode, alive))
    record.ended = sorted(ended.values(), key=lambda one: one.unix_ns)
    return record


# --- incidents ------------------------------------------------------------------------------------------------------


def _incidents(state_dir: str, ended: dict[str, Ended], record: Record) -> None:
    found = folders.listing(os.path.join(state_dir, folders.DIRECTORY))
    record.problems += found.skipped
    for kept in found.kept:
        told = _of_document(kept.incident)
        earlier = ended.get(told.id)
        if told.recovery_ns is None and earlier is not None:  # the document was not finished
            told = replace(told, recovery_ns=earlier.recovery_ns, outcome=told.outcome or earlier.outcome)
        ended[told.id] = told


def _of_document(incident: Incident) -> Ended:
    verdict, ready_ns = incident.verdict, incident.times.ready_ns
    began = verdict.detected_ns if verdict.entered_ns is None else verdict.entered_ns
    return Ended(
        incident.id, incident.worker, incident.opened_unix_ns, verdict.verdict, verdict.operation,
        incident.signature, incident.signature_words, incident.outcome, verdict.detected_ns - began,
        None if ready_ns is None else max(0, ready_ns - began),
        not verdict.would_have_killed and incident.outcome != "returned",
    )  # fmt: skip


# --- events ---------------------------------------------------------------------------------------------------------


def _events(state_dir: str, ended: dict[str, Ended], record: Record) -> None:
    bad: list[bytes] = []
    path = os.path.join(state_dir, events.FILE_NAME)
    for event in events.read_file(path, on_bad=bad.append):
        kind, unix_ns, incident = event["kind"], _unix_ns(event), event.get("incident")
        if unix_ns is None:
            continue
        if kind == EventKind.VERDICT and isinstance(incident, str) and event.get("verdict") not in _REPORTED:
            ended.setdefault(incident, _of_verdict(event, incident, unix_ns))
        elif kind == EventKind.NEAR_MISS:
            record.near.append(_near_miss(event, unix_ns))
        if kind in (EventKind.READY, EventKind.NEAR_MISS) and isinstance(incident, str) and incident in ended:
            ended[incident] = _went_on(ended[incident], event)
    if bad:
        told = "1 line is no event" if len(bad) == 1 else f"{len(bad)} lines are no events"
        record.problems.append(f"{path}: {told}")


def _unix_ns(event: Mapping[str, Any]) -> int | None:
    try:
        return round(datetime.fromisoformat(str(event["time"]).replace("Z", "+00:00")).timestamp() * SECOND)
    except (KeyError, ValueError, OverflowError):
        return None


def _whole(event: Mapping[str, Any], key: str) -> int | None:
    value = event.get(key)
    return value if type(value) is int else None


def _text(event: Mapping[str, Any], key: str) -> str | None:
    value = event.get(key)
    return value if isinstance(value, str) else None


def _of_verdict(event: Mapping[str, Any], incident: str, unix_ns: int) -> Ended:
    entered_ns, detected_ns = _whole(event, "entered_ns"), _whole(event, "detected_ns")
    waited_ns = None if entered_ns is None or detected_ns is None else max(0, detected_ns - entered_ns)
    return Ended(
        incident, _text(event, "worker") or "-", unix_ns, _text(event, "verdict") or "-", _text(event, "operation"),
        waited_ns=waited_ns, killed=event.get("would_have_killed") is not True,
    )  # fmt: skip


def _went_on(one: Ended, event: Mapping[str, Any]) -> Ended:
    if event["kind"] == EventKind.NEAR_MISS:  # it returned between its verdict and its kill
        return replace(one, killed=False, outcome="returned")
    seconds = event.get("recovery_seconds")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
        return one
    return replace(one, outcome="recovered", recovery_ns=round(seconds * SECOND))


def _near_miss(event: Mapping[str, Any], unix_ns: int) -> NearMiss:
    entered_ns, deadline_ns, now_ns = (_whole(event, key) for key in ("entered_ns", "deadline_ns", "monotonic_ns"))
    elapsed = None if entered_ns is None or now_ns is None else now_ns - entered_ns
    limit = None if entered_ns is None or deadline_ns is None else deadline_ns - entered_ns
    worker, operation = _text(event, "worker") or "-", _text(event, "operation") or "-"
    return NearMiss(worker, unix_ns, operation, elapsed, limit)
