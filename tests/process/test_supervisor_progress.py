"""Progress that a worker's own code does not tell, under a real supervisor: stalls and idle ones, probes, readiness."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.endpoint import Endpoint, answers, hangs
from tests.helpers.running import Supervised, gone, wait_until, worker
from watchdogd.view import status_table
from watchdogd.view.status import collect
from watchdogd.view.status_detail import Detail

T = {"progress": "800ms", "startup": "10s"}
SERIES = {"progress_counter": "steps_total", "progress_pending": "running", "progress_interval": "100ms"}
# A program of somebody else's: it knows nothing of us.
STRANGER = {"command": ["sh", "-c", "exec sleep 600"]}
# What the driver shim would write for a program that does this.
SHIM = """
import struct
from watchdogd import abi_driver
fd = os.open(HEARTBEAT, os.O_RDWR)
def put(name, value, lane=0):
    offset = abi_driver.LANES_OFFSET + lane * abi_driver.LANE_STRIDE + abi_driver.LANE.index(name) * 8
    os.pwrite(fd, struct.pack('=Q', value), offset)
def now(): return time.monotonic_ns()
done = 0
def complete():
    global done
    done += 1
    put('completed', done); put('completed_ns', now())
def queue(): put('queued_ns', now())
def ask(): put('unready_ns', now())
os.pwrite(fd, struct.pack('=Q', now()), abi_driver.OFFSET)  # loaded_ns
def work():  # a healthy request
    queue(); ask(); time.sleep(0.01); complete()
def work_until(name):
    while not (HERE / name).exists(): work()
def ask_for_ever(while_=lambda: True):
    queue()
    while while_(): ask(); time.sleep(0.01)
