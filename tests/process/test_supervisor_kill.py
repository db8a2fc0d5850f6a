"""Kills: all of the worker, only the worker, and what is done when SIGKILL does not take."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from tests.process.conftest import Freezer

DEADLINES = {"sync": "100ms"}
HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): tell('in'); hang()\nserve()"
FAMILY = """import subprocess
def program(name):
    return f"import os, time; open({str(HERE)!r} + '/{name}.part', 'w').write(str(os.getpid()));" \\
           f" os.rename({str(HERE)!r} + '/{name}.part', {str(HERE)!r} + '/{name}'); time.sleep(60)"
def child(name, **keys):
    return subprocess.Popen([sys.executable, "-c", program(name)], **keys)
if INCARNATION == 1:
    child("child")
    child("session", start_new_session=True)
    if os.fork() == 0:  # a daemon: its parent is gone
        child("daemon", start_new_session=True)
        os._exit(0)
"""
FAMILY_NAMES = ("child", "session", "daemon")


def family(supervised: Supervised) -> list[int]:
    pids = [int(supervised.wait_file(name)) for name in FAMILY_NAMES]
    assert not any(gone(pid) for pid in pids)
    return pids


@pytest.mark.parametrize("ending", ["hang", "crash", "stop"])
def test_descendants_end_with_the_worker_whatever_session_they_are_in(ending: str) -> None:
    body = FAMILY + (HANG.replace("tell('in'); hang()", "os._exit(1)") if ending == "crash" else HANG)
    with Supervised({"a": worker(body, deadlines=DEADLINES), "b": worker(FAMILY_OF_B)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        pids = family(supervised)
        bystander = int(supervised.wait_file("b-daemon"))
        if ending == "stop":
            supervised.ask("stop", "a")
        else:
            supervised.touch("go")
        supervised.wait_event("gone", "a", incarnation=1)
        assert all(gone(pid) for pid in pids)
        assert not gone(bystander)  # another worker's orphan


FAMILY_OF_B = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        tell("b-daemon", os.getpid())
        hang()
    os._exit(0)
serve()"""


def test_an_orphan_without_the_worker_s_environment_does_not_outlive_the_supervisor() -> None:
    body = """import subprocess
if os.fork() == 0:
    program = "import os, sys, time; open(sys.argv[1] + '.part', 'w').write(str(os.getpid()));" \\
              "os.rename(sys.argv[1] + '.part', sys.argv[1]); time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", program, str(HERE / "bare")], env={}, start_new_session=True)
    os._exit(0)
serve()"""
    with Supervised({"a": worker(body)}) as supervised:
        pid = int(supervised.wait_file("bare"))
        supervised.wait_phase("a", "running")
        supervised.stop()
        assert gone(pid)


