"""The kernel log under a real supervisor: evidence beside a worker and a verdict, never a verdict.

Its reader is replaced by a program that prints captured lines, with the pids of the test's own processes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from watchdogd.decide import kernel
from watchdogd.observe.sources import kmsg
from watchdogd.view import status_table
from watchdogd.view.status import collect

XID_109 = "NVRM: Xid (PCI:0000:02:00): 109, pid={pid},   name=RenderThread, channel 0x0000000d, CTX SWITCH TIMEOUT"
XID_45 = "NVRM: Xid (PCI:0000:61:00): 45, pid={pid}, name=distprovers-gpu, Ch 0000000a"
XID_79 = "NVRM: Xid (PCI:0000:44:00): 79, GPU has fallen off the bus"
NOTIFIER = (
    "nvgpu: 17000000.gpu     nvgpu_set_err_notifier_locked:143  [ERR]  error notifier set to {number} for ch 479"
    " owned by consumer_thread"
)
DLA = "15880000.nvdla0:nvdla_error_handler: engine timeout detected"
GOES_ON = "worker.ready()\nwhile True:\n    with worker.call('sync'): time.sleep(0.02)"
HANGS = """serve_until('go')
if INCARNATION == 1:
    with worker.call('sync'): tell('in'); hang()
serve()"""


class Log:
    """What the kernel says, one line at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    @property
    def table(self) -> dict[str, Any]:
        return {"command": ["tail", "-q", "-s", "0.02", "-n", "+1", "-F", str(self._path)]}

    def say(self, *lines: str) -> None:
        with self._path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    yield Log(tmp_path / "kmsg")


def pid_of(supervised: Supervised, name: str) -> int:
    supervised.wait_phase(name, "running")
    return int(supervised.worker(name)["pid"])


def counted(supervised: Supervised) -> dict[str, int]:
    """The kinds that were seen."""
    told: dict[str, int] = supervised.snapshot()["kernel"]["messages"]
    return {kind: count for kind, count in told.items() if count}


def table(supervised: Supervised) -> str:
    view = collect(str(supervised.runtime), time.monotonic_ns())
    return status_table.table(view, 400, colour=False)


