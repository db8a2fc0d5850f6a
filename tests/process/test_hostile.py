"""What surrounds the supervisor is hostile or broken: dead children, foreign pids, full tables, planted files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.running import ROOT, Supervised, wait_until, worker
from watchdogd import abi
from watchdogd.act import launching, sweep
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import WorkerState
from watchdogd.model import MILLISECOND, SECOND, Deadlines, Phase, SupervisorSettings, WorkerSettings
from watchdogd.observe import heartbeat, procfs

SYNC = abi.OPERATION["sync"]


@contextmanager
def process(*command: str, user: str | None = None) -> Iterator[int]:
    """The pid of a process that is ended with the block."""
    with subprocess.Popen(command or ("sleep", "30"), user=user) as child:
        try:
            yield child.pid
        finally:
            child.kill()


# --- a word that nobody owns any more -------------------------------------------------------------------------------


def watched_with_word(directory: Path, owner: int, entered_ns: int) -> Watched:
    """A running worker with one call in flight, its lane owned by ``owner``."""
    limits: list[int | None] = [None] * len(abi.OPERATIONS)
    limits[SYNC] = 50 * MILLISECOND
    settings = WorkerSettings("a", ("true",), accelerator="gpu0", deadlines=Deadlines(calls_ns=tuple(limits)))
    path = str(directory / "a.1")
    spawned_ns = entered_ns - SECOND
    watched = Watched(settings)
    watched.reader = heartbeat.create(path, boot_id=1, incarnation=1, spawned_ns=spawned_ns)
    words = {
        abi.H["lanes_used_cas"] * abi.WORD: 1,
        abi.HOT_OFFSET + abi.L["owner"] * abi.WORD: owner << 32 | owner,
        abi.HOT_OFFSET + abi.L["outer"] * abi.WORD: abi.stamp(entered_ns, SYNC),
    }
    with open(path, "r+b", buffering=0) as file:
        for offset, word in words.items():
            os.pwrite(file.fileno(), word.to_bytes(8, sys.byteorder), offset)
    watched.state = WorkerState(
        "a", phase=Phase.RUNNING, incarnation=1, spawned_ns=spawned_ns, ready_ns=spawned_ns, armed_ns=spawned_ns
    )
    return watched


def verdict(watched: Watched, now_ns: int) -> object:
    watched.read()
    watched.examine(now_ns)
    return watched.verdict(0, 20 * MILLISECOND, now_ns)


def test_a_word_whose_process_is_gone_condemns_nobody_and_is_in_no_call(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait(10)
    now_ns = time.monotonic_ns()
    watched = watched_with_word(tmp_path, child.pid, now_ns - SECOND)
    assert verdict(watched, now_ns) is None
    assert (watched.activity(), watched.stuck(now_ns)) == ((False, 0), None)


def test_a_word_whose_process_lives_is_a_verdict(tmp_path: Path) -> None:
    with process() as pid:
        entered_ns = time.monotonic_ns()
        watched = watched_with_word(tmp_path, pid, entered_ns)
        wait_until(lambda: time.monotonic_ns() > entered_ns + 60 * MILLISECOND)
        assert verdict(watched, time.monotonic_ns()) is not None
        assert watched.activity()[0] and watched.stuck(time.monotonic_ns()) is not None


def test_a_pid_that_is_another_process_s_by_now_does_not_bring_a_dead_call_back(tmp_path: Path) -> None:
    entered_ns = time.monotonic_ns() - SECOND
    with process() as later:  # started a second after the call was entered
        watched = watched_with_word(tmp_path, later, entered_ns)
        assert verdict(watched, time.monotonic_ns()) is None


def test_without_descriptors_a_hung_call_is_judged_and_the_supervisor_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    now_ns = time.monotonic_ns()
    with process() as pid:
        watched = watched_with_word(tmp_path, pid, now_ns - 60 * MILLISECOND)
        monkeypatch.setattr(procfs, "started_ns", refuse)
        assert verdict(watched, now_ns) is not None


def test_a_child_killed_in_a_call_leaves_its_parent_alone() -> None:
    body = """import subprocess
worker.ready()
if os.fork() == 0:
    with worker.call("sync"):
        tell("in")
        os.kill(os.getpid(), signal.SIGKILL)