def test_sigterm_comes_once_and_its_handler_may_take_its_time() -> None:
    body = """terms = []
signal.signal(signal.SIGTERM, lambda *_: terms.append(time.monotonic()))
worker.ready()
while not terms: time.sleep(0.002)
wait_for("enough")
tell("terms", len(terms))"""
    with Supervised({"a": worker(body, stop_timeout="20s")}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.ask("stop", "a")
        supervised.wait_event("signal", "a", signal="SIGTERM")
        assert supervised.phase("a") == "terminating"
        supervised.touch("enough")
        assert supervised.wait_file("terms") == "1"
        supervised.wait_phase("a", "stopped")
        assert [event["signal"] for event in supervised.events("signal", "a")] == ["SIGTERM"]


def test_a_worker_that_ignores_sigterm_is_killed_after_its_stop_timeout() -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()"
    with Supervised({"a": worker(body, stop_timeout="300ms")}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        term, kill = supervised.events("signal", "a")
        assert (term["signal"], kill["signal"]) == ("SIGTERM", "SIGKILL")
        assert 300_000_000 <= kill["monotonic_ns"] - term["monotonic_ns"] < 2_000_000_000


def test_all_hung_workers_are_killed_not_only_the_first() -> None:
    workers = {f"w{number}": worker(HANG, deadlines=DEADLINES) for number in range(4)}
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        for name in workers:
            supervised.wait_phase(name, "running", 2)
            assert len(supervised.events("signal", name)) == 1
        assert all(event["pid"] > 0 for event in supervised.events("signal"))


def test_no_more_workers_are_killed_than_the_cap_allows_and_the_rest_is_held_and_shown() -> None:
    """SIGSTOPped across the deadlines, the supervisor finds all of them in one tick."""
    workers = {f"w{number}": worker(HANG, deadlines=DEADLINES) for number in range(4)}
    with Supervised(workers, supervisor={"max_kills": 2, "max_kills_window": "2s"}) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.process.send_signal(signal.SIGSTOP)
        supervised.touch("go")
        wait_until(lambda: all((supervised.view(name)["call"] or {}).get("age_seconds", 0) > 0.3 for name in workers))
        supervised.process.send_signal(signal.SIGCONT)
        supervised.wait_event("verdict", count=4)
        wait_until(lambda: sum(item["held"] is not None for item in supervised.snapshot()["workers"]) == 2)
        assert len(supervised.events("signal")) == 2
        for name in workers:
            supervised.wait_phase(name, "running", 2)
        kills = [event["monotonic_ns"] for event in supervised.events("signal")]
        assert len(kills) == 4
        assert kills[2] - kills[0] > 1_900_000_000


# --- SIGKILL does not take -------------------------------------------------------------------------------------------

GRACE = {"kill_grace": "300ms"}


@pytest.fixture
def stuck(freezer: Freezer) -> Iterator[tuple[Supervised, Freezer, int]]:
    """Worker a hangs in state D, unkillable; b and its deadlines are as ever."""
    workers = {
        "a": worker(HANG, deadlines={"sync": "1s"}, accelerator="dla0"),
        "b": worker(HANG.replace("'go'", "'go b'"), deadlines=DEADLINES, accelerator="gpu0"),
    }
    with Supervised(workers, supervisor=GRACE) as supervised:
        try:
            pid = supervised.wait_phase("a", "running", 1)["pid"]
            supervised.wait_phase("b", "running", 1)
            supervised.touch("go")
            supervised.wait_file("in")
            freezer.freeze(pid)
            yield supervised, freezer, pid
        finally:
            freezer.thaw()


def test_an_unkillable_worker_is_shown_and_stops_nobody_else(stuck: tuple[Supervised, Freezer, int]) -> None:
    supervised, freezer, pid = stuck
    body = supervised.wait_phase("a", "unkillable")
    assert (body["pid"], body["incarnation"]) == (pid, 1)
    blocked = [item["blocked_by"] for item in supervised.snapshot()["accelerators"] if item["name"] == "dla0"]
    assert blocked == ["a"]
    supervised.touch("go b")  # the other one is watched as before, and replaced
    supervised.wait_phase("b", "running", 2)
    supervised.let_pass(0.3)
    assert supervised.phase("a") == "unkillable"
    assert supervised.worker("a")["incarnation"] == 1  # no successor beside it
    freezer.thaw()
    supervised.wait_phase("a", "running", 2)
    assert gone(pid)


def test_an_unkillable_worker_costs_the_supervisor_nothing(stuck: tuple[Supervised, Freezer, int]) -> None:
    supervised, _, _ = stuck
    supervised.wait_phase("a", "unkillable")
    before = _cpu_seconds(supervised.process.pid)
    supervised.let_pass(1.0)
    assert _cpu_seconds(supervised.process.pid) - before < 0.3


def test_an_unkillable_worker_does_not_keep_the_supervisor_from_ending(stuck: tuple[Supervised, Freezer, int]) -> None:
    supervised, freezer, pid = stuck
    supervised.wait_phase("a", "unkillable")
    assert supervised.stop() == 0
    assert not gone(pid)
    freezer.thaw()
    wait_until(lambda: gone(pid))


def test_a_worker_stopped_while_its_kill_was_pending_is_not_restarted(stuck: tuple[Supervised, Freezer, int]) -> None:
    supervised, freezer, pid = stuck
    supervised.wait_phase("a", "unkillable")
    supervised.ask("stop", "a")
    freezer.thaw()
    supervised.wait_phase("a", "stopped")
    supervised.let_pass(0.3)
    body = supervised.worker("a")
    assert (body["phase"], body["incarnation"]) == ("stopped", 1)
    assert gone(pid)


def test_an_exit_that_is_seen_together_with_the_end_of_its_grace_is_no_unkillable_worker(
    freezer: Freezer,
) -> None:
    hanging = worker(HANG, deadlines={"sync": "1s"})
    with Supervised({"a": hanging}, supervisor={"kill_grace": "1s"}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.touch("go")
        supervised.wait_file("in")
        freezer.freeze(pid)
        killing = supervised.wait_phase("a", "killing")
        supervised.process.send_signal(signal.SIGSTOP)
        freezer.thaw()
        wait_until(lambda: gone(pid))
        wait_until(lambda: time.monotonic_ns() > killing["phase_since_ns"] + 1_200_000_000)
        supervised.process.send_signal(signal.SIGCONT)
        supervised.wait_phase("a", "running", 2)
        assert supervised.events("phase", "a", phase="unkillable") == [], json.dumps(supervised.events("phase"))


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its reaped children's too
