"""The directories belong to one supervisor as long as it lives, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.running import ROOT, gone, wait_until

SUPERVISOR = """
import os, sys, time
from watchdogd.act.runtime import CannotStart, Runtime
from watchdogd.model import SupervisorSettings
from watchdogd.supervisor.control import ControlServer
try:
    runtime = Runtime(SupervisorSettings(runtime_dir=f"{sys.argv[1]}/run", state_dir=f"{sys.argv[1]}/state"))
except CannotStart as error:
    sys.exit(str(error))
server = ControlServer(runtime.socket)
child = os.fork()
if child == 0:
    time.sleep(60)  # one that has not got its turn to close what it has of its parent's
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


@contextmanager
def supervisor(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """One that has taken the directories, and the pid of its child."""
    command = [sys.executable, "-c", SUPERVISOR, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            os.kill(child, signal.SIGKILL)
            process.kill()


def test_a_child_that_outlives_its_supervisor_does_not_keep_the_next_one_out(tmp_path: Path) -> None:
    with supervisor(tmp_path) as (first, child):
        first.kill()
        first.wait()
        with supervisor(tmp_path) as (second, _):
            assert second.poll() is None and not gone(child)


def test_a_supervisor_that_lives_keeps_the_next_one_out_also_after_its_children_ended(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supervisor.lock").write_text("4194303 4194303\n")  # a longer word than any pid
    with supervisor(tmp_path) as (first, child):
        os.kill(child, signal.SIGTERM)
        wait_until(lambda: gone(child))
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
        assert second.returncode == 1
        assert f"another supervisor (pid {first.pid}) uses {tmp_path}/run" in second.stderr
