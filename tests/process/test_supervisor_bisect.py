"""``watchdogd bisect`` under a real supervisor, on the simulated driver: where queued work hangs, and who asked."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice
from watchdogd.view import status, status_table

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

FRAMES = """from watchdogd.worker import cuda
context = cuda.Context()
stream = context.stream()
module = context.module(b"")
kernel, plugin, endless = (module.kernel(name) for name in ("sim_sleep_us_100", "sim_copy_scale__50us", "sim_spin"))
source, target, host = context.alloc(64), context.alloc(64), context.alloc_host(64)
number = 0.0
worker.ready()
while True:
    hangs = (HERE / f"hang {INCARNATION}").exists()
    number += 1
    with worker.step():
        with worker.stage("preprocess"):
            host.view.cast("f")[0] = number
            stream.copy_in(source, host)
        with worker.stage("plugin"):
            if hangs: stream.launch(endless, 1, 1)
            stream.launch(plugin, 1, 16, (target, source, 16, 2.0))
        with worker.stage("enqueue"):
            stream.launch(kernel, 1, 1)
            stream.copy_out(host, target)
        with worker.stage("sync"):
            stream.synchronize()
    if host.view.cast("f")[0] != 2 * number: tell("wrong", number)
    time.sleep(0.005)
"""
STAMPS = """worker.ready()
while True:
    with worker.step():
        with worker.stage("sync"), worker.call("sync"):
            if (HERE / f"hang {INCARNATION}").exists(): hang()
    time.sleep(0.005)
