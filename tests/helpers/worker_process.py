"""Runs a few lines of Python as a worker in a process of its own, and talks with it by lines."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from watchdogd import abi

TIMEOUT_SECONDS = 20.0
ROOT = Path(__file__).resolve().parents[2]

_PRELUDE = """
import os, signal, subprocess, sys, threading, time
import watchdogd.worker as wd

def say(*words):
    print(*words, flush=True)

def hear():
    line = sys.stdin.readline()
    if not line:
        os._exit(3)  # the test is gone
    return line.strip()

worker = wd.attach()
"""


def wait_until(predicate: Callable[[], bool], timeout: float = TIMEOUT_SECONDS) -> None:
    give_up = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < give_up, "not within the time allowed"
        time.sleep(0.002)


class LineProcess:
    """A child that is told and tells lines. Killed at the end of the ``with``."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        )
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT_SECONDS)

    def hear(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        give_up = time.monotonic() + TIMEOUT_SECONDS
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], give_up - time.monotonic())
            assert ready, f"it said nothing; so far: {self._buffer!r}"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, f"it ended; stderr: {self.errors()}"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def end(self) -> str:
        """Waits for its regular end; what it said on standard error."""
        _, errors = self.process.communicate(timeout=TIMEOUT_SECONDS)
        assert self.process.returncode == 0, errors.decode()
        return errors.decode()

    def errors(self) -> str:
        _, errors = self.process.communicate(timeout=TIMEOUT_SECONDS)
        return errors.decode()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(TIMEOUT_SECONDS)


def run_worker(source: str, implementation: str, heartbeat: Path | None, prelude: str = _PRELUDE) -> LineProcess:
    """A Python worker: ``source`` after an attach, with ``worker``, ``say`` and ``hear``."""
    environment = {
        "WATCHDOGD_PURE_PYTHON": "1" if implementation == "python" else "0",
        abi.ENVIRONMENT: str(heartbeat or ""),
    }
    return LineProcess([sys.executable, "-c", prelude + source], environment)
