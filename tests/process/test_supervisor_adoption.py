"""Workers outlive their supervisor, and the next one goes on with them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from watchdogd import abi
from watchdogd.publish import board

DEADLINES = {"startup": "20s", "step": "400ms", "sync": "200ms"}
SYNC_NS = 200_000_000
SERVE = "serve()"
HANG_AT_GO = "serve_until('go')\nwith worker.call('sync'): hang()"


def kept(body: str = SERVE, **keys: Any) -> dict[str, Any]:
    return worker(body, on_supervisor_exit="keep", **{"deadlines": DEADLINES, **keys})


@contextmanager
def supervised(*bodies: dict[str, Any], **tables: Any) -> Iterator[Supervised]:
    """One supervisor with workers a, b, ...; its end is orderly, whoever came in between."""
    with Supervised(dict(zip("abcdef", bodies, strict=False)), **tables) as running:
        yield running


def killed(running: Supervised) -> None:
    running.stop(signal.SIGKILL)


def test_a_worker_outlives_its_supervisor_and_is_adopted_unharmed() -> None:
    with supervised(kept()) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        steps = running.view("a")["steps"]
        killed(running)
        assert not gone(pid)
        running.start()
        body = running.wait_phase("a", "running", 1)
        assert (body["pid"], body["incarnation"], body["restarts"]) == (pid, 1, {})
        wait_until(lambda: running.view("a")["steps"] > steps)
        adopted = running.wait_event("supervisor", change="adopted")
        assert (adopted["workers"], adopted["problems"]) == (["a"], [])
        assert running.events("verdict") == running.events("gone") == []


def test_a_worker_that_is_not_to_outlive_its_supervisor_is_started_again_without_a_restart_of_its_own() -> None:
    with supervised(worker(SERVE, deadlines=DEADLINES)) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        killed(running)
        wait_until(lambda: gone(pid))
        running.start()
        body = running.wait_phase("a", "running", 2)
        assert body["budget_left"] == 5
        assert running.events("verdict") == []


def test_an_adopted_worker_that_hangs_is_killed_and_replaced() -> None:
    with supervised(kept(HANG_AT_GO), kept()) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        other = running.wait_phase("b", "running", 1)["pid"]
        killed(running)
        running.start()
        running.wait_phase("a", "running", 1)
        running.touch("go")
        assert running.wait_event("gone", "a")["exit"] == "exited (status unknown)"
        assert gone(pid)
        running.wait_phase("a", "running", 2)  # and hangs again, for ever: "go" stays
        assert running.wait_event("verdict", "a")["pid"] == pid
        assert running.worker("b")["pid"] == other


def test_a_worker_that_hung_while_nobody_watched_is_found_in_the_first_tick() -> None:
    with supervised(kept(HANG_AT_GO)) as running:
        running.wait_phase("a", "running", 1)
        killed(running)
        running.touch("go")
        running.let_pass_alone(0.3)
        running.start()
        verdict = running.wait_event("verdict", "a")
        adopted = running.wait_event("supervisor", change="adopted")
        doubt_ns = SYNC_NS if running.stall_ns() else 0  # it took more than ``memory.RESTART_NS`` to start
        assert verdict["detected_ns"] - adopted["monotonic_ns"] < 50_000_000 + doubt_ns
        assert verdict["detected_ns"] - verdict["deadline_ns"] > 100_000_000


# --- a stall that ended the supervisor too --------------------------------------------------------------------------

IN_A_CALL = "worker.ready()\nwith worker.call('sync'):\n    tell('in')\n    wait_for('done')\nserve()"
LONG_CALL = kept(IN_A_CALL, deadlines={"startup": "20s", "sync": "1s"})


def stood_still(running: Supervised, *, with_worker: bool = True) -> int:
    """The supervisor, in the middle of a worker's call and longer than its deadline. The worker's pid."""
    pid = int(running.wait_phase("a", "running", 1)["pid"])
    running.wait_file("in")
    running.wait_tick()
    for each in (running.process.pid, *([pid] if with_worker else ())):
        os.kill(each, signal.SIGSTOP)
    running.let_pass_alone(1.5)
    return pid


def next_one(running: Supervised, pid: int) -> None:
    killed(running)
    os.kill(pid, signal.SIGCONT)
    running.start()


def unharmed(running: Supervised, pid: int) -> None:
    running.touch("done")
    wait_until(lambda: running.view("a")["steps"] > 10)
    running.let_pass(1.0)
    assert running.worker("a")["pid"] == pid
    assert running.events("verdict") == running.events("signal") == []


def test_a_stall_that_killed_the_supervisor_too_condemns_no_healthy_worker() -> None:
    with supervised(LONG_CALL) as running:
        pid = stood_still(running)
        next_one(running, pid)
        unharmed(running, pid)


def test_nor_does_one_that_the_supervisor_had_noticed_just_before_it_was_killed() -> None:
    with supervised(LONG_CALL) as running:
        pid = stood_still(running)
        os.kill(running.process.pid, signal.SIGCONT)
        path = str(running.runtime / board.FILE_NAME)
        wait_until(lambda: board.read(path).last_tick_ns >= board.read(path).stall_end_ns > 0)
        next_one(running, pid)
        unharmed(running, pid)


@pytest.mark.parametrize("with_worker", [True, False], ids=["everything stalled", "supervisor alone"])
def test_after_a_stall_a_worker_that_hangs_is_found_one_deadline_later_at_most(with_worker: bool) -> None:
    with supervised(LONG_CALL) as running:
        pid = stood_still(running, with_worker=with_worker)
        next_one(running, pid)
        verdict = running.wait_event("verdict", "a")
        adopted = running.wait_event("supervisor", change="adopted")
        assert verdict["pid"] == pid
        assert verdict["detected_ns"] - adopted["monotonic_ns"] < 1_100_000_000
        wait_until(lambda: gone(pid))


def test_a_worker_that_ended_while_nobody_watched_is_replaced_and_its_exit_is_unknown() -> None:
    with supervised(kept()) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        killed(running)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid))
        running.start()
        body = running.wait_phase("a", "running", 2)
        assert body["restarts"] == {"crashed": 1} and body["budget_left"] == 4
        assert running.wait_event("gone", "a")["exit"] == "exited (status unknown)"


def test_a_spent_budget_is_still_spent_for_the_next_supervisor() -> None:
    crash = kept("worker.ready(); sys.exit(3)", restart={"budget": 2, "backoff": "10ms"})
    with supervised(crash, kept()) as running:
        running.wait_phase("a", "quarantined")
        running.wait_phase("b", "running")
        incarnation = running.worker("a")["incarnation"]
        killed(running)
        running.start()
        running.let_pass(0.3)
        body = running.worker("a")
        assert (body["phase"], body["incarnation"], body["budget_left"]) == ("quarantined", incarnation, 0)
        running.ask("reset", "a")
        wait_until(lambda: running.worker("a")["incarnation"] > incarnation)


@pytest.mark.parametrize("reload", [False, True], ids=["killed", "reloaded"])
def test_kills_before_it_count_for_the_next_supervisor_s_cap(reload: bool) -> None:
    limited = {"max_kills": 1, "max_kills_window": "1m"}
    hang_at = "serve_until('{}') if INCARNATION == 1 else serve()\nwith worker.call('sync'): hang()"
    with supervised(kept(hang_at.format("first")), kept(hang_at.format("second")), supervisor=limited) as running:
        for name in "ab":
            running.wait_phase(name, "running", 1)
        running.touch("first")
        running.wait_phase("a", "running", 2)
        before = running.snapshot()["supervisor"]["started_ns"]
        if reload:
            os.kill(running.process.pid, signal.SIGHUP)
            wait_until(lambda: running.snapshot()["supervisor"]["started_ns"] != before)
        else:
            killed(running)
            running.start()
        running.touch("second")
        wait_until(lambda: running.worker("b")["held"])
        assert running.worker("b")["held"].startswith("1 kills in 60 s")
        running.wait_event("verdict", "b")
        assert running.events("signal", "b") == []


@pytest.mark.parametrize(("command", "phase"), [("stop", "stopped"), ("pause", "paused")])
def test_what_an_operator_asked_for_holds_for_the_next_supervisor(command: str, phase: str) -> None:
    with supervised(kept()) as running:
        running.wait_phase("a", "running")
        running.ask(command, "a")
        running.wait_phase("a", phase)
        killed(running)
        running.start()
        running.let_pass(0.2)
        assert running.worker("a")["phase"] == phase


def test_a_kill_that_was_under_way_is_finished_for_the_same_incident() -> None:
    """SIGSTOPped before its SIGKILL could be sent is not to be had from outside; held, it is."""
    slow = {"hold_max": "3s"}
    # b is coupled and on a DLA: while it may have frozen first, a's kill is held.
    dla = kept("serve_until('go')\nwith worker.call('sync'): hang()", accelerator="dla0", deadlines={"sync": "1500ms"})
    gpu = kept("serve_until('go')\nwith worker.call('sync'): hang()", accelerator="gpu0", coupled_with=["dla0"])
    with supervised(gpu, dla, supervisor=slow) as running:
        first = running.wait_phase("a", "running", 1)["pid"]
        running.wait_phase("b", "running", 1)
        running.touch("go")
        verdict = running.wait_event("verdict", "a")
        wait_until(lambda: running.worker("a")["held"])
        killed(running)
        assert not gone(first)
        running.directory.joinpath("go").unlink()
        running.start()
        running.wait_phase("a", "running", 2)
        assert [event["incident"] for event in running.events("verdict", "a")] == [verdict["incident"]]
        assert running.wait_event("signal", "a", signal="SIGKILL")["incident"] == verdict["incident"]
        assert running.wait_event("ready", "a", incident=verdict["incident"])["recovery_seconds"] > 0.2


def test_a_birth_that_names_somebody_else_is_not_believed() -> None:
    with supervised(kept()) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        birth = running.runtime / "births" / "a.1"
        killed(running)
        birth.write_text(f"{os.getpid()} 1\n")  # a pid that was used again: the start tells
        running.start()
        running.wait_phase("a", "running", 2)
        assert gone(pid)  # by its environment; and we live


def test_a_worker_whose_heartbeat_is_missing_is_adopted_shown_and_not_harmed() -> None:
    with supervised(kept(), kept()) as running:
        pids = [running.wait_phase(name, "running", 1)["pid"] for name in "ab"]
        killed(running)
        (running.runtime / "heartbeats" / "a.1").unlink()
        running.start()
        running.let_pass(0.6)
        assert [running.worker(name)["pid"] for name in "ab"] == pids
        assert running.worker("a")["heartbeat_error"] == "missing"
        assert running.events("signal") == running.events("gone") == running.events("verdict", "b") == []
        running.ask("restart", "a")
        running.wait_phase("a", "running", 2)
        assert gone(pids[0])
        assert running.worker("a")["heartbeat_error"] is None


# --- without a memory -----------------------------------------------------------------------------------------------


def forgotten(running: Supervised) -> None:
    path = running.runtime / "board"
    path.write_bytes(b"nonsense" + path.read_bytes()[8:])


def test_a_worker_that_can_prove_who_it_is_is_adopted_without_a_memory_of_it() -> None:
    with supervised(kept(HANG_AT_GO), kept()) as running:
        pids = [running.wait_phase(name, "running", 1)["pid"] for name in "ab"]
        running.ask("restart", "b")
        pids[1] = running.wait_phase("b", "running", 2)["pid"]
        killed(running)
        forgotten(running)
        running.start()
        bodies = [running.wait_phase(name, "running") for name in "ab"]
        assert [(body["pid"], body["incarnation"]) for body in bodies] == [(pids[0], 1), (pids[1], 2)]
        adopted = running.wait_event("supervisor", change="adopted")
        assert adopted["workers"] == ["a", "b"] and "without a memory" in adopted["problems"][0]
        running.let_pass(0.5)
        assert running.events("verdict") == running.events("gone", "a") == []
        running.touch("go")
        running.wait_phase("a", "running", 2)
        assert gone(pids[0]) and not gone(pids[1])


def test_one_that_is_to_end_with_its_supervisor_is_started_anew_without_a_memory_of_it() -> None:
    with supervised(worker(SERVE, deadlines=DEADLINES)) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        killed(running)
        forgotten(running)
        running.start()
        running.wait_phase("a", "running")
        assert gone(pid)
        assert running.events("verdict") == []


@pytest.mark.parametrize("proof", ["births", "heartbeats", "boot"])
def test_without_a_memory_what_cannot_prove_who_it_is_is_started_anew(proof: str) -> None:
    with supervised(kept()) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        killed(running)
        forgotten(running)
        if proof == "boot":
            with (running.runtime / "heartbeats" / "a.1").open("r+b") as file:
                file.seek(abi.H["boot_id_low"] * abi.WORD)
                file.write(b"elsewhen")
        else:
            (running.runtime / proof / "a.1").unlink()
        running.start()
        assert running.wait_phase("a", "running", 1)["pid"] != pid
        assert gone(pid)


def test_nor_is_what_ended_meanwhile_taken_for_alive() -> None:
    with supervised(kept()) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        killed(running)
        forgotten(running)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid))
        running.start()
        assert running.wait_phase("a", "running", 1)["pid"] != pid
