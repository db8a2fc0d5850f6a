"""A real systemd-journald of a test's own: with a ``/run`` that nobody else sees.

Invariant: nothing of it reaches the machine's own journal, and it reads neither the kernel's log nor the audit's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import wait_until

DAEMON = "/lib/systemd/systemd-journald"
_START = f"""
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal || exit 1
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\n' >/run/systemd/journald.conf.d/test.conf
exec {DAEMON}
"""
# As systemd starts a service: standard error is the journal, and the environment says so.
_AS_SERVICE = """
import os, sys
from systemd import journal
stream = journal.stream("watchdogd", priority=6)
os.dup2(stream.fileno(), 2)
it = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{it.st_dev}:{it.st_ino}"
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Journald:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        # To be put before a command that is to see it; the command keeps the pid.
        self.inside = ("nsenter", f"--mount=/proc/{process.pid}/ns/mnt", f"--wd={os.getcwd()}")
        self.as_service = (*self.inside, sys.executable, "-c", _AS_SERVICE)

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        command = [*self.inside, "journalctl", "--quiet", "--no-pager", "--output=json", *matches]
        told = subprocess.run(command, capture_output=True, check=True, timeout=20).stdout
        return [json.loads(line) for line in told.splitlines()]

    def wait_entry(self, *matches: str) -> dict[str, Any]:
        """The first that matches, when it is there."""
        wait_until(lambda: self.entries(*matches), what=lambda: [e.get("MESSAGE") for e in self.entries()])
        return self.entries(*matches)[0]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def journald() -> Iterator[Journald]:
    if os.geteuid() != 0 or not Path(DAEMON).exists() or shutil.which("journalctl") is None:
        pytest.skip("needs root and systemd-journald")
    pytest.importorskip("systemd.journal")
    command = ["unshare", "--mount", "setpriv", "--pdeathsig", "KILL", "sh", "-c", _START]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        socket = Path(f"/proc/{process.pid}/root/run/systemd/journal/socket")
        wait_until(lambda: process.poll() is not None or socket.exists(), what="systemd-journald")
        if process.poll() is not None:
            pytest.skip("systemd-journald does not run in a mount namespace here")
        yield Journald(process)
    finally:
        process.kill()
        process.wait(20)
