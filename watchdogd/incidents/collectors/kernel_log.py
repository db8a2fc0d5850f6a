"""What the kernel said of accelerators since the worker was started, read once more from its beginning.

The supervisor remembers the last messages alone, and none from before it came. Invariant: it never waits for a message,
nothing is taken from other readers, and only what the kernel itself wrote counts.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator

from watchdogd.decide import kernel
from watchdogd.incident import KernelLine
from watchdogd.incidents.collectors import proc
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target
from watchdogd.observe import procfs
from watchdogd.observe.sources import kmsg

MOST_RECORDS = 100_000  # the kernel's buffer holds fewer
MOST_LINES = 100  # the last ones
BEFORE_NS = 1_000_000_000  # what was said shortly before a worker's start may be about the one before: it is kept
SECONDS = 0.2


def collect(target: Target, path: str = kmsg.PATH, *, programs: bool = False) -> Evidence:
    """``programs``: also what programs wrote there (for tests)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        return Evidence("no permission", f"{path}: {error.strerror}: {kmsg.REMEDY}")
    except OSError as error:
        return Evidence("failed", f"{path}: {error.strerror}")
    give_up = (target.until_ns or time.monotonic_ns() + int(SECONDS * 1e9)) - proc.RESERVE_NS
    try:
        told = lines(lambda: os.read(descriptor, kmsg.RECORD_BYTES), target, give_up, programs=programs)
    finally:
        os.close(descriptor)
    return Evidence(kernel=tuple(told[-MOST_LINES:]))


def lines(read: Callable[[], bytes], target: Target, give_up: int, *, programs: bool = False) -> list[KernelLine]:
    """``read`` gives a record, or raises BlockingIOError once there is no more."""
    since_ns = None if target.since_ns is None else target.since_ns - BEFORE_NS
    found = []
    for at_ns, text in _records(read, give_up, programs):
        message = None if since_ns is not None and at_ns < since_ns else kmsg.parse_line(text)
        if message is None:
            continue
        lineage = procfs.lineage(message.pid) if message.pid is not None else ()
        told = kernel.attribute(message, (_party(target, at_ns),), lineage, {}, at_ns)
        whose = (told.worker, told.accelerator, message.pid, told.expected)
        found.append(KernelLine(at_ns, message.kind.value, message.text, message.number, *whose))
    return found


def _party(target: Target, at_ns: int) -> kernel.Party:
    """As it was when the message came: what was said before our kill does not follow from it."""
    is_killed = target.killed_ns is not None and at_ns >= target.killed_ns
    killed = dict.fromkeys(target.pids, target.killed_ns or 0) if is_killed else {}
    return kernel.Party(target.worker, target.accelerator, frozenset(target.pids), killed=killed)


def _records(read: Callable[[], bytes], give_up: int, programs: bool) -> Iterator[tuple[int, str]]:
    """When each was said, by the kernel's clock, which is CLOCK_MONOTONIC but for its adjustments; and what."""
    for _ in range(MOST_RECORDS):
        try:
            record = read()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EPIPE:  # overwritten before we came: the next one is there
                raise
            continue
        if not record or time.monotonic_ns() > give_up:
            return
        prefix, separator, rest = record.partition(b";")
        words = prefix.split(b",")
        if not separator or len(words) < 3 or not (words[0].isdigit() and words[2].isdigit()):
            continue
        if int(words[0]) >> 3 and not programs:  # a program's
            continue
        yield int(words[2]) * 1000, rest.partition(b"\n")[0].partition(rb"\x0a")[0].decode("utf-8", "replace")


# Read once more when the worker is gone: what its end made the kernel say, expected or not.
AFTER = Collector("kernel log after", False, 5.0, lambda: None, collect, afterwards=True)
COLLECTOR = Collector("kernel log", destructive=False, seconds=SECONDS, available=lambda: None, collect=collect)