"""
SYNC = {"startup": "20s", "sync": "200ms"}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as opened:
        yield opened


def frames(device: SimulatedDevice, deadlines: Any = SYNC, **keys: Any) -> dict[str, Any]:
    return worker(FRAMES, environment=device.environment("a"), deadlines=deadlines, **keys)


def shown(supervised: Supervised) -> str:
    return status_table.table(status.collect(str(supervised.runtime), time.monotonic_ns(), None), 200, False)


def hung(supervised: Supervised, incarnation: int) -> dict[str, Any]:
    """The verdict on this incarnation, which is made to hang, once its successor serves."""
    supervised.wait_phase("a", "running", incarnation)
    supervised.touch(f"hang {incarnation}")
    verdict = supervised.wait_event("verdict", "a", incarnation=incarnation)
    supervised.wait_phase("a", "running", incarnation + 1)
    return verdict


def bisected(supervised: Supervised) -> Any:
    return supervised.view("a")["bisect"]


def test_without_a_bisect_queued_work_that_hangs_is_told_by_the_wait_for_it(device: SimulatedDevice) -> None:
    with Supervised({"a": frames(device)}) as supervised:
        verdict = hung(supervised, 1)
        assert (verdict["operation"], verdict["stage"], verdict["bisected"]) == ("sync", "sync", False)
        assert "bisected" not in supervised.worker("a")["last_incident"]
        assert bisected(supervised) == {"now": "off", "next": None}
        assert "bisect" not in shown(supervised)


def test_with_one_the_verdict_says_the_stage_that_queued_it(device: SimulatedDevice) -> None:
    with Supervised({"a": frames(device)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        told = supervised.ask("bisect on", "a")
        assert told == "bisect on a: from its next start on; at once: watchdogd restart a"
        supervised.wait_tick()
        assert (supervised.phase("a"), bisected(supervised)) == ("running", {"now": "off", "next": "operator"})
        assert "! bisected from its next start on; at once: `watchdogd restart a`" in shown(supervised)
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        assert bisected(supervised) == {"now": "done", "next": "operator"}
        slower = "! bisected until `watchdogd bisect a off` and its next start: it synchronizes after each stage"
        assert slower in shown(supervised)
        verdict = hung(supervised, 2)
        assert (verdict["verdict"], verdict["operation"], verdict["stage"]) == ("call", "sync", "plugin")
        assert verdict["bisected"] and verdict["detail"].endswith("synchronized after each stage")
        incident = supervised.worker("a")["last_incident"]
        assert (incident["stage"], incident["bisected"]) == ("plugin", True)
        assert "last incident: call sync in stage plugin, synchronized after each stage, at" in shown(supervised)
        # A person turned it on, a person turns it off.
        assert bisected(supervised) == {"now": "done", "next": "operator"}
        assert supervised.ask("bisect off", "a").endswith("at once: watchdogd restart a")
        supervised.wait_tick()
        assert "! bisected until its next start" in shown(supervised)
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 4)
        assert bisected(supervised) == {"now": "off", "next": None}
        commands = [event["command"] for event in supervised.events("operator")]
        assert commands == ["bisect on", "restart", "bisect off", "restart"]
        assert supervised.events("bisect") == []


def test_a_healthy_worker_serves_as_before_when_it_is_bisected(device: SimulatedDevice) -> None:
    with Supervised({"a": frames(device, {**SYNC, "step": "500ms", "first_step": "1s"})}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("bisect on", "a")
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        wait_until(lambda: (supervised.view("a")["steps"] or 0) > 100, what=supervised.log)
        assert bisected(supervised)["now"] == "done"
        assert supervised.view("a")["sync_seconds"]["count"] >= 3 * 100
        assert supervised.events("verdict", "a") == []
        assert not supervised.directory.joinpath("wrong").exists()


def test_so_many_hangs_that_do_not_tell_turn_it_on_until_the_next_one(device: SimulatedDevice) -> None:
    body = frames(device, restart={"bisect_after": 2, "backoff": "1ms"})
    with Supervised({"a": body}) as supervised:
        stages = [hung(supervised, 1)["stage"]]
        assert bisected(supervised) == {"now": "off", "next": None}
        second = hung(supervised, 2)
        on = supervised.wait_event("bisect", "a")
        assert (on["change"], on["reason"]) == ("on", "2 hangs whose stage does not tell where")
        assert (on["incident"], on["incarnation"]) == (second["incident"], 2)
        assert bisected(supervised) == {"now": "done", "next": "bisect_after"}
        assert "! bisected until its next hang: it synchronizes after each stage, and is slower" in shown(supervised)
        stages += [second["stage"], hung(supervised, 3)["stage"]]
        off = supervised.wait_event("bisect", "a", count=2)
        assert (off["change"], off["reason"]) == ("off", "it hung in stage plugin")
        assert stages == ["sync", "sync", "plugin"]
        assert bisected(supervised) == {"now": "off", "next": None}
        assert supervised.worker("a")["last_incident"]["stage"] == "plugin"


def test_where_only_the_step_has_a_deadline_its_verdict_has_the_stage_too(device: SimulatedDevice) -> None:
    body = frames(device, {"startup": "20s", "first_step": "5s", "step": "200ms"}, restart={"bisect_after": 1})
    with Supervised({"a": body}) as supervised:
        found = [hung(supervised, incarnation) for incarnation in (1, 2)]
        assert [(verdict["verdict"], verdict["stage"]) for verdict in found] == [("step", None), ("step", "plugin")]


def test_a_worker_that_does_not_synchronize_is_shown_as_one() -> None:
    with Supervised({"a": worker(STAMPS, deadlines=SYNC)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("bisect on", "a")
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        wait_until(lambda: (supervised.view("a")["steps"] or 0) > 10)
        assert bisected(supervised) == {"now": "asked", "next": "operator"}
        assert "but nothing in it synchronizes after a stage; see the worker API" in shown(supervised)
        verdict = hung(supervised, 2)
        assert (verdict["stage"], verdict["bisected"]) == ("sync", False)
        assert verdict["detail"].endswith("asked to synchronize after each stage, and did not")
        assert "bisected" not in supervised.worker("a")["last_incident"]


# --- kept ---


@pytest.mark.parametrize("how", ["killed", "reloaded"])
def test_the_next_supervisor_knows_of_it(device: SimulatedDevice, how: str) -> None:
    with Supervised({"a": frames(device, on_supervisor_exit="keep")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("bisect on", "a")
        supervised.wait_tick()
        _succeed(supervised, how)
        assert bisected(supervised) == {"now": "off", "next": "operator"}
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        _succeed(supervised, how)
        assert bisected(supervised) == {"now": "done", "next": "operator"}
        assert hung(supervised, 2)["stage"] == "plugin"
        assert bisected(supervised) == {"now": "done", "next": "operator"}


def _succeed(supervised: Supervised, how: str) -> None:
    if how == "reloaded":
        supervised.reload()
    else:
        supervised.stop(signal.SIGKILL)
        supervised.start()


def test_what_was_counted_and_turned_on_by_itself_is_known_to_the_next_one_too(device: SimulatedDevice) -> None:
    body = frames(device, restart={"bisect_after": 2, "backoff": "1ms"}, on_supervisor_exit="keep")
    with Supervised({"a": body}) as supervised:
        hung(supervised, 1)
        _succeed(supervised, "killed")
        hung(supervised, 2)
        assert bisected(supervised) == {"now": "done", "next": "bisect_after"}
        _succeed(supervised, "killed")
        assert hung(supervised, 3)["stage"] == "plugin"
        assert bisected(supervised) == {"now": "off", "next": None}


def test_one_adopted_without_a_memory_of_it_is_bisected_until_its_next_hang(device: SimulatedDevice) -> None:
    with Supervised({"a": frames(device, on_supervisor_exit="keep")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("bisect on", "a")
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        supervised.stop(signal.SIGKILL)
        path = supervised.runtime / "board"
        path.write_bytes(b"nonsense" + path.read_bytes()[8:])
        supervised.start()
        assert bisected(supervised) == {"now": "done", "next": "bisect_after"}
        assert hung(supervised, 2)["stage"] == "plugin"
        assert bisected(supervised) == {"now": "off", "next": None}


# --- asked ---


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ("stop", "bisect on a: from its next start on; at once: watchdogd start a"),
        ("pause", "bisect on a: from its next start on; at once: watchdogd restart a"),
    ],
)
def test_the_answer_names_what_starts_it(before: str, answer: str) -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask(before, "a")
        supervised.wait_phase("a", {"stop": "stopped", "pause": "paused"}[before])
        assert supervised.ask("bisect on", "a") == answer
        assert supervised.ask("bisect off", "a").startswith("bisect off a: from its next start on")


def test_in_quarantine_that_is_a_reset() -> None:
    with Supervised({"a": {"command": ["false"], "restart": {"backoff": "1ms", "budget": 1}}}) as supervised:
        supervised.wait_phase("a", "quarantined")
        assert supervised.ask("bisect on", "a").endswith("at once: watchdogd reset a")
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        assert supervised.ask("bisect on", "a").endswith("at once: watchdogd reset a")


def test_what_runs_so_already_needs_no_start() -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        assert supervised.ask("bisect off", "a") == "bisect off a: from its next start on, as it runs now"
