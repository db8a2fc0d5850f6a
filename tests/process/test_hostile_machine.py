"""What the machine does to it: full and read-only disks, a clock that is set, a suspend, clients without end."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.private_mounts import fill, in_private_mounts, mount, small_disk
from tests.helpers.running import ROOT, Supervised, children, gone, wait_until, worker
from watchdogd.view import status, status_json

DEADLINES = {"startup": "20s", "step": "800ms", "sync": "200ms"}
SERVE = "serve()"
HANG_ONCE = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
YEAR = 365 * 24 * 3600


def kept(body: str = SERVE, **keys: Any) -> dict[str, Any]:
    return worker(body, on_supervisor_exit="keep", **{"deadlines": DEADLINES, **keys})


def a_hang_is_still_found(supervised: Supervised, name: str = "a") -> None:
    supervised.touch("go")
    supervised.wait_phase(name, "running", 2)
    assert supervised.worker(name)["hangs"]["sync"] == 1


# --- disks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["size=64k", "nr_inodes=1"], ids=["no space", "no inode"])
def test_a_full_state_disk_at_the_start_costs_the_record_and_no_worker(tmp_path: Path, limit: str) -> None:
    def body() -> None:
        small_disk(tmp_path / "state", limit)
        if limit.startswith("size"):
            fill(tmp_path / "state")
        with Supervised({"a": kept(HANG_ONCE), "b": kept()}, directory=tmp_path) as supervised:
            pid = supervised.wait_phase("b", "running", 1)["pid"]
            a_hang_is_still_found(supervised)
            assert "No space left on device" in supervised.snapshot()["events"]["error"]
            assert supervised.snapshot()["events"]["dropped"] > 0
            assert supervised.worker("b")["pid"] == pid
            if limit.startswith("size"):
                (tmp_path / "state" / "filler").unlink()
                supervised.ask("pause", "b")
                supervised.wait_event("operator", "b")  # recorded again, by itself
                assert supervised.snapshot()["events"]["error"] is None

    in_private_mounts(body)


@pytest.mark.parametrize("state", ["missing", "used before"])
def test_with_a_read_only_root_and_state_directory_workers_are_watched_all_the_same(tmp_path: Path, state: str) -> None:
    def body() -> None:
        where = {"state_dir": str(tmp_path / "state")}
        supervised = Supervised({"a": kept(HANG_ONCE)}, supervisor=where)
        if state == "used before":
            supervised.start()
            supervised.wait_phase("a", "running", 1)
            assert supervised.stop() == 0
        mount("-o", "remount,bind,ro", "/")
        if not os.statvfs(tmp_path).f_flag & os.ST_RDONLY:
            mount("--bind", "-o", "ro", str(tmp_path), str(tmp_path))
        with supervised:
            incarnation = supervised.wait_phase("a", "running")["incarnation"]
            assert incarnation == 1
            a_hang_is_still_found(supervised)
            assert supervised.snapshot()["events"]["error"] is not None
            assert "its output goes where the supervisor's does" in supervised.worker("a")["note"]

    in_private_mounts(body)


def test_a_state_disk_that_fell_back_to_read_only_does_not_make_a_reload_the_end_of_the_workers(
    tmp_path: Path,
) -> None:
    def body() -> None:
        with Supervised({"a": worker(HANG_ONCE, deadlines=DEADLINES)}, directory=tmp_path) as supervised:
            pid = supervised.wait_phase("a", "running", 1)["pid"]
            small_disk(tmp_path / "state", "ro")
            supervised.ask("reload", "")
            wait_until(lambda: supervised.snapshot()["supervisor"]["reload"]["outcome"] == "done", what=supervised.log)
            assert supervised.worker("a")["pid"] == pid
            a_hang_is_still_found(supervised)

    in_private_mounts(body)


def test_a_full_runtime_directory_harms_no_running_worker_refuses_a_reload_and_says_why(tmp_path: Path) -> None:
    def body() -> None:
        small_disk(tmp_path / "run", "size=8m")
        hang = kept(HANG_ONCE, restart={"budget": 1, "backoff": "10ms"})
        with Supervised({"a": hang, "b": worker(SERVE, deadlines=DEADLINES)}, directory=tmp_path) as supervised:
            pid = supervised.wait_phase("b", "running", 1)["pid"]
            supervised.wait_phase("a", "running", 1)
            filler = fill(tmp_path / "run")
            supervised.ask("reload", "")
            refused = supervised.wait_event("supervisor", change="reload refused")
            assert "no room for another board" in refused["reason"]
            supervised.touch("go")
            supervised.wait_phase("a", "quarantined")  # the hung one is ended; another one has no room
            assert supervised.wait_event("gone", "a")["incarnation"] == 1
            problems = [event["detail"] for event in supervised.events("verdict", "a", verdict="crashed")]
            assert problems and all("No space left on device" in problem for problem in problems)
            assert supervised.worker("b")["pid"] == pid
            filler.unlink()
            supervised.ask("reset", "a")
            supervised.wait_phase("a", "running")
            supervised.ask("reload", "")
            wait_until(lambda: supervised.snapshot()["supervisor"]["reload"]["outcome"] == "done", what=supervised.log)
            assert supervised.worker("b")["pid"] == pid

    in_private_mounts(body)


def test_with_no_room_for_its_board_a_supervisor_does_not_start_says_so_and_the_next_one_adopts(tmp_path: Path) -> None:
    def body() -> None:
        small_disk(tmp_path / "run", "size=8m")
        with Supervised({"a": kept(HANG_ONCE)}, directory=tmp_path) as supervised:
            pid = supervised.wait_phase("a", "running", 1)["pid"]
            supervised.stop(signal.SIGKILL)
            filler = fill(tmp_path / "run")
            status, words = supervised.second()
            assert (status, words.splitlines()[-1].count("make room there")) == (1, 1)
            assert not gone(pid)
            filler.unlink()
            supervised.start()
            assert supervised.wait_phase("a", "running", 1)["pid"] == pid
            a_hang_is_still_found(supervised)

    in_private_mounts(body)


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A library that shifts the wall clock of whoever preloads it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for a wall clock that can be set for a few processes alone")
    library = tmp_path / "clock_step.so"
    source = ROOT / "tests" / "helpers" / "clock_step.c"
    options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", str(library), str(source)], check=True, timeout=60)
    return library


def test_a_wall_clock_set_by_a_year_both_ways_kills_nobody_and_hides_no_hang(clock: Path, tmp_path: Path) -> None:
    by = tmp_path / "step"
    by.write_bytes(struct.pack("=q", 0))

    def step(seconds: int) -> None:
        with by.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", seconds))

    environment = {"LD_PRELOAD": str(clock), "CLOCK_STEP": str(by)}
    deadlines = {"startup": "20s", "step": "4s", "sync": "1s"}  # not even half of it is met by a busy machine
    workers = {"a": kept(HANG_ONCE, deadlines=deadlines), "b": kept(deadlines=deadlines)}
    with Supervised(workers, environment=environment, metrics={"listen": "127.0.0.1:0"}) as supervised:
        pids = {name: supervised.wait_phase(name, "running", 1)["pid"] for name in workers}
        address = supervised.wait_file("run/exporter.address")
        this_year = time.gmtime().tm_year
        for seconds, year in ((YEAR, this_year + 1), (-YEAR, this_year - 1)):
            step(seconds)
            enough = supervised.view("b")["steps"] + 20
            supervised.ask("pause", "b")
            supervised.ask("resume", "b")
            told = supervised.wait_event("operator", "b", count=2 if seconds > 0 else 4)
            assert told["time"].startswith(str(year))  # it was really set
            wait_until(partial(gets_on, supervised, enough))
            assert get(address, "/healthz")[0] == 200
            assert float(metric(get(address, "/metrics")[1], "watchdogd_last_tick_timestamp_seconds")) == pytest.approx(
                time.time() + seconds, abs=60
            )
            supervised.stop(signal.SIGKILL)
            (supervised.runtime / "exporter.address").unlink()
            supervised.start()  # and adopts by a clock of another year
            address = supervised.wait_file("run/exporter.address")
        assert {name: supervised.worker(name)["pid"] for name in workers} == pids
        assert supervised.events("verdict") == supervised.events("signal") == supervised.events("near_miss") == []
        a_hang_is_still_found(supervised)


def gets_on(supervised: Supervised, enough: int) -> bool:
    return int(supervised.view("b")["steps"]) > enough


def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.strip().rpartition(":")
    client = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    finally:
        client.close()


def metric(page: str, name: str) -> str:
    return next(line.split()[1] for line in page.splitlines() if line.startswith(f"{name} "))


OTHER_CLOCK = ("unshare", "--time", "--monotonic", "1000", "--boottime", "1000")
needs_time_namespace = pytest.mark.skipif(
    subprocess.run([*OTHER_CLOCK, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a time namespace: root, and a kernel that has them",
)


@needs_time_namespace
def test_a_supervisor_in_another_time_namespace_refuses_while_workers_live_by_the_old_clock_and_harms_none() -> None:
    with Supervised({"a": kept(HANG_ONCE)}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.stop(signal.SIGKILL)
        status, words = supervised.second(before=OTHER_CLOCK)
        assert (status, f"a (pid {pid})" in words) == (1, True)
        assert not gone(pid)
        supervised.start()
        assert supervised.wait_phase("a", "running", 1)["pid"] == pid
        a_hang_is_still_found(supervised)


@needs_time_namespace
def test_a_supervisor_in_another_time_namespace_starts_where_nobody_lives_by_the_old_clock() -> None:
    with Supervised({"a": kept()}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.stop(signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid))
        other = subprocess.Popen([*OTHER_CLOCK, *supervised.command()], env=supervised.environment)
        try:
            wait_until(lambda: supervised.phase("a") == "running" and supervised.worker("a")["pid"] != pid)
            assert supervised.events("verdict") == []  # and nothing of the old memory is judged by the new clock
        finally:
            other.terminate()
            assert other.wait(10) == 0


@needs_time_namespace
def test_a_worker_in_a_time_namespace_of_its_own_is_shown_as_unreadable_and_not_killed() -> None:
    workers = {}
    for name, seconds in (("ahead", "1000"), ("behind", "-1000")):
        workers[name] = kept()
        workers[name]["command"] = ["unshare", "--time", "--monotonic", seconds, *workers[name]["command"]]
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_phase(name, "running", 1)
            wait_until(lambda name=name: "impossible times" in (supervised.worker(name)["heartbeat_error"] or ""))  # type: ignore[misc]  # bound
        supervised.let_pass(0.4)
        assert [supervised.worker(name)["incarnation"] for name in workers] == [1, 1]
        assert supervised.events("signal") == []


# --- suspend and resume ---------------------------------------------------------------------------------------------

IN_A_CALL = """worker.ready()
wait_for('enter')
with worker.call('sync'): wait_for('return')
tell('returned')
serve_until('go')
if INCARNATION == 1:
    with worker.call('sync'): hang()