work(); worker.ready()
"""


def sync(body: str, **keys: Any) -> dict[str, Any]:
    made = {"instrument": "driver", "progress": "sync", "deadlines": T, **keys}
    return worker(SHIM + body, **made)


def text(steps: int, running: int) -> str:
    return f"# TYPE steps_total counter\nsteps_total {steps}\nrunning {running}\n"


def counting(supervised: Supervised | None = None, running: int = 1) -> Any:
    """Each answer has a step more."""
    del supervised
    steps = 0

    def behave(handler: Any, over: Any) -> None:
        nonlocal steps
        steps += 1
        answers(text(steps, running))(handler, over)

    return behave


def scraped(endpoint: Endpoint, **keys: Any) -> dict[str, Any]:
    return {**STRANGER, "progress": f"metrics:{endpoint.url}", **SERIES, "deadlines": T, **keys}


def shown(supervised: Supervised, name: str = "a") -> str:
    return status_table.table(collect(str(supervised.runtime), time.monotonic_ns(), name), 400, colour=False)


def detailed(supervised: Supervised) -> str:
    view = collect(str(supervised.runtime), time.monotonic_ns(), "a")
    return status_table.table(view, 400, colour=False, detail=Detail())


def stall(supervised: Supervised, name: str = "a") -> dict[str, Any]:
    return supervised.wait_event("verdict", name, verdict="stall")


# --- the driver shim ------------------------------------------------------------------------------------------------


def test_a_program_that_asks_for_ever_after_a_hung_kernel_stalls_and_is_replaced() -> None:
    body = "work_until('go')\nif INCARNATION == 1: ask_for_ever()\nwork_until('never')"
    with Supervised({"a": sync(body)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.let_pass(1.2)
        assert supervised.events("verdict", verdict="stall") == []
        supervised.touch("go")
        verdict = stall(supervised)
        assert "a query found work undone" in verdict["detail"] and "nothing completed for" in verdict["detail"]
        took = (verdict["detected_ns"] - verdict["entered_ns"]) / 1e9
        assert 0.8 <= took < 3
        supervised.wait_phase("a", "running", 2)
        told = supervised.worker("a")
        assert (told["hangs"]["stall"], told["restarts"]) == (1, {"stall": 1})
        assert [event["signal"] for event in supervised.events("signal", "a")] == ["SIGKILL"]
        assert verdict["incident"] == supervised.events("signal", "a")[0]["incident"]


IDLE = {
    "nothing to do": "time.sleep(600)",
    "a trailing launch": "queue(); time.sleep(600)",
    "a trailing query": "queue(); ask(); time.sleep(600)",
    "a request now and then, each with a trailing launch": "\nwhile True: work(); queue(); time.sleep(0.7)",
}


def test_programs_that_are_idle_do_not_stall() -> None:
    names = {f"w{number}": idle for number, idle in enumerate(IDLE.values())}
    with Supervised({name: sync(f"work_until('go')\n{body}") for name, body in names.items()}) as supervised:
        for name in names:
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        supervised.let_pass(3)
        assert supervised.events("verdict", verdict="stall") == [] and supervised.events("near_miss") == []


def test_a_call_in_flight_with_no_deadline_of_its_own_stalls() -> None:
    body = "work_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nwork_until('never')"
    with Supervised({"a": sync(body)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        verdict = stall(supervised)
        assert verdict["detail"].startswith("a sync call in flight for ")
        assert [call["operation"] for call in verdict["also_in_flight"]] == ["sync"]
        lateness = (verdict["detected_ns"] - verdict["deadline_ns"]) / 1e9
        assert 0 <= lateness < 0.5
        supervised.wait_phase("a", "running", 2)


def test_the_word_of_a_child_that_was_killed_in_its_call_is_no_work() -> None:
    child = (
        "work_until('go')\npid = os.fork()\nif pid == 0:\n    with worker.call('sync'): tell('in'); hang()\n"
        "wait_for('kill'); os.kill(pid, 9); os.waitpid(pid, 0); tell('killed'); time.sleep(600)"
    )
    with Supervised({"a": sync(child)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_file("in")
        supervised.touch("kill")
        supervised.wait_file("killed")
        supervised.let_pass(2)
        assert supervised.events("verdict", verdict="stall") == []


def test_what_completes_before_the_kill_is_a_near_miss() -> None:
    """Its kill waits for a veto."""
    body = "work_until('go')\nask_for_ever(lambda: not (HERE / 'on').exists())\nwork_until('never')"
    veto = ["sh", "-c", "exit 75"]
    hooks = {"on_verdict": veto, "on_verdict_deadline": "1s", "veto": True, "veto_max": "8s"}
    with Supervised({"a": sync(body)}, hooks=hooks) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        incident = stall(supervised)["incident"]
        supervised.touch("on")
        near = supervised.wait_event("near_miss", "a")
        assert (near["incident"], near["operation"], near["reason"]) == (incident, "progress", "it gets on again")
        wait_until(lambda: supervised.worker("a")["last_incident"].get("outcome") == "returned")
        supervised.let_pass(1)
        assert supervised.events("signal") == [] and supervised.worker("a")["incarnation"] == 1


def test_a_worker_that_is_only_observed_is_told_of_once() -> None:
    with Supervised({"a": sync("work_until('go')\nask_for_ever()", observe_only=True)}) as supervised:
        supervised.wait_phase("a", "observed", 1)
        supervised.touch("go")
        assert stall(supervised)["would_have_killed"]
        supervised.let_pass(2)
        assert len(supervised.events("verdict", verdict="stall")) == 1 and supervised.events("signal") == []


def test_a_pause_suspends_it_and_a_resume_begins_its_time_anew() -> None:
    with Supervised({"a": sync("work_until('go')\nask_for_ever()")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("pause", "a")
        supervised.touch("go")
        supervised.let_pass(1.6)
        assert supervised.events("verdict", verdict="stall") == []
        resumed = time.monotonic_ns()
        supervised.ask("resume", "a")
        assert (stall(supervised)["detected_ns"] - resumed) / 1e9 >= 0.8


def test_a_supervisor_that_comes_back_finds_the_stall_and_none_in_an_idle_worker() -> None:
    keep = {"on_supervisor_exit": "keep"}
    stalls = sync("work_until('go')\nif INCARNATION == 1: ask_for_ever()\nwork_until('never')", **keep)
    idles = sync("work_until('go')\nqueue(); ask(); time.sleep(600)", **keep)
    supervised = Supervised({"stalls": stalls, "idles": idles})
    with supervised:
        for name in ("stalls", "idles"):
            supervised.wait_phase(name, "running", 1)
        supervised.process.kill()
        supervised.process.wait()
        supervised.touch("go")
        supervised.let_pass_alone(1.5)
        supervised.start()
        verdict = stall(supervised, "stalls")
        assert verdict["detected_ns"] - verdict["entered_ns"] >= 0.8e9  # all of it seen by this supervisor
        supervised.let_pass(1.5)
        assert supervised.events("verdict", "idles", verdict="stall") == []
        supervised.wait_phase("stalls", "running", 2)


def test_a_worker_that_has_not_loaded_the_shim_is_unknown_and_no_stall() -> None:
    with Supervised({"a": worker("serve()", instrument="driver", progress="sync", deadlines=T)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.let_pass(1.5)
        assert supervised.worker("a")["progress"]["unknown"] == "the driver shim is not loaded in it"
        assert "progress is unknown: the driver shim is not loaded in it" in shown(supervised)
        assert supervised.events("verdict", verdict="stall") == []


# --- its own metrics ------------------------------------------------------------------------------------------------


def test_a_frozen_counter_with_work_pending_is_a_stall_and_the_worker_is_replaced() -> None:
    with Endpoint(counting()) as endpoint, Supervised({"a": scraped(endpoint)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.let_pass(1.5)
        assert supervised.events("verdict", verdict="stall") == []
        endpoint.behaviour = answers(text(900, 3))
        verdict = stall(supervised)
        assert verdict["detail"].startswith("steps_total stands at 900 for ") and "with 3 pending" in verdict["detail"]
        supervised.wait_phase("a", "running", 2)
        line = f"  progress by metrics {endpoint.url}, at 900, pending: 3"
        wait_until(lambda: line in detailed(supervised), what=lambda: detailed(supervised))


@pytest.mark.parametrize(
    "after",
    [
        answers(text(900, 0)),
        answers(status=500),
        answers("steps_total 900\n"),
        answers("running 1\n"),
        answers("{\n"),
        hangs,
    ],
    ids=["idle", "500", "no gauge", "no counter", "garbage", "hangs"],
)
def test_idle_or_unknown_is_no_stall(after: Any) -> None:
    with Endpoint(counting()) as endpoint, Supervised({"a": scraped(endpoint)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        endpoint.behaviour = after
        supervised.let_pass(2)
        progress = supervised.worker("a")["progress"]
        assert supervised.events("verdict", verdict="stall") == []
        assert supervised.view("a")["progress"]["unknown"] == (progress["unknown"] or None)
        assert bool(progress["unknown"]) == (after.__name__ == "hangs" or progress["pending"] != "0"), progress
        assert ("progress is unknown" in shown(supervised)) == bool(progress["unknown"])


def test_what_was_said_before_a_worker_was_spawned_is_not_of_it() -> None:
    """The endpoint of the one before still answers, as if it were the new one's: only what is asked anew counts."""
    with Endpoint(answers(text(7, 1))) as endpoint, Supervised({"a": scraped(endpoint)}) as supervised:
        first = stall(supervised)
        second = supervised.wait_event("verdict", "a", 2, verdict="stall")
        assert second["incarnation"] == 2
        ready = supervised.events("ready", "a")[1]["ready_ns"]
        assert second["detected_ns"] - ready >= 0.8e9 and second["entered_ns"] > first["detected_ns"]


