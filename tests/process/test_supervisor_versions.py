"""Heartbeats of another version: what an upgrade leaves running is watched on, and what is too new is left alone."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from watchdogd import abi

DEADLINES = {"startup": "20s", "first_step": "20s", "step": "300ms", "sync": "200ms"}
PATIENT = """
ready()
with step(): wait_for('first')
with step(): wait_for('later')
serve_until('hang')
with call(): hang()
"""


def old(body: str, **deadlines: str) -> dict[str, Any]:
    """A worker whose library is of version 1."""
    found = worker("", on_supervisor_exit="keep", deadlines={**DEADLINES, **deadlines})
    found["command"][-1] = f"from tests.helpers.workers.version_1 import *\n{body}"
    return found


def made_by(running: Supervised, version: int) -> None:
    """The first heartbeat of ``a`` as a supervisor of that version would have made it."""
    descriptor = os.open(running.runtime / "heartbeats" / "a.1", os.O_RDWR)
    offset = abi.H["version"] * abi.WORD
    assert os.pread(descriptor, abi.WORD, offset) == struct.pack("=Q", abi.VERSION)
    os.pwrite(descriptor, struct.pack("=Q", version), offset)
    os.close(descriptor)


def upgraded(running: Supervised, version: int) -> None:
    """The supervisor is replaced by one of today; the one before made the heartbeat of ``a``."""
    running.stop(signal.SIGKILL)
    made_by(running, version)
    running.start()


def stay(running: Supervised) -> None:
    """The next supervisor is the same one."""


@pytest.mark.parametrize("succeed", [lambda running: upgraded(running, 0), stay], ids=["adopted", "a file of today"])
def test_a_worker_of_version_1_is_left_alone_through_long_steps_and_its_hang_is_found(
    succeed: Callable[[Supervised], None],
) -> None:
    with Supervised({"a": old(PATIENT)}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        succeed(running)
        for name in ("first", "later"):  # neither says whether it is a first one
            running.let_pass(0.8)
            body = running.worker("a")
            assert (body["phase"], body["incarnation"], body["pid"]) == ("running", 1, pid), running.log()
            assert body["heartbeat_error"] is None
            running.touch(name)
        wait_until(lambda: running.view("a")["steps"] > 5)
        assert running.events("verdict") == running.events("gone") == []
        running.touch("hang")
        verdict = running.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["operation"], verdict["pid"]) == ("call", "sync", pid)
        running.wait_event("gone", "a")
        assert gone(pid)
        running.wait_phase("a", "running", 2)


def test_a_hung_step_of_an_adopted_worker_of_version_1_is_found_by_the_longer_deadline() -> None:
    body = "ready()\nserve_until('hang')\nwith step(): hang()"
    with Supervised({"a": old(body, first_step="900ms")}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        upgraded(running, 0)
        running.wait_phase("a", "running", 1)
        running.touch("hang")
        verdict = running.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["pid"]) == ("step", pid)
        assert verdict["deadline_ns"] - verdict["entered_ns"] == 900_000_000
        running.wait_event("gone", "a")
        assert gone(pid)


def test_a_heartbeat_of_a_newer_version_is_shown_and_not_judged() -> None:
    body = "serve_until('hang')\nwith worker.call('sync'): hang()"
    with Supervised({"a": worker(body, on_supervisor_exit="keep", deadlines=DEADLINES)}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        upgraded(running, abi.VERSION + 1)
        running.touch("hang")
        running.let_pass(0.6)
        told = running.worker("a")
        assert (told["phase"], told["pid"], told["heartbeat_error"]) == ("running", pid, "made by a newer version")
        assert running.wait_event("verdict", "a")["verdict"] == "heartbeat_unreadable"
        assert running.events("signal") == running.events("gone") == []
        assert not gone(pid)
