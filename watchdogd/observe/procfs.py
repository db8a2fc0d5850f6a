"""What the kernel says of a process, from the files of ``/proc`` that cannot block on it.

``stat`` and ``schedstat`` take no lock of the process's memory; ``maps``, ``cmdline`` and ``environ`` do and are not
read in the supervisor (``sweep.py`` reads ``environ``, in a child that may be abandoned). Invariant: a process that
is gone is ``None``, never an exception; an OSError says that it is not known, and what is only told (names, lineage) is
then left out.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from watchdogd.model import ThreadSample

INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # its inode: the kernel log's pids are those of this namespace
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MOST_ANCESTORS = 64
MAX_THREADS = 64  # sampled per process: a look at a slow call stays below a millisecond


class Identity(NamedTuple):
    """One process for ever: its pid may become another's, with another start."""

    pid: int
    start_ticks: int  # since boot


class Stat(NamedTuple):
    pid: int
    state: str
    parent: int
    group: int
    session: int
    start_ticks: int
    image: int  # where its stack starts: another with every exec; 0 = hidden from us


def _read(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return os.read(descriptor, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)


def _fields(path: str) -> list[bytes] | None:
    """Fields of a ``stat`` file from the state on (the name before it may hold spaces and parentheses)."""
    raw = _read(path)
    return None if raw is None else raw[raw.rindex(b")") + 2 :].split()


def stat(pid: int) -> Stat | None:
    fields = _fields(f"/proc/{pid}/stat")
    if fields is None:
        return None
    parent, group, session, start_ticks, image = (int(fields[index]) for index in (1, 2, 3, 19, 25))
    return Stat(pid, fields[0].decode(), parent, group, session, start_ticks, image)


def threads(pid: int) -> dict[int, ThreadSample]:
    """Scheduler's view of a process's threads, the first ``MAX_THREADS`` of them; none if the process is gone."""
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    samples = ((tid, thread(pid, tid)) for tid in tids[:MAX_THREADS])
    return {tid: sample for tid, sample in samples if sample is not None}


def thread(pid: int, tid: int) -> ThreadSample | None:
    """Without ``schedstat`` (kernels built without it) the run and wait times are 0: no credit can be given."""
    fields = _fields(f"/proc/{pid}/task/{tid}/stat")
    if fields is None:
        return None
    times = (_read(f"/proc/{pid}/task/{tid}/schedstat") or b"0 0 0").split()
    return ThreadSample(fields[0].decode(), int(times[0]), int(times[1]))


def name(pid: int, tid: int | None = None) -> str:
    """What a process calls itself, or one of its threads; empty if it is gone, or that is hidden from us."""
    try:
        path = f"/proc/{pid}/comm" if tid is None else f"/proc/{pid}/task/{tid}/comm"
        return (_read(path) or b"").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def names(pid: int) -> set[str]:
    """What a process's threads call themselves."""
    try:
        tids = os.listdir(f"/proc/{pid}/task")[:MAX_THREADS]
        found = [_read(f"/proc/{pid}/task/{tid}/comm") for tid in tids]
    except OSError:
        return set()
    return {name.decode("utf-8", "replace").strip() for name in found if name}


def lineage(pid: int) -> set[int]:
    """A process, its ancestors, its group and its session, as far as it is still there and not hidden from us."""
    found = {pid}
    try:
        there = stat(pid)
        found |= set() if there is None else {there.group, there.session}
        for _ in range(MOST_ANCESTORS):
            if there is None or there.parent <= 1:
                break
            found.add(there.parent)
            there = stat(there.parent)
    except OSError:
        pass  # those that are known by now
    return found


def started_ns(process: Stat) -> int:
    """When a process began, by CLOCK_MONOTONIC, to a clock tick."""
    suspended_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return process.start_ticks * 1_000_000_000 // _TICKS_PER_SECOND - suspended_ns


def inside(namespace: int) -> dict[int, int]:
    """The pids by which we know the processes of another pid namespace, by the pids that it knows them by.

    Looks at every process: for a verdict only. Raises OSError.
    """
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        lines = (_read(f"/proc/{name}/status") or b"").split(b"\n")
        known = next((line.split()[1:] for line in lines if line.startswith(b"NSpid:")), [])
        if len(known) > 1 and pid_namespace(int(name)) == namespace:
            found[int(known[-1])] = int(name)
    return found


def pid_namespace(pid: int | str = "self") -> int | None:
    """Inode of the pid namespace; None if it may not be read."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None


def time_namespace() -> int | None:
    """Inode of our time namespace: CLOCK_MONOTONIC of another one is another clock. None where there are none."""
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:
        return None


def boot_id() -> int:
    """128 bits that change with every boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return int(file.read().strip().replace("-", ""), 16)
