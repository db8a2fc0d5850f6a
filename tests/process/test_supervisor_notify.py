"""What systemd is told, over a socket of the same kind as its own."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.running import ROOT, Supervised, wait_until, worker

pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        """Everything so far."""
        while True:
            try:
                self._heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._heard

    def wait(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.heard().count(text) >= count, what=self.heard)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    directory = Path(tempfile.mkdtemp(prefix="watchdogd-notify-", dir="/dev/shm"))
    made = Systemd(directory / "socket")
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


def test_systemd_hears_ready_status_and_stopping_and_the_worker_does_not_know(systemd: Systemd) -> None:
    body = "tell('told', ' '.join(os.environ))\nserve()"
    with Supervised({"a": worker(body)}, environment={"NOTIFY_SOCKET": str(systemd.path)}) as supervised:
        systemd.wait("READY=1")
        systemd.wait("STATUS=1 of 1 workers running")
        assert "NOTIFY_SOCKET" not in supervised.wait_file("told").split()
        assert "WATCHDOG=1" not in systemd.heard()  # not asked for
        assert "STOPPING=1" not in systemd.heard()
        supervised.stop()
        heard = systemd.heard()
        assert heard.index("READY=1") < heard.index("STOPPING=1")
        assert heard.count("READY=1") == heard.count("STOPPING=1") == 1


def test_only_complete_ticks_feed_the_watchdog(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}
    with Supervised({"a": worker("serve()", deadlines={"sync": "50ms"})}, environment=environment) as supervised:
        systemd.wait("WATCHDOG=1", 3)
        supervised.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _state(supervised.process.pid) == "T")
        before = systemd.heard().count("WATCHDOG=1")
        until = time.monotonic() + 0.5
        wait_until(lambda: time.monotonic() > until)
        assert systemd.heard().count("WATCHDOG=1") == before
        supervised.process.send_signal(signal.SIGCONT)
        systemd.wait("WATCHDOG=1", before + 2)


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with Supervised({"a": worker("serve()")}, environment=environment) as supervised:
        systemd.wait("READY=1")
        supervised.let_pass(0.3)
        assert "WATCHDOG=1" not in systemd.heard()


def test_a_source_that_stands_still_does_not_stop_the_feed(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}
    silent = {"command": ["sleep", "60"]}
    with Supervised({"a": worker("serve()")}, environment=environment, tegrastats=silent):
        systemd.wait("WATCHDOG=1", 5)


def test_a_hung_worker_does_not_stop_the_feed(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}
    hanging = worker("worker.ready()\nwith worker.call('sync'): hang()", deadlines={"sync": "50ms"}, observe_only=True)
    with Supervised({"a": hanging}, environment=environment) as supervised:
        supervised.wait_event("verdict", "a")
        systemd.wait("WATCHDOG=1", systemd.heard().count("WATCHDOG=1") + 3)


def test_without_systemd_python_a_notified_supervisor_refuses_to_start_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "systemd.py").write_text("raise ImportError('hidden by the test')\n")
    supervised = Supervised({"a": worker("serve()")})
    try:
        status, said = supervised.second(NOTIFY_SOCKET="/nonexistent/notify", PYTHONPATH=f"{tmp_path}:{ROOT}")
        assert status != 0
        assert "systemd-python" in said
        assert "install" in said
        assert "Traceback" not in said
        assert not supervised.runtime.exists()  # before anything was made
    finally:
        shutil.rmtree(supervised.directory)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]
