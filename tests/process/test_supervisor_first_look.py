"""The first look at adopted workers comes before all that no deadline needs, and respects all that a kill must."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.helpers.running import Supervised, gone, wait_until, worker

MS = 1_000_000
DEADLINES = {"startup": "20s", "step": "400ms", "sync": "200ms"}
HANG_AT_GO = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
HOOK = {"on_verdict": ["sh", "-c", "exit 75"], "veto": True, "veto_max": "900ms", "on_verdict_deadline": "600ms"}

LATER = {
    "watchdogd.supervisor.household", "watchdogd.supervisor.loads", "watchdogd.supervisor.commands",
    "watchdogd.supervisor.control", "watchdogd.act.children", "watchdogd.observe.sources.lines",
    "watchdogd.observe.sources.tegrastats",
}  # fmt: skip
OF_PROGRAMS = {"watchdogd.act.responses", "watchdogd.act.escalating", "watchdogd.decide.escalation"}
NEVER = {
    "watchdogd.exporter", "watchdogd.publish.recorder", "watchdogd.view", "watchdogd.doctor", "watchdogd.worker",
    "watchdogd.instrument.front",
    "asyncio", "hashlib", "http", "ipaddress", "logging", "pathlib", "subprocess", "threading", "urllib",
}  # fmt: skip

# `watchdogd run`, which tells at its first look what has been imported for it.
TELLS = """
import sys
bare = set(sys.modules)
from watchdogd.supervisor.judging import Judging
judge = Judging.judge
def first(self, *arguments, **named):
    with open(f"{os.environ['HERE']}/modules", "w") as file:
        file.write("\\n".join(set(sys.modules) - bare))
    Judging.judge = judge
    judge(self, *arguments, **named)
Judging.judge = first
import os
from watchdogd.cli import main
sys.exit(main())
"""


class Telling(Supervised):
    def command(self) -> list[str]:
        return [sys.executable, "-c", TELLS, "run", "-c", str(self.config)]

    def imported(self) -> set[str]:
        """By the first look of the last one that was started."""
        found = set(self.wait_file("modules").split("\n"))
        assert "watchdogd.act.sweep" in found
        return found


@contextmanager
def adopted(body: str, **tables: Any) -> Iterator[Telling]:
    """A supervisor that has adopted a worker, which has had "go" and 300 ms while nobody watched."""
    running = Telling({"a": worker(body, on_supervisor_exit="keep", deadlines=DEADLINES)}, **tables)
    with running:
        running.wait_phase("a", "running", 1)
        running.stop(signal.SIGKILL)
        running.touch("go")
        running.let_pass_alone(0.3)
        running.start()
        assert running.wait_event("supervisor", change="adopted")["workers"] == ["a"]
        yield running


def test_adopted_workers_are_looked_at_before_what_no_deadline_needs_is_imported() -> None:
    with adopted("serve()", metrics={"listen": "127.0.0.1:0"}) as running:
        assert running.imported() & (LATER | OF_PROGRAMS | NEVER) == set()
        assert running.ask("pause", "a") == "pause a (was running)"


def test_a_first_start_has_everything_before_it_looks() -> None:
    running = Telling({"a": worker("serve()")})
    with running:
        assert running.imported() & (LATER | OF_PROGRAMS | NEVER) == LATER


def test_a_hang_found_in_the_first_look_is_held_by_a_veto_as_any_other() -> None:
    with adopted(HANG_AT_GO, hooks=HOOK) as running:
        assert running.imported() >= OF_PROGRAMS
        running.wait_phase("a", "running", 2)
        (verdict,), (kill,) = running.events("verdict", "a"), running.events("signal", "a")
        started = running.wait_event("supervisor", change="adopted")
        assert verdict["held"] == "the on_verdict hook is asked"
        assert verdict["detected_ns"] - started["monotonic_ns"] < 50 * MS
        assert kill["monotonic_ns"] - verdict["detected_ns"] >= 900 * MS


def test_one_that_nothing_holds_is_killed_in_the_first_look_and_all_of_it_is_on_record() -> None:
    with adopted(HANG_AT_GO) as running:
        running.wait_phase("a", "running", 2)
        (verdict,), (kill,) = running.events("verdict", "a"), running.events("signal", "a")
        started = running.wait_event("supervisor", change="adopted")
        assert verdict["held"] is None
        assert kill["monotonic_ns"] - started["monotonic_ns"] < 50 * MS
        numbers = [event["seq"] for event in running.events()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_supervisor_that_cannot_have_its_socket_refuses_and_the_worker_it_adopted_lives_on() -> None:
    with Supervised({"a": worker("serve()", on_supervisor_exit="keep", deadlines=DEADLINES)}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        running.stop(signal.SIGKILL)
        socket = running.runtime / "control.sock"
        socket.unlink()
        socket.touch()
        status, said = running.second()
        assert (status, "is not a socket; remove it" in said) == (1, True)
        assert not gone(pid)
        socket.unlink()
        running.start()
        assert running.wait_phase("a", "running", 1)["pid"] == pid
        wait_until(lambda: running.view("a")["steps"] > 0)
        assert running.events("signal") == []
