"""`watchdogd exec` with a program of a test, in a place of its own where nothing of it may be left.

Invariant: at the end of the ``with`` it has ended, and no process and no file of it is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.helpers.running import ROOT, TIMEOUT_SECONDS, wait_until
from watchdogd.act import sweep
from watchdogd.act.private import PREFIX
from watchdogd.publish import events

WORKER = ("--instrument", "worker")


def program(body: str) -> list[str]:
    """Python after ``tests/helpers/workers/prelude.py``: attached, and able to talk through files."""
    return [sys.executable, "-c", f"from tests.helpers.workers.prelude import *\n{body}"]


class Executed:
    """``command``: as a shell would be given it. Standard output and error are kept in files."""

    def __init__(
        self, options: Sequence[str], command: Sequence[str], *, before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None, **popen: Any,
    ) -> None:  # fmt: skip
        self.directory = Path(tempfile.mkdtemp(prefix="watchdogd-test-", dir="/dev/shm"))
        self.record = self.directory / "record.jsonl"
        self.place = self.directory / "place"
        self.place.mkdir(mode=0o700)
        self.command = [
            *before, sys.executable, "-m", "watchdogd", "exec", *options, "--json-events", str(self.record), "--",
            *command,
        ]  # fmt: skip
        self.environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "HERE": str(self.directory), "XDG_RUNTIME_DIR": str(self.place),
            **(environment or {}),
        }  # fmt: skip
        self._popen = popen

    def __enter__(self) -> Executed:
        with (self.directory / "out").open("wb") as out, (self.directory / "err").open("wb") as err:
            standard: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **self._popen}
            self.process = subprocess.Popen(self.command, env=self.environment, **standard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                assert self.process.poll() is not None, "it has not ended"
                assert self.left() == [], self.said()
                assert list(self.place.iterdir()) == [], self.said()
        finally:
            self.process.kill()
            self.process.wait(TIMEOUT_SECONDS)
            for pid in self.left():
                os.kill(pid, 9)
            if kind is not None:
                print(self.said(), self.out(), file=sys.stderr)
            shutil.rmtree(self.directory)

    def left(self) -> list[int]:
        """Processes that name a heartbeat of it."""
        return [stat.pid for stat in sweep.leftovers(str(self.place))]

    def status(self) -> int:
        """Of its end, as a shell would show it."""
        code = self.process.wait(TIMEOUT_SECONDS)
        return 128 - code if code < 0 else code

    def out(self) -> str:
        return (self.directory / "out").read_text(errors="replace")

    def said(self) -> str:
        """On standard error: the program's words and ours."""
        return (self.directory / "err").read_text(errors="replace")

    def touch(self, name: str) -> None:
        self.directory.joinpath(name).touch()

    def wait_file(self, name: str) -> str:
        path = self.directory / name
        wait_until(lambda: path.exists() or self.process.poll() is not None, what=lambda: f"{name}\n{self.said()}")
        return path.read_text()

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        if not self.record.exists():
            return []
        read = (events.decode(line) for line in self.record.read_bytes().splitlines())
        return [dict(event) for event in read if event is not None and kind in (None, event["kind"])]

    def run_directory(self) -> Path:
        """Of the supervisor, once it is there."""
        wait_until(lambda: list(self.place.glob(f"{PREFIX}*/run/board")), what=self.said)
        return next(self.place.glob(f"{PREFIX}*/run"))


class Ran(NamedTuple):
    """What there was to see of one that has ended."""

    status: int
    out: str
    said: str
    events: list[dict[str, Any]]


def run(options: Sequence[str], command: Sequence[str], **more: Any) -> Ran:
    """To its end."""
    with Executed(options, command, **more) as executed:
        return Ran(executed.status(), executed.out(), executed.said(), executed.events())
