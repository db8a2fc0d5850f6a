"""What several of the process tests need of the machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cuda_process import device, start  # noqa: F401 - fixtures
from tests.helpers.running import wait_until

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
        made.thaw()
        for pid in (made.path / "cgroup.procs").read_text().split():
            (FREEZER / "cgroup.procs").write_text(pid)
        made.path.rmdir()
