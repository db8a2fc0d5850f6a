"""Attaching: to a heartbeat, to none, and to files that are none."""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import run_worker
from watchdogd import abi

pytestmark = pytest.mark.parametrize("implementation", ["native", "python"])

USE_EVERYTHING = """
worker.ready()
with worker.step(), worker.stage("of my own"), worker.call("sync"):
    pass
worker.end_step(worker.begin_step())
worker.error(700)
say(worker.supervised, worker.implementation)
"""


def test_attaching_says_who_and_where(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    before_ns = time.monotonic_ns()
    with run_worker("say(worker.supervised, worker.implementation); hear()", implementation, heartbeat.path) as worker:
        assert worker.hear() == f"True {implementation}"
        assert heartbeat.header("attached_pid") == worker.pid
        assert heartbeat.header("pid_namespace") == Path("/proc/self/ns/pid").stat().st_ino
        assert heartbeat.state == "attached"
        assert before_ns - 256 < heartbeat.header("state") <= time.monotonic_ns()
        assert heartbeat.owners() == {heartbeat.process_lane(worker.pid): (worker.pid, 0)}


def test_attaching_again_gives_the_same_worker_and_changes_nothing(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = "say(); hear(); say(wd.attach() is worker); hear()"
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        before = heartbeat.words(0, len(abi.HEADER))
        assert worker.ask("again") == "True"
        assert heartbeat.words(0, len(abi.HEADER)) == before


def test_the_first_ready_counts(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = "worker.ready(); say(); hear(); worker.ready(); say(); hear()"
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        first = heartbeat.header("state")
        assert heartbeat.state == "ready"
        worker.ask("again")
        assert heartbeat.header("state") == first


def test_a_descendant_that_attaches_does_not_take_ready_back(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat", state=abi.stamp(time.monotonic_ns(), abi.STATE["ready"]))
    with run_worker("say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        assert heartbeat.header("attached_pid") == worker.pid
        assert heartbeat.state == "ready"


def test_an_error_is_recorded_with_its_time(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    before_ns = time.monotonic_ns()
    with run_worker("worker.error(700); say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        word = heartbeat.header("last_error")
        assert word & abi.ERROR_MASK == 700
        assert before_ns - 65536 < word & ~abi.ERROR_MASK <= time.monotonic_ns()


def test_success_is_no_error(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker("worker.error(700); worker.error(0); say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        assert heartbeat.header("last_error") & abi.ERROR_MASK == 700


@pytest.mark.parametrize("code", [-1, 0x1_0000, 2**40])
def test_an_impossible_error_code_is_still_an_error(tmp_path: Path, implementation: str, code: int) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker(f"worker.error({code}); say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        assert heartbeat.header("last_error") & abi.ERROR_MASK == abi.ERROR_MASK


def test_by_hand_the_same_calls_work_and_nothing_is_said(implementation: str) -> None:
    with run_worker(USE_EVERYTHING, implementation, None) as worker:
        assert worker.hear() == f"False {implementation}"
        assert worker.end() == ""


def _set(name: str, value: int) -> Callable[[HeartbeatFile], None]:
    return lambda heartbeat: heartbeat.set_header(name, value)


def _swap_bytes(heartbeat: HeartbeatFile) -> None:
    raw = heartbeat.path.read_bytes()
    words = struct.unpack(f"<{len(raw) // 8}Q", raw)
    heartbeat.path.write_bytes(struct.pack(f">{len(words)}Q", *words))


def _become_a_directory(heartbeat: HeartbeatFile) -> None:
    heartbeat.path.unlink()
    heartbeat.path.mkdir()


def _become_a_pipe(heartbeat: HeartbeatFile) -> None:
    heartbeat.path.unlink()
    os.mkfifo(heartbeat.path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_set("magic", 1), "wrong magic"),
        (_set("oldest_writer", abi.VERSION + 1), "needs a newer version"),
        (_set("byte_order", 0x0807_0605_0403_0201), "other byte order"),
        (_set("cold_stride", abi.COLD_STRIDE + 64), "other layout"),
        (_swap_bytes, "other byte order"),
        (lambda heartbeat: os.truncate(heartbeat.path, abi.SIZE - 1), "truncated"),
        (lambda heartbeat: os.truncate(heartbeat.path, abi.HEADER_SIZE - 1), "truncated"),
        (lambda heartbeat: os.truncate(heartbeat.path, 0), "truncated"),
        (lambda heartbeat: heartbeat.path.unlink(), "No such file or directory"),
        (_become_a_directory, "Is a directory"),
        (_become_a_pipe, "not a regular file"),
    ],
)
def test_a_bad_heartbeat_is_one_line_and_the_worker_goes_on(
    tmp_path: Path, implementation: str, spoil: Callable[[HeartbeatFile], None], reason: str
) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    spoil(heartbeat)
    with run_worker(USE_EVERYTHING, implementation, heartbeat.path) as worker:
        assert worker.hear() == f"False {implementation}"
        assert worker.end() == f"watchdogd: heartbeat {heartbeat.path}: {reason}; going on unwatched\n"


@pytest.mark.parametrize("version", [0, abi.VERSION, abi.VERSION + 1])
@pytest.mark.parametrize("oldest_writer", range(1, abi.VERSION + 1))
def test_a_heartbeat_that_this_version_may_write_is_written_whoever_made_it(
    tmp_path: Path, implementation: str, version: int, oldest_writer: int
) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat", version=version, oldest_writer=oldest_writer)
    with run_worker(USE_EVERYTHING, implementation, heartbeat.path) as worker:
        assert worker.hear() == f"True {implementation}"
        assert worker.end() == ""
        assert heartbeat.state == "ready"
        assert [heartbeat.header(name) for name in ("version", "oldest_writer")] == [version, oldest_writer]


def test_a_heartbeat_without_write_permission_is_one_line_and_the_worker_goes_on(implementation: str) -> None:
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path: others than root cannot enter that
        Path(directory).chmod(0o755)
        heartbeat = HeartbeatFile(Path(directory) / "heartbeat")
        heartbeat.path.chmod(0o444)
        prelude = "import os, watchdogd.worker as wd\nif os.geteuid() == 0: os.seteuid(65534)\nsay = print\n"
        source = "worker = wd.attach()" + USE_EVERYTHING
        with run_worker(source, implementation, heartbeat.path, prelude) as worker:
            assert "Permission denied; going on unwatched\n" in worker.end()


def test_a_heartbeat_that_cannot_be_mapped_is_one_line_and_the_worker_goes_on(implementation: str) -> None:
    descriptor = os.memfd_create("heartbeat", os.MFD_ALLOW_SEALING)
    path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    os.truncate(descriptor, abi.SIZE)
    HeartbeatFile(path)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    with run_worker(USE_EVERYTHING, implementation, path) as worker:
        assert worker.hear() == f"False {implementation}"
        assert worker.end() == f"watchdogd: heartbeat {path}: Operation not permitted; going on unwatched\n"
    os.close(descriptor)


def test_closed_standard_error_does_not_end_the_worker(tmp_path: Path, implementation: str) -> None:
    prelude = "import os, sys\nos.close(2)\nimport watchdogd.worker as wd\nsay = print\n"
    with run_worker("worker = wd.attach()" + USE_EVERYTHING, implementation, tmp_path / "missing", prelude) as worker:
        assert worker.hear() == f"False {implementation}"
        worker.end()


def test_without_the_extension_python_takes_its_place(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    hide = "import sys; sys.modules['watchdogd._native'] = None\nimport watchdogd.worker as wd\nworker = wd.attach()\n"
    with run_worker("print(worker.supervised, worker.implementation)", implementation, heartbeat.path, hide) as worker:
        assert worker.hear() == "True python"