serve()"""
STARTS_SLOWLY = "tell('begun')\nwait_for('return')\nworker.ready()\ntell('started')\nserve()"


@contextmanager
def suspended(supervised: Supervised, order: str) -> Iterator[None]:
    """Everything stands still, as in a suspend, but for the monotonic clock, which then would, too. ``order``: who
    goes on first. The others follow a quarter of the shortest deadline later: the kernel needs less for all of them."""
    helpers = [*children(supervised.process.pid).values()]
    supervisor = [supervised.process.pid, *helpers]
    workers = [body["pid"] for body in supervised.snapshot()["workers"]]
    first, second = (supervisor, workers) if order == "supervisor first" else (workers, supervisor)
    for pid in (*second, *first):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in first:
            os.kill(pid, signal.SIGCONT)
        supervised.let_pass_alone(0.05)
        for pid in second:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("order", ["supervisor first", "workers first"])
def test_a_suspend_of_many_deadlines_kills_nobody_is_told_and_hides_no_later_hang(order: str) -> None:
    starting = kept(STARTS_SLOWLY, deadlines={**DEADLINES, "startup": "1s"}, autostart=False)
    with Supervised({"a": kept(IN_A_CALL), "serving": kept(), "starting": starting}) as supervised:
        supervised.wait_phase("serving", "running", 1)
        supervised.wait_phase("a", "running", 1)
        supervised.ask("start", "starting")
        supervised.wait_file("begun")
        supervised.touch("enter")
        wait_until(lambda: supervised.view("a")["call"])
        with suspended(supervised, order):
            supervised.let_pass_alone(1.2)
            supervised.touch("return")
        supervised.wait_file("returned")
        supervised.wait_file("started")
        supervised.let_pass(0.3)
        assert supervised.events("verdict") == supervised.events("signal") == []
        assert [(body["phase"], body["incarnation"]) for body in supervised.snapshot()["workers"]] == [
            ("running", 1)
        ] * 3
        assert lateness(supervised) > 0.5  # the operator sees that it stood still
        a_hang_is_still_found(supervised)


def lateness(supervised: Supervised) -> float:
    told = status_json.to_json(status.collect(str(supervised.runtime), time.monotonic_ns()))
    return float(told["supervisor"]["lateness_seconds"]["max"])


# --- clients --------------------------------------------------------------------------------------------------------


def test_slow_and_endless_http_clients_do_not_move_the_lateness_of_a_verdict() -> None:
    with ExitStack() as clients, Supervised({"a": kept(HANG_ONCE)}, metrics={"listen": "127.0.0.1:0"}) as supervised:
        supervised.wait_phase("a", "running", 1)
        host, _, port = supervised.wait_file("run/exporter.address").strip().rpartition(":")
        began = (b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 2000)
        endless = []
        for number in range(50):
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # and what is sent to it is never read
            client.connect((host, int(port)))
            client.sendall(began[number % 3])
            endless += [client] if number % 3 == 2 else []
        supervised.touch("go")
        while not supervised.events("verdict", "a"):
            for client in endless:
                client.send(b"x", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            supervised.let_pass_alone(0.01)
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["detected_ns"] - verdict["deadline_ns"] < 100_000_000
        supervised.wait_phase("a", "running", 2)
