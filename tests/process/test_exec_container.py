"""`watchdogd exec` as a container has it: PID 1, no terminal, no HOME, nothing to write to but a tmpfs, no rights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.executed import WORKER, Executed, program
from tests.helpers.running import ROOT, gone, wait_until
from watchdogd import exits

SLOW = ["--sync", "200ms", *WORKER]
FIRST = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")


def first(executed: Executed) -> int:
    """The pid, as we see it, of its PID 1."""
    children = Path(f"/proc/{executed.process.pid}/task/{executed.process.pid}/children")
    wait_until(lambda: children.read_text().split(), what=executed.said)
    return int(children.read_text().split()[0])


def test_the_first_process_of_a_container_reaps_orphans_and_ends_with_the_programs_status() -> None:
    # A grandchild is orphaned to PID 1 and ends; a zombie of it would still be in /proc.
    body = """
import subprocess
orphan = int(subprocess.run(['sh', '-c', 'sleep 0.1 & echo $!'], capture_output=True, text=True).stdout)
while os.path.exists(f'/proc/{orphan}'): time.sleep(0.002)
tell('parent', os.getppid())
sys.exit(17)
"""
    with Executed(SLOW, program(body), before=FIRST) as executed:
        assert executed.status() == 17, executed.said()
        assert executed.wait_file("parent") == "1"


def test_the_runtimes_sigterm_reaches_the_program_of_pid_1() -> None:
    body = "signal.signal(15, lambda *_: sys.exit(33))\ntell('ready')\nserve()"
    with Executed(SLOW, program(body), before=FIRST) as executed:
        executed.wait_file("ready")
        os.kill(first(executed), signal.SIGTERM)
        assert executed.status() == 33


def test_a_verdict_ends_pid_1_with_124() -> None:
    body = "worker.ready()\nwith worker.call('sync'): hang()"
    with Executed(SLOW, program(body), before=FIRST) as executed:
        assert executed.status() == exits.VERDICT
        assert "verdict call sync" in executed.said()


def _in_a_bare_room(script: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in a mount namespace in which ``script`` has made the usual places what they are in a container."""
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script + '\nexec "$@"', "sh", *command], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}, check=False, timeout=60,
        start_new_session=True,
    )  # fmt: skip


EXEC = (sys.executable, "-m", "watchdogd", "exec", *SLOW, "--", "sh", "-c", "exit 8")
READ_ONLY = (
    "mount --bind /tmp /tmp; mount -o remount,bind,ro /tmp; for d in /dev/shm /run; do mount -t tmpfs -o ro x $d; done"
)


def test_one_tmpfs_is_all_it_needs() -> None:
    ran = _in_a_bare_room(f"{READ_ONLY}; mount -t tmpfs -o size=64m x /mnt", *EXEC, TMPDIR="/mnt")
    assert (ran.returncode, ran.stderr) == (8, "")


def test_with_no_place_to_write_to_it_says_what_to_mount_and_starts_nothing() -> None:
    ran = _in_a_bare_room(READ_ONLY, *EXEC)
    assert ran.returncode == exits.REFUSED
    assert "no directory for the heartbeat" in ran.stderr and "--tmpfs /tmp" in ran.stderr


def test_where_no_code_may_be_run_lies_the_heartbeat_and_elsewhere_the_shim() -> None:
    script = "mount -t tmpfs -o size=64m,noexec x /dev/shm; mount -t tmpfs -o ro x /run"
    look = "echo $WATCHDOGD_HEARTBEAT; find /tmp/watchdogd-exec-* -maxdepth 1"
    command = (sys.executable, "-m", "watchdogd", "exec", "--sync", "1s", "--", "sh", "-c", look)
    ran = _in_a_bare_room(script, *command)
    assert ran.returncode == 0, ran.stderr
    heartbeat, *apart = ran.stdout.splitlines()
    assert heartbeat.startswith("/dev/shm/watchdogd-exec-") and any(path.endswith("/state") for path in apart)


def test_no_rights_are_needed() -> None:
    dropped = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    if shutil.which(dropped[0]) is None:
        pytest.skip("needs setpriv")
    with Executed(SLOW, program("worker.ready()\nwith worker.call('sync'): hang()"), before=dropped) as executed:
        assert executed.status() == exits.VERDICT
        assert gone(executed.process.pid)
