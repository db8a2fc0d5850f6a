"""A real supervisor with real workers, for one test: written, started, looked at, ended.

Invariant: whatever the test does, at the end of the ``with`` the supervisor has ended and nothing of it is left: no
process that carries a heartbeat of its runtime directory, no heartbeat file, no control socket.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from watchdogd.act import sweep
from watchdogd.publish import board, events
from watchdogd.supervisor.control import ask
from watchdogd.view import status, status_json

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 15.0
RECORDER_SECONDS = 1.0  # more than it is ever behind, unless a test holds it up
OFF: dict[str, dict[str, Any]] = {
    "metrics": {"listen": ""},
    "tegrastats": {"command": []},
    "nvml": {"enabled": False},
    "nvgpu": {"enabled": False},
    "nvdla": {"enabled": False},
    "kmsg": {"enabled": False},
    "incidents": {"max_count": 0},  # its keeper takes as long to start as a supervisor: for those who look at incidents
}
KEPT: dict[str, Any] = {"max_count": 100}  # what those give as ``incidents``


def wait_until(predicate: Callable[[], object], timeout: float = TIMEOUT_SECONDS, what: object = "") -> None:
    """``what``: told, and looked at, if it takes too long."""
    give_up = time.monotonic() + timeout
    ran = time.thread_time()
    while not predicate():
        assert time.monotonic() < give_up, f"not within {timeout:g} s: {what() if callable(what) else what}"
        time.sleep(max(0.003, 3 * (time.thread_time() - ran)))  # what is long to read shall not cost a core
        ran = time.thread_time()


def free_port() -> int:
    """Of 127.0.0.1, for who binds it later: below those that the kernel gives to who asks for any, or connects."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.randrange(lowest - 20_000, lowest)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise AssertionError(f"no free port below {lowest}")


def worker(body: str, **keys: Any) -> dict[str, Any]:
    """The configuration of a worker whose program is ``body`` after ``tests/helpers/workers/prelude.py``."""
    program = f"from tests.helpers.workers.prelude import *\n{body}"
    return {"command": [sys.executable, "-c", program], **keys}


