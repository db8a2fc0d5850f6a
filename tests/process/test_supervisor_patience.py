"""What must not kill: slow, late, idle, starved, paused, watched only, or not the worker's own affair."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker

CALL = """worker.ready()
wait_for('go')
with worker.call('sync'): wait_for('return')
tell('returned')
serve()"""


def in_flight(supervised: Supervised, seconds: float, name: str = "a") -> None:
    """Until its call is so old; asks nobody but the heartbeat."""
    wait_until(lambda: (supervised.view(name)["call"] or {}).get("age_seconds", 0) > seconds, what=supervised.log)


def unharmed(supervised: Supervised, name: str = "a") -> bool:
    return supervised.worker(name)["incarnation"] == 1 and supervised.events("signal", name) == []


@contextmanager
def stopped(supervised: Supervised) -> Iterator[None]:
    """The supervisor does not run, as on a machine that stalls."""
    supervised.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: _state(supervised.process.pid) == "T")
        yield
    finally:
        supervised.process.send_signal(signal.SIGCONT)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


# --- slow ------------------------------------------------------------------------------------------------------------


def test_a_slow_call_within_its_deadline_is_nothing() -> None:
    with Supervised({"a": worker(CALL, deadlines={"sync": "10s"}, soft=0.9)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        in_flight(supervised, 0.3)
        supervised.touch("return")
        supervised.wait_file("returned")
        supervised.wait_tick()
        assert unharmed(supervised)
        body = supervised.worker("a")
        assert (body["near_misses"], body["soft_exceeded"]) == (0, 0)
        assert supervised.events("verdict") == supervised.events("near_miss") == []


def test_a_call_past_its_soft_level_is_counted_and_a_near_miss_when_it_returns() -> None:
    with Supervised({"a": worker(CALL, deadlines={"sync": "10s"}, soft=0.02)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["soft_exceeded"] == 1)
        assert supervised.worker("a")["near_misses"] == 0
        supervised.touch("return")
        near_miss = supervised.wait_event("near_miss", "a")
        assert near_miss["operation"] == "sync"
        assert near_miss["deadline_ns"] == near_miss["entered_ns"] + 10_000_000_000
        wait_until(lambda: supervised.worker("a")["near_misses"] == 1)  # published when its round is over
        assert unharmed(supervised)


# --- late ------------------------------------------------------------------------------------------------------------


def test_a_call_that_returned_while_the_supervisor_did_not_run_is_a_near_miss() -> None:
    with Supervised({"a": worker(CALL, deadlines={"sync": "500ms"}, soft=0.1)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["soft_exceeded"] == 1)
        with stopped(supervised):
            in_flight(supervised, 0.6)
            supervised.touch("return")
            supervised.wait_file("returned")
        supervised.wait_event("near_miss", "a")
        assert unharmed(supervised)
        assert supervised.events("verdict") == []


def test_a_slow_call_that_is_still_in_flight_after_a_pause_has_not_returned() -> None:
    with Supervised({"a": worker(CALL, deadlines={"sync": "2s"}, soft=0.05)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["soft_exceeded"] == 1)
        supervised.ask("pause", "a")
        supervised.ask("resume", "a")
        supervised.wait_phase("a", "running")
        wait_until(lambda: supervised.worker("a")["soft_exceeded"] == 2)  # judged anew
        assert supervised.events("near_miss") == []
        supervised.touch("return")
        supervised.wait_event("near_miss", "a")


def test_a_late_watcher_looks_again_before_it_condemns_whatever_wakes_it_meanwhile() -> None:
    often = worker("serve()", deadlines={"sync": "10s"}, soft=0.002)
    with Supervised({"a": worker(CALL, deadlines={"sync": "500ms"}), "often": often}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.wait_phase("often", "running")
        supervised.touch("go")
        in_flight(supervised, 0)
        with stopped(supervised):
            in_flight(supervised, 1.0)
        for _ in range(3):
            supervised.wait_tick()
        supervised.touch("return")
        supervised.wait_event("near_miss", "a")
        assert unharmed(supervised)


def test_a_late_watcher_condemns_a_call_that_still_stands_after_that() -> None:
    with Supervised({"a": worker(CALL, deadlines={"sync": "200ms"})}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        in_flight(supervised, 0)
        with stopped(supervised):
            in_flight(supervised, 0.4)
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["detected_ns"] - verdict["deadline_ns"] > 200_000_000
        supervised.wait_event("gone", "a")


@pytest.mark.parametrize("phase", [0.05, 0.3, 0.55], ids=["early", "between two looks", "past its soft level"])
def test_a_standstill_of_the_whole_machine_is_no_time_of_the_worker_s_whenever_it_begins(phase: float) -> None:
    body = """serve_until('go')