def test_a_supervisor_with_no_descriptor_left_still_takes_what_the_kernel_says(log: Log) -> None:
    with Supervised({"a": worker(GOES_ON, deadlines={"sync": "1s"})}, kmsg=log.table) as supervised:
        pid = pid_of(supervised, "a")
        supervised.let_pass(0.6)
        used = {int(name) for name in os.listdir(f"/proc/{supervised.process.pid}/fd")}
        least_free = min(set(range(len(used) + 1)) - used)
        before = resource.prlimit(supervised.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(supervised.process.pid, resource.RLIMIT_NOFILE, (least_free, before[1]))
        log.say(XID_109.format(pid=pid))
        wait_until(lambda: counted(supervised) == {"xid": 1}, what=supervised.log)
        supervised.let_pass(1.1)  # housekeeping looks for the names of threads
        resource.prlimit(supervised.process.pid, resource.RLIMIT_NOFILE, before)
        assert supervised.wait_event("kernel")["worker"] == "a"  # its own number is known anyway
        assert supervised.phase("a") == "running"


def test_a_reader_that_hangs_is_down_and_replaced() -> None:
    """The real one: it says now and then that it lives; a command of one's own need not."""
    with Supervised({"a": worker(GOES_ON)}, kmsg={"enabled": True}) as supervised:
        supervised.wait_phase("a", "running")
        reader = readers(supervised)
        if not reader:
            pytest.skip("/dev/kmsg may not be read here")
        supervised.wait_event("source", source="kmsg", up=True)
        os.kill(reader[0], signal.SIGSTOP)
        wait_until(lambda: supervised.events("source", source="kmsg", up=False), timeout=25)
        assert supervised.events("source", source="kmsg", up=False)[0]["reason"] == "its reader hangs"
        wait_until(lambda: readers(supervised) not in ([], reader))
        wait_until(lambda: supervised.snapshot()["sources"][0]["up"])


def readers(supervised: Supervised) -> list[int]:
    with open(f"/proc/{supervised.process.pid}/task/{supervised.process.pid}/children", encoding="ascii") as file:
        pids = [int(word) for word in file.read().split()]
    return [pid for pid in pids if b"sources.kmsg" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_an_xid_of_a_worker_that_goes_on_is_told_beside_it_and_kills_nobody(log: Log) -> None:
    workers = {name: worker(GOES_ON, accelerator="gpu0", deadlines={"sync": "1s"}) for name in ("a", "b")}
    with Supervised(workers, kmsg=log.table) as supervised:
        pid = pid_of(supervised, "a")
        log.say(XID_109.format(pid=pid))
        event = supervised.wait_event("kernel", "a", number=109)
        assert (event["about"], event["pid"], event["accelerator"], event["expected"]) == ("xid", pid, "gpu0", False)
        supervised.let_pass(1.5)
        assert supervised.view("a")["kernel"]["number"] == 109
        assert supervised.view("b")["kernel"] is None
        assert "kernel, " in table(supervised) and "xid 109" in table(supervised)
        assert [supervised.worker(name)["incarnation"] for name in workers] == [1, 1]
        assert supervised.events("verdict") == supervised.events("signal") == []


def test_a_hang_that_the_kernel_says_nothing_of_is_found_all_the_same(log: Log) -> None:
    hangs = worker(HANGS, accelerator="gpu0", deadlines={"sync": "200ms"})
    with Supervised({"a": hangs}, kmsg=log.table) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        assert supervised.wait_event("verdict", "a")["kernel"] == []
        supervised.wait_phase("a", "running", 2)
        assert counted(supervised) == {}


def test_what_the_kernel_said_meanwhile_stands_beside_the_verdict(log: Log) -> None:
    hangs = worker(HANGS, accelerator="dla0", deadlines={"sync": "1s"})
    with Supervised({"a": hangs}, kmsg=log.table) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        supervised.wait_file("in")
        log.say(DLA)
        assert supervised.wait_event("kernel", about="dla_timeout")["worker"] is None  # it names no process
        assert supervised.wait_event("verdict", "a")["kernel"] == [DLA]
        assert supervised.snapshot()["accelerators"][0]["kernel"]["about"] == "dla_timeout"


def test_a_message_about_another_accelerator_does_not_stand_beside_a_verdict(log: Log) -> None:
    hangs = worker(HANGS, accelerator="gpu0", deadlines={"sync": "1s"})
    with Supervised({"a": hangs, "h": worker("serve()", accelerator="dla0")}, kmsg=log.table) as supervised:
        supervised.wait_phase("a", "running")
        supervised.touch("go")
        supervised.wait_file("in")
        log.say(DLA)
        assert supervised.wait_event("verdict", "a")["kernel"] == []


def test_a_descendant_s_message_is_its_worker_s_and_a_stranger_s_is_nobody_s(log: Log) -> None:
    body = "import subprocess\ntell('child', subprocess.Popen(['sleep', '60']).pid)\nserve()"
    with Supervised({"a": worker(body, accelerator="gpu0")}, kmsg=log.table) as supervised:
        child = int(supervised.wait_file("child"))
        log.say("watchdogd: gpus 0000:02:00 0000:44:00")  # as the reader says first
        log.say(XID_109.format(pid=child), XID_109.format(pid=os.getpid()), XID_79)
        told = [supervised.wait_event("kernel", count=count) for count in (1, 2, 3)]
        assert [(event["worker"], event["number"]) for event in told] == [("a", 109), (None, 109), (None, 79)]
        assert [event["accelerator"] for event in told] == ["gpu0", "gpu0", "gpu1"]


def test_a_channel_s_owner_is_known_by_its_name(log: Log) -> None:
    named = "open('/proc/self/comm', 'w').write('consumer_thread')\nserve()"
    with Supervised({"a": worker(named, accelerator="gpu0"), "b": worker("serve()")}, kmsg=log.table) as supervised:
        supervised.wait_phase("a", "running")
        supervised.let_pass(1.5)  # the names of one worker's threads are looked up at a time
        log.say(NOTIFIER.format(number=31))
        assert supervised.wait_event("kernel", number=31)["worker"] == "a"


def test_a_name_that_two_workers_have_is_neither_s(log: Log) -> None:
    named = worker("open('/proc/self/comm', 'w').write('consumer_thread')\nserve()", accelerator="gpu0")
    with Supervised({"a": named, "b": named}, kmsg=log.table) as supervised:
        supervised.wait_phase("a", "running")
        supervised.wait_phase("b", "running")
        supervised.let_pass(1.5)
        log.say(NOTIFIER.format(number=31))
        event = supervised.wait_event("kernel", number=31)
        assert (event["worker"], event["accelerator"]) == (None, "gpu0")


def test_xid_45_after_our_own_kill_is_expected_and_no_problem(log: Log) -> None:
    hangs = worker(HANGS, accelerator="gpu0", deadlines={"sync": "200ms"})
    with Supervised({"a": hangs}, kmsg=log.table) as supervised:
        pid = pid_of(supervised, "a")
        supervised.touch("go")
        supervised.wait_phase("a", "running", 2)
        log.say(XID_45.format(pid=pid))
        event = supervised.wait_event("kernel", "a")
        assert (event["expected"], event["number"]) == (True, 45)
        wait_until(lambda: counted(supervised) == {"expected": 1})
        assert supervised.view("a")["kernel"]["expected"] is True
        assert "kernel, " not in table(supervised)
        assert supervised.snapshot()["accelerators"][0]["kernel"] is None
        assert supervised.wait_phase("a", "running", 2)


@pytest.mark.parametrize(
    ("line", "killed"),
    [
        (XID_45, False),
        (XID_45 + " caused by previous Xid 149", True),
        (XID_109, True),
    ],
    ids=["of a worker that lives", "after another fault", "another number"],
)
def test_other_messages_are_a_problem(log: Log, line: str, *, killed: bool) -> None:
    hangs = worker(HANGS, accelerator="gpu0", deadlines={"sync": "200ms"})
    with Supervised({"a": hangs}, kmsg=log.table) as supervised:
        pid = pid_of(supervised, "a")
        if killed:
            supervised.touch("go")
            supervised.wait_phase("a", "running", 2)
        log.say(line.format(pid=pid))
        assert supervised.wait_event("kernel", "a")["expected"] is False
        wait_until(lambda: counted(supervised) == {"xid": 1})


def test_a_storm_is_counted_whole_taken_in_part_and_holds_nothing_up(log: Log) -> None:
    hangs = worker(HANGS, accelerator="gpu0", deadlines={"sync": "300ms"})
    with Supervised({"a": hangs}, kmsg=log.table) as supervised:
        pid = pid_of(supervised, "a")
        log.say(*(XID_109.format(pid=pid) for _ in range(3000)))
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["detected_ns"] - verdict["deadline_ns"] < 500_000_000
        assert len(verdict["kernel"]) <= kernel.MOST_TOLD
        wait_until(lambda: counted(supervised)["xid"] + supervised.snapshot()["kernel"]["lost"] == 3000)
        seconds = 10
        assert 0 < len(supervised.events("kernel")) <= counted(supervised)["xid"] <= kmsg.MOST_A_SECOND * seconds


def test_a_log_that_cannot_be_read_is_told_once_with_its_remedy_and_changes_nothing(tmp_path: Path) -> None:
    reader = [sys.executable, "-m", "watchdogd.observe.sources.kmsg", "--path", str(tmp_path / "nothing")]
    with Supervised({"a": worker(GOES_ON, deadlines={"sync": "1s"})}, kmsg={"command": reader}) as supervised:
        event = supervised.wait_event("source", source="kmsg")
        assert not event["up"]
        assert "No such file" in event["reason"] and "[kmsg]" in event["reason"]
        supervised.let_pass(1.5)  # it would have been started again by then
        assert len(supervised.events("source")) == 1
        (source,) = supervised.snapshot()["sources"]
        assert (source["up"], source["restarts"]) == (False, 0)
        assert supervised.phase("a") == "running"


def test_a_log_that_is_read_is_a_source_that_is_up(log: Log) -> None:
    with Supervised({"a": worker("serve()")}, kmsg=log.table) as supervised:
        assert supervised.wait_event("source", source="kmsg")["up"]
        (source,) = supervised.snapshot()["sources"]
        assert (source["name"], source["up"], source["sample_ns"]) == ("kmsg", True, None)