# --- probes ---------------------------------------------------------------------------------------------------------


def test_a_probe_that_fails_is_told_of_and_never_kills() -> None:
    with Endpoint(answers()) as endpoint:
        probed = {**STRANGER, "progress": endpoint.url, "progress_interval": "100ms", "deadlines": T}
        with Supervised({"a": probed}) as supervised:
            pid = supervised.wait_phase("a", "running", 1)["pid"]
            endpoint.behaviour = answers(status=503)
            verdict = stall(supervised)
            assert verdict.get("incident") is None and "answers 503" in verdict["detail"]
            supervised.let_pass(2)
            assert len(supervised.events("verdict", verdict="stall")) == 1 and supervised.events("signal") == []
            assert "its probe fails" in shown(supervised)
            endpoint.behaviour = answers()
            wait_until(lambda: "its probe fails" not in shown(supervised))
            endpoint.behaviour = answers(status=503)
            supervised.wait_event("verdict", "a", 2)  # another time
            assert supervised.worker("a")["pid"] == pid


def test_a_probe_that_fails_kills_where_it_is_told_to() -> None:
    with Endpoint(answers()) as endpoint:
        probed = {**STRANGER, "progress": endpoint.url, "progress_interval": "100ms", "progress_kills": True}
        with Supervised({"a": {**probed, "deadlines": T}}) as supervised:
            supervised.wait_phase("a", "running", 1)
            endpoint.behaviour = hangs
            assert "no answer within 0.1 s" in stall(supervised)["detail"]
            supervised.wait_phase("a", "starting", 2)
            endpoint.behaviour = answers()
            supervised.wait_phase("a", "running", 2)


