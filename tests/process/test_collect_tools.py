"""Collectors that run somebody's program: what it says, and what is done where it hangs, floods or is not there."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.worker_process import LineProcess, wait_until
from watchdogd.incident import Stack
from watchdogd.incidents.collectors import Collector, Target, py_spy, tool
from watchdogd.incidents.jobs import Jobs

SLEEPER = "import threading, time\ndef sleeps():\n    time.sleep(600)\nprint(flush=True)\nsleeps()\n"


def target(pid: int, seconds: float = 10.0) -> Target:
    return Target("worker", (pid,), "/nonexistent", 1, until_ns=time.monotonic_ns() + int(seconds * 1e9))


def soon(seconds: float = 10.0) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


def script(place: Path, body: str) -> str:
    place.write_text(f"#!/bin/sh\n{body}\n")
    place.chmod(0o755)
    return str(place)


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> partial[str]:
    """Puts a py-spy of the test's own first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return partial(script, tmp_path / "py-spy")


def has_ended(jobs: Jobs) -> bool:
    jobs.look()
    return not jobs.descriptors()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"


@pytest.mark.skipif(py_spy._available() is not None, reason="py-spy is not installed here")
@pytest.mark.parametrize("collector", [py_spy.COLLECTOR, py_spy.NATIVE])
def test_the_stacks_of_a_python_process_are_told(collector: Collector) -> None:
    with LineProcess([sys.executable, "-c", SLEEPER], {}) as process:
        process.hear()
        wait_until(lambda: ") S " in Path(f"/proc/{process.pid}/stat").read_text())
        found = collector.collect(target(process.pid))
        if found.outcome == "failed":
            pytest.skip(f"it may not look into another process here: {found.detail}")
    (stack,) = found.stacks
    assert (stack.pid, stack.tid, stack.name) == (process.pid, process.pid, "MainThread")
    assert "sleeps (<string>:3)" in stack.frames
    assert stack.kind == ("native" if collector is py_spy.NATIVE else "python")
    assert (stack.frames[0] != "sleeps (<string>:3)") == (collector is py_spy.NATIVE)


def test_without_it_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    for collector in (py_spy.COLLECTOR, py_spy.NATIVE):
        found = collector.collect(target(os.getpid()))
        assert (found.outcome, found.detail) == ("missing tool", py_spy.REMEDY)
        assert collector.available() == py_spy.REMEDY


def test_a_process_left_stopped_by_a_tool_that_was_killed_goes_on(pretend: partial[str]) -> None:
    pretend('for pid; do :; done; kill -STOP "$pid"; exec sleep 600')
    with LineProcess(["/bin/cat"], {}) as process:
        found = py_spy.NATIVE.collect(target(process.pid, 0.5))
        assert found.outcome == "failed" and "did not end in time" in found.detail
        wait_until(lambda: not is_stopped(process.pid))
        assert process.ask("it lives") == "it lives"


def test_it_goes_on_too_where_the_collector_is_killed_with_it(pretend: partial[str], tmp_path: Path) -> None:
    """As it is where the hung call returns while its stacks are read: nobody wants them any more."""
    pretend(f'for pid; do :; done; kill -STOP "$pid"; touch {tmp_path}/stopped; exec sleep 600')
    jobs = Jobs()
    with LineProcess(["/bin/cat"], {}) as process:
        asked = target(process.pid, 60)
        job = jobs.start(lambda: ({}, py_spy.NATIVE.collect(asked)), soon(60), lambda _: None)
        assert job is not None
        wait_until((tmp_path / "stopped").exists)
        wait_until(lambda: is_stopped(process.pid))  # the kernel stops it when it runs next
        jobs.drop(job)
        wait_until(lambda: not is_stopped(process.pid))
        assert process.ask("it lives") == "it lives"
        wait_until(lambda: has_ended(jobs))


def test_a_tool_that_let_go_by_itself_leaves_a_process_as_it_is(pretend: partial[str]) -> None:
    """Stopped by somebody else meanwhile."""
    pretend('for pid; do :; done; kill -STOP "$pid"; exit 1')
    with LineProcess(["/bin/cat"], {}) as process:
        before = _children(os.getpid())
        assert py_spy.NATIVE.collect(target(process.pid, 5)).outcome == "failed"
        wait_until(lambda: not _children(os.getpid()) - before)
        assert is_stopped(process.pid)
        os.kill(process.pid, signal.SIGCONT)


