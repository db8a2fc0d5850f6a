"""What another user of this machine tries: to read, change, forge, plant, squat and outlast."""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.running import ROOT, Supervised, free_port, gone, wait_until, worker
from tests.helpers.stranger import NOBODY, stranger, tries
from watchdogd.act import birth
from watchdogd.act.runtime import CannotStart, Runtime
from watchdogd.act.trust import doubt
from watchdogd.model import SupervisorSettings
from watchdogd.observe import procfs

DEADLINES = {"step": "400ms", "sync": "200ms"}
KEPT = worker("serve()", on_supervisor_exit="keep", deadlines=DEADLINES)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another user")


@pytest.fixture
def running() -> Iterator[Supervised]:
    """One kept worker; its directories can be reached as in /run, and only their own modes protect them."""
    with Supervised({"a": KEPT}) as supervised:
        supervised.directory.chmod(0o755)
        supervised.wait_phase("a", "running", 1)
        yield supervised


# --- with what is there ---------------------------------------------------------------------------------------------


def write(path: Path, data: bytes = b"forged") -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(data)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def test_another_user_can_neither_read_nor_write_nor_signal_anything(running: Supervised) -> None:
    run, state, pid = running.runtime, running.state, running.worker("a")["pid"]
    heartbeat, born, board = run / "heartbeats" / "a.1", run / "births" / "a.1", run / "board"
    attempts: dict[str, Callable[[], object]] = {
        "list": partial(os.listdir, run),
        "list heartbeats": partial(os.listdir, run / "heartbeats"),
        "list births": partial(os.listdir, run / "births"),
        "list state": partial(os.listdir, state),
        "read heartbeat": heartbeat.read_bytes,
        "read board": board.read_bytes,
        "read birth": born.read_bytes,
        "read record": (state / "events.jsonl").read_bytes,
        "forge heartbeat": partial(write, heartbeat),
        "forge board": partial(write, board),
        "forge birth": partial(write, born),
        "plant heartbeat": (run / "heartbeats" / "a.2").touch,
        "plant birth": (run / "births" / "a.2").touch,
        "plant board": (run / "board.1.new").touch,
        "plant link": partial(os.symlink, "/etc/passwd", run / "exporter.address"),
        "plant log": (state / "log" / "b.log").touch,
        "remove heartbeat": heartbeat.unlink,
        "swap heartbeats": partial(os.rename, run / "heartbeats", run / "mine"),
        "squat socket": partial(os.unlink, run / "control.sock"),
        "command": partial(connect, run / "control.sock"),
        "lock": partial(os.open, run / "supervisor.lock", os.O_RDONLY),
        "kill worker": partial(os.kill, pid, signal.SIGKILL),
        "stop supervisor": partial(os.kill, running.process.pid, signal.SIGSTOP),
        "write worker's memory": partial(os.open, f"/proc/{pid}/mem", os.O_RDWR),
    }
    assert {name: tries(attempt) for name, attempt in attempts.items()} == dict.fromkeys(attempts, "PermissionError")
    running.wait_tick()
    assert running.worker("a")["pid"] == pid and running.events("signal") == running.events("operator") == []


FORGE = """worker.ready()
wait_for("go")
with open(HEARTBEAT.replace("b.1", "a.1"), "r+b", buffering=0) as file:
    for lane in range(abi.LANES):
        file.seek(abi.HOT_OFFSET + lane * abi.HOT_STRIDE + abi.L["outer"] * abi.WORD)
        file.write(abi.stamp(time.monotonic_ns(), abi.OPERATION["sync"]).to_bytes(8, sys.byteorder))
serve()"""
IDLE = "worker.ready()\nwith worker.step(), worker.call('sync'): pass\nhang()"


def test_a_worker_of_the_same_user_can_have_another_killed_and_the_supervisor_replaces_it() -> None:
    """What a user of its own for each worker is for: docs/OPERATIONS.md says so."""
    with Supervised({"a": worker(IDLE, deadlines=DEADLINES), "b": worker(FORGE)}) as supervised:
        for name in "ab":
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        supervised.wait_event("verdict", "a", operation="sync")
        supervised.wait_phase("a", "running", 2)
        assert supervised.worker("b")["incarnation"] == 1


@needs_root
def test_a_worker_of_another_user_cannot_write_its_neighbour_s_heartbeat(running: Supervised) -> None:
    heartbeats = running.runtime / "heartbeats"
    os.chown(heartbeats / "a.1", 1, 0)  # as that of a worker with ``user = "daemon"``
    mine = heartbeats / "mine.1"
    mine.write_bytes(b"x" * 8)
    os.chown(mine, NOBODY, 0)
    assert tries(partial(write, mine)) == "done"  # its own it reaches
    assert tries(partial(write, heartbeats / "a.1")) == "PermissionError"


