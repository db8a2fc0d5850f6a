"""The ``export_hook``: a program of the integrator that is given the folder of each incident that is closed.

It is told the folder as its last argument, and folder, id, worker, verdict, outcome and signature by its environment.
What became of it is in the document (``export``), and is told to the supervisor.

Invariant: it is a job with a deadline, at which all of its process group is killed; what it does or fails to do
changes nothing else.
"""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from watchdogd.incident import Incident, Outcome
from watchdogd.incidents import folders
from watchdogd.incidents.jobs import Ended, Jobs
from watchdogd.model import SECOND

NAME = "export_hook"
PREFIX = "WATCHDOGD_"
FOLDER = "WATCHDOGD_INCIDENT_FOLDER"
INCIDENT = "WATCHDOGD_INCIDENT"
LONGEST_DETAIL = 400  # bytes of what it said last
WRITE_NS = 10 * SECOND

Say = Callable[[dict[str, Any]], object]


class Hook(NamedTuple):
    command: tuple[str, ...]  # () = none
    deadline_ns: int


def start(jobs: Jobs, hook: Hook, root: str, incident: str, say: Say) -> None:
    """``say``: told ``{"exported": ID, "outcome", "detail", "seconds"}`` once it is over."""
    if not hook.command:
        return
    path = folders.path_of(root, incident)

    def over(ended: Ended) -> None:
        outcome = _outcome(ended)
        now_ns = time.monotonic_ns()
        jobs.start(lambda: _record(root, incident, outcome), now_ns + WRITE_NS, lambda _: None)
        seconds = round(ended.took_ns / SECOND, 6)
        say({"exported": incident, "outcome": outcome.outcome, "detail": outcome.detail, "seconds": seconds})

    deadline_ns = time.monotonic_ns() + hook.deadline_ns
    jobs.start(lambda: (run(hook.command, path, incident), None), deadline_ns, over, resource.RLIM_INFINITY)


def run(command: tuple[str, ...], path: str, incident: str) -> dict[str, Any]:
    """In a job, whose deadline is its own: how it ended."""
    environment = {**os.environ, FOLDER: path, INCIDENT: incident, **_facts(path)}
    with open(os.memfd_create("said"), "w+b") as said:
        try:
            ended = subprocess.run([*command, path], env=environment, stdout=said, stderr=said, check=False)
        except OSError as error:
            return {"outcome": "failed", "detail": f"cannot start {command[0]}: {error.strerror}"}
        said.seek(max(0, os.fstat(said.fileno()).st_size - LONGEST_DETAIL))
        last = said.read().decode(errors="replace").strip()
    if ended.returncode == 0:
        return {"outcome": "ok", "detail": ""}
    how = f"status {ended.returncode}" if ended.returncode > 0 else f"signal {-ended.returncode}"
    return {"outcome": "failed", "detail": f"ended with {how}{': ' if last else ''}{last}"}


def _facts(path: str) -> dict[str, str]:
    try:
        kept = folders.read(path, is_brief=True)
    except (OSError, folders.BadFolder):
        return {}
    facts = {"worker": kept.worker, "verdict": kept.verdict.verdict, "outcome": kept.outcome or "",
             "signature": kept.signature}  # fmt: skip
    return {PREFIX + name.upper(): value for name, value in facts.items()}


def _outcome(ended: Ended) -> Outcome:
    told = {} if ended.result is None else ended.result.told
    return Outcome(
        NAME, str(told.get("outcome", ended.outcome)), str(told.get("detail", ended.detail)), ended.began_ns,
        ended.took_ns,
    )  # fmt: skip


def _record(root: str, incident: str, outcome: Outcome) -> tuple[dict[str, Any], None]:
    """In a job of its own: the one that ran it may have been killed."""

    def with_export(before: Incident | None) -> Incident:
        if before is None:
            raise folders.BadFolder(f"incident {incident} is gone")
        return replace(before, export=outcome)

    folders.update(root, incident, with_export, is_new=False)
    return {}, None
