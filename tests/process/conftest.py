"""What several of the process tests need of the machine."""

from __future__ import annotations

import errno
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.cuda_process import device, start  # noqa: F401 - fixtures
from tests.helpers.running import wait_until
from watchdogd.act.runs import Outcome, Runs
from watchdogd.model import SECOND
from watchdogd.observe.loop import Loop
from watchdogd.publish.journal import Journal
from watchdogd.publish.throttle import Throttle

FREEZER = Path("/sys/fs/cgroup/freezer")


class Freezer:
    """A cgroup v1 freezer: what is in it shows state D and keeps a SIGKILL pending until it is thawed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def freeze(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))
        self._set("FROZEN")

    def thaw(self) -> None:
        self._set("THAWED")

    def remove(self) -> None:
        """With all that is in it set free. What is about to die leaves it only then, and keeps it busy until then."""
        self.thaw()
        wait_until(self._is_removed)

    def _is_removed(self) -> bool:
        for pid in (self.path / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (FREEZER / "cgroup.procs").write_text(pid)
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def _set(self, state: str) -> None:
        file = self.path / "freezer.state"
        file.write_text(state)
        wait_until(lambda: file.read_text().strip() == state)


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    if os.geteuid() != 0 or not (FREEZER / "cgroup.procs").exists():
        pytest.skip("needs root and a cgroup v1 freezer")
    made = Freezer(FREEZER / f"watchdogd-test-{uuid.uuid4().hex[:8]}")
    made.path.mkdir()
    try:
        yield made
    finally:
        made.remove()


class Running:
    """Runs and the loop that tells of their ends."""

    def __init__(self) -> None:
        self.loop = Loop(lambda _: None)
        self.runs = Runs(self.loop)
        self.journal = Journal(7, 0, Throttle(1 << 20))
        self.outcomes: list[Outcome] = []

    def start(self, script: str, seconds: float = 20.0, *, dies_with_us: bool = True, is_ours: bool = False) -> None:
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + round(seconds * SECOND)
        self.runs.start(
            "it", ("sh", "-c", script), os.environ, deadline_ns, self.done, now_ns,
            dies_with_us=dies_with_us, is_ours=is_ours,
        )  # fmt: skip

    def done(self, outcome: Outcome, _now_ns: int) -> None:
        self.outcomes.append(outcome)

    def until(self, predicate: Callable[[], object]) -> None:
        def ticked() -> object:
            self.loop.wait(time.monotonic_ns() + SECOND // 100)
            self.runs.check(time.monotonic_ns())
            return predicate()

        wait_until(ticked)


@pytest.fixture
def running() -> Iterator[Running]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    made = Running()
    try:
        yield made
    finally:
        made.runs.close()
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
