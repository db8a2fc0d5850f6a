"""What becomes of incidents, and of a worker of which evidence is taken, when the supervisor is killed or replaced."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until
from tests.process.test_supervisor_evidence import DUMPED, FULL, RETURNS, document, hung, keeper, outcomes, supervised

LONG: dict[str, Any] = {**FULL, "evidence_budget": "20s", "on_supervisor_exit": "keep"}


def killed_while_collecting(running: Supervised) -> None:
    hung(running)
    running.wait_phase("a", "collecting")
    running.process.kill()
    running.process.wait(10)


def test_a_worker_of_which_evidence_was_taken_is_killed_by_the_next_supervisor() -> None:
    with supervised("hangs", **LONG) as running:
        killed_while_collecting(running)
        running.start()
        running.wait_phase("a", "running", 2)
        verdict, signalled = running.wait_event("verdict", "a"), running.wait_event("signal", "a")
        assert signalled["incident"] == verdict["incident"]
        told = document(running)
        assert (told["id"], told["outcome"]) == (verdict["incident"], "recovered")
        assert told["times"].keys() >= {"evidence_ns", "signal_ns", "gone_ns", "ready_ns"}


def test_a_call_that_returned_meanwhile_is_spared_by_the_next_supervisor() -> None:
    with supervised("hangs", RETURNS, **LONG) as running:
        killed_while_collecting(running)
        running.touch("return")
        running.let_pass_alone(0.2)
        running.start()
        running.wait_phase("a", "running", 1)
        assert document(running)["outcome"] == "returned"
        assert running.events("signal", "a") == []


def test_a_kill_that_was_committed_is_carried_out_by_the_next_supervisor() -> None:
    with supervised("dumps-and-hangs", DUMPED, **LONG, gpu_core_dump=True) as running:
        hung(running)
        running.wait_file("dumped")
        running.process.kill()
        running.process.wait(10)
        running.let_pass_alone(0.2)
        running.start()
        running.wait_phase("a", "running", 2)
        assert [event["signal"] for event in running.events("signal", "a")] == ["SIGKILL"]


def test_an_incident_goes_on_over_a_reload() -> None:
    body = (
        "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve_until('better')\nserve()"
    )
    slow = body.replace("serve_until('better')", "wait_for('better')")
    with supervised("works", slow, **FULL) as running:
        hung(running)
        running.wait_phase("a", "starting", 2)
        running.reload()
        running.touch("better")
        running.wait_phase("a", "running", 2)
        told = document(running)
        assert (told["outcome"], outcomes(told)) == ("recovered", {"works": "ok"})
        assert {"signal", "gone", "ready"} <= {event["kind"] for event in told["events"]}


@pytest.mark.parametrize("evidence", ["memory", "full"])
def test_of_what_a_killed_supervisor_left_the_next_one_makes_a_document(evidence: str) -> None:
    with supervised("hangs", **{**FULL, "evidence": evidence, "evidence_budget": "20s"}) as running:
        hung(running)
        running.wait_event("evidence", "a", step="memory" if evidence == "memory" else "begin")
        running.process.kill()
        running.process.wait(10)
        (path,) = wait_for_document(running.state)
        first = json.loads(path.read_text())
        assert first["verdict"]["operation"] == "sync" and first["captures"]
        running.directory.joinpath("go").unlink()
        running.runtime.joinpath("board").unlink()  # so that the next one does not go on with it
        running.start()
        told = document(running, "cut short")
        assert (told["id"], told["worker"]) == (first["id"], "a")
        assert "verdict" in {event["kind"] for event in told["events"]}
        wait_until(lambda: list(running.runtime.glob("incidents/*.spool")) == [])


def test_a_keeper_ends_soon_after_its_supervisor_was_killed() -> None:
    with supervised("hangs", **LONG) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        pid = keeper(running)
        running.process.kill()
        running.process.wait(10)
        wait_until(lambda: gone(pid), 3.0)
        assert wait_for_document(running.state)


def wait_for_document(state: Path) -> list[Path]:
    wait_until(lambda: list(state.glob("incidents/*/incident.json")))
    return list(state.glob("incidents/*/incident.json"))


def test_a_supervisor_that_ends_in_order_leaves_no_incident_open() -> None:
    with supervised("hangs", **{**FULL, "evidence_budget": "600ms"}) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        assert running.stop(signal.SIGTERM) == 0
        told = document(running)
        assert (told["state"], told["outcome"]) == ("closed", "stopped")
