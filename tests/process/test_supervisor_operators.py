"""What an operator asks for over the control socket, and what comes of it."""

from __future__ import annotations

import os
import socket
import traceback

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from watchdogd.supervisor.control import NotRunning, Refused, ask

NOBODY = 65534
CALL = """serve_until('go')
with worker.call('sync'): wait_for('return')
serve()"""


def test_stop_start_and_restart_do_what_they_say() -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        first = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.ask("stop", "a")
        assert supervised.wait_phase("a", "stopped")["pid"] is None
        assert gone(first)
        supervised.ask("start", "a")
        second = supervised.wait_phase("a", "running", 2)["pid"]
        supervised.ask("restart", "a")
        third = supervised.wait_phase("a", "running", 3)
        assert len({first, second, third["pid"]}) == 3
        # Asked for, so neither an incident nor on the budget.
        assert (third["restarts"], third["last_incident"], third["budget_left"]) == ({"operator": 2}, None, 5)
        assert supervised.events("verdict") == []
        asked = [(event["command"], event["uid"], event["pid"]) for event in supervised.events("operator")]
        assert asked == [(command, os.geteuid(), os.getpid()) for command in ("stop", "start", "restart")]


def test_a_worker_without_autostart_waits_for_its_start() -> None:
    with Supervised({"a": worker("serve()", autostart=False)}) as supervised:
        assert supervised.phase("a") == "stopped"
        supervised.ask("start", "a")
        supervised.wait_phase("a", "running", 1)


def test_a_paused_worker_is_not_judged_and_resume_counts_from_now() -> None:
    with Supervised({"a": worker(CALL, deadlines={"sync": "300ms"})}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.ask("pause", "a")
        supervised.wait_phase("a", "paused")
        supervised.touch("go")
        wait_until(lambda: (supervised.view("a")["call"] or {}).get("age_seconds", 0) > 0.5)
        supervised.wait_tick()
        assert supervised.events("verdict") == []
        supervised.ask("resume", "a")
        resumed_ns = supervised.wait_event("phase", "a", phase="running", previous="paused")["monotonic_ns"]
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["deadline_ns"] >= resumed_ns + 290_000_000
        assert verdict["entered_ns"] < verdict["armed_ns"] == verdict["deadline_ns"] - 300_000_000
        supervised.wait_event("gone", "a")


def test_a_worker_paused_before_it_was_ready_is_not_judged_either() -> None:
    with Supervised({"a": worker("wait_for('go'); serve()", deadlines={"startup": "400ms"})}) as supervised:
        supervised.ask("pause", "a")
        supervised.let_pass(0.6)
        assert supervised.phase("a") == "paused"
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["ready_ns"])
        supervised.ask("resume", "a")
        supervised.wait_phase("a", "running", 1)
        assert supervised.events("verdict") == []


def test_a_worker_can_be_stopped_right_after_its_start_and_nobody_else_ends() -> None:
    """A signal to a child that is not itself yet must not reach the supervisor."""
    with Supervised({"a": worker("serve()", stop_timeout="1s"), "b": worker("serve()")}) as supervised:
        pid = supervised.wait_phase("b", "running", 1)["pid"]
        for _ in range(10):
            supervised.ask("restart" if supervised.phase("a") != "stopped" else "start", "a")
            supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        supervised.wait_tick()
        assert supervised.worker("b")["pid"] == pid
        assert supervised.process.poll() is None


def test_an_unknown_worker_is_refused_with_the_names_there_are() -> None:
    with Supervised({"model_h": worker("serve()")}) as supervised, pytest.raises(Refused) as refused:
        supervised.ask("restart", "model_x")
    assert "model_x" in str(refused.value)
    assert "model_h" in refused.value.remedy


@pytest.mark.parametrize("command", ["start", "resume"])
def test_what_makes_no_sense_in_the_worker_s_phase_is_refused_with_the_phase(command: str) -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        supervised.wait_phase("a", "running")
        with pytest.raises(Refused, match="running"):
            supervised.ask(command, "a")
        assert supervised.events("operator") == []


def test_a_quarantined_worker_is_reset_not_started() -> None:
    with Supervised({"a": {"command": ["false"], "restart": {"backoff": "1ms", "budget": 1}}}) as supervised:
        supervised.wait_phase("a", "quarantined")
        with pytest.raises(Refused) as refused:
            supervised.ask("start", "a")
        assert refused.value.remedy == "watchdogd reset a"


@pytest.mark.parametrize("command", ["start", "restart"])
def test_stop_and_start_do_not_get_round_a_quarantine(command: str) -> None:
    with Supervised({"a": {"command": ["false"], "restart": {"backoff": "1ms", "budget": 1}}}) as supervised:
        incarnation = supervised.wait_phase("a", "quarantined")["incarnation"]
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        assert "watchdogd reset a" in supervised.worker("a")["note"]
        with pytest.raises(Refused, match="quarantine") as refused:
            supervised.ask(command, "a")
        assert refused.value.remedy == "watchdogd reset a"
        supervised.wait_tick()
        assert supervised.worker("a")["incarnation"] == incarnation


def test_a_worker_stopped_in_quarantine_is_reset_and_then_started() -> None:
    body = "if not (HERE / 'repaired').exists(): sys.exit(1)\nserve()"
    with Supervised({"a": worker(body, restart={"backoff": "1ms", "budget": 1})}) as supervised:
        supervised.wait_phase("a", "quarantined")
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        supervised.touch("repaired")
        supervised.ask("reset", "a")
        supervised.wait_tick()
        assert supervised.phase("a") == "stopped"  # an operator had it stopped
        supervised.ask("start", "a")
        supervised.wait_phase("a", "running")
        assert supervised.worker("a")["recovery"]["total_ns"] == 0  # days in quarantine are no time to recovery
        assert supervised.wait_event("ready", "a")["recovery_seconds"] is None


def test_many_requests_are_all_answered() -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        supervised.wait_phase("a", "running")
        for number in range(400):
            supervised.ask(("pause", "resume")[number % 2], "a")
        supervised.wait_phase("a", "running", 1)


def test_a_client_that_says_nothing_keeps_nobody_waiting() -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(supervised.runtime / "control.sock"))
            supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_even_if_he_may_write_to_the_socket() -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        path = supervised.runtime / "control.sock"
        assert path.stat().st_mode & 0o777 == 0o660
        supervised.directory.chmod(0o755)
        path.chmod(0o666)
        assert _as_nobody(str(path)) == "Refused"
        supervised.wait_tick()
        assert supervised.phase("a") == "running"
        assert supervised.events("operator") == []


def _as_nobody(path: str) -> str:
    """The exception that a request raises in a child that has become nobody."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "nothing"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            ask(path, {"command": "restart", "worker": "a"}, 10)
        except (Refused, NotRunning, OSError) as error:
            traceback.print_exc()
            answer = type(error).__name__
        finally:
            os.write(send, answer.encode())
            os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    with os.fdopen(receive) as told:
        return told.read()