def _children(pid: int) -> set[int]:
    """Without those that have ended."""
    told = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return {each for each in told if Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] != "Z"}


def test_a_process_that_somebody_had_stopped_stays_so(pretend: partial[str], tmp_path: Path) -> None:
    pretend(f"touch {tmp_path}/ran; exec sleep 600")
    with LineProcess(["/bin/cat"], {}) as process:
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid))
        found = py_spy.NATIVE.collect(target(process.pid, 0.5))
        assert (found.outcome, found.detail) == ("failed", f"pid {process.pid} is stopped")
        assert is_stopped(process.pid) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("said", ["", "not json", "{}", '[{"pid": 1}]', '[{"pid": 1, "frames": [{}]}, 7]'])
def test_what_cannot_be_read_of_it_gives_no_stack(said: str) -> None:
    assert py_spy.parse(said.encode(), "python") == []


# Of py-spy 0.4.3, `dump --native --json`, shortened.
SAID = b"""[{"pid": 25514, "thread_id": 140148494797696, "thread_name": "MainThread", "os_thread_id": 25514,
"active": false, "owns_gil": false, "frames": [
 {"name": "clock_nanosleep", "filename": "/usr/lib/x86_64-linux-gnu/libc.so.6", "short_filename": "libc.so.6",
  "module": "/usr/lib/x86_64-linux-gnu/libc.so.6", "line": 0, "locals": null, "is_entry": true},
 {"name": "f", "filename": "/app/worker.py", "module": null, "short_filename": "worker.py", "line": 4}]},
 {"pid": 25514, "thread_id": 1, "thread_name": null, "os_thread_id": null, "frames": []}]"""


def test_native_frames_have_their_library_and_python_frames_their_line() -> None:
    assert py_spy.parse(SAID, "native") == [
        Stack(25514, 25514, "native", ("clock_nanosleep (libc.so.6)", "f (/app/worker.py:4)"), "MainThread"),
        Stack(25514, None, "native", ()),
    ]


def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    command = script(tmp_path / "tool", f"sleep 600 & echo $! > {tmp_path}/child; echo said; wait")
    ran = tool.run([command], soon(0.5))
    assert (ran.status, ran.output, ran.why) == (None, b"said\n", "it did not end in time")
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not Path(f"/proc/{child}").exists() or ") Z " in Path(f"/proc/{child}/stat").read_text())


def test_one_that_closes_its_output_and_lives_on_is_ended(tmp_path: Path) -> None:
    ran = tool.run([script(tmp_path / "tool", "exec >&- 2>&-; sleep 600")], soon(0.5))
    assert (ran.status, ran.why) == (None, "it did not end in time")


def test_a_flood_is_cut(tmp_path: Path) -> None:
    ran = tool.run([script(tmp_path / "tool", "exec cat /dev/zero")], soon())
    assert ran.status is None and "more than" in ran.why
    assert len(ran.output) == tool.MOST_BYTES


def test_the_status_and_why_it_failed_are_told(tmp_path: Path) -> None:
    ran = tool.run([script(tmp_path / "tool", "echo first; echo why >&2; exit 3")], soon())
    assert (ran.status, ran.output, ran.said()) == (3, b"first\n", "why")
    assert tool.run([str(tmp_path / "tool")], soon(), both=True).output == b"first\nwhy\n"
    caused = b"Error: no\n\nCaused by:\n    0: that\n at f\n"
    assert tool.Ran(1, b"", "", caused).said() == "Error: no Caused by: 0: that"
    assert tool.Ran(3, b"one\ntwo\n").said() == "two"
    assert tool.Ran(3, b"\n").said() == "exit status 3"


def test_a_tool_beside_this_python_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = script(tmp_path / "some-tool", "exit")
    assert tool.find("some-tool") is None
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert tool.find("some-tool") == program


def test_a_tool_ends_with_the_collector_that_ran_it(tmp_path: Path) -> None:
    command = script(tmp_path / "tool", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    code = f"from watchdogd.incidents.collectors import tool; tool.run([{command!r}], 2**63)"
    with LineProcess([sys.executable, "-c", code], {}) as process:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
        pid = int((tmp_path / "pid").read_text())
        process.kill()
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text())