serve()"""
    with Supervised({"a": worker(body, deadlines={"sync": "100ms"})}) as supervised:
        supervised.wait_file("in")
        at = time.monotonic()
        wait_until(lambda: time.monotonic() - at > 0.5)
        assert [event for event in supervised.events() if event["kind"] == "verdict"] == []


def test_a_process_is_found_in_its_own_pid_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("a pid namespace takes root")
    with process("unshare", "--pid", "--fork", "--kill-child", "sleep", "30") as outside:
        wait_until(lambda: children(outside))
        inside = children(outside)[0]
        namespace = procfs.pid_namespace(inside)
        assert namespace is not None and namespace != procfs.pid_namespace()
        assert procfs.inside(namespace) == {1: inside}


def children(pid: int) -> list[int]:
    return [stat.pid for stat in sweep.all_processes().values() if stat.parent == pid]


# --- the sweep ------------------------------------------------------------------------------------------------------


def test_a_sweep_leaves_the_supervisor_and_the_shell_that_started_it_alone() -> None:
    """Started from a shell that a worker of an earlier supervisor started: both carry its mark."""
    mark = f"/tmp/watchdogd-{os.getpid()}/heartbeats"
    find = (
        f"import os; from watchdogd.act import sweep;"
        f" print([s.pid for s in sweep.leftovers({mark!r})]); print(os.getpid())"
    )
    script = f'echo $$; sleep 30 & echo $!; "{sys.executable}" -c "{find}"; kill $!'
    environment = {**os.environ, abi.ENVIRONMENT: f"{mark}/a.1", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=20, check=True)
    shell, left, found, finder = told.stdout.split("\n")[:4]
    assert left in found
    assert shell not in found and finder not in found


def test_a_process_that_may_not_be_killed_does_not_end_the_sweep_for_the_others() -> None:
    if os.geteuid() != 0:
        pytest.skip("another user's process takes root")
    with process() as theirs, process(user="nobody") as ours:
        program = (
            "import os, sys; from watchdogd.act import sweep; from watchdogd.observe import procfs; os.setuid(65534);"
            "print([sweep.kill(procfs.stat(int(pid))) for pid in sys.argv[1:]])"
        )
        command = [sys.executable, "-c", program, str(theirs), str(ours)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
        assert told.stdout.strip() == "[False, True]", told.stderr


def test_ended_sweeps_are_reaped() -> None:
    sweeper = sweep.Sweeper(list)
    wait_until(lambda: sweeper.result() is not None)

    def reaped() -> bool:
        sweep.reap_ended()
        return procfs.stat(sweeper.pid) is None

    wait_until(reaped)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_fifo_in_the_place_of_a_log_does_not_hold_up_the_supervisor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.log")
    with pytest.raises(OSError, match="No such device"):
        launching.open_output(WorkerSettings("a", ("true",)), str(tmp_path))


def test_what_is_not_ours_among_the_heartbeats_is_a_clear_refusal(tmp_path: Path) -> None:
    with Supervised({"a": worker("serve()")}, directory=tmp_path) as supervised:
        supervised.wait_phase("a", "running", 1)
    (supervised.runtime / "heartbeats" / "planted").mkdir(parents=True)
    command = [sys.executable, "-m", "watchdogd", "run", "-c", str(supervised.config)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
    assert told.returncode == 1 and "remove it" in told.stderr


@pytest.mark.parametrize("shared", ["state_dir", "runtime_dir"])
def test_a_directory_that_another_supervisor_uses_is_refused_by_any_name(tmp_path: Path, shared: str) -> None:
    run, state = str(tmp_path / "run"), str(tmp_path / "state")
    first = Runtime(SupervisorSettings(runtime_dir=run, state_dir=state))
    os.symlink(run if shared == "runtime_dir" else state, tmp_path / "alias")
    alias = str(tmp_path / "alias")
    other = (alias, f"{state}-2") if shared == "runtime_dir" else (f"{run}-2", alias)
    program = (
        "import sys; from watchdogd.act.runtime import Runtime; from watchdogd.model import SupervisorSettings;"
        "Runtime(SupervisorSettings(runtime_dir=sys.argv[1], state_dir=sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, *other]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
    assert told.returncode == 1 and f"another supervisor (pid {os.getpid()})" in told.stderr
    first.close()
