"""A worker that calls ``exec`` on itself keeps its pid, and what the old image left standing is nobody's."""

from __future__ import annotations

import os

import pytest

from tests.helpers.running import Supervised, gone, worker

DEADLINES = {"startup": "20s", "first_step": "10s", "step": "250ms", "sync": "150ms"}
BECOME = """
import os, sys
with worker.step(): pass
serve_until('go')
worker.begin_step()
with worker.call('sync'):
    os.execv(sys.executable, [sys.executable, '-c', {program!r}])
"""
# The new image needs longer to attach than any deadline of the old one's words.
HEALTHY = """
import time; time.sleep(0.6)
from tests.helpers.workers.prelude import *
tell('attached', 'yes')
serve()
"""
HUNG = HEALTHY.replace("serve()", "with worker.call('sync'): hang()")


@pytest.mark.parametrize("implementation", ["native", "python"])
def test_an_exec_in_the_middle_of_a_call_and_a_step_is_no_hang(implementation: str) -> None:
    pure = {"WATCHDOGD_PURE_PYTHON": "1" if implementation == "python" else "0"}
    body = worker(BECOME.format(program=HEALTHY), deadlines=DEADLINES, environment=pure)
    with Supervised({"a": body}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.touch("go")
        supervised.wait_file("attached")
        supervised.let_pass(0.5)
        assert supervised.worker("a")["pid"] == pid
        assert supervised.worker("a")["phase"] == "running"
        assert supervised.events("verdict", "a") == []


def test_a_hang_of_the_new_image_is_found() -> None:
    with Supervised({"a": worker(BECOME.format(program=HUNG), deadlines=DEADLINES)}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["operation"], verdict["pid"]) == ("call", "sync", pid)
        assert os.path.exists(supervised.directory / "attached")
        supervised.wait_event("gone", "a")
        assert gone(pid)
