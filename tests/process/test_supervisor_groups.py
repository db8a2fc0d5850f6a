"""Workers that belong together: redundancy groups, order of start, restart in company."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from watchdogd.supervisor.control import Refused

# --- redundancy -----------------------------------------------------------------------------------------------------


def pair(body: str = "serve()", **keys: Any) -> dict[str, dict[str, Any]]:
    return {name: worker(body, redundancy="front", **keys) for name in ("a", "b")}


def test_one_of_a_group_is_not_restarted_while_the_other_does_not_serve() -> None:
    with Supervised(pair()) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.wait_phase("b", "running", 1)
        supervised.ask("stop", "b")
        supervised.wait_phase("b", "stopped")
        with pytest.raises(Refused, match="b of its redundancy group does not serve") as refused:
            supervised.ask("restart", "a")
        assert refused.value.remedy.startswith("watchdogd start b; or") and "watchdogd stop a" in refused.value.remedy
        assert (supervised.phase("a"), supervised.worker("a")["incarnation"]) == ("running", 1)
        supervised.ask("start", "b")
        supervised.wait_phase("b", "running", 2)
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        supervised.ask("restart", "b")
        supervised.wait_phase("b", "running", 3)


def test_of_two_restarts_asked_for_at_once_one_is_refused() -> None:
    with Supervised(pair()) as supervised:
        for name in ("a", "b"):
            supervised.wait_phase(name, "running", 1)
        supervised.process.send_signal(19)  # SIGSTOP: both wait in its socket, for one tick
        asked = []
        for name in ("a", "b"):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(supervised.runtime / "control.sock"))
            client.sendall(json.dumps({"command": "restart", "worker": name}).encode() + b"\n")
            asked.append(client)
        supervised.process.send_signal(18)
        answers = []
        for client in asked:
            client.settimeout(10)
            answers.append(json.loads(client.recv(4096))["ok"])
            client.close()
        assert sorted(answers) == [False, True]


def test_a_worker_that_does_not_serve_is_restarted_whoever_else_does_not() -> None:
    with Supervised({**pair(), "a": worker("hang()", redundancy="front")}) as supervised:
        supervised.wait_phase("b", "running")
        supervised.ask("stop", "b")
        supervised.wait_phase("b", "stopped")
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "starting", 2)


def test_two_of_a_group_that_hang_at_once_are_killed_one_after_the_other() -> None:
    body = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    with Supervised(pair(body, deadlines={"sync": "100ms"})) as supervised:
        for name in ("a", "b"):
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        for name in ("a", "b"):
            supervised.wait_phase(name, "running", 2)
        kills = supervised.events("signal")
        first, second = kills[0]["worker"], kills[1]["worker"]
        ready = supervised.events("ready", first, incarnation=2)[0]
        assert {first, second} == {"a", "b"}
        assert ready["monotonic_ns"] < kills[1]["monotonic_ns"]
        assert supervised.events("verdict", second)[0]["held"] == f"{first} of its redundancy group is not back yet"


# --- after ----------------------------------------------------------------------------------------------------------


def first(supervised: Supervised, kind: str, name: str, **fields: Any) -> int:
    return int(supervised.wait_event(kind, name, **fields)["monotonic_ns"])


def test_a_worker_is_started_when_those_it_comes_after_are_ready() -> None:
    workers = {
        "a": worker("serve()", after=["b"]),
        "b": worker("wait_for('go')\nserve()", after=["c"]),
        "c": worker("serve()"),
    }
    with Supervised(workers) as supervised:
        supervised.wait_phase("b", "starting")
        assert first(supervised, "ready", "c") <= first(supervised, "phase", "b", phase="starting")
        assert (supervised.phase("a"), supervised.worker("a")["note"]) == ("stopped", "starts after b")
        supervised.let_pass(0.3)
        assert supervised.phase("a") == "stopped"
        supervised.touch("go")
        supervised.wait_phase("a", "running", 1)
        assert first(supervised, "ready", "b") <= first(supervised, "phase", "a", phase="starting")
        assert supervised.worker("a")["note"] == ""


def test_nobody_waits_longer_than_the_startup_deadline_of_the_other() -> None:
    workers = {"a": worker("serve()", after=["b"]), "b": worker("hang()", deadlines={"startup": "600ms"})}
    with Supervised(workers) as supervised:
        supervised.wait_phase("a", "running", 1)
        began = first(supervised, "phase", "b", phase="starting")
        assert 500_000_000 <= first(supervised, "phase", "a", phase="starting") - began < 3_000_000_000


def test_a_worker_that_is_not_started_is_not_waited_for() -> None:
    workers = {"a": worker("serve()", after=["b"]), "b": worker("serve()", autostart=False)}
    with Supervised(workers) as supervised:
        supervised.wait_phase("a", "running", 1)
        assert supervised.phase("b") == "stopped"


def test_an_operator_may_start_a_worker_that_waits() -> None:
    workers = {"a": worker("serve()", after=["b"]), "b": worker("wait_for('go')\nserve()")}
    with Supervised(workers) as supervised:
        supervised.ask("start", "a")
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_phase("b", "running", 1)
        supervised.let_pass(0.2)
        assert supervised.worker("a")["incarnation"] == 1


def test_a_worker_that_waits_can_be_stopped() -> None:
    workers = {"a": worker("serve()", after=["b"]), "b": worker("wait_for('go')\nserve()")}
    with Supervised(workers) as supervised:
        wait_until(lambda: supervised.worker("a")["note"] == "starts after b")
        supervised.ask("stop", "a")
        wait_until(lambda: supervised.worker("a")["note"] == "")
        supervised.touch("go")
        supervised.wait_phase("b", "running", 1)
        supervised.let_pass(0.2)
        assert (supervised.phase("a"), supervised.worker("a")["incarnation"]) == ("stopped", 0)


@pytest.mark.parametrize("dies", [False, True])
def test_a_worker_that_waits_is_started_by_the_next_supervisor(dies: bool) -> None:
    workers = {
        "a": worker("serve()", after=["b"]),
        "b": worker("wait_for('go')\nserve()", on_supervisor_exit="keep"),
        "c": worker("serve()", autostart=False),
    }
    with Supervised(workers) as supervised:
        wait_until(lambda: supervised.worker("a")["note"] == "starts after b")
        if dies:
            supervised.stop(signal.SIGKILL)
            supervised.start()
        else:
            supervised.reload()
        wait_until(lambda: supervised.worker("a")["note"] == "starts after b")
        supervised.touch("go")
        supervised.wait_phase("a", "running", 1)
        assert first(supervised, "ready", "b") <= first(supervised, "phase", "a", phase="starting")
        assert supervised.phase("c") == "stopped"


def test_a_supervisor_that_stops_starts_nobody_who_waits() -> None:
    workers = {"a": worker("serve()", after=["b"]), "b": worker("hang()")}
    with Supervised(workers) as supervised:
        supervised.wait_phase("b", "starting")
        assert supervised.stop() == 0
        assert supervised.events("phase", "a") == []


# --- restart_with ---------------------------------------------------------------------------------------------------

CRASH = "serve_until('go')\nif INCARNATION == 1: os._exit(3)\nserve()"
HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"


def test_those_restarted_with_a_hung_worker_follow_one_by_one_at_nobodys_cost() -> None:
    workers = {
        "a": worker(HANG, deadlines={"sync": "100ms"}, restart_with=["c", "b"]),
        "b": worker("serve()"),
        "c": worker("serve()"),
        "d": worker("serve()"),
    }
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        for name in ("a", "c", "b"):
            supervised.wait_phase(name, "running", 2)
        supervised.let_pass(0.3)
        assert [supervised.worker(name)["incarnation"] for name in "abcd"] == [2, 2, 2, 1]
        assert supervised.worker("b")["restarts"] == {"restart_with": 1}
        assert [supervised.worker(name)["budget_left"] for name in "abc"] == [4, 5, 5]
        assert first(supervised, "ready", "a", incarnation=2) <= first(supervised, "signal", "c")
        assert first(supervised, "ready", "c", incarnation=2) <= first(supervised, "signal", "b")
        assert [event["signal"] for event in supervised.events("signal", "b")] == ["SIGTERM"]


def test_a_group_is_restarted_once_round_and_not_again_and_again() -> None:
    workers = {name: worker("serve()", restart_with="pipe") for name in ("a", "b")}
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.ask("restart", "a")
        supervised.wait_phase("b", "running", 2)
        supervised.let_pass(0.5)
        assert [supervised.worker(name)["incarnation"] for name in workers] == [2, 2]


def test_what_is_stopped_or_paused_is_not_taken_along() -> None:
    workers = {"a": worker("serve()", restart_with=["b", "c", "d"]), **{name: worker("serve()") for name in "bcd"}}
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.ask("stop", "b")
        supervised.ask("pause", "c")
        supervised.wait_phase("b", "stopped")
        supervised.wait_phase("c", "paused")
        supervised.ask("restart", "a")
        supervised.wait_phase("d", "running", 2)
        assert (supervised.phase("b"), supervised.phase("c")) == ("stopped", "paused")
        assert supervised.worker("c")["incarnation"] == 1


def test_one_of_a_redundancy_group_is_taken_along_once_its_peer_serves() -> None:
    workers = {
        "a": worker("serve()", restart_with=["b"]),
        "b": worker("serve()", redundancy="front"),
        "peer": worker("serve()", redundancy="front"),
    }
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.ask("stop", "peer")
        supervised.wait_phase("peer", "stopped")
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        supervised.let_pass(0.3)
        body = supervised.worker("b")
        note = "is restarted with a once peer of its redundancy group serves: watchdogd start peer"
        assert (body["incarnation"], body["note"]) == (1, note)
        supervised.reload()
        wait_until(lambda: supervised.worker("b")["note"] == note)
        supervised.ask("start", "peer")
        supervised.wait_phase("b", "running", 2)
        assert supervised.worker("b")["note"] == ""


def test_who_is_still_to_follow_does_so_under_the_next_supervisor() -> None:
    slow = "if INCARNATION == 2: tell('up', '') or wait_for('go')\nserve()"
    workers = {
        "a": worker("serve()", restart_with=["b", "c"], on_supervisor_exit="keep"),
        "b": worker(slow, on_supervisor_exit="keep"),
        "c": worker("serve()", on_supervisor_exit="keep"),
    }
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.ask("restart", "a")
        supervised.wait_phase("b", "starting", 2)
        supervised.wait_file("up")
        supervised.stop(signal.SIGKILL)
        supervised.start()
        supervised.let_pass(0.2)
        assert supervised.worker("c")["incarnation"] == 1  # one after the other
        supervised.touch("go")
        supervised.wait_phase("c", "running", 2)
        assert supervised.worker("a")["incarnation"] == supervised.worker("b")["incarnation"] == 2


def test_one_that_waits_for_its_peer_holds_up_nobody_else() -> None:
    workers = {
        "a": worker("serve()", restart_with=["b", "c"]),
        "b": worker("serve()", redundancy="front"),
        "c": worker("serve()"),
        "peer": worker("serve()", redundancy="front", autostart=False),
        "x": worker("serve()", restart_with=["y"]),
        "y": worker("serve()"),
    }
    with Supervised(workers) as supervised:
        for name in "abcxy":
            supervised.wait_phase(name, "running", 1)
        supervised.ask("restart", "a")
        supervised.wait_phase("c", "running", 2)
        supervised.ask("restart", "x")
        supervised.wait_phase("y", "running", 2)
        assert supervised.worker("b")["incarnation"] == 1


def test_a_worker_that_waits_to_be_taken_along_and_is_paused_waits_no_longer() -> None:
    workers = {
        "a": worker("serve()", restart_with=["b"]),
        "b": worker("serve()", redundancy="front"),
        "peer": worker("serve()", redundancy="front", autostart=False),
    }
    with Supervised(workers) as supervised:
        for name in "ab":
            supervised.wait_phase(name, "running", 1)
        supervised.ask("restart", "a")
        wait_until(lambda: "is restarted with a" in supervised.worker("b")["note"])
        supervised.ask("pause", "b")
        supervised.wait_phase("b", "paused")
        wait_until(lambda: supervised.worker("b")["note"] == "")
        supervised.ask("resume", "b")
        supervised.ask("start", "peer")
        supervised.wait_phase("peer", "running", 1)
        supervised.let_pass(0.2)
        assert supervised.worker("b")["incarnation"] == 1


@pytest.mark.parametrize("whole", [False, True])
def test_a_worker_that_is_only_observed_is_not_taken_along_and_what_would_have_been_is_on_record(whole: bool) -> None:
    workers = {
        "a": worker(CRASH, restart_with=["b", "c"]),
        "b": worker("serve()", observe_only=not whole),
        "c": worker("serve()"),
    }
    with Supervised(workers, supervisor={"observe_only": whole}) as supervised:
        for name in "abc":
            supervised.wait_phase(name, "observed" if whole or name == "b" else "running", 1)
        supervised.touch("go")
        refrained = supervised.wait_event("refrained", "b")
        assert refrained["reason"] == "restart with a: observed only"
        if whole:
            supervised.wait_event("refrained", "c")
        else:
            supervised.wait_phase("c", "running", 2)
        supervised.let_pass(0.2)
        assert supervised.worker("b")["incarnation"] == 1
        assert len(supervised.events("refrained", "b")) == 1
        assert {event["worker"] for event in supervised.events("signal")} == (set() if whole else {"c"})


def test_workers_that_crash_together_are_not_restarted_once_more_for_each_other() -> None:
    body = f"if INCARNATION == 2: wait_for('loaded')\n{CRASH}"
    workers = {name: worker(body, restart_with="pipe") for name in "abc"}
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
        supervised.process.send_signal(signal.SIGSTOP)  # it finds them ended at once
        pids = [supervised.worker(name)["pid"] for name in workers]
        supervised.touch("go")
        wait_until(lambda: all(map(gone, pids)))
        supervised.process.send_signal(signal.SIGCONT)
        supervised.touch("loaded")
        for name in workers:
            supervised.wait_phase(name, "running", 2)
        supervised.let_pass(0.5)
        assert [supervised.worker(name)["restarts"] for name in workers] == [{"crashed": 1}] * 3


# --- a new configuration --------------------------------------------------------------------------------------------


def for_other_settings(supervised: Supervised) -> None:
    """All that are ``OLD`` are changed, and it is loaded."""
    text = supervised.config.read_text()
    assert '"X" = "old"' in text
    supervised.config.write_text(text.replace('"X" = "old"', '"X" = "new"'))
    supervised.reload()


OLD = {"environment": {"X": "old"}}


def test_two_of_a_redundancy_group_are_restarted_for_a_new_configuration_one_after_the_other() -> None:
    with Supervised({**pair(environment=OLD["environment"]), "c": worker("serve()", **OLD)}) as supervised:
        for name in "abc":
            supervised.wait_phase(name, "running", 1)
        for_other_settings(supervised)
        for name in "abc":
            supervised.wait_phase(name, "running", 2)
        supervised.let_pass(0.3)
        assert [supervised.worker(name)["incarnation"] for name in "abc"] == [2, 2, 2]
        back = first(supervised, "ready", "a", incarnation=2)
        assert back <= first(supervised, "signal", "b")
        assert first(supervised, "signal", "c") < back  # of no group: it waits for nobody
        assert supervised.worker("b")["note"] == ""


def test_a_new_configuration_waits_for_a_peer_that_does_not_serve() -> None:
    workers = pair()
    workers["a"] |= OLD
    with Supervised(workers) as supervised:
        for name in "ab":
            supervised.wait_phase(name, "running", 1)
        supervised.ask("stop", "b")
        supervised.wait_phase("b", "stopped")
        for_other_settings(supervised)
        supervised.let_pass(0.6)
        body = supervised.worker("a")
        assert (body["phase"], body["incarnation"]) == ("running", 1)
        assert body["note"] == (
            "is restarted for its new configuration once b of its redundancy group serves: watchdogd start b"
        )
        supervised.ask("start", "b")
        supervised.wait_phase("a", "running", 2)


def test_a_group_that_is_restarted_together_is_so_once_for_a_new_configuration() -> None:
    workers = {name: worker("serve()", restart_with="pipe", **OLD) for name in ("a", "b")}
    with Supervised(workers) as supervised:
        for name in "ab":
            supervised.wait_phase(name, "running", 1)
        for_other_settings(supervised)
        supervised.wait_phase("b", "running", 2)
        supervised.let_pass(0.5)
        assert [supervised.worker(name)["incarnation"] for name in "ab"] == [2, 2]
        assert first(supervised, "ready", "a", incarnation=2) <= first(supervised, "signal", "b")


def test_a_new_configuration_reaches_the_company_of_a_worker_that_fails_with_it() -> None:
    workers = {
        "a": worker("serve() if os.environ['X'] == 'old' else sys.exit(3)", restart={"budget": 1}, **OLD),
        "b": worker("serve()", **OLD),
    }
    workers["a"]["restart_with"] = ["b"]
    with Supervised(workers) as supervised:
        for name in "ab":
            supervised.wait_phase(name, "running", 1)
        for_other_settings(supervised)
        supervised.wait_phase("a", "quarantined")
        supervised.wait_phase("b", "running", 2)
