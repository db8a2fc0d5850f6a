"""The kernel log's reader as a program: the real /dev/kmsg where this machine lets us, else a pipe."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.running import ROOT, TIMEOUT_SECONDS

READER = [sys.executable, "-m", "watchdogd.observe.sources.kmsg"]
XID = "NVRM: Xid (PCI:0000:02:00): 109, pid=8494, name=RenderThread, channel 0x0000000d, CTX SWITCH TIMEOUT"


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*READER, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(TIMEOUT_SECONDS)


def line(process: subprocess.Popen[str], seconds: float = TIMEOUT_SECONDS) -> str | None:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return None
    return process.stdout.readline().rstrip("\n")


def write(text: str) -> None:
    """As a program may: the kernel takes it for a message of user space."""
    try:
        descriptor = os.open("/dev/kmsg", os.O_WRONLY)
    except OSError as error:
        pytest.skip(f"/dev/kmsg may not be written here: {error.strerror}")
    try:
        os.write(descriptor, f"{text}\n".encode())  # without its end it stays open, and unseen
    finally:
        os.close(descriptor)


def test_a_reader_that_has_nothing_to_tell_says_that_it_lives(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kmsg")
    with (tmp_path / "kmsg").open("r+b", buffering=0), running("--path", str(tmp_path / "kmsg")) as process:
        start(process)
        assert line(process) == "watchdogd: lives"


def start(process: subprocess.Popen[str]) -> None:
    said = line(process)
    if said is None or not said.startswith("watchdogd: reads "):
        pytest.skip(f"/dev/kmsg may not be read here: {said}")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("watchdogd: gpus")  # came with it, so it is in the buffer


def test_the_real_log_is_read_from_now_on() -> None:
    mark = f"{XID}, {time.monotonic_ns()}"
    write(f"{mark} before")
    with running("--programs") as process:
        start(process)
        write(f"<6>{mark} after")
        said = line(process, 3)
        if said is None and Path("/proc/sys/kernel/printk_devkmsg").read_text().strip() != "on":
            pytest.skip("what programs write to /dev/kmsg need not come out here (kernel.printk_devkmsg)")
        assert said == f"{mark} after"


def test_what_a_program_writes_to_the_real_log_is_no_evidence() -> None:
    with running() as process:
        start(process)
        write(XID)
        assert line(process, 0.5) is None
        assert process.poll() is None


def test_a_log_that_may_not_be_read_is_told_with_its_remedy() -> None:
    """As a user without rights, on a machine that keeps the log to those with CAP_SYSLOG."""
    if os.geteuid() != 0 or Path("/proc/sys/kernel/dmesg_restrict").read_text().strip() == "0":
        pytest.skip("everybody may read it here, or we cannot become somebody else")
    # What it imports late is imported before the rights are gone: the interpreter may be where that user may not read.
    program = (
        "import argparse, os; from watchdogd.observe.sources import kmsg;"
        " argparse.ArgumentParser().add_argument('--x', metavar='X', help='x');"
        " os.setuid(65534); raise SystemExit(kmsg.main([]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True,
        timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    assert (ran.returncode, len(ran.stdout.splitlines())) == (69, 1), ran.stderr
    assert ran.stdout.startswith(f"watchdogd: /dev/kmsg: {os.strerror(errno.EPERM)}: give it CAP_SYSLOG")


def test_a_log_that_is_not_there_is_told_too(tmp_path: Path) -> None:
    with running("--path", str(tmp_path / "kmsg")) as process:
        assert "No such file" in (line(process) or "")
        assert process.wait(TIMEOUT_SECONDS) == 69


def test_it_ends_when_nobody_reads_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kmsg")
    keep = os.open(tmp_path / "kmsg", os.O_RDWR)
    try:
        with running("--path", str(tmp_path / "kmsg")) as process:
            start(process)
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(TIMEOUT_SECONDS) == 0
    finally:
        os.close(keep)


@pytest.mark.parametrize(("priority", "taken"), [(3, True), (6, True), (11, False)])
def test_records_come_out_as_lines(tmp_path: Path, priority: int, *, taken: bool) -> None:
    os.mkfifo(tmp_path / "kmsg")
    keep = os.open(tmp_path / "kmsg", os.O_RDWR)
    try:
        with running("--path", str(tmp_path / "kmsg")) as process:
            start(process)
            os.write(keep, f"{priority},12,5140900,-;{XID}\n SUBSYSTEM=pci\n".encode())
            assert line(process, 5 if taken else 0.3) == (XID if taken else None)
    finally:
        os.close(keep)


def test_every_captured_line_reads_the_same_after_the_program() -> None:
    """What the supervisor parses is what the program printed."""
    from watchdogd.observe.sources.kmsg import Log, parse_line  # noqa: PLC0415 - of this test alone

    samples = [json.loads(text) for text in (ROOT / "tests/fixtures/kmsg/lines.jsonl").read_text().splitlines()]
    for sample in samples:
        message = parse_line(sample["line"])
        if message is None:
            continue
        text = sample["line"].rpartition(";")[2] if sample["line"][0].isdigit() else sample["line"]
        left = iter([f"6,1,2,-;{text}\n".encode()])

        def read(left: Iterator[bytes] = left) -> bytes:
            try:
                return next(left)
            except StopIteration:
                raise BlockingIOError from None

        (printed,) = Log(read).take(1)
        assert parse_line(printed) == message
