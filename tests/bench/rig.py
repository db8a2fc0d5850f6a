"""A real supervisor with a configuration of its own, and what it publishes.

Invariant: leaving the ``with`` block ends the supervisor and everything it started, also after a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any

from watchdogd.publish import board, events

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "programs"
SHARED_MEMORY = "/dev/shm"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Failed(Exception):
    """A benchmark could not be run; the message says why."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str, every_seconds: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {seconds:g} s in vain: {what}")
        time.sleep(every_seconds)


def worker_table(name: str, command: Sequence[str | Path], **settings: object) -> str:
    """A worker's table in TOML. Values are as JSON writes them, which for these is also TOML; dicts are inlined."""
    lines = [f"[workers.{name}]", f"command = {json.dumps([str(part) for part in command])}"]
    return "\n".join([*lines, *(f"{key} = {_toml(value)}" for key, value in settings.items())])


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    return json.dumps(value)


def python_program(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)]


def compile_c(name: str, directory: Path) -> Path:
    """A program of ``programs/``, compiled as a user of watchdogd.h would."""
    binary = directory / name
    command = ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT}/watchdogd/native"]
    subprocess.run([*command, "-o", str(binary), str(PROGRAMS / f"{name}.c")], check=True, timeout=60)
    return binary


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory in shared memory, as the runtime directory of a service is."""
    path = Path(tempfile.mkdtemp(prefix="watchdogd-bench-", dir=SHARED_MEMORY))
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Rig:
    def __init__(
        self, workers: Sequence[str], *, metrics: bool = True, fifo: bool = False,
        supervisor: Mapping[str, object] = {}, environment: Mapping[str, str] = {},
    ) -> None:  # fmt: skip
        self._workers = workers
        self._metrics = metrics
        self._fifo = fifo
        self._supervisor = supervisor
        self._environment = {**ENVIRONMENT, **environment}

    def __enter__(self) -> Rig:
        self.directory = Path(tempfile.mkdtemp(prefix="watchdogd-bench-", dir=SHARED_MEMORY))
        self.runtime = self.directory / "run"
        self.state = self.directory / "state"
        settings = {"runtime_dir": str(self.runtime), "state_dir": str(self.state), **self._supervisor}
        settings["realtime_priority"] = int(self._fifo)
        parts = [
            "[supervisor]\n" + "\n".join(f"{key} = {_toml(value)}" for key, value in settings.items()),
            f'[metrics]\nlisten = "{"127.0.0.1:0" if self._metrics else ""}"',
            "[tegrastats]\ncommand = []\n[nvml]\nenabled = false\n[nvgpu]\nenabled = false\n[kmsg]\nenabled = false",
            *self._workers,
        ]
        config = self.directory / "watchdogd.toml"
        config.write_text("\n".join(parts), encoding="utf-8")
        self._log = (self.directory / "supervisor.log").open("wb")
        self._command = [sys.executable, "-m", "watchdogd", "run", "-c", str(config)]
        self.launch()
        try:
            self.wait_running()
            if self._metrics:
                wait_until((self.runtime / "exporter.address").exists, 20, "the exporter's address")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def launch(self) -> int:
        """A supervisor on these directories; the one before must have ended. Its pid."""
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stderr=self._log, stdout=self._log
        )
        return self.process.pid

    def wait_running(self) -> None:
        wait_until(self._all_running, 60, f"workers running\n{self.log()}")

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        if kind is None:
            shutil.rmtree(self.directory)
        else:
            print(f"kept for a look: {self.directory}", file=sys.stderr)

    def log(self) -> str:
        return (self.directory / "supervisor.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _all_running(self) -> bool:
        if self.process.poll() is not None:
            raise Failed(f"the supervisor ended:\n{self.log()}")
        try:
            workers = self.workers()
        except board.BoardError:
            return False
        if self.published().pid != self.process.pid:
            return False
        return len(workers) == len(self._workers) and all(w["phase"] == "running" for w in workers)

    def published(self) -> board.Published:
        return board.read(str(self.runtime / board.FILE_NAME))

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.published().body.get("workers", [])
        return found

    def events(self, kind: events.EventKind | None = None) -> list[dict[str, Any]]:
        path = str(self.state / events.FILE_NAME)
        return [event for event in events.read_file(path) if kind is None or event["kind"] == kind]

    def verdicts(self) -> list[dict[str, Any]]:
        return self.events(events.EventKind.VERDICT)

    @property
    def address(self) -> str:
        return (self.runtime / "exporter.address").read_text(encoding="ascii").strip()

    def child(self, module: str) -> int:
        """The pid of the supervisor's child that runs this module."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == self.process.pid and module.encode() in command:
                return int(entry.name)
        raise Failed(f"{module} is not running")


def fifo_permitted() -> bool:
    """Whether this user may make a process real-time."""
    probe = subprocess.Popen(["sleep", "10"])
    try:
        os.sched_setscheduler(probe.pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        return False
    finally:
        probe.kill()
        probe.wait()
    return True


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but spin."""
    processes = [subprocess.Popen(python_program("spin")) for _ in range(count)]
    try:
        yield
    finally:
        _end(processes)


@contextmanager
def hammering(address: str, clients: int, report: Path) -> Iterator[None]:
    """So many connections that scrape without a pause; how many scrapes that made is in ``report`` at the end."""
    process = subprocess.Popen(python_program("scrape", address, clients, report))
    try:
        yield
    finally:
        _end([process])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(10)


@contextmanager
def scraped(address: str, every_seconds: float = 0.5) -> Iterator[None]:
    """As Prometheus would, from a thread of this process."""
    over = Event()

    def scrape() -> None:
        while not over.wait(every_seconds):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                answer.read()

    thread = Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(15)
