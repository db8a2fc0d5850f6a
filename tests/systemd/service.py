"""What a scenario does with the installed service: configure it, ask systemd about it, look at its processes.

Invariant: nothing here waits without an end; each scenario has one of its own, so that none sees another's facts.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from watchdogd.act import sweep
from watchdogd.publish import board, events
from watchdogd.view import status, status_json

UNIT = "gpu-watchdogd.service"
CONFIG = Path("/etc/gpu-watchdogd/watchdogd.toml")
DROP_INS = Path(f"/run/systemd/system/{UNIT}.d")
RUNTIME = Path("/run/gpu-watchdogd")
STATE = Path("/var/lib/gpu-watchdogd")
HERE = Path("/run/watchdogd-test")  # where workers tell: prelude.py
TIMEOUT_SECONDS = 20.0
QUIET = "[tegrastats]\ncommand = []\n[nvml]\nenabled = false\n[nvgpu]\nenabled = false\n[kmsg]\nenabled = false\n"


def wait_until(predicate: Callable[[], object], what: object = "", timeout: float = TIMEOUT_SECONDS) -> None:
    """``what``: told, and called if it can be, when it takes too long."""
    give_up = time.monotonic() + timeout
    asked = time.monotonic()
    while not predicate():
        now = time.monotonic()
        assert now < give_up, f"not within {timeout:g} s: {what() if callable(what) else what}"
        time.sleep(max(0.005, 3 * (now - asked)))  # where a question starts a process, it shall not cost a core
        asked = time.monotonic()


def run(*command: str, user: str | None = None, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """``user``: as that user, with the groups it has."""
    before = ("setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups") if user else ()
    return subprocess.run([*before, *command], capture_output=True, text=True, timeout=timeout, check=False)


def gone(pid: int) -> bool:
    """Ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Service:
    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}  # what a scenario measured, for the report

    # --- before ---

    def clear(self) -> None:
        """No supervisor, no worker, nothing on record, no drop-in of ours."""
        run("systemctl", "stop", UNIT)
        run("systemctl", "reset-failed", UNIT)
        assert self.leftovers() == [], self.leftovers()
        for directory in (STATE, HERE, DROP_INS):
            shutil.rmtree(directory, ignore_errors=True)
        HERE.mkdir(mode=0o777)
        HERE.chmod(0o777)
        run("systemctl", "daemon-reload")

    def configure(self, workers: Mapping[str, str], metrics: str = "", **keys: Any) -> None:
        """``workers``: name to its program after tests/helpers/workers/prelude.py; ``keys``: of every worker."""
        told = {
            "environment": {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:/opt/gpu-watchdogd/python", "HERE": str(HERE)},
            **keys,
        }
        parts = [QUIET, f"[metrics]\nlisten = {_toml(metrics)}\n"]
        for name, body in workers.items():
            command = ["/usr/bin/python3", "-c", f"from tests.helpers.workers.prelude import *\n{body}"]
            rows = {"command": command, **told}
            parts.append(f"[workers.{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in rows.items()))
        CONFIG.write_text("\n".join(parts))

    def drop_in(self, text: str) -> None:
        """In force until the end of the scenario."""
        DROP_INS.mkdir(parents=True, exist_ok=True)
        (DROP_INS / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    # --- systemd ---

    def systemctl(self, *arguments: str) -> str:
        done = run("systemctl", *arguments)
        assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def start(self) -> int:
        """Started, READY, every worker running. The supervisor's pid."""
        self.systemctl("start", UNIT)
        self.wait_running()
        return self.pid()

    def stop(self) -> None:
        self.systemctl("stop", UNIT)

    def show(self, name: str) -> str:
        """One property of the unit."""
        return self.systemctl("show", "--value", "--property", name, UNIT).strip()

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def log(self) -> str:
        said = run("journalctl", "--unit", UNIT, "--no-pager", "--lines", "60", "--output", "cat").stdout
        return "\n".join([said, *(f"--- {path}\n{path.read_text()[-3000:]}" for path in STATE.glob("log/*.log"))])

    # --- the supervisor ---

    def view(self) -> dict[str, Any]:
        """As ``watchdogd status --json`` has it."""
        return status_json.to_json(status.collect(str(RUNTIME), time.monotonic_ns(), None))

    def worker(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(worker for worker in self.view()["workers"] if worker["name"] == name)
        return found

    def wait_running(self) -> None:
        def all_run() -> bool:
            try:
                published = board.read(str(RUNTIME / board.FILE_NAME))
                fresh = published.pid == self.pid()
                return fresh and all(worker["phase"] == "running" for worker in self.view()["workers"])
            except board.BoardError:
                return False

        wait_until(all_run, self.log)

    def events(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Recorded so far, oldest first."""
        if not (STATE / events.FILE_NAME).exists():
            return []
        wanted = {"kind": kind, **fields}
        read = events.read_file(str(STATE / events.FILE_NAME))
        return [dict(event) for event in read if all(event.get(key) == value for key, value in wanted.items())]

    def leftovers(self) -> list[int]:
        """Every process that carries a heartbeat of the service."""
        return [stat.pid for stat in sweep.leftovers(str(RUNTIME / "heartbeats"))]


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