# --- planted before the start ---------------------------------------------------------------------------------------


def chowned(path: Path, mode: int = 0o755, user: int = 0, group: int = 0) -> Path:
    path.mkdir(exist_ok=True)
    os.chown(path, user, group)
    path.chmod(mode)
    return path


def link(path: Path, target: Path, user: int = 0) -> None:
    os.symlink(target, path)
    os.lchown(path, user, user)


UNTRUSTED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a stranger's": ("belongs to user 65534", lambda base: chowned(base / "run", user=NOBODY)),
    "open to all": ("may be written by everybody", lambda base: chowned(base / "run", 0o777)),
    "sticky itself": ("may be written by everybody", lambda base: chowned(base / "run", 0o1777)),
    "open to a group": ("may be written by group 65534", lambda base: chowned(base / "run", 0o771, group=NOBODY)),
    "in a stranger's": ("belongs to user 65534", lambda base: (chowned(base, user=NOBODY), chowned(base / "run"))),
    "in one open to all": ("may be written by everybody", lambda base: chowned(base, 0o777)),
    "a stranger's link": (
        "belongs to user 65534", lambda base: link(base / "run", chowned(base / "x"), NOBODY)
    ),
    "our link to a stranger's": (
        "belongs to user 65534", lambda base: link(base / "run", chowned(base / "x", user=NOBODY))
    ),
}  # fmt: skip


@needs_root
@pytest.mark.parametrize("which", ["runtime_dir", "state_dir"])
@pytest.mark.parametrize("planted", UNTRUSTED)
def test_a_directory_that_a_stranger_may_change_is_refused(tmp_path: Path, planted: str, which: str) -> None:
    base = chowned(tmp_path / "base")
    why, plant = UNTRUSTED[planted]
    plant(base)
    fine, doubtful = str(tmp_path / "other"), str(base / "run")
    settings = SupervisorSettings(runtime_dir=doubtful, state_dir=fine)
    if which == "state_dir":
        settings = SupervisorSettings(runtime_dir=fine, state_dir=doubtful)
    with pytest.raises(CannotStart, match=rf"{why}.*supervisor\.{which}"):
        Runtime(settings)


@needs_root
def test_a_directory_in_a_sticky_one_or_behind_a_link_of_ours_is_ours(tmp_path: Path) -> None:
    sticky = chowned(tmp_path / "tmp", 0o1777)
    os.symlink("tmp/run", tmp_path / "link")
    for group in (0, os.getegid()):
        chowned(sticky / "run", 0o771, group=group)
        assert doubt(str(tmp_path / "link")) is None
    Runtime(SupervisorSettings(runtime_dir=str(tmp_path / "link"), state_dir=str(sticky / "state"))).close()


