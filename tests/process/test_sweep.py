"""Who belongs to a worker, who does not, and that nobody else is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.running import gone, wait_until
from watchdogd import abi
from watchdogd.act import sweep
from watchdogd.observe import procfs

MARK = f"/dev/shm/watchdogd-test-{os.getpid()}/heartbeats/a.1"  # no other run shall find ours
TELL = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Killed at the end."""
    made: list[int] = []
    yield made
    for pid in made:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


def spawn(pids: list[int], before: str = "", mark: str = MARK, session: bool = True) -> int:
    """Pid of the one that says it is there, which may be a descendant of what is started."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os, subprocess, sys\n{before}\n{TELL}"],
        stdout=subprocess.PIPE, env={**os.environ, abi.ENVIRONMENT: mark}, start_new_session=session,
    )  # fmt: skip
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    pids += [process.pid, pid]
    return pid


def identity(pid: int) -> procfs.Identity:
    stat = procfs.stat(pid)
    return procfs.Identity(pid, 0 if stat is None else stat.start_ticks)


def found(root: int, mark: str = MARK, *, is_held: bool = True) -> set[int]:
    return {stat.pid for stat in sweep.members(identity(root), mark, os.getpid(), is_held=is_held)}


DAEMON = "os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)"


def test_a_daemon_of_the_worker_is_a_member(pids: list[int]) -> None:
    daemon = spawn(pids, DAEMON)
    root = pids[0]
    assert procfs.stat(daemon).session != root  # type: ignore[union-attr]  # None fails the test too
    assert daemon in found(root)


def test_a_daemon_of_another_incarnation_is_not(pids: list[int]) -> None:
    daemon = spawn(pids, DAEMON, mark=MARK.replace("a.1", "a.10"))
    assert daemon not in found(pids[0])


def test_a_child_in_a_session_of_its_own_is_a_member_by_descent(pids: list[int]) -> None:
    child = spawn(pids, "if os.fork(): os.wait(); os._exit(0)\nos.setsid()", mark="/elsewhere/b.1")
    assert found(pids[0]) == {child}


def test_the_root_and_the_supervisor_are_no_members(pids: list[int]) -> None:
    root = spawn(pids)
    assert found(root) == set()
    assert os.getpid() not in found(root)


@pytest.mark.parametrize("root", [0, -1])
def test_a_worker_without_a_process_has_no_members_session_0_is_init_s(root: int) -> None:
    with pytest.raises(ValueError, match="refusing"):
        sweep.members(procfs.Identity(root, 0), MARK, os.getpid(), is_held=True)


@pytest.mark.parametrize("mark", [MARK, ""], ids=["marked", "not marked"])
def test_a_session_whose_leader_we_do_not_hold_may_be_a_stranger_s(pids: list[int], mark: str) -> None:
    """The leader is gone, and its number may have been used again: only the environment tells whose they are."""
    child = spawn(pids, "os.fork() and os._exit(0)", mark=mark)
    leader = procfs.stat(child).session  # type: ignore[union-attr]  # None fails the test too
    wait_until(lambda: gone(leader))
    gone_root = procfs.Identity(leader, 1)
    members = {stat.pid for stat in sweep.members(gone_root, MARK, os.getpid(), is_held=False)}
    assert (child in members) == (mark == MARK)


def test_a_process_that_has_the_number_of_the_root_is_not_the_root(pids: list[int]) -> None:
    stranger = spawn(pids, mark="/elsewhere/b.1")
    old_root = procfs.Identity(stranger, identity(stranger).start_ticks - 1)
    assert sweep.members(old_root, MARK, os.getpid(), is_held=False) == []


def test_leftovers_are_those_whose_environment_names_the_directory_and_no_longer_one(pids: list[int]) -> None:
    ours = spawn(pids)
    others = spawn(pids, mark=MARK.replace("heartbeats/", "heartbeats-of-another/"))
    left = {stat.pid for stat in sweep.leftovers(str(Path(MARK).parent))}
    assert ours in left
    assert others not in left


def test_a_leftover_is_spared_while_its_heartbeat_is_in_use(pids: list[int]) -> None:
    ours, other = spawn(pids), spawn(pids, mark=MARK.replace("a.1", "b.2"))
    left = {stat.pid for stat in sweep.leftovers(str(Path(MARK).parent), lambda mark: mark == MARK.encode())}
    assert other in left
    assert ours not in left


def test_descendants_are_found_without_any_mark(pids: list[int]) -> None:
    child = spawn(pids, "if os.fork(): os.wait(); os._exit(0)\nos.setsid(); os.environ.clear()", mark="")
    assert child in {stat.pid for stat in sweep.descendants(os.getpid())}
    assert os.getpid() not in {stat.pid for stat in sweep.descendants(os.getpid())}


def test_a_process_that_is_not_the_one_that_was_found_is_spared(pids: list[int]) -> None:
    """Same pid, other start time: the pid was used again."""
    pid = spawn(pids)
    stat = procfs.stat(pid)
    assert stat is not None
    assert not sweep.kill(stat._replace(start_ticks=stat.start_ticks - 1))
    assert not gone(pid)
    assert sweep.kill(stat)
    wait_until(lambda: gone(pid))


def test_a_process_that_is_gone_is_no_error(pids: list[int]) -> None:
    pid = spawn(pids)
    stat = procfs.stat(pid)
    assert stat is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not sweep.kill(stat)
    assert not sweep.kill(stat._replace(pid=2**22 - 1))


def test_a_sweep_tells_whom_it_killed_and_that_nobody_is_left(pids: list[int]) -> None:
    daemon = spawn(pids, DAEMON)
    root, mine = identity(pids[0]), os.getpid()
    sweeper = sweep.Sweeper(lambda: sweep.members(root, MARK, mine, is_held=True))
    readable, _, _ = select.select([sweeper.descriptor], [], [], 15)
    assert readable
    assert sweeper.result() == sweep.Swept((daemon,), ())
    os.waitpid(sweeper.pid, 0)
    assert gone(daemon)


def test_what_was_killed_and_is_no_longer_found_is_waited_for_until_it_is_gone(pids: list[int]) -> None:
    """A dying process loses its environment, by which it is found, before it has let go of its descriptors."""
    pid = spawn(pids)
    stat = procfs.stat(pid)
    assert stat is not None
    found_once = [[stat]]
    swept = sweep.sweep(lambda: found_once.pop() if found_once else [])
    assert swept == sweep.Swept((pid,), ())
    assert gone(pid)


def test_a_sweep_that_fails_does_not_look_like_a_clean_one() -> None:
    def fail() -> list[procfs.Stat]:
        os._exit(1)

    sweeper = sweep.Sweeper(fail)
    select.select([sweeper.descriptor], [], [], 15)
    with pytest.raises(sweep.SweepFailed):
        sweeper.result()
    os.waitpid(sweeper.pid, 0)


def test_a_sweep_that_does_not_return_can_be_abandoned() -> None:
    def block() -> list[procfs.Stat]:
        signal.pause()
        return []

    sweeper = sweep.Sweeper(block)
    assert sweeper.result() is None
    sweeper.abandon()
    assert os.waitpid(sweeper.pid, 0)[1] == signal.SIGKILL
