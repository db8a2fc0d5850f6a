"""What /proc tells of a worker's threads and processes without a lock of their memory.

``stat``, ``status``, ``wchan``, ``fd`` and the counters of a cgroup answer whatever the process does. ``stack`` and
``syscall`` (of root alone) wait at most for an ``exec`` under way. What may wait for a thread that stands in the kernel
with the memory's lock (``maps``, ``cmdline``, ``environ``, ``smaps``) is ``mappings.py``'s, which may be lost alone.
Invariant: bounded in threads, bytes and time; what may not be read is said, and the rest is kept.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from typing import NamedTuple

from watchdogd.incident import Process, Thread
from watchdogd.incidents.collectors import cgroups
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target
from watchdogd.observe import holders, usage

DEVICES = (*holders.DEVICES, "/dev/dri/", "/dev/host1x")
MOST_PROCESSES = 16
MOST_THREADS = 256
MOST_FRAMES = 24
MOST_DEVICES = 16
MOST_BYTES = 8192  # of one file
RESERVE_NS = 10_000_000  # so long before it would be given up it returns what it has
SECONDS = 0.2
RIGHTS = "run the supervisor as root, with CAP_SYS_PTRACE and CAP_SYS_ADMIN: the kernel hides what a process does in it"
NO_STACKS = "a kernel with CONFIG_STACKTRACE"
# That a hung worker is seen in; the rest keep their number. A first argument that is a descriptor: the second column.
_SYSCALLS: Mapping[str, Mapping[int, tuple[str, bool]]] = {
    "x86_64": {
        0: ("read", True), 1: ("write", True), 7: ("poll", False), 16: ("ioctl", True), 23: ("select", False),
        24: ("sched_yield", False), 35: ("nanosleep", False), 45: ("recvfrom", True), 47: ("recvmsg", True),
        61: ("wait4", False), 202: ("futex", False), 230: ("clock_nanosleep", False), 232: ("epoll_wait", True),
        271: ("ppoll", False), 281: ("epoll_pwait", True),
    },
    "aarch64": {
        22: ("epoll_pwait", True), 29: ("ioctl", True), 63: ("read", True), 64: ("write", True),
        72: ("pselect6", False), 73: ("ppoll", False), 98: ("futex", False), 101: ("nanosleep", False),
        115: ("clock_nanosleep", False), 124: ("sched_yield", False), 207: ("recvfrom", True),
        212: ("recvmsg", True), 260: ("wait4", False),
    },
}  # fmt: skip


class _Told(NamedTuple):
    """What a file of /proc gave: its text, or why not."""

    text: str | None
    refused: bool = False


def collect(target: Target) -> Evidence:
    give_up = None if target.until_ns is None else target.until_ns - RESERVE_NS
    pids = family(target.pids)
    if not pids:
        return Evidence("failed", "none of its processes is there any more")
    notes = [] if len(pids) <= MOST_PROCESSES else [f"{len(pids) - MOST_PROCESSES} processes left out"]
    tasks = [(pid, tid) for pid in pids[:MOST_PROCESSES] for tid in tids(pid)]
    if len(tasks) > MOST_THREADS:
        notes.append(f"{len(tasks) - MOST_THREADS} threads left out")
    threads: list[Thread] = []
    refused = is_late = False
    for pid, tid in tasks[:MOST_THREADS]:
        is_late = is_late or (give_up is not None and time.monotonic_ns() > give_up)
        thread, hidden = _thread(pid, tid, in_kernel=not is_late)
        refused = refused or hidden
        threads += [] if thread is None else [thread]
    processes = tuple(_process(pid, give_up) for pid in pids[:MOST_PROCESSES])
    if is_late:
        notes.append("the time did not suffice for all kernel stacks")
    if refused:
        notes.append(RIGHTS)
    return Evidence("no permission" if refused else "ok", "; ".join(notes), tuple(threads), processes)


def family(known: tuple[int, ...]) -> list[int]:
    """The first of ``known`` if it is there, first, and its descendants and session.

    The others are what stands in its lanes, which proves nothing: the number may be another's by now, and a worker may
    write there that of the supervisor, who must not be stopped by a tool nor be sent a signal.
    """
    found = usage.families(set(known[:1]))
    return list(dict.fromkeys(pid for root in known[:1] if root in found for pid in (root, *found[root])))


def tids(pid: int) -> list[int]:
    """Its first thread first."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _thread(pid: int, tid: int, *, in_kernel: bool) -> tuple[Thread | None, bool]:
    """None if it is gone; whether something of it was refused. ``in_kernel``: what may wait for an exec, too."""
    place = f"/proc/{pid}/task/{tid}"
    fields = status(place)
    if fields is None:
        return None, False
    wchan = _read(f"{place}/wchan").text
    syscall = stack = _Told(None)
    if in_kernel:
        syscall, stack = _read(f"{place}/syscall"), _read(f"{place}/stack")
    switches = fields.get("voluntary_ctxt_switches", "")
    thread = Thread(
        pid=pid,
        tid=tid,
        name=fields.get("Name", ""),
        state=fields.get("State", "")[:1] or None,
        wchan=wchan if wchan not in ("", "0") else None,
        syscall=_syscall(pid, syscall.text),
        kernel_stack=tuple(line.removeprefix("[<0>] ") for line in (stack.text or "").splitlines()[:MOST_FRAMES]),
        cpu_ns=_cpu_ns(place),
        voluntary_switches=int(switches) if switches.isdigit() else None,
    )
    return thread, syscall.refused or stack.refused


