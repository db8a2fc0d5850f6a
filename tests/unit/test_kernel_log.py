"""The kernel log under the supervisor without one: what it takes from its reader, and what in another pid namespace."""

from __future__ import annotations

import os

from watchdogd.model import SECOND, KmsgSettings
from watchdogd.observe.procfs import INITIAL_PID_NAMESPACE
from watchdogd.publish.events import decode
from watchdogd.publish.journal import Journal
from watchdogd.publish.throttle import Throttle
from watchdogd.supervisor.kernel_log import SETTLED_NS, KernelLog

NOW = 400_000_000_000
XID = f"NVRM: Xid (PCI:0000:02:00): 109, pid={os.getpid()}, name=infer, channel 0x0000000d, CTX SWITCH TIMEOUT\n"


def made(namespace: int = INITIAL_PID_NAMESPACE) -> tuple[KernelLog, int]:
    """With the descriptor from which its events are read."""
    journal = Journal(1, 1, Throttle(1 << 20))
    read, write = os.pipe2(os.O_NONBLOCK)
    journal.attach(write)
    return KernelLog(KmsgSettings(("true",)), [], journal, namespace), read


def test_what_the_reader_lost_is_counted_and_no_message() -> None:
    log, _ = made()
    log.feed(b"watchdogd: lost 7 lines (overrun)\nwatchdogd: lost 5 lines (a storm)\nwatchdogd: lost x lines\n", NOW)
    assert log.totals()["lost"] == 12
    assert sum(log.totals()["messages"].values()) == 0


def test_pids_of_the_log_are_believed_in_the_first_pid_namespace_alone() -> None:
    for namespace, pid in ((INITIAL_PID_NAMESPACE, os.getpid()), (4026532999, None)):
        log, events = made(namespace)
        log.feed(XID.encode(), NOW)
        event = decode(os.read(events, 65536))
        assert event is not None and (event["pid"], event["name"]) == (pid, "infer")


def test_a_message_that_is_none_is_passed_over() -> None:
    log, _ = made()
    assert log.feed(b"usb 1-1: new device\n\xff\xfe\n" + XID.encode() * 2 + b"NVRM: Xid (PCI", NOW)
    assert log.totals()["messages"]["xid"] == 2
    assert not log.feed(b":0000", NOW)  # half a line is nothing new


def test_what_it_said_of_an_accelerator_last_is_kept() -> None:
    log, _ = made()
    log.feed(b"watchdogd: gpus 0000:01:00 0000:02:00\n" + XID.encode(), NOW)
    told = log.of_accelerator("gpu1")
    assert told is not None and (told["number"], told["at_ns"], told["expected"]) == (109, NOW, False)
    assert log.of_accelerator("gpu0") is None


def test_of_a_storm_the_first_messages_are_taken_and_the_other_lines_counted() -> None:
    log, _ = made()
    log.feed(b"usb 1-1: new device\n" + XID.encode() * 500 + b"watchdogd: lost 7 lines (a storm)\n", NOW)
    assert log.totals()["messages"]["xid"] == 100
    assert log.totals()["lost"] == 407
    log.feed(XID.encode(), NOW + 10)
    assert log.totals()["lost"] == 408
    log.feed(XID.encode(), NOW + SECOND)
    assert log.totals()["messages"]["xid"] == 101


def test_a_sign_of_life_is_no_news() -> None:
    log, _ = made()
    assert log.feed(b"watchdogd: gpus\n", NOW)
    assert not log.feed(b"watchdogd: lives\n", NOW)
    assert sum(log.totals()["messages"].values()) == 0


def test_a_reader_is_not_up_before_it_lives() -> None:
    log, _ = made()
    assert not log.watch(NOW + SETTLED_NS + 1)
    assert not log.up
