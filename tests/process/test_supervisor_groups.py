"""Workers that belong together: redundancy groups, order of start, restart in company."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.helpers.running import Supervised, worker
from watchdogd.control import Refused

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
        assert "watchdogd stop a" in refused.value.remedy
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
