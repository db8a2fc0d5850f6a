"""D state under a real supervisor: named with its thread and its place in the kernel, and no verdict by itself.

The parent of a vfork is the real thing: it stands in an uninterruptible wait of the kernel, which SIGKILL alone ends. A
frozen cgroup is the other: there not even that does.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import ROOT, Supervised, gone, wait_until, worker
from tests.process.conftest import Freezer
from watchdogd.observe import holders, procfs
from watchdogd.publish.events import decode
from watchdogd.publish.journal import Journal
from watchdogd.publish.throttle import Throttle
from watchdogd.supervisor.blocked import Blocked
from watchdogd.view import status_table
from watchdogd.view.status import collect

DEADLINES = {"sync": "3s"}
SOFT = 0.2  # from 600 ms on it is slow, and looked at


@pytest.fixture(scope="module")
def vforked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, and beside it the program ``stand``."""
    folder = tmp_path_factory.mktemp("vforked")
    source = str(ROOT / "tests/native/vforked.c")
    for options in (["-shared", "-fPIC", "-o", str(folder / "stand.so")], ["-o", str(folder / "stand")]):
        subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", source, *options], check=True, timeout=60)
    process = subprocess.Popen([folder / "stand", "5"])
    try:
        give_up = time.monotonic() + 2
        while (stat := procfs.stat(process.pid)) is not None and stat.state != "D":
            if time.monotonic() > give_up:
                pytest.skip("the parent of a vfork is not in D state on this kernel")
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait(10)
    return folder / "stand.so"


def stands(library: Path) -> str:
    return f"""import ctypes
stand = ctypes.CDLL({str(library)!r}).stand
serve_until('go')
if INCARNATION == 1:
    with worker.call('sync'): stand(60)
serve()"""


HANGS = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): tell('in'); hang()\nserve()"


def table(supervised: Supervised) -> str:
    return status_table.table(collect(str(supervised.runtime), time.monotonic_ns()), 400, colour=False)


def test_a_call_that_hangs_in_d_state_is_named_before_its_verdict_and_beside_it(vforked: Path) -> None:
    with Supervised({"a": worker(stands(vforked), deadlines=DEADLINES, soft=SOFT)}) as supervised:
        pid = int(supervised.wait_phase("a", "running")["pid"])
        supervised.touch("go")
        event = supervised.wait_event("blocked", "a")
        assert (event["pid"], event["tid"], event["incarnation"]) == (pid, pid, 1)
        wait_until(lambda: supervised.view("a")["blocked"])
        (thread,) = supervised.view("a")["blocked"]
        assert (thread["pid"], thread["tid"]) == (pid, pid)
        assert f"thread {pid} of pid {pid} in D state for " in table(supervised)
        assert supervised.events("verdict") == []  # it alone is none
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["blocked"] == [f"tid {pid} of pid {pid} at {thread['place'] or '?'}"]
        supervised.wait_phase("a", "running", 2)
        assert supervised.view("a")["blocked"] == []
        assert len(supervised.events("blocked")) == 1