def _process(pid: int, give_up: int | None) -> Process:
    """Late, without what may take long: a table of many descriptors."""
    is_late = give_up is not None and time.monotonic_ns() > give_up
    fields = status(f"/proc/{pid}") or {}
    resident = fields.get("VmRSS", "").split()[:1]
    parent = fields.get("PPid", "")
    held = () if is_late else tuple(sorted(set(holders.held(pid, DEVICES)))[:MOST_DEVICES])
    return Process(
        pid=pid,
        parent=int(parent) if parent.isdigit() else None,
        devices=held,
        resident=int(resident[0]) * 1024 if resident else None,
        cgroup=() if is_late else cgroups.counters(_read(f"/proc/{pid}/cgroup").text or ""),
    )


def status(place: str) -> dict[str, str] | None:
    """The lines of a ``status`` file by their names; None if who it is of is gone."""
    text = _read(f"{place}/status").text
    if not text:
        return None
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _cpu_ns(place: str) -> int | None:
    words = (_read(f"{place}/schedstat").text or "").split()
    return int(words[0]) if words else None  # None: a kernel built without it


def _syscall(pid: int, text: str | None) -> str | None:
    """``ioctl 0x7 0xc0184600 ... on /dev/nvidia0``: as /proc prints it, the number named where it is known."""
    if not text or text == "running":
        return text or None
    number, *arguments = text.split()
    known = _SYSCALLS.get(platform.machine(), {}).get(int(number)) if number.lstrip("-").isdigit() else None
    named, on_descriptor = known or (number, False)
    words = " ".join((named, *arguments[:6]))
    if not on_descriptor or not arguments:
        return words
    try:
        return f"{words} on {os.readlink(f'/proc/{pid}/fd/{int(arguments[0], 16)}')}"
    except (OSError, ValueError):  # closed by now, or not ours to see
        return words


def _read(path: str) -> _Told:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return _Told(file.read(MOST_BYTES).strip("\0\n "))
    except PermissionError:
        return _Told(None, refused=True)
    except OSError:  # gone, or a kernel without that file
        return _Told(None)


def stacks_available() -> str | None:
    """Whether the kernel's stacks are ours to see; the rest of /proc is read all the same."""
    try:
        with open("/proc/self/stack", encoding="ascii") as file:
            file.read()
    except FileNotFoundError:
        return NO_STACKS
    except OSError:
        return RIGHTS
    return None


COLLECTOR = Collector("proc", destructive=False, seconds=SECONDS, available=lambda: None, collect=collect)
