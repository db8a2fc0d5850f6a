"""`on_verdict = "exit"` under `run`: the supervisor ends with its worker, the others in order, and says why."""

from __future__ import annotations

import pytest

from tests.helpers.running import Supervised, gone, worker
from watchdogd import exits

HANGS = "worker.ready()\nwait_for('go')\nwith worker.call('sync'): hang()"
CRASHES = "worker.ready()\nwait_for('go')\nsys.exit(9)"
TIDY = "signal.signal(15, lambda *_: (tell('tidy'), sys.exit(0)))\nserve()"
KEYS = {"deadlines": {"startup": "20s", "sync": "200ms"}}


@pytest.mark.parametrize(("body", "status"), [(HANGS, exits.VERDICT), (CRASHES, 9)])
def test_its_end_is_the_supervisors_and_the_others_end_in_order(body: str, status: int) -> None:
    workers = {"a": worker(body, on_verdict="exit", **KEYS), "b": worker(TIDY, **KEYS)}
    with Supervised(workers) as supervised:
        supervised.wait_phase("a", "running")
        other = supervised.wait_phase("b", "running")["pid"]
        supervised.touch("go")
        assert supervised.process.wait(15) == status, supervised.log()
        supervised.wait_file("tidy")
        assert gone(other) and supervised.leftovers() == []
        reasons = [event["reason"] for event in supervised.events("supervisor", change="stopping")]
        assert len(reasons) == 1 and reasons[0].startswith("a: ") and reasons[0].endswith("on_verdict is exit")
        assert len(supervised.events("gone", "a")) == 1


def test_another_workers_end_is_not() -> None:
    workers = {"a": worker(TIDY, on_verdict="exit", **KEYS), "b": worker(CRASHES, **KEYS)}
    with Supervised(workers) as supervised:
        for name in ("a", "b"):
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        supervised.wait_event("phase", "b", 2, phase="starting")
        assert supervised.process.poll() is None and supervised.phase("a") == "running"


def test_nor_is_a_restart_that_an_operator_asked_for() -> None:
    with Supervised({"a": worker("serve()", on_verdict="exit", **KEYS)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        assert supervised.process.poll() is None