def test_a_command_is_a_probe_and_is_asked_with_the_workers_variables() -> None:
    probe = {"progress": "command:sh -c 'test -e \"$PLACE/well\"'", "progress_interval": "100ms"}
    supervised = Supervised({})
    supervised._errors.close()
    directory = supervised.directory
    keys = {**STRANGER, **probe, "deadlines": T, "environment": {"PLACE": str(directory)}}
    with Supervised({"a": keys}, directory=directory) as again:
        again.wait_phase("a", "starting", 1)
        again.let_pass(0.5)
        assert again.phase("a") == "starting"
        again.touch("well")
        again.wait_phase("a", "running", 1)
        (directory / "well").unlink()
        assert "exited with status 1" in stall(again)["detail"]


# --- ready ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_never_answers_misses_its_startup() -> None:
    with Endpoint(answers(status=503)) as endpoint:
        probed = {**STRANGER, "progress": endpoint.url, "progress_interval": "100ms", "deadlines": {"startup": "600ms"}}
        with Supervised({"a": probed}) as supervised:
            assert supervised.wait_event("verdict", "a")["verdict"] == "startup"


def test_ready_after_so_long_it_counts_as_ready_and_without_it_is_late() -> None:
    late = {**STRANGER, "deadlines": {"startup": "1s"}}
    with Supervised({"a": {**late, "ready_after": "300ms"}, "b": late}) as supervised:
        event = supervised.wait_event("ready", "a")
        spawned = supervised.worker("a")["spawned_ns"]
        assert 0.3e9 <= event["ready_ns"] - spawned < 0.9e9
        assert supervised.wait_event("verdict", "b")["verdict"] == "startup"
        assert supervised.events("verdict", "a") == []


def test_a_worker_that_is_ready_before_does_not_wait_for_ready_after() -> None:
    with Supervised({"a": worker("serve()", ready_after="60s")}) as supervised:
        supervised.wait_phase("a", "running", 1)


def test_a_worker_that_starts_while_its_supervisor_is_replaced_becomes_ready() -> None:
    with Endpoint(answers(status=503)) as endpoint:
        probed = {**STRANGER, "progress": endpoint.url, "progress_interval": "100ms", "on_supervisor_exit": "keep"}
        with Supervised({"a": {**probed, "deadlines": T}}) as supervised:
            pid = supervised.wait_phase("a", "starting", 1)["pid"]
            wait_until(lambda: endpoint.asked)  # it has long said who it is
            supervised.process.kill()
            supervised.process.wait()
            supervised.start()
            assert supervised.phase("a") == "starting"
            endpoint.behaviour = answers()
            assert supervised.wait_phase("a", "running", 1)["pid"] == pid


# --- its readers ----------------------------------------------------------------------------------------------------


def reader(supervised: Supervised) -> int:
    with open(f"/proc/{supervised.process.pid}/task/{supervised.process.pid}/children", encoding="ascii") as file:
        pids = [int(word) for word in file.read().split()]
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if not gone(pid)}
    found = [pid for pid, line in lines.items() if b"watchdogd.observe.sources.progress" in line]
    return found[0] if found else 0


def test_a_reader_that_dies_is_started_again() -> None:
    with Endpoint(counting()) as endpoint, Supervised({"a": scraped(endpoint)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        first = reader(supervised)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: reader(supervised) not in (0, first))
        endpoint.behaviour = answers(text(900, 1))
        stall(supervised)


def test_a_reader_that_hangs_is_silent_and_that_is_no_stall() -> None:
    with Endpoint(counting()) as endpoint, Supervised({"a": scraped(endpoint)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        stopped = reader(supervised)
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: "its reader is silent" in shown(supervised), what=lambda: shown(supervised))
        assert supervised.events("verdict", verdict="stall") == []
        source = supervised.wait_event("source", up=False)
        assert source["source"] == "progress a"
        endpoint.behaviour = answers(text(900, 1))
        wait_until(lambda: reader(supervised) not in (0, stopped), timeout=25)
        stall(supervised)


def test_nothing_of_a_reader_is_left_after_its_supervisor() -> None:
    with Endpoint(counting()) as endpoint:
        with Supervised({"a": scraped(endpoint)}) as supervised:
            supervised.wait_phase("a", "running", 1)
            pid = reader(supervised)
        wait_until(lambda: gone(pid))
