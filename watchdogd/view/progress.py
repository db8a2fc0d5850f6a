"""How a worker gets on, as its source of progress tells, in words: what it is, what it told last, or why nobody knows.

Invariant: pure; what is unknown is said to be, and a source that is not configured has no words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from watchdogd.model import Phase
from watchdogd.span import span
from watchdogd.view.status import WorkerView, age

_WORKS = (Phase.RUNNING, Phase.OBSERVED)


def notes(worker: WorkerView, now_ns: int) -> Iterator[str]:
    """What a person should know."""
    told = _told(worker)
    if told is None:
        return
    if worker.phase is Phase.STARTING and told["failed"]:
        yield f"not ready: {told['source']}: {told['failed']}"
    if worker.phase not in _WORKS:
        return
    if told["unknown"]:
        since_ns = told["silent_since_ns"]
        since = "" if since_ns is None else f" for {span(age(now_ns, since_ns))}"
        yield f"progress is unknown{since}: {told['unknown']}"
    elif told["failing"]:
        yield f"its probe fails: {told['source']}: {told['failed']}; not replaced for that: see progress_kills"


def line(worker: WorkerView, as_of_ns: int) -> str | None:
    """For the view of one worker."""
    told = _told(worker)
    if told is None:
        return None
    parts = [f"progress by {told['source']}"]
    if told["value"] is not None:
        parts.append(f"at {told['value']:g}")
    if told["moved_ns"] is not None:
        verb = "answered" if told["kind"] in ("http", "command") else "moved"
        parts.append(f"{verb} {span(age(as_of_ns, told['moved_ns']))} ago")
    if told["pending"]:
        parts.append(f"pending: {told['pending']}")
    return ", ".join(parts)


def to_json(worker: WorkerView, as_of_ns: int) -> dict[str, Any] | None:
    told = _told(worker)
    if told is None:
        return None
    moved_ns = age(as_of_ns, told["moved_ns"])
    kept = {key: told[key] for key in ("source", "value", "pending", "failing")}
    moved = None if moved_ns is None else round(moved_ns / 1e9, 6)
    return {**kept, "unknown": told["unknown"] or None, "moved_age_seconds": moved}


def _told(worker: WorkerView) -> dict[str, Any] | None:
    told: dict[str, Any] | None = worker.body.get("progress")  # a supervisor of before tells none
    return told
