"""The history of calls as a real keeper of a real supervisor writes it: at the end of a life and at its own end."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.helpers.fake_runtime import MS, FakeRuntime
from tests.helpers.running import KEPT, Supervised, wait_until, worker
from watchdogd.decide import reporting
from watchdogd.incidents import history, jobs
from watchdogd.incidents.recording import LOOK_NS, Recording

SYNCS = """
worker.ready()
for _ in range(500):
    with worker.call('sync'): pass
tell(f'done{INCARNATION}', 'x')
while True: time.sleep(1)
"""
LONGEST = LOOK_NS / 1e9 + 15.0


def calls(state: Path) -> int:
    return sum(row.histogram.count for row in reporting.calls(history.read(str(state)), 0) if row.operation == "sync")


def keeper_of(running: Supervised) -> psutil.Process:
    children = psutil.Process(running.process.pid).children()
    return next(child for child in children if "watchdogd.incidents.keeper" in child.cmdline())


def test_all_calls_of_every_incarnation_are_on_record_after_the_end() -> None:
    with Supervised({"a": worker(SYNCS, deadlines={"sync": "5s"})}, incidents=KEPT) as running:
        running.wait_file("done1")
        keeper = keeper_of(running)
        heartbeat = running.snapshot()["workers"][0]["heartbeat"]
        wait_until(lambda: heartbeat in {file.path for file in keeper.open_files()}, LONGEST, running.log)
        running.ask("restart", "a")
        running.wait_file("done2")
        wait_until(lambda: calls(running.state) == 500, LONGEST, running.log)
        running.stop()
        wait_until(lambda: calls(running.state) == 1_000, LONGEST, running.log)


# --- a disk that does not write -------------------------------------------------------------------------------------


class Loop:
    """What a keeper does with its jobs."""

    def __init__(self, runtime: FakeRuntime, state: Path) -> None:
        self.jobs = jobs.Jobs()
        self.recording = Recording(self.jobs, str(runtime.directory), str(state), 0)

    def settle(self) -> None:
        def settled() -> bool:
            self.jobs.look()
            return not self.jobs.are_running

        wait_until(settled)


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    runtime = FakeRuntime(tmp_path)
    runtime.incarnation("a", 1).record(0, "sync", MS, 7)
    runtime.publish()
    return runtime


def test_lines_that_could_not_be_written_are_written_with_the_next(runtime: FakeRuntime, tmp_path: Path) -> None:
    state = tmp_path / "state"  # which is not there
    loop = Loop(runtime, state)
    loop.recording.look(0)
    runtime.incarnation("a", 2).record(0, "sync", MS, 4)
    runtime.publish()
    loop.recording.look(LOOK_NS)  # the end of the first
    loop.settle()
    assert not state.exists()
    state.mkdir()
    loop.recording.end()
    loop.settle()
    assert calls(state) == 11


def test_a_disk_that_blocks_does_not_block_the_keeper(runtime: FakeRuntime, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "history").mkdir(parents=True)
    path = state / "history" / history.FILE_NAME
    os.mkfifo(path)
    full = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(full, bytes(1 << 16))
    loop = Loop(runtime, state)
    began = time.monotonic()
    loop.recording.look(0)
    loop.recording.end()
    loop.jobs.look()
    assert time.monotonic() - began < 1 and loop.jobs.are_running
    while loop.jobs.are_running:  # once the disk is back, it is written
        with suppress(BlockingIOError):
            os.read(full, 1 << 20)
        loop.jobs.look()
    os.close(full)
