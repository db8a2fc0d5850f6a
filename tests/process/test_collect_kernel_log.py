"""The kernel log since a worker's start: records as the kernel gives them, through a pipe that keeps them apart."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdogd.incident import KernelLine
from watchdogd.incidents.collectors import Evidence, Target, kernel_log

SECOND = 1_000_000_000
LATER = time.monotonic_ns() + 3600 * SECOND
XID = "NVRM: Xid (PCI:0000:02:00): {number}, pid={pid}, name=worker, Ch 00000008"


def record(at_us: int, text: str, facility: int = 0) -> bytes:
    return f"{facility << 3 | 6},17,{at_us},-;{text}\n SUBSYSTEM=pci\n".encode()


def told(*records: bytes | OSError, **keys: object) -> list[KernelLine]:
    def read() -> bytes:
        item = next(items)
        if isinstance(item, OSError):
            raise item
        return item

    items: Iterator[bytes | OSError] = iter((*records, BlockingIOError()))
    return kernel_log.lines(read, Target("w", (os.getpid(),), "", 1, **keys), LATER)  # type: ignore[arg-type]  # any of its fields


def test_a_message_about_a_process_of_the_worker_is_its() -> None:
    (line,) = told(record(5_000_000, XID.format(number=109, pid=os.getpid())), accelerator="gpu0")
    assert (line.about, line.number, line.at_ns, line.worker, line.accelerator, line.pid, line.expected) == (
        "xid", 109, 5 * SECOND, "w", "gpu0", os.getpid(), False,
    )  # fmt: skip


def test_a_message_about_another_process_is_nobodys() -> None:
    assert told(record(5_000_000, XID.format(number=109, pid=1)))[0].worker is None


def test_what_was_said_before_the_worker_began_is_left_out_and_what_came_just_before_is_kept() -> None:
    records = [record(at_us, XID.format(number=13, pid=1)) for at_us in (8_999_999, 9_000_000, 10_000_001)]
    assert [line.at_ns for line in told(*records, since_ns=10 * SECOND)] == [9 * SECOND, 10_000_001_000]


def test_xid_45_after_our_kill_is_expected_and_before_it_is_not() -> None:
    records = [record(at_us, XID.format(number=45, pid=os.getpid())) for at_us in (19_000_000, 21_000_000)]
    records.append(record(21_000_000, XID.format(number=13, pid=os.getpid())))
    assert [line.expected for line in told(*records, killed_ns=20 * SECOND)] == [False, True, False]
    assert [line.expected for line in told(*records)] == [False, False, False]


def test_what_programs_wrote_and_what_is_about_something_else_is_no_evidence() -> None:
    assert (
        told(record(1, XID.format(number=13, pid=1), facility=1), record(2, "usb 1-1: new device"), b"nonsense") == []
    )


def test_a_message_that_was_overwritten_is_passed_over() -> None:
    assert len(told(OSError(errno.EPIPE, ""), record(1, XID.format(number=13, pid=1)))) == 1


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(OSError, match="broken"):
        told(OSError(errno.EIO, "broken"))


def test_late_it_gives_what_it_has() -> None:
    items = [record(1, XID.format(number=13, pid=1))]
    assert kernel_log.lines(lambda: items[0], Target("w", (), "", 1), time.monotonic_ns()) == []


def test_it_never_waits_and_a_log_that_may_not_be_read_is_told_with_the_remedy(tmp_path: Path) -> None:
    found = kernel_log.collect(Target("w", (os.getpid(),), "", 1))
    assert found.outcome == "ok" or "CAP_SYSLOG" in found.detail
    missing = kernel_log.collect(Target("w", (), "", 1), str(tmp_path / "none"))
    assert missing == Evidence("failed", f"{tmp_path / 'none'}: No such file or directory")


def test_what_a_program_writes_to_the_real_log_comes_out_only_where_that_is_asked_for() -> None:
    mark = XID.format(number=13, pid=os.getpid()) + f", {time.monotonic_ns()}"
    try:
        with open("/dev/kmsg", "w") as file:
            file.write(f"{mark}\n")
    except OSError as error:
        pytest.skip(f"/dev/kmsg may not be written here: {error.strerror}")
    since = Target("w", (os.getpid(),), "", 1, since_ns=time.monotonic_ns() - SECOND)
    assert mark not in [line.text for line in kernel_log.collect(since).kernel]
    found = [line for line in kernel_log.collect(since, programs=True).kernel if line.text == mark]
    if not found:
        pytest.skip("what programs write to /dev/kmsg need not come out here (kernel.printk_devkmsg)")
    assert found[0].worker == "w"
    assert abs(found[0].at_ns - time.monotonic_ns()) < 5 * SECOND