class Supervised:
    """``tables``: the configuration beyond the defaults here, which switch exporter, sources and incidents off."""

    def __init__(
        self, workers: Mapping[str, Mapping[str, Any]], *, directory: Path | None = None,
        environment: Mapping[str, str] | None = None, before: Sequence[str] = (), **tables: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._own = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="watchdogd-test-", dir="/dev/shm"))
        self.runtime = self.directory / "run"
        self.state = self.directory / "state"
        self.config = self.directory / "watchdogd.toml"
        places = {"runtime_dir": str(self.runtime), "state_dir": str(self.state), "stop_timeout": "1s"}
        root = {**OFF, **tables, "supervisor": {**places, **tables.get("supervisor", {})}}
        self.config.write_text(
            "".join(_table(name, body) for name, body in root.items())
            + "".join(_table(f"workers.{name}", body) for name, body in workers.items())
        )
        self._before = tuple(before)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "HERE": str(self.directory), **(environment or {})}
        self._errors = (self.directory / "stderr").open("ab")
        self._started = 0.0

    # --- life ---

    def __enter__(self) -> Supervised:
        self.start()
        return self

    def start(self) -> None:
        """Also after its end, on the same directories."""
        self._started = time.monotonic_ns()
        command = [*self._before, *self.command()]
        self.process = subprocess.Popen(command, env=self.environment, stderr=self._errors, stdin=subprocess.DEVNULL)
        wait_until(lambda: self.process.poll() is not None or self._published(), what=self.log)
        assert self.process.poll() is None, self.log()

    def command(self) -> list[str]:
        return [sys.executable, "-m", "watchdogd", "run", "-c", str(self.config)]

    def second(self, before: Sequence[str] = (), **environment: str) -> tuple[int, str]:
        """Exit status and words of one more supervisor on the same configuration, which is expected to refuse."""
        ran = subprocess.run(
            [*before, *self.command()], env={**self.environment, **environment}, capture_output=True, text=True,
            timeout=TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stderr

    def _published(self) -> bool:
        try:
            published = board.read(str(self.runtime / board.FILE_NAME))
        except board.BoardError:
            return False
        return published.pid == self.process.pid and published.last_tick_ns >= self._started

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and wait for that; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            try:
                self.process.send_signal(signal.SIGCONT)
                if self.process.poll() is None:
                    assert self.stop() == 0, self.log()
                    assert self.leftovers() == [], self.log()
                    assert not self.runtime.joinpath("control.sock").exists()
                    assert list(self.runtime.joinpath("heartbeats").iterdir()) == []
            finally:
                self.process.kill()
                self.process.wait(TIMEOUT_SECONDS)
                for pid in self.leftovers():
                    with suppress(ProcessLookupError):  # one whose supervisor was killed ends by itself
                        os.kill(pid, signal.SIGKILL)
        except BaseException:
            if kind is None:
                raise  # else the test's own failure says more
        finally:
            self._errors.close()
            if kind is None and self._own:
                wait_until(self._is_removed)
            elif kind is not None:
                print(self.log(), file=sys.stderr)

    def _is_removed(self) -> bool:
        """A killed supervisor's recorder still writes what it was told, and then ends."""
        try:
            shutil.rmtree(self.directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
        return not self.directory.exists()

    def leftovers(self) -> list[int]:
        return [stat.pid for stat in sweep.leftovers(str(self.runtime / "heartbeats"))]

    # --- looks ---

    def snapshot(self) -> dict[str, Any]:
        return dict(board.read(str(self.runtime / board.FILE_NAME)).body)

    def stall_ns(self) -> int:
        """How late its last late look was, for which workers were given time; 0: none was."""
        return board.read(str(self.runtime / board.FILE_NAME)).stall_ns

    def worker(self, name: str) -> dict[str, Any]:
        """Its object of the snapshot."""
        found: dict[str, Any] = next(item for item in self.snapshot()["workers"] if item["name"] == name)
        return found

    def view(self, name: str) -> dict[str, Any]:
        """Its object of ``status --json``."""
        told = status_json.to_json(status.collect(str(self.runtime), time.monotonic_ns(), name))
        found: dict[str, Any] = told["workers"][0]
        return found

    def phase(self, name: str) -> str:
        return str(self.worker(name)["phase"])

    def wait_phase(self, name: str, phase: str, incarnation: int | None = None) -> dict[str, Any]:
        def there() -> bool:
            body = self.worker(name)
            return body["phase"] == phase and incarnation in (None, body["incarnation"])

        wait_until(there, what=lambda: f"{name} {phase} {incarnation}: {self.worker(name)}\n{self.log()}")
        return self.worker(name)

    def events(self, kind: str | None = None, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Recorded so far, oldest first; at least what had happened when the board was last written."""
        until = time.monotonic() + RECORDER_SECONDS
        while not self._is_recorded() and time.monotonic() < until:
            time.sleep(0.002)
        if not self.state.joinpath(events.FILE_NAME).exists():
            return []
        wanted = {**fields, **({} if kind is None else {"kind": kind}), **({} if name is None else {"worker": name})}
        read = events.read_file(str(self.state / events.FILE_NAME))
        return [dict(event) for event in read if all(event.get(key) == value for key, value in wanted.items())]

    def _is_recorded(self) -> bool:
        """The recorder is another process, and behind: what the board shows may not be in the file yet."""
        try:
            told = int(self.snapshot()["events"]["next_seq"])
        except board.BoardError:
            return True  # as much as will ever be
        return events.last_seq(str(self.state)) >= told - 1

    def wait_event(self, kind: str, name: str | None = None, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The ``count``-th such event, when it is there."""
        wait_until(
            lambda: len(self.events(kind, name, **fields)) >= count, what=lambda: f"{kind} {fields}\n{self.log()}"
        )
        return self.events(kind, name, **fields)[count - 1]

    def log(self) -> str:
        logs = [self.directory / "stderr", *sorted(self.state.joinpath("log").glob("*.log"))]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-20_000:]}" for path in logs if path.exists()
        )

    def let_pass(self, seconds: float) -> None:
        """Wait until so much time has gone by in which something could have happened, and a tick after that."""
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > until)
        self.wait_tick()

    def let_pass_alone(self, seconds: float) -> None:
        """As ``let_pass``, with no supervisor to tick."""
        until = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > until)

    def wait_tick(self) -> None:
        """Until it has looked at everything once more."""
        asked_ns = time.monotonic_ns()
        path = str(self.runtime / board.FILE_NAME)
        wait_until(lambda: board.read(path).last_tick_ns > asked_ns, what=self.log)

    # --- words with it ---

    def ask(self, command: str, name: str) -> str:
        path = str(self.runtime / "control.sock")
        return str(ask(path, {"command": command, "worker": name}, TIMEOUT_SECONDS)["message"])

    def reload(self) -> None:
        """Until the new image has ticked."""
        began = self.snapshot()["supervisor"]["started_ns"]
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.snapshot()["supervisor"]["started_ns"] != began, what=self.log)
        wait_until(lambda: board.read(str(self.runtime / board.FILE_NAME)).ticks, what=self.log)

    def touch(self, name: str) -> None:
        """What a worker waits for with ``wait_for(name)``."""
        self.directory.joinpath(name).touch()

    def wait_file(self, name: str) -> str:
        """What a worker wrote with ``tell(name, text)``."""
        path = self.directory / name
        wait_until(path.exists, what=lambda: f"{name}\n{self.log()}")
        return path.read_text()


def children(pid: int) -> dict[str, int]:
    """Pids of its children by the last word of what they run."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        pids = [int(word) for word in file.read().split()]
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids if not gone(pid)}
    helpers = ("watchdogd.publish.recorder", "watchdogd.exporter")
    return {name: pid for name in helpers for pid, line in lines.items() if name.encode() in line}


def gone(pid: int) -> bool:
    """Ended, reaped or not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _table(name: str, body: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in body.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
