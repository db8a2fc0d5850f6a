"""One child process: launched without waiting, signalled once, told apart by how it ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.running import ROOT, gone, wait_until
from watchdogd.act import birth as births
from watchdogd.act.process import Process, adopt, hold
from watchdogd.act.spawning import CANNOT_EXECUTE, NOT_FOUND, Launch, launch
from watchdogd.model import Exit
from watchdogd.observe.procfs import Identity


@contextmanager
def launched(*command: str, **keys: object) -> Iterator[Process]:
    environment = {"PATH": os.environ["PATH"]}
    process = launch(Launch(command, environment, **keys))  # type: ignore[arg-type]  # any of its fields
    try:
        yield process
    finally:
        process.signal(signal.SIGKILL)
        ended(process)
        process.reap()


def ended(process: Process) -> Exit | None:
    """How it ended, once it has."""
    readable, _, _ = select.select([process.pidfd], [], [], 15)
    assert readable
    return process.exit_status()


@pytest.mark.parametrize("pid", [0, -1])
def test_no_process_has_a_pid_below_one(pid: int) -> None:
    with pytest.raises(ValueError, match="refusing"):
        hold(pid)


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", Exit(code=0)), ("exit 7", Exit(code=7)), ("kill -SEGV $$", Exit(signal=signal.SIGSEGV))],
)
def test_the_end_of_a_process_is_told_as_it_was(script: str, status: Exit) -> None:
    with launched("sh", "-c", script) as process:
        assert ended(process) == status
        assert process.exit_status() == status  # looking does not reap
        assert process.launch_error() is None


def test_a_living_process_has_no_exit_status() -> None:
    with launched("sleep", "60") as process:
        assert process.exit_status() is None


def test_an_ended_process_keeps_its_pid_until_it_is_reaped() -> None:
    """So that no signal for it can reach somebody else."""
    with launched("true") as process:
        ended(process)
        assert Path(f"/proc/{process.pid}").exists()
        assert process.signal(signal.SIGKILL) is None
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_process_reaped_by_somebody_else_has_an_unknown_end() -> None:
    with launched("true") as process:
        ended(process)
        os.waitpid(process.pid, 0)
        assert process.exit_status() == Exit()


@pytest.mark.parametrize(
    ("command", "reason"),
    [("/nonexistent/program", "No such file or directory"), (str(ROOT), "Permission denied")],
)
def test_an_exec_that_fails_says_why(command: str, reason: str) -> None:
    with launched(command) as process:
        assert ended(process) == Exit(code=NOT_FOUND if reason.startswith("No such") else CANNOT_EXECUTE)
        error = process.launch_error()
        assert error is not None
        assert command in error
        assert reason in error


def test_the_group_is_signalled_too() -> None:
    script = "sleep 60 & echo $!; wait"
    receive, send = os.pipe()
    with launched("sh", "-c", script, stdout=send) as process, os.fdopen(receive) as told:
        os.close(send)
        member = int(told.readline())
        assert os.getpgid(member) == process.pid
        assert process.signal(signal.SIGKILL) is None
        wait_until(lambda: gone(member))


def test_a_signal_is_sent_once() -> None:
    """A handler may take a second SIGTERM for impatience. Real-time signals are queued, so they can be counted."""
    program = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
print("ready", flush=True)
signal.sigwait([signal.SIGRTMIN])
sys.stdin.read()
print(sum(signal.sigtimedwait([signal.SIGRTMIN], 0) is not None for _ in range(3)) + 1, flush=True)
"""
    receive, send = os.pipe()
    hold_read, hold = os.pipe()
    with (
        launched(sys.executable, "-c", program, stdin=hold_read, stdout=send) as process,
        os.fdopen(receive) as told,
    ):
        os.close(send)
        os.close(hold_read)
        assert told.readline() == "ready\n"
        assert process.signal(signal.SIGRTMIN) is None
        os.close(hold)
        assert told.readline() == "1\n"


def test_a_signal_right_after_the_fork_is_not_lost_and_does_not_reach_the_parent() -> None:
    """The child still has the parent's wake-up descriptor then: written to it, the signal would look like the parent's.

    On one CPU the parent goes on after the fork, so that its signal is there before the child has done anything.
    """
    program = """
import os, select, signal, socket
from watchdogd.act.spawning import Launch, launch
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
receive, send = socket.socketpair()
send.setblocking(False)
signal.set_wakeup_fd(send.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
for _ in range(50):
    process = launch(Launch(("sleep", "60"), dict(os.environ)))
    process.signal(signal.SIGTERM)
    assert select.select([process.pidfd], [], [], 10)[0], "the child did not get it"
    assert process.exit_status().signal == signal.SIGTERM, process.exit_status()
    process.reap()
assert not select.select([receive], [], [], 0)[0], "the parent took it for its own"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=ROOT)


def test_a_child_dies_with_its_parent_unless_it_is_told_to_finish() -> None:
    program = """
