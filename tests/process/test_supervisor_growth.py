"""Workers that hold more and more under a real supervisor: told of, and replaced in order where that is configured."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from tests.simulator.control import SimulatedDevice
from watchdogd.view import status_table
from watchdogd.view.status import collect

RULE: dict[str, Any] = {"baseline": "1s", "factor": 1, "memory": "1MiB", "descriptors": 16, "threads": 8}
QUICK = """import sys
from watchdogd import cli
from watchdogd.supervisor import tick
tick.HOUSEKEEPING_NS = 100_000_000
sys.exit(cli.main())"""
# Each frame takes a little more, from ``go`` on.
LEAK = """
held = []
def take(): {take}
def waits(): threading.Event().wait()
worker.ready()
while True:
    if INCARNATION == 1 and (HERE / 'go').exists(): take()
    frame()"""
MEMORY = LEAK.format(take="held.append(b'x' * 65536)")
DESCRIPTORS = LEAK.format(take="held.append(os.dup(0))")
THREADS = LEAK.format(take="len(held) < 400 and (held.append(0), threading.Thread(target=waits, daemon=True).start())")
LEAKS = {"memory": MEMORY, "descriptors": DESCRIPTORS, "threads": THREADS}


class Watching(Supervised):
    """Looks ten times a second, instead of twice, where the first hour is a second."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", QUICK, "run", "-c", str(self.config)]


def fleet(**rule: Any) -> dict[str, dict[str, Any]]:
    """A worker that leaks each resource, called by its name, and one that does not."""
    bodies = {**LEAKS, "healthy": "serve()"}
    return {name: worker(body, growth={**RULE, **rule}) for name, body in bodies.items()}


def measured(supervised: Supervised, *names: str) -> None:
    """Until the first hours are over."""

    def over() -> bool:
        views = [supervised.view(name)["growth"] for name in names]
        return all(view and all(course["measured"] for course in view.values()) for view in views)

    wait_until(over, what=lambda: [supervised.view(name) for name in names])


def table(supervised: Supervised) -> str:
    return status_table.table(collect(str(supervised.runtime), time.monotonic_ns()), 400, colour=False)


def test_a_worker_that_leaks_is_told_of_and_one_that_does_not_is_not_and_nobody_is_ended() -> None:
    observed = worker(DESCRIPTORS, growth={**RULE, "leak": True}, observe_only=True)
    with Watching({**fleet(), "observed": observed}) as supervised:
        names = (*LEAKS, "healthy", "observed")
        measured(supervised, *names)
        assert supervised.events("growth") == [] and "more and more" not in table(supervised)
        pids = {name: supervised.worker(name)["pid"] for name in names}
        supervised.touch("go")
        for resource in LEAKS:
            event = supervised.wait_event("growth", resource, resource=resource)
            assert event["value"] > event["baseline"] > 0 and event["incarnation"] == event["times"] == 1
            wait_until(lambda name=resource: supervised.view(name)["growth"][name]["stands"])  # type: ignore[misc]  # bound
            supervised.wait_event("growth", resource, resource=resource, times=2)  # a leak, had it been configured
        assert f"! holds more and more: {event['resource']} " in table(supervised)
        verdict = supervised.wait_event("verdict")
        assert (verdict["worker"], verdict["verdict"], verdict["would_have_killed"]) == ("observed", "leak", True)
        supervised.let_pass(0.6)  # three more looks
        assert len(supervised.events("verdict")) == 1 and supervised.events("signal") == []
        assert supervised.events("growth", "healthy") == []
        assert {name: supervised.worker(name)["pid"] for name in pids} == pids


