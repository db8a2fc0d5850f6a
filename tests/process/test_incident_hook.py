"""The export_hook: given each incident that is closed, and what became of it is on record and in the document."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from watchdogd.incidents import folders

HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): tell('in'); hang()\nserve()"


def hung(hook: str, deadline: str = "20s") -> Supervised:
    workers = {"model-a": worker(HANG, deadlines={"sync": "100ms"})}
    return Supervised(
        workers, incidents={"export_hook": [sys.executable, "-c", hook], "export_hook_deadline": deadline}
    )


def exported(running: Supervised) -> tuple[dict[str, Any], dict[str, Any]]:
    """The event, and what the document says."""
    running.wait_phase("model-a", "running", 1)
    running.touch("go")
    event = running.wait_event("hook", "model-a")
    (folder,) = (running.state / folders.DIRECTORY).iterdir()
    told: dict[str, Any] = {}

    def written() -> bool:
        told.update(json.loads((folder / folders.DOCUMENT).read_text()).get("export", {}))
        return bool(told)

    wait_until(written, what=running.log)
    assert event["incident"] == folder.name and event["hook"] == "export_hook"
    return event, told


def test_it_is_told_the_folder_and_what_it_is_about(tmp_path: Path) -> None:
    target = tmp_path / "told"
    names = ("WATCHDOGD_INCIDENT", "WATCHDOGD_WORKER", "WATCHDOGD_VERDICT", "WATCHDOGD_OUTCOME")
    hook = f"""
import json, os, sys
state = json.load(open(sys.argv[1] + '/incident.json'))['state']
facts = [os.environ.get(name) for name in {names!r}]
open({str(target)!r}, 'w').write(json.dumps([sys.argv[1], os.environ['WATCHDOGD_INCIDENT_FOLDER'], state, facts]))
"""
    with hung(hook) as running:
        event, told = exported(running)
        folder, again, state, facts = json.loads(target.read_text())
    assert folder == again and os.path.basename(folder) == event["incident"]
    assert (state, facts) == ("closed", [event["incident"], "model-a", "call", "recovered"])
    assert (event["reason"], told["outcome"]) == ("ok", "ok")


@pytest.mark.parametrize(
    ("hook", "deadline", "outcome", "detail"),
    [
        ("import sys; sys.exit('no room there')", "20s", "failed", "ended with status 1: no room there"),
        ("import time; time.sleep(1000)", "300ms", "timed out", ""),
    ],
)
def test_one_that_fails_or_hangs_is_told_of_and_does_no_harm(
    hook: str, deadline: str, outcome: str, detail: str
) -> None:
    with hung(hook, deadline) as running:
        event, told = exported(running)
        assert (told["outcome"], told.get("detail", "")) == (outcome, detail)
        assert event["reason"] == f"{outcome} {detail}".strip()
        running.wait_phase("model-a", "running", 2)


def test_a_hook_that_hangs_leaves_nothing_running(tmp_path: Path) -> None:
    child = tmp_path / "child"
    hook = f"""
import os, subprocess, time
open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '1000']).pid))
time.sleep(1000)
"""
    with hung(hook, "1s") as running:
        exported(running)
        pid = int(child.read_text())
        wait_until(lambda: not os.path.exists(f"/proc/{pid}") or " Z " in Path(f"/proc/{pid}/stat").read_text())