import os
from watchdogd.act.spawning import Launch, launch
for die in (True, False):
    print(launch(Launch(("sleep", "60"), dict(os.environ), die_with_parent=die)).pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        dies, stays = int(parent.stdout.readline()), int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{dies}/comm").read_text() == "sleep\n")
        wait_until(lambda: Path(f"/proc/{stays}/comm").read_text() == "sleep\n")
        parent.kill()
        parent.wait()
        wait_until(lambda: gone(dies))
        assert not gone(stays)
        os.kill(stays, signal.SIGKILL)


# --- born and adopted -----------------------------------------------------------------------------------------------


@contextmanager
def stranger(script: str = "exec sleep 60") -> Iterator[int]:
    """A process that is not our child: an orphan in a session of its own."""
    command = ["setsid", "sh", "-c", f"({script}) >/dev/null & echo $!"]
    pid = int(subprocess.run(command, stdout=subprocess.PIPE, timeout=15, check=True).stdout)
    try:
        yield pid
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def identity(pid: int) -> Identity:
    process = hold(pid)
    process.close()
    return process.identity


def test_a_child_tells_who_it_is_before_it_is_the_worker(tmp_path: Path) -> None:
    birth = str(tmp_path / "birth")
    with launched("cat", birth, birth=birth) as process:
        assert ended(process) == Exit(code=0)  # it was there when the program began
        assert births.read(birth) == births.Birth(process.identity)


def test_a_birth_that_somebody_planted_is_no_worker(tmp_path: Path) -> None:
    birth, target = tmp_path / "birth", tmp_path / "precious"
    birth.symlink_to(target)
    with launched("true", birth=str(birth)) as process:
        assert ended(process) == Exit(code=CANNOT_EXECUTE)
        assert "File exists" in (process.launch_error() or "")
    assert not target.exists()


@pytest.mark.parametrize("text", ["", "12", "12 5", "12 x\n\n\n", "0 5\n\n\n", "-1 5\n\n\n", "1 2 3\n\n\n", "1 2\n\n"])
def test_half_a_birth_is_none(tmp_path: Path, text: str) -> None:
    tmp_path.joinpath("birth").write_text(text)
    assert births.read(str(tmp_path / "birth")) is None


def test_a_process_is_adopted_by_its_pid_and_start() -> None:
    with stranger() as pid:
        process = adopt(identity(pid))
        assert not process.is_child
        assert process.exit_status() is None
        assert process.signal(signal.SIGKILL) is None
        assert ended(process) == Exit()
        assert str(process.exit_status()) == "exited (status unknown)"
        process.reap()


def test_a_younger_process_of_the_same_pid_is_not_adopted() -> None:
    with stranger() as pid:
        other = adopt(Identity(pid, identity(pid).start_ticks - 1))
        assert other.exit_status() == Exit()
        assert other.signal(signal.SIGKILL) is None
        other.reap()
        assert not gone(pid)


def test_a_process_that_is_gone_is_not_adopted() -> None:
    with stranger("exit 0") as pid:
        wait_until(lambda: gone(pid))
        assert adopt(Identity(pid, 1)).exit_status() == Exit()


def test_a_child_of_ours_is_adopted_with_its_exit_status() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = adopt(identity(child.pid))
    assert process.is_child
    process.signal(signal.SIGTERM)
    assert ended(process) == Exit(signal=signal.SIGTERM)
    process.reap()
    child.wait(15)


def test_a_child_whose_supervisor_is_dead_does_not_begin(tmp_path: Path) -> None:
    """``python`` launches and is gone at once; the child's check comes after its birth was told."""
    birth, begun = tmp_path / "birth", tmp_path / "begun"
    program = (
        "import os, signal, sys; from watchdogd.act import birth as births, spawning\n"
        "tell = births.tell\n"
        "def slow(*words):\n"
        "    while os.getppid() == parent: pass\n"
        "    tell(*words)\n"
        "births.tell, parent = slow, os.getpid()\n"
        f"touch, birth = ('touch', {str(begun)!r}), {str(birth)!r}\n"
        "launch = spawning.Launch(touch, dict(os.environ), die_with_parent=False, birth=birth)\n"
        "print(spawning.launch(launch).pid, flush=True); os._exit(0)"
    )
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=15, check=True, cwd=ROOT)
    pid = int(ran.stdout)
    wait_until(lambda: gone(pid))
    assert birth.exists()
    assert not begun.exists()