def test_its_place_in_the_kernel_is_told_where_it_may_be_read(vforked: Path) -> None:
    hidden = subprocess.Popen([vforked.with_suffix(""), "5"])
    try:
        wait_until(lambda: (stat := procfs.stat(hidden.pid)) is not None and stat.state == "D")
        give_up = time.monotonic() + 1
        while Path(f"/proc/{hidden.pid}/wchan").read_text() in ("", "0"):
            if time.monotonic() > give_up:
                pytest.skip("this kernel tells nobody where a thread waits")
    finally:
        hidden.kill()
        hidden.wait(10)
    with Supervised({"a": worker(stands(vforked), deadlines=DEADLINES, soft=SOFT)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        assert supervised.wait_event("blocked", "a")["place"]
        assert supervised.wait_event("verdict", "a")["blocked"][0].split()[-1] != "?"


def test_a_call_that_hangs_asleep_is_not_in_d_state() -> None:
    with Supervised({"a": worker(HANGS, deadlines={"sync": "2s"}, soft=SOFT)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        assert supervised.wait_event("verdict", "a")["blocked"] == []
        supervised.wait_phase("a", "running", 2)
        assert supervised.events("blocked") == []


def test_d_state_beside_a_call_that_returns_in_time_is_nobody_s_business(vforked: Path) -> None:
    body = f"""import ctypes
stand = ctypes.CDLL({str(vforked)!r}).stand
threading.Thread(target=stand, args=(60,), daemon=True).start()
worker.ready()
while True:
    with worker.call('sync'): time.sleep(0.02)"""
    with Supervised({"a": worker(body, deadlines=DEADLINES, soft=SOFT)}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.let_pass(2)
        assert supervised.events("blocked") == supervised.events("verdict") == []


def test_a_sigkill_that_does_not_take_says_which_thread_it_is(freezer: Freezer) -> None:
    settings: dict[str, Any] = {"kill_grace": "2s"}
    with Supervised({"a": worker(HANGS, deadlines={"sync": "300ms"})}, supervisor=settings) as supervised:
        pid = int(supervised.wait_phase("a", "running")["pid"])
        supervised.touch("go")
        supervised.wait_file("in")
        freezer.freeze(pid)
        unkillable = supervised.wait_event("phase", "a", phase="unkillable")
        assert unkillable["blocked"] and unkillable["blocked"][0].startswith(f"tid {pid} of pid {pid} at ")
        event = supervised.wait_event("blocked", "a", pid=pid)
        assert event["incident"] == supervised.wait_event("verdict", "a")["incident"]
        assert f"thread {pid} of pid {pid} in D state" in table(supervised)
        freezer.thaw()
        supervised.wait_phase("a", "running", 2)


# --- whoever holds an accelerator -----------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A file in the place of a device node."""
    path = tmp_path / "nvidia0"
    path.touch()
    return path


@pytest.fixture
def stranger(vforked: Path, device: Path) -> Iterator[int]:
    """In D state, with the device open."""
    with device.open() as file:
        process = subprocess.Popen([vforked.with_suffix(""), "60"], stdin=file)
    try:
        wait_until(lambda: (stat := procfs.stat(process.pid)) is not None and stat.state == "D")
        yield process.pid
    finally:
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False, timeout=10)
        process.kill()
        process.wait(10)


def found(device: Path, also: Collection[int] = ()) -> list[dict[str, Any]]:
    return holders.look(also, (f"{device.parent}/",))


def test_who_holds_a_device_is_found_with_its_threads_in_d_state(device: Path, stranger: int) -> None:
    told = {holder["pid"]: holder for holder in found(device)}
    assert stranger in told
    assert (told[stranger]["name"], told[stranger]["devices"]) == ("stand", [str(device)])
    assert [wait["tid"] for wait in told[stranger]["waits"]] == [stranger]
    assert os.getpid() in told[stranger]["lineage"]


def test_who_holds_another_file_is_not_found_unless_asked_for(tmp_path: Path, device: Path) -> None:
    with (tmp_path.parent / f"{tmp_path.name}-other").open("w") as file:
        process = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        assert process.pid not in {holder["pid"] for holder in found(device)}
        (holder,) = (holder for holder in found(device, {process.pid}) if holder["pid"] == process.pid)
        assert holder["waits"] == holder["devices"] == []
    finally:
        process.kill()
        process.wait(10)


class Looks:
    """``Blocked`` with nobody to watch, on an accelerator that is a ghost's or not."""

    def __init__(self, device: Path, *, haunted: bool) -> None:
        self.journal = Journal(1, 1, Throttle(1 << 20))
        self._read, write = os.pipe2(os.O_NONBLOCK)
        self.journal.attach(write)
        self.haunted = haunted
        self.blocked = Blocked(
            [], self.journal, lambda: self.haunted, partial(holders.look, devices=(f"{device.parent}/",))
        )

    def look(self, times: int) -> None:
        for _ in range(times):
            self.blocked.look(time.monotonic_ns())
            time.sleep(0.25)

    def events(self) -> list[dict[str, Any]]:
        try:
            raw = os.read(self._read, 1 << 16)
        except BlockingIOError:
            return []
        return [event for event in map(decode, raw.splitlines()) if event is not None]


def test_a_ghost_s_holder_is_named_and_its_d_state_told_once(device: Path, stranger: int) -> None:
    looks = Looks(device, haunted=True)
    looks.look(12)
    (held,) = (item for item in looks.blocked.describe() if item["pid"] == stranger)
    assert (held["worker"], held["devices"]) == (None, [str(device)])
    assert [thread["tid"] for thread in held["blocked"]] == [stranger]
    (event,) = looks.events()
    assert (event["kind"], event["worker"], event["pid"], event["name"]) == ("blocked", None, stranger, "stand")
    looks.haunted = False
    looks.look(3)
    assert looks.blocked.describe() == []


def test_where_nothing_is_amiss_nobody_is_looked_at(device: Path, stranger: int) -> None:
    looks = Looks(device, haunted=False)
    looks.look(6)
    assert (looks.blocked.describe(), looks.events()) == ([], [])
    assert not gone(stranger)


def test_a_look_that_does_not_return_is_given_up_and_holds_nothing_up(device: Path) -> None:
    looks = Looks(device, haunted=True)
    looks.blocked = Blocked([], looks.journal, lambda: True, _never)
    began = time.monotonic()
    now_ns = time.monotonic_ns()
    looks.blocked.look(now_ns)
    (pid,) = _glances()
    looks.blocked.look(now_ns + 1_000_000_000)
    assert _glances() == [pid]  # no second one beside it
    looks.blocked.look(now_ns + 6_000_000_000)
    assert time.monotonic() - began < 1
    wait_until(lambda: gone(pid))
    looks.blocked.close()  # the one after it
    wait_until(lambda: _glances() == [])


def test_a_look_that_has_ended_is_not_killed_by_its_number(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(device, haunted=True)
    looks.blocked.look(time.monotonic_ns())
    (pid,) = _glances()
    wait_until(lambda: gone(pid))
    kills: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _number: kills.append(pid))
    looks.blocked.close()
    assert kills == []


def test_a_look_that_runs_ends_with_the_supervisor(device: Path) -> None:
    looks = Looks(device, haunted=True)
    looks.blocked = Blocked([], looks.journal, lambda: True, _never)
    looks.blocked.look(time.monotonic_ns())
    (pid,) = _glances()
    looks.blocked.close()
    wait_until(lambda: gone(pid))


def _never(_also: Collection[int]) -> list[dict[str, Any]]:
    time.sleep(600)
    return []


def _glances() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [pid for pid in map(int, file.read().split()) if not gone(pid)]
