"""Evidence of a hang: on tmpfs before the kill, collected within the budget, kept as a document; and no kill for it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.collectors import environment
from tests.helpers.running import KEPT, ROOT, Supervised, wait_until, worker
from watchdogd.supervisor.incidents import BURST

DEADLINES = {"sync": "100ms"}
HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): tell('in'); hang()\nserve()"
FULL: dict[str, Any] = {"deadlines": DEADLINES, "evidence": "full", "evidence_budget": "400ms"}
SECOND = 1_000_000_000


def supervised(collectors: str = "", body: str = HANG, **keys: Any) -> Supervised:
    told = environment(ROOT, collectors)
    return Supervised({"a": worker(body, **{"deadlines": DEADLINES, **keys})}, environment=told, incidents=KEPT)


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


def spent(running: Supervised) -> float:
    """Seconds from the verdict to the signal."""
    verdict, signal = running.wait_event("verdict", "a"), running.wait_event("signal", "a", signal="SIGKILL")
    return float(signal["monotonic_ns"] - verdict["detected_ns"]) / SECOND


def hung(running: Supervised) -> None:
    running.wait_phase("a", "running", 1)
    keeper_is_ready(running)
    running.touch("go")


def outcomes(told: dict[str, Any]) -> dict[str, str]:
    return {each["collector"]: each["outcome"] for each in told["collectors"]}


def test_with_all_that_can_be_had_the_kill_waits_for_no_more() -> None:
    with supervised("works fails missing afterwards", **FULL) as running:
        hung(running)
        running.wait_phase("a", "running", 2)
        assert spent(running) < 0.35
        told = document(running)
        expected = {"works": "ok", "fails": "failed", "missing": "missing tool", "afterwards": "ok"}
        assert outcomes(told) == expected
        assert next(each for each in told["collectors"] if each["outcome"] == "missing tool")["detail"] == "install it"
        assert told["threads"][0]["name"] == "seen"
        assert "works.txt" in told["files"]
        (kept,) = running.state.glob("incidents/*/works.txt")
        assert kept.read_text() == "found"
        collected = running.wait_event("evidence", "a", step="collected")
        assert {each["collector"] for each in collected["collectors"]} == {"works", "fails", "missing"}


def test_what_reads_the_evidence_of_the_dead_has_its_time_though_the_next_one_is_ready_long_before() -> None:
    with supervised("reads-for-long", **FULL) as running:
        hung(running)
        running.wait_phase("a", "running", 2)
        told = document(running)
        assert outcomes(told) == {"reads-for-long": "ok"}
        assert told["threads"][0]["name"] == "seen"
        began_ns = told["collectors"][0]["began_ns"]
        assert told["times"]["ready_ns"] < began_ns + told["collectors"][0]["took_ns"]


@pytest.mark.parametrize("collectors", ["hangs works", "floods hangs"])
def test_a_collector_that_hangs_or_floods_costs_the_budget_and_no_more(collectors: str) -> None:
    with supervised(collectors, **FULL) as running:
        hung(running)
        running.wait_phase("a", "running", 2)
        assert 0.35 < spent(running) < 0.45
        told = outcomes(document(running))
        assert told["hangs"] == "timed out"
        assert told.get("works", "ok") == "ok"
        assert told.get("floods", "failed") == "failed"


def keeper(running: Supervised) -> int:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(pid for pid, line in lines.items() if b"watchdogd.incidents.keeper" in line)


def test_a_keeper_that_dies_costs_the_kill_nothing() -> None:
    with supervised("hangs", **FULL) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        os.kill(keeper(running), signal.SIGKILL)
        assert spent(running) < 0.3
        running.wait_phase("a", "running", 2)
        assert document(running)["outcome"] == "recovered"  # by the next one


def test_a_keeper_that_stands_still_costs_the_budget_once() -> None:
    body = "serve_until('go')\nif INCARNATION < 3:\n    with worker.call('sync'): hang()\nserve()"
    with supervised("works", body, **FULL) as running:
        running.wait_phase("a", "running", 1)
        keeper_is_ready(running)
        pid = keeper(running)
        os.kill(pid, signal.SIGSTOP)
        try:
            running.touch("go")
            running.wait_phase("a", "running", 3)
        finally:
            os.kill(pid, signal.SIGCONT)
        verdicts = [event["detected_ns"] for event in running.events("verdict", "a")]
        kills = [event["monotonic_ns"] for event in running.events("signal", "a")]
        first, second = ((kill - verdict) / SECOND for kill, verdict in zip(kills, verdicts, strict=True))
        assert 0.38 < first < 0.45
        assert second < 0.05
        skipped = running.wait_event("evidence", "a", step="skipped")
        assert "keeper" in skipped["reason"] and skipped["incident"].endswith(".3")
        wait_until(lambda: len(list(running.state.glob("incidents/*/incident.json"))) == 2, what=running.log)


def test_a_keeper_that_stands_still_for_ever_is_replaced() -> None:
    told = {**environment(ROOT, ""), "WATCHDOGD_TEST_KEEPER_SECONDS": "1"}
    workers = {"a": worker(HANG, deadlines=DEADLINES)}
    with Supervised(workers, environment=told, incidents=KEPT) as running:
        running.wait_phase("a", "running", 1)
        keeper_is_ready(running)
        first = keeper(running)
        running.let_pass(3)  # it answers
        assert keeper(running) == first
        os.kill(first, signal.SIGSTOP)
        running.touch("go")
        assert document(running)["outcome"] == "recovered"
        assert keeper(running) != first


RETURNS = """serve_until('go')
with worker.call('sync'): wait_for('return')
serve()"""


def test_a_call_that_returns_while_evidence_is_taken_is_not_killed() -> None:
    with supervised("hangs", RETURNS, **{**FULL, "evidence_budget": "10s"}) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        running.touch("return")
        running.wait_phase("a", "running", 1)
        told = document(running)
        assert (told["outcome"], outcomes(told)) == ("returned", {"hangs": "not reached"})
        assert running.wait_event("near_miss", "a")["incident"] == told["id"]
        assert running.events("signal", "a") == []
        assert running.snapshot()["supervisor"]["kills"] == []


LATE = """import time
serve_until('go')
while INCARNATION == 1:
    with worker.call('sync'): time.sleep(0.2)
