"""Evidence of a hang: on tmpfs before the kill, collected within the budget, kept as a document; and no kill for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.collectors import SITE
from tests.helpers.running import ROOT, Supervised, wait_until, worker

DEADLINES = {"sync": "100ms"}
HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): tell('in'); hang()\nserve()"
FULL: dict[str, Any] = {"deadlines": DEADLINES, "evidence": "full", "evidence_budget": "400ms"}
SECOND = 1_000_000_000


def supervised(collectors: str = "", body: str = HANG, **keys: Any) -> Supervised:
    environment = {"PYTHONPATH": f"{SITE}:{ROOT}", "WATCHDOGD_TEST_COLLECTORS": collectors}
    return Supervised({"a": worker(body, **{"deadlines": DEADLINES, **keys})}, environment=environment)


def keeper_is_ready(running: Supervised) -> None:
    wait_until(lambda: running.snapshot()["incidents"]["tools"] is not None, what=running.log)


def document(running: Supervised, state: str = "closed") -> dict[str, Any]:
    """The only one, once it is there."""

    def there() -> bool:
        found = list(running.state.glob("incidents/*/incident.json"))
        return len(found) == 1 and json.loads(found[0].read_text()).get("state", "open") == state

    wait_until(there, what=lambda: f"{list(running.state.glob('incidents/*/*'))}\n{running.log()}")
    (path,) = running.state.glob("incidents/*/incident.json")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_of_a_hang_what_shared_memory_said_is_kept_and_its_spool_is_gone() -> None:
    with supervised() as running:
        running.wait_phase("a", "running", 1)
        running.touch("go")
        running.wait_phase("a", "running", 2)
        told = document(running)
        verdict = running.wait_event("verdict", "a")
        signal = running.wait_event("signal", "a")
        assert told["id"] == verdict["incident"]
        assert (told["verdict"]["verdict"], told["verdict"]["operation"]) == ("call", "sync")
        first = told["captures"][0]
        (hung,) = (each for each in first["workers"] if each["name"] == "a")
        (lane,) = (each for each in hung["lanes"] if each.get("in_flight"))
        assert lane["in_flight"][0] == {"operation": "sync", "entered_ns": verdict["entered_ns"]}
        assert verdict["detected_ns"] <= first["at_ns"] < signal["monotonic_ns"]
        assert told["outcome"] == "recovered"
        assert {"signal_ns", "gone_ns", "started_ns", "ready_ns", "closed_ns"} <= told["times"].keys()
        wait_until(lambda: list(running.runtime.glob("incidents/*.spool")) == [])