@pytest.mark.parametrize("name", ["heartbeats", "births", "log"])
def test_a_link_in_the_place_of_a_directory_of_ours_is_refused_and_what_it_leads_to_is_not_cleared(
    tmp_path: Path, name: str
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    for directory in ("run", "state"):
        (tmp_path / directory).mkdir()
    os.symlink(precious, tmp_path / ("state" if name == "log" else "run") / name)
    with pytest.raises(CannotStart, match=f"{name} is a symbolic link"):
        Runtime(SupervisorSettings(runtime_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")))
    assert (precious / "file").exists()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_something_else_in_the_place_of_the_lock_is_neither_written_nor_waited_for(tmp_path: Path, kind: str) -> None:
    precious, lock = tmp_path / "precious", tmp_path / "run" / "supervisor.lock"
    precious.write_text("root:x:0:0")
    lock.parent.mkdir()
    os.symlink(precious, lock) if kind == "link" else os.mkfifo(lock)
    settings = SupervisorSettings(runtime_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state"))
    if kind == "link":
        with pytest.raises(CannotStart, match="cannot open"):
            Runtime(settings)
    else:
        Runtime(settings).close()
    assert precious.read_text() == "root:x:0:0"


@needs_root
def test_a_memory_and_births_that_a_stranger_forged_make_nobody_s_process_a_worker(running: Supervised) -> None:
    """Believed, they would make the next supervisor adopt, and sooner or later end, any process there is."""
    with subprocess.Popen(["sleep", "30"]) as innocent:
        planted = running.directory / "planted"
        running.stop(signal.SIGKILL)
        shutil.copytree(running.runtime, planted, ignore=shutil.ignore_patterns("control.sock"))
        at = procfs.stat(innocent.pid)
        assert at is not None
        (planted / "births" / "a.1").write_text(f"{innocent.pid} {at.start_ticks}\n\n\n")
        told = birth.read(str(planted / "births" / "a.1"))
        assert told is not None and told.identity.pid == innocent.pid  # it would be believed
        for path in (planted, *planted.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        text = running.config.read_text()
        running.config.write_text(text.replace(str(running.runtime), str(planted)))
        status, words = running.second()
        assert (status, "belongs to user 65534" in words) == (1, True)
        assert innocent.poll() is None
        innocent.kill()
    running.config.write_text(text)
    running.start()
    running.wait_phase("a", "running", 1)  # and its own worker was never touched


# --- held against the next one --------------------------------------------------------------------------------------


def lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def test_a_stranger_cannot_hold_the_lock_of_a_dead_supervisor_against_the_next(running: Supervised) -> None:
    """Whoever can open a file, be it to read, can lock it."""
    pid = running.worker("a")["pid"]
    running.stop(signal.SIGKILL)
    with stranger(partial(lock, running.runtime / "supervisor.lock")) as said:
        assert said == "PermissionError"
        running.start()
        assert running.wait_phase("a", "running", 1)["pid"] == pid


def test_a_lock_that_an_earlier_version_left_readable_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "run" / "supervisor.lock"
    path.parent.mkdir()
    path.touch(0o644)
    runtime = Runtime(SupervisorSettings(runtime_dir=str(path.parent), state_dir=str(tmp_path / "state")))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    runtime.close()


def test_a_squatted_socket_is_taken_back_by_the_next_supervisor(running: Supervised) -> None:
    """By our own user: nobody else can, see above."""
    pid = running.worker("a")["pid"]
    running.stop(signal.SIGKILL)
    path = running.runtime / "control.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(str(path))
        squatter.listen()
        running.start()
        assert "another" not in running.ask("restart", "a")
        running.wait_phase("a", "running", 2)
    assert gone(pid)


def listening(port: int, *, listen: bool) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, listen)
    server.bind(("127.0.0.1", port))
    if listen:
        server.listen()
    return server


@pytest.mark.parametrize("listens", [True, False], ids=["listens", "only bound"])
def test_a_stranger_on_the_port_of_the_metrics_keeps_no_worker_unwatched(listens: bool) -> None:
    port = free_port()
    with ExitStack() as held:
        assert held.enter_context(stranger(lambda: listening(port, listen=listens))) == "done"
        with Supervised({"a": KEPT}, metrics={"listen": f"127.0.0.1:{port}"}) as supervised:
            supervised.wait_phase("a", "running", 1)
            assert "metrics.listen: cannot listen" in supervised.log()
            supervised.wait_event("source", source="exporter", up=False)
            held.close()
            wait_until((supervised.runtime / "exporter.address").exists, what=supervised.log)  # it has the port now


def test_an_address_file_that_cannot_be_written_costs_no_metrics() -> None:
    port = free_port()
    supervised = Supervised({"a": KEPT}, metrics={"listen": f"127.0.0.1:{port}"})
    (supervised.runtime / "exporter.address").mkdir(parents=True)
    with supervised:

        def served() -> bool:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                client.request("GET", "/healthz")
                return client.getresponse().status == 200
            except ConnectionRefusedError:
                return False
            finally:
                client.close()

        wait_until(served, what=supervised.log)


# --- pid reuse ------------------------------------------------------------------------------------------------------

REUSED = """
import os, signal, subprocess, sys, time
from pathlib import Path
from tests.helpers.running import Supervised, gone, wait_until, worker

kept = worker("serve()", on_supervisor_exit="keep", deadlines={"sync": "200ms"})
with Supervised({"a": kept}) as running:
    pid = running.wait_phase("a", "running", 1)["pid"]
    running.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    for _ in range(20):  # somebody else's process may come in between
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        innocent = subprocess.Popen(["sleep", "30"], start_new_session=True)
        if innocent.pid == pid:
            break
        innocent.kill()
        innocent.wait()
    assert innocent.pid == pid, (innocent.pid, pid)
    running.start()
    body = running.wait_phase("a", "running", 2)
    assert body["restarts"] == {"crashed": 1}, body
    running.ask("restart", "a")
    running.wait_phase("a", "running", 3)
    assert innocent.poll() is None, "the supervisor signalled another process"
    innocent.kill()
    innocent.wait()
"""


def test_a_process_that_got_a_dead_worker_s_pid_is_not_taken_for_it() -> None:
    """Really: in a pid namespace, where the next pid can be chosen."""
    enter = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*enter, "test", "-w", "/proc/sys/kernel/ns_last_pid"], check=False).returncode != 0:
        pytest.skip("needs a pid namespace whose next pid can be chosen: root, and /proc/sys/kernel/ns_last_pid")
    # A pid namespace ends with its first process, which also has to reap what is orphaned: a shell does.
    ran = subprocess.run(
        [*enter, "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", textwrap.dedent(REUSED)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
