"""What the view of one worker adds: how the process of its last incident ended, and where its output is.

Invariant: a bounded part of the event record is read; what may not be read is said, not left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from watchdogd.publish import events
from watchdogd.view.status import StatusView, WorkerView


@dataclass(frozen=True, slots=True)
class Detail:
    ending: str | None = None  # of the process that the last incident was about
    output: str | None = None  # a file; None = it has none
    unreadable: str | None = None  # what could not be looked at, and why


def collect(view: StatusView, worker: WorkerView) -> Detail:
    state_dir = str(view.supervisor.get("state_dir", ""))
    record, output = os.path.join(state_dir, events.FILE_NAME), os.path.join(state_dir, "log", f"{worker.name}.log")
    try:
        incident = worker.body["last_incident"]
        ending = None if incident is None else _ending(record, incident["id"])
        found = _is_there(output)
    except OSError as error:
        return Detail(output=output, unreadable=f"{error.filename}: {error.strerror}")
    return Detail(ending, output if found else None)


def _begun(end: dict[str, Any]) -> str:
    """What it had begun then."""
    if not end.get("in_flight"):
        return ""
    numbers = ", ".join(map(str, end.get("requests") or ()))
    steps = "1 step" if end["in_flight"] == 1 else f"{end['in_flight']} steps"
    return f", {steps} in flight" + (f" (requests {numbers})" if numbers else "")


def _is_there(path: str) -> bool:
    """Raises OSError where that may not be known."""
    try:
        os.stat(path)
    except FileNotFoundError:  # its output goes elsewhere, or it never had a process
        return False
    return True


def _ending(record: str, incident: str) -> str | None:
    for tail in events.tails(record):
        for event in reversed(tail):
            if event["kind"] == events.EventKind.GONE and event.get("incident") == incident:
                return f"{event.get('exit')}{_begun(event)}"
    return None