with worker.call('sync'):
    for _ in range(140): time.sleep(0.005)
tell('returned')
serve()"""
    with Supervised({"a": worker(body, deadlines={"sync": "1s"})}) as supervised:
        pid = int(supervised.wait_phase("a", "running")["pid"])
        supervised.touch("go")
        in_flight(supervised, phase)
        with stopped(supervised):
            os.kill(pid, signal.SIGSTOP)
            supervised.let_pass_alone(0.5)
            os.kill(pid, signal.SIGCONT)
        supervised.wait_file("returned")
        supervised.wait_event("near_miss", "a")
        assert unharmed(supervised)
        assert supervised.events("verdict") == []


def test_a_call_that_returns_between_its_verdict_and_its_kill_is_a_near_miss() -> None:
    workers = {
        "a": worker("serve_until('first')\nwith worker.call('sync'): hang()", deadlines={"sync": "80ms"}),
        "b": worker(CALL, deadlines={"sync": "80ms"}),
    }
    with Supervised(workers, supervisor={"max_kills": 1, "max_kills_window": "1m"}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.wait_phase("b", "running")
        supervised.touch("first")
        supervised.wait_event("gone", "a")
        supervised.ask("stop", "a")
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "b")
        wait_until(lambda: "kills in" in (supervised.worker("b")["held"] or ""))
        supervised.touch("return")
        near_miss = supervised.wait_event("near_miss", "b")
        assert near_miss["incident"] == verdict["incident"]
        wait_until(lambda: supervised.worker("b")["held"] is None)
        assert unharmed(supervised, "b")
        assert supervised.phase("b") == "running"


def test_a_call_that_returns_after_its_kill_was_decided_is_not_killed() -> None:
    """All verdicts come in one tick: the last one's call ends with the death of the first, just before its own turn."""
    freeze = """wait_for('go')
culprit = os.pidfd_open(int((HERE / 'go').read_text()))
poller = select.poll()
poller.register(culprit)
with worker.call('sync'):
    tell('in')
    poller.poll()
tell('returned')
serve()"""
    # To start all of them takes a second where the machine is busy.
    hanging = {"command": ["sleep", "60"], "deadlines": {"startup": "2s"}, "autostart": False}
    between = {f"between{number}": hanging for number in range(60)}
    last = worker(f"import select\nworker.ready()\n{freeze}", deadlines={"sync": "2s"})
    workers = {"first": hanging, **between, "last": last}
    with Supervised(workers, supervisor={"max_kills": 99, "realtime_priority": 0}) as supervised:
        supervised.wait_phase("last", "running")
        for name in ("first", *between):
            supervised.ask("start", name)
        supervised.wait_phase("between59", "starting")
        write = supervised.directory / "pid"
        write.write_text(str(supervised.worker("first")["pid"]))
        write.rename(supervised.directory / "go")
        supervised.wait_file("in")
        with stopped(supervised):
            in_flight(supervised, 2.1, "last")
        verdict = supervised.wait_event("verdict", "last")
        decided = supervised.wait_event("phase", "last", phase="killing")
        assert decided["incident"] == verdict["incident"]
        near_miss = supervised.wait_event("near_miss", "last")
        assert (near_miss["incident"], near_miss["reason"][:26]) == (verdict["incident"], "returned after its verdict")
        supervised.wait_phase("last", "running")
        assert unharmed(supervised, "last")
        for name in ("first", *between):  # whose word stood
            assert supervised.wait_event("signal", name)["signal"] == "SIGKILL"


# --- starved ---------------------------------------------------------------------------------------------------------


def test_a_call_that_the_machine_did_not_let_run_is_not_a_hang() -> None:
    body = """serve_until('go')
with worker.call('sync'):
    enough = time.thread_time() + 0.15
    while time.thread_time() < enough: pass
tell('returned')
serve()"""
    cpu = max(os.sched_getaffinity(0))
    starved = worker(body, deadlines={"sync": "250ms"}, cpu_affinity=[cpu])
    spin = f"import os\nos.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
    with Supervised({"a": starved}) as supervised:
        supervised.wait_phase("a", "running")
        # In sessions of their own: where the kernel groups by session, each takes as much as the worker.
        spinners = [subprocess.Popen([sys.executable, "-c", spin], start_new_session=True) for _ in range(8)]
        try:
            wait_until(lambda: all(os.sched_getaffinity(spinner.pid) == {cpu} for spinner in spinners))
            supervised.touch("go")
            in_flight(supervised, 0.7)
        finally:
            for spinner in spinners:
                spinner.kill()
                spinner.wait()
        supervised.wait_file("returned")
        supervised.wait_tick()
        assert unharmed(supervised)
        assert supervised.events("verdict") == []