def test_a_leak_is_ended_in_order_and_replaced_where_that_is_configured() -> None:
    orderly = "signal.signal(signal.SIGTERM, lambda *_: (tell('{name}.ended'), sys.exit(0)))\n"
    rule = {**RULE, "leak": True}
    workers = {name: worker(orderly.format(name=name) + leak, growth=rule) for name, leak in LEAKS.items()}
    workers["healthy"] = worker("serve()", growth=rule)
    ignoring = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    workers["stubborn"] = worker(ignoring + DESCRIPTORS, growth=rule, stop_timeout="200ms")
    with Watching(workers) as supervised:
        measured(supervised, *workers)
        healthy = supervised.worker("healthy")["pid"]
        supervised.touch("go")
        for name in LEAKS:
            supervised.wait_phase(name, "running", 2)
            supervised.wait_file(f"{name}.ended")  # by itself, when it was asked to
            verdict = supervised.wait_event("verdict", name)
            assert verdict["verdict"] == "leak" and f"{name} " in verdict["detail"]
            assert [event["signal"] for event in supervised.events("signal", name)] == ["SIGTERM"]
            warned = supervised.events("growth", name)[0]
            assert warned["times"] == 1 and warned["seq"] < verdict["seq"]
            wait_until(lambda name=name: "outcome" in supervised.worker(name)["last_incident"], what=supervised.log)  # type: ignore[misc]  # bound
            replaced = supervised.worker(name)
            assert replaced["last_incident"]["outcome"] == "recovered"
            assert (replaced["restarts"], replaced["budget_left"]) == ({"leak": 1}, 5)
        supervised.wait_phase("stubborn", "running", 2)
        assert [event["signal"] for event in supervised.events("signal", "stubborn")] == ["SIGTERM", "SIGKILL"]
        assert supervised.worker("healthy")["pid"] == healthy
        assert supervised.events("growth", "healthy") == supervised.events("signal", "healthy") == []


def test_one_that_leaks_waits_for_its_peer_and_a_hang_meanwhile_is_found() -> None:
    hangs = """
    if INCARNATION == 1 and (HERE / 'hang').exists():
        with worker.call('sync'): hang()"""
    leaks = {"growth": {**RULE, "leak": True}}
    workers = {
        "a": worker(DESCRIPTORS, redundancy="one", **leaks),
        "b": worker("serve()", redundancy="one"),
        "c": worker(DESCRIPTORS + hangs, redundancy="two", deadlines={"sync": "200ms"}, **leaks),
        "d": worker("serve()", redundancy="two"),
    }
    with Watching(workers) as supervised:
        measured(supervised, "a", "c")
        for peer in ("b", "d"):
            supervised.ask("stop", peer)
            supervised.wait_phase(peer, "stopped")
        supervised.touch("go")
        for name, peer in (("a", "b"), ("c", "d")):
            supervised.wait_event("growth", name, times=2)
            waits = f"it leaks, and is replaced once {peer} of its redundancy group serves"
            wait_until(lambda name=name, waits=waits: supervised.worker(name)["note"] == waits)  # type: ignore[misc]  # bound
        supervised.let_pass(1.0)
        assert supervised.events("verdict") == [] and supervised.worker("a")["incarnation"] == 1
        supervised.touch("hang")
        assert supervised.wait_event("verdict", "c")["verdict"] == "call"
        supervised.wait_phase("c", "running", 2)
        supervised.ask("start", "b")
        supervised.wait_phase("a", "running", 2)
        ready = supervised.wait_event("ready", "b", incarnation=2)
        assert ready["seq"] < supervised.wait_event("verdict", "a")["seq"]


HANGS_AND = """
    if INCARNATION == 1 and (HERE / 'hang').exists():
        with worker.call('sync'): hang()"""


def test_a_leak_whose_end_is_vetoed_hides_no_hang() -> None:
    leaks = worker(DESCRIPTORS + HANGS_AND, deadlines={"sync": "200ms"}, growth={**RULE, "leak": True})
    hook = 'test "$WATCHDOGD_VERDICT" != leak || exit 75'
    hooks = {"on_verdict": ["sh", "-c", hook], "on_verdict_deadline": "5s", "veto": True, "veto_max": "30s"}
    with Watching({"a": leaks}, hooks=hooks) as supervised:
        measured(supervised, "a")
        supervised.touch("go")
        wait_until(lambda: "vetoed" in (supervised.worker("a")["held"] or ""), what=supervised.log)
        supervised.touch("hang")
        supervised.wait_phase("a", "running", 2)
        assert [event["verdict"] for event in supervised.events("verdict", "a")] == ["leak", "call"]
        assert [event["signal"] for event in supervised.events("signal", "a")] == ["SIGKILL"]


def test_leaks_that_end_in_order_hold_no_kill() -> None:
    hangs = worker("worker.ready()\nwhile True:" + HANGS_AND + "\n    frame()", deadlines={"sync": "200ms"})
    workers = {**fleet(leak=True), "hangs": hangs}
    with Watching(workers, supervisor={"max_kills": 3, "max_kills_window": "1h"}) as supervised:
        measured(supervised, *LEAKS)
        supervised.touch("go")
        for name in LEAKS:
            supervised.wait_phase(name, "running", 2)
        supervised.touch("hang")
        supervised.wait_phase("hangs", "running", 2)
        assert supervised.wait_event("verdict", "hangs").get("held") is None