serve()"""


def test_a_worker_that_is_a_little_late_again_and_again_is_not_looked_into_each_time() -> None:
    with supervised("hangs", LATE, **{**FULL, "evidence_budget": "10s"}) as running:
        hung(running)
        running.wait_phase("a", "running", 2)
        skipped = running.wait_event("evidence", "a", step="skipped")
        assert "too many of its calls returned" in skipped["reason"]
        (killed,) = running.events("signal", "a")
        assert killed["incident"] == skipped["incident"]
        spared = [event for event in running.events("near_miss", "a") if event["incident"] is not None]
        assert len(spared) == BURST


DUMPED = """serve_until('go')
with worker.call('sync'): wait_for('dumped')
serve()"""


def test_once_its_kill_is_committed_a_call_that_returns_is_only_recorded() -> None:
    keys = {**FULL, "evidence_budget": "2s", "gpu_core_dump": True}
    with supervised("works dumps", DUMPED, **keys) as running:
        hung(running)
        running.wait_phase("a", "running", 2)
        told = document(running)
        moved = running.wait_event("evidence", "a", step="moved")
        commit = running.wait_event("evidence", "a", step="commit")
        signalled = running.wait_event("signal", "a")
        assert commit["committed_ns"] < signalled["monotonic_ns"]
        assert moved["incident"] == signalled["incident"] == told["id"]
        assert running.events("near_miss", "a") == []


def test_a_call_that_returned_before_the_core_dump_has_none_and_no_kill() -> None:
    """The harmless collector holds up the dump until the call has returned."""
    body = RETURNS.replace("wait_for('return')", "wait_for('return'); tell('returned')")
    keys = {**FULL, "evidence_budget": "4s", "gpu_core_dump": True}
    with supervised("hangs dumps", body, **keys) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        running.touch("return")
        running.wait_phase("a", "running", 1)
        assert document(running)["outcome"] == "returned"
        assert not running.directory.joinpath("dumped").exists()
        assert running.events("signal", "a") == []


@pytest.mark.parametrize("command", ["pause", "stop", "restart"])
def test_an_operator_has_a_word_while_evidence_is_taken(command: str) -> None:
    with supervised("hangs", **{**FULL, "evidence_budget": "1s"}) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        running.ask(command, "a")
        if command == "pause":  # to look at it with a debugger
            running.wait_phase("a", "paused", 1)
            running.let_pass(1.2)
            assert (running.phase("a"), running.events("signal", "a")) == ("paused", [])
            assert document(running)["outcome"] == "paused"
        else:
            running.wait_phase("a", "stopped" if command == "stop" else "running", 1 if command == "stop" else 2)
            assert [event["signal"] for event in running.events("signal", "a")] == ["SIGKILL"]


def test_a_worker_that_ends_while_evidence_is_taken_belongs_to_the_hang() -> None:
    body = HANG.replace("tell('in'); hang()", "wait_for('return'); os._exit(7)")
    with supervised("hangs", body, **{**FULL, "evidence_budget": "10s"}) as running:
        hung(running)
        running.wait_phase("a", "collecting")
        running.touch("return")
        running.wait_phase("a", "running", 2)
        told = document(running)
        assert (told["outcome"], told["exit"]) == ("recovered", "exited with status 7")
        assert len(running.events("verdict", "a")) == 1


def test_of_a_worker_that_is_only_observed_evidence_is_what_shared_memory_says() -> None:
    with supervised("works", RETURNS, **FULL, observe_only=True) as running:
        running.wait_phase("a", "observed", 1)
        keeper_is_ready(running)
        running.touch("go")
        running.wait_event("verdict", "a")
        running.touch("return")
        told = document(running)
        assert (told["outcome"], told["verdict"]["would_have_killed"]) == ("returned", True)
        assert "collectors" not in told
        assert running.phase("a") == "observed"


def test_of_a_crash_only_what_needs_no_living_worker_is_collected_and_nothing_waits_for_it() -> None:
    body = "serve_until('go')\nif INCARNATION == 1: os._exit(7)\nserve()"
    with supervised("works afterwards", body, **FULL) as running:
        hung(running)
        running.wait_phase("a", "running", 2)
        told = document(running)
        assert (told["verdict"]["verdict"], outcomes(told)) == ("crashed", {"afterwards": "ok"})
        assert running.events("phase", "a", phase="collecting") == []


def test_a_spool_that_cannot_be_written_is_told_and_the_kill_comes() -> None:
    with supervised() as running:
        running.wait_phase("a", "running", 1)
        keeper_is_ready(running)
        for path in running.runtime.joinpath("incidents").iterdir():
            path.unlink()
        running.runtime.joinpath("incidents").rmdir()
        running.touch("go")
        running.wait_phase("a", "running", 2)
        assert spent(running) < 0.05
        assert "No such file" in running.wait_event("evidence", "a", step="lost")["reason"]
        wait_until(lambda: running.snapshot()["incidents"]["lost"] == 1)


@pytest.mark.parametrize("dumps", [False, True])
def test_of_an_incident_that_is_not_kept_no_evidence_is_waited_for(dumps: bool) -> None:
    keys = {**FULL, "evidence_budget": "2s", "gpu_core_dump": dumps}
    with supervised("works dumps", **keys) as running:
        running.wait_phase("a", "running", 1)
        keeper_is_ready(running)
        directory = running.runtime.joinpath("incidents")
        directory.rename(directory.with_name("elsewhere"))
        running.touch("go")
        running.wait_phase("a", "running", 2)
        assert spent(running) < 0.2
        assert not running.directory.joinpath("dumped").exists()


def test_where_none_are_kept_there_is_no_keeper() -> None:
    with Supervised({"a": worker(HANG, deadlines=DEADLINES)}, incidents={"max_count": 0}) as running:
        running.wait_phase("a", "running", 1)
        running.touch("go")
        running.wait_phase("a", "running", 2)
        assert running.snapshot()["incidents"] is None
        assert not running.state.joinpath("incidents").exists()
        assert list(running.runtime.joinpath("incidents").iterdir()) == []