# --- idle, watched only ----------------------------------------------------------------------------------------------


def test_an_idle_worker_is_left_alone() -> None:
    deadlines = {"first_step": "50ms", "step": "50ms", "sync": "50ms"}
    with Supervised({"a": worker("worker.ready(); hang()", deadlines=deadlines)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.let_pass(0.6)
        assert unharmed(supervised)
        assert supervised.events("verdict") == supervised.events("near_miss") == []


@pytest.mark.parametrize("where", ["worker", "supervisor"])
def test_a_worker_that_is_only_observed_gets_every_verdict_and_no_signal(where: str) -> None:
    own = {"observe_only": True} if where == "worker" else {}
    supervisor = {"observe_only": True} if where == "supervisor" else {}
    with Supervised({"a": worker(CALL, deadlines={"sync": "80ms"}, **own)}, supervisor=supervisor) as supervised:
        pid = supervised.wait_phase("a", "observed")["pid"]
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["would_have_killed"]) == ("call", True)
        assert supervised.worker("a")["would_have_killed"] == 1
        supervised.touch("return")
        supervised.wait_event("near_miss", "a")
        assert unharmed(supervised)
        assert supervised.worker("a")["pid"] == pid
        assert not gone(pid)


def test_a_hang_that_is_only_observed_does_not_hide_another() -> None:
    body = """serve_until('go')
def stuck():
    with worker.call('alloc'): hang()
threading.Thread(target=stuck, daemon=True).start()
wait_for('second')
with worker.call('sync'): wait_for('return')
tell('returned')
serve()"""
    deadlines = {"sync": "80ms", "alloc": "80ms"}
    with Supervised({"a": worker(body, deadlines=deadlines, observe_only=True)}) as supervised:
        supervised.wait_phase("a", "observed")
        supervised.touch("go")
        first = supervised.wait_event("verdict", "a", operation="alloc")
        supervised.touch("second")
        second = supervised.wait_event("verdict", "a", operation="sync")
        assert second["incident"] != first["incident"]
        supervised.touch("return")
        assert supervised.wait_event("near_miss", "a")["incident"] == second["incident"]
        supervised.let_pass(0.2)
        assert len(supervised.events("verdict")) == 2  # each once
        assert supervised.worker("a")["would_have_killed"] == 2
        assert unharmed(supervised)


def test_an_observed_worker_that_is_never_ready_is_not_signalled_either() -> None:
    with Supervised({"a": worker("hang()", deadlines={"startup": "400ms"}, observe_only=True)}) as supervised:
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["would_have_killed"]) == ("startup", True)
        supervised.let_pass(0.2)
        assert unharmed(supervised)
        assert len(supervised.events("verdict")) == 1


# --- descendants -----------------------------------------------------------------------------------------------------

DESCENDANT = """serve_until('go')
child = os.fork()
if child == 0:
    with worker.call('sync'):
        tell('entered')
        wait_for('end')
        {end}
{parent}
serve()"""


@pytest.mark.parametrize("parent", ["os.waitpid(child, 0)", "pass  # a zombie stays"], ids=["reaped", "zombie"])
def test_a_descendant_that_ended_in_a_call_does_not_condemn_the_worker(parent: str) -> None:
    body = DESCENDANT.format(end="os.kill(os.getpid(), signal.SIGKILL)", parent=parent)
    with Supervised({"a": worker(body, deadlines={"sync": "250ms"})}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        supervised.wait_file("entered")
        supervised.touch("end")
        wait_until(lambda: (supervised.view("a")["call"] or {}).get("age_seconds", 0) > 0.5)  # its word stays
        supervised.wait_tick()
        assert unharmed(supervised)


def test_a_thread_that_ended_in_a_call_does_not_condemn_the_worker() -> None:
    body = """import ctypes
serve_until('go')
def leave():
    worker.call('sync').__enter__()
    ctypes.CDLL(None).pthread_exit(None)
threading.Thread(target=leave, daemon=True).start()
serve()"""
    with Supervised({"a": worker(body, deadlines={"sync": "100ms"})}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        supervised.let_pass(0.5)
        assert unharmed(supervised), json.dumps(supervised.events("verdict"))


def test_a_descendant_that_hangs_in_a_call_is_the_worker_s_hang() -> None:
    body = DESCENDANT.format(end="hang()", parent="pass")
    with Supervised({"a": worker(body, deadlines={"sync": "150ms"})}) as supervised:
        root = supervised.wait_phase("a", "running")["pid"]
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["pid"] != root
        supervised.wait_event("gone", "a")
        assert gone(root)
        assert gone(verdict["pid"])
