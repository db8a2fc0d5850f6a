"""The ``export_hook``: a program of the integrator that is given the folder of each incident that is closed.

Invariant: it is a job with a deadline, and what it does or fails to do changes nothing else.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any, NamedTuple

from watchdogd.incidents import folders
from watchdogd.incidents.jobs import Ended, Jobs

FOLDER = "WATCHDOGD_INCIDENT_FOLDER"
INCIDENT = "WATCHDOGD_INCIDENT"


class Hook(NamedTuple):
    command: tuple[str, ...]  # () = none
    deadline_ns: int


def start(jobs: Jobs, hook: Hook, root: str, incident: str) -> None:
    if hook.command:
        path = folders.path_of(root, incident)
        jobs.start(lambda: _run(hook.command, path, incident), time.monotonic_ns() + hook.deadline_ns, _ignore)


def _run(command: tuple[str, ...], path: str, incident: str) -> tuple[dict[str, Any], None]:
    """In a job, whose deadline is its own."""
    environment = {**os.environ, FOLDER: path, INCIDENT: incident}
    ended = subprocess.run([*command, path], env=environment, check=False)
    return {"status": ended.returncode}, None


def _ignore(_ended: Ended) -> None:
    """It was told what there is; whether it made anything of that is its own to say."""