@pytest.mark.parametrize("how", ["killed", "reloaded"])
def test_the_first_hour_of_an_adopted_worker_is_not_begun_anew(how: str) -> None:
    rule = {**RULE, "baseline": "2s"}
    with Watching({"a": worker(DESCRIPTORS, growth=rule, on_supervisor_exit="keep")}) as supervised:
        measured(supervised, "a")
        before = supervised.worker("a")["growth"]["descriptors"]
        if how == "killed":
            supervised.stop(signal.SIGKILL)
            supervised.start()
        else:
            supervised.reload()
        after = supervised.worker("a")["growth"]["descriptors"]
        assert {key: after[key] for key in ("since_ns", "most", "looks")} == {
            key: before[key] for key in ("since_ns", "most", "looks")
        }
        supervised.touch("go")
        assert supervised.wait_event("growth", "a")["baseline"] == before["most"]


def test_descendants_are_looked_at_too_wherever_they_went() -> None:
    body = """import subprocess
program = 'import os, time; held = [os.dup(0) for _ in range(100)]; time.sleep(60)'
child = subprocess.Popen([sys.executable, '-c', program])
tell('child', child.pid)
serve()"""
    with Watching({"a": worker(body, growth=RULE)}) as supervised:
        child = int(supervised.wait_file("child"))
        measured(supervised, "a")
        wait_until(lambda: supervised.view("a")["growth"]["descriptors"]["now"] > 100, what=supervised.log)
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: supervised.view("a")["growth"]["descriptors"]["now"] < 100, what=supervised.log)
        assert not gone(supervised.worker("a")["pid"])


SILENT_READER = """import json, os, sys, time
while True:
    print(json.dumps({'accelerator': 'gpu0', 'load_ratio': 0.5}))
    path = os.environ['HERE'] + '/device'
    if os.path.exists(path): print(open(path).read())
    sys.stdout.flush()
    time.sleep(0.1)"""
ALLOCATES = """
from watchdogd.worker import cuda
with cuda.Context() as context:
    held = [context.alloc(2 << 20)]
    worker.ready()
    while True:
        if INCARNATION == 1 and (HERE / 'go').exists() and LEAKS: held.append(context.alloc(65536))
        frame()"""


def test_a_worker_that_leaks_a_devices_memory_is_replaced_and_one_beside_it_is_not(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    with SimulatedDevice(tmp_path / "device") as device:
        workers = {
            name: worker(
                ALLOCATES.replace("LEAKS", str(name == "leaks")), environment=device.environment(name),
                accelerator="gpu0", growth={**RULE, "leak": True},
            )
            for name in ("leaks", "healthy")
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.simulator.nvml", str(device.path)]
        with Watching(workers, nvml={"command": command}) as supervised:

            def is_measured(name: str) -> bool:
                return bool(supervised.view(name)["growth"].get("device_memory", {}).get("measured"))

            wait_until(lambda: is_measured("leaks") and is_measured("healthy"), what=supervised.log)
            assert supervised.view("leaks")["growth"]["device_memory"]["most"] == 2 << 20
            healthy = supervised.worker("healthy")["pid"]
            supervised.touch("go")
            assert "device memory " in supervised.wait_event("verdict", "leaks", verdict="leak")["detail"]
            supervised.wait_phase("leaks", "running", 2)
            assert supervised.worker("healthy")["pid"] == healthy
            assert supervised.events("growth", "healthy") == []


def test_what_is_unknown_of_a_devices_memory_is_not_zero() -> None:
    command = [sys.executable, "-c", SILENT_READER]
    with Watching({"a": worker("serve()", growth=RULE)}, nvml={"command": command}) as supervised:
        measured(supervised, "a")
        pid = supervised.worker("a")["pid"]
        assert "device_memory" not in supervised.view("a")["growth"]

        def holds(**bytes_by_pid: int | None) -> None:
            part = supervised.directory / ".device"
            part.write_text(json.dumps({"memory_bytes": bytes_by_pid}))
            part.rename(supervised.directory / "device")

        holds(**{str(pid): 5 << 20, "1": 7 << 20})
        wait_until(lambda: supervised.view("a")["growth"].get("device_memory", {}).get("now") == 5 << 20)
        holds(**{str(pid): None})
        wait_until(lambda: supervised.view("a")["growth"]["device_memory"]["now"] is None)
