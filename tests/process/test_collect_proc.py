"""What the collectors of /proc tell of real processes, and what they do with those that are gone, hidden or stuck."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.worker_process import LineProcess, wait_until
from watchdogd.incidents.collectors import Evidence, Target, cgroups, mappings, proc

TREE = """
import os, subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
child = subprocess.Popen(["/bin/sleep", "600"])
held = open("/dev/null")
os.dup2(held.fileno(), 100)
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
"""
AS_NOBODY = """
import os, sys
from watchdogd.incidents.collectors import Target, proc
proc.collect(Target("w", (os.getpid(),), "", 1))  # what Python loads late may be root's alone to read
os.setgid(65534)
os.setuid(65534)
found = proc.collect(Target("w", (int(sys.argv[1]),), "", 1))
print(found.outcome, len(found.threads), any(thread.kernel_stack for thread in found.threads), "root" in found.detail)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give up its rights")


def target(*pids: int, until_ns: int | None = None) -> Target:
    return Target("worker", pids, "/nonexistent", 1, until_ns=until_ns)


@contextmanager
def tree() -> Iterator[tuple[int, int]]:
    """A process with two threads, that reads its standard input, and its child, that sleeps."""
    with LineProcess([sys.executable, "-c", TREE], {}) as process:
        child = int(process.hear())
        wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
        wait_until(lambda: all(state(pid) == "S" for pid in (process.pid, child)))
        try:
            yield process.pid, child
        finally:
            os.kill(child, 9)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_only_a_lane_names_is_no_business_of_collectors() -> None:
    """Its number may be another's by now; and a worker may write that of the supervisor there, or of another worker."""
    with tree() as (root, child), tree() as (other, _):
        assert proc.family((root, other, os.getpid(), 1)) == [root, child]
        found = proc.collect(target(root, other, os.getpid()))
        assert {thread.pid for thread in found.threads} == {root, child}


def test_of_a_worker_whose_first_process_is_gone_nobody_is_taken_for_it() -> None:
    with tree() as (other, _):
        gone = subprocess.Popen(["/bin/true"])
        gone.wait()
        assert proc.family((gone.pid, other)) == []
        assert proc.family(()) == []


def test_every_thread_of_a_worker_and_of_its_children_is_told() -> None:
    with tree() as (parent, child):
        found = proc.collect(target(parent))
        told = {(thread.pid, thread.tid): thread for thread in found.threads}
        assert set(told) == {(parent, tid) for tid in proc.tids(parent)} | {(child, child)}
        assert len(told) == 3
    assert told[child, child].name == "sleep"
    assert {thread.state for thread in told.values()} == {"S"}
    assert all(thread.cpu_ns is not None for thread in told.values())
    assert {process.pid: process.parent for process in found.processes}[child] == parent


@needs_root
def test_where_a_thread_stands_in_the_kernel_is_told_to_root() -> None:
    with tree() as (parent, child):
        found = proc.collect(target(parent))
    main = next(thread for thread in found.threads if thread.tid == parent)
    asleep = next(thread for thread in found.threads if thread.tid == child)
    assert found.outcome == "ok"
    assert main.syscall is not None and main.syscall.startswith("read 0x0 ") and " on pipe:[" in main.syscall
    assert asleep.syscall is not None and asleep.syscall.startswith("clock_nanosleep ")
    assert any("nanosleep" in frame for frame in asleep.kernel_stack)
    assert not any(frame.startswith("[") for frame in asleep.kernel_stack)


@needs_root
def test_what_is_hidden_from_us_is_no_permission_and_the_rest_is_kept() -> None:
    with tree() as (parent, _):
        told = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(parent)], capture_output=True, text=True, check=True, timeout=20
        )
    assert told.stdout.split() == ["no", "permission", "3", "False", "True"]


def test_a_worker_that_is_gone_is_a_failure_that_says_so() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait(10)
    for collector in (proc, mappings):
        assert collector.collect(target(process.pid)) == Evidence("failed", "none of its processes is there any more")


def test_late_it_gives_what_cannot_wait_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "DEVICES", ("/dev/null",))
    with tree() as (parent, _):
        found = proc.collect(target(parent, until_ns=time.monotonic_ns()))
    assert [process.devices for process in found.processes] == [(), ()]
    assert all(process.resident for process in found.processes)
    assert len(found.threads) == 3
    assert not any(thread.kernel_stack or thread.syscall for thread in found.threads)
    assert "the time did not suffice" in found.detail


def test_threads_beyond_the_limit_are_counted_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "MOST_THREADS", 2)
    with tree() as (parent, _):
        found = proc.collect(target(parent))
    assert len(found.threads) == 2
    assert "1 threads left out" in found.detail


def test_an_open_device_is_told_and_another_file_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "DEVICES", ("/dev/null",))
    with tree() as (parent, child):
        found = {process.pid: process.devices for process in proc.collect(target(parent)).processes}
    assert found == {parent: ("/dev/null",), child: ()}


def test_the_command_and_the_telling_libraries_are_told() -> None:
    with tree() as (parent, child):
        found = {process.pid: process for process in mappings.collect(target(parent)).processes}
    assert found[child].command == ("/bin/sleep", "600")
    assert found[child].mapped == ()
    assert found[parent].command[:2] == (sys.executable, "-c")


MAPS = """\
55d0c2a00000-55d0c2a01000 r--p 00000000 fe:00 1234 /usr/bin/python3.10
7f10aa000000-7f10aa100000 r-xp 00000000 fe:00 1235 /usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1.1
7f10aa100000-7f10aa200000 r--p 00100000 fe:00 1235 /usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1.1
7f10ab000000-7f10ab100000 r-xp 00000000 fe:00 1236 /usr/lib/aarch64-linux-gnu/libnvinfer.so.8.5.2
7f10ac000000-7f10ac100000 r-xp 00000000 fe:00 1237 /opt/my env/libtorch_cuda.so
7f10ad000000-7f10ad100000 r-xp 00000000 fe:00 1238 /usr/lib/aarch64-linux-gnu/libc.so.6
7f10ae000000-7f10ae100000 rw-p 00000000 00:00 0
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
"""


def test_libraries_that_tell_what_it_runs_are_picked_once_and_others_are_not() -> None:
    assert mappings.libraries(MAPS) == (
        "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1.1",
        "/usr/lib/aarch64-linux-gnu/libnvinfer.so.8.5.2",
        "/opt/my env/libtorch_cuda.so",
    )


def test_counters_of_both_versions_are_read_where_they_are(tmp_path: Path) -> None:
    files = {
        "memory/pod/memory.failcnt": "7\n",
        "memory/pod/memory.oom_control": "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n",
        "unified/cgroup.controllers": "cpu\n",
        "unified/slice/cpu.stat": "usage_usec 11\nuser_usec 5\nnr_throttled 2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    told = dict(cgroups.counters("4:memory:/pod\n3:cpu,cpuacct:/pod\n0::/slice\n", str(tmp_path)))
    assert told == {
        "memory.failcnt": "7",
        "memory.oom_control.under_oom": "1",
        "memory.oom_control.oom_kill": "3",
        "cpu.stat.usage_usec": "11",
        "cpu.stat.nr_throttled": "2",
    }


def test_a_group_outside_our_namespace_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert cgroups.counters("0::/../..\n0::relative\nnonsense\n", str(tmp_path / "inside")) == ()
    assert cgroups.counters("0::/\n", str(tmp_path)) == (("memory.current", "5"),)
