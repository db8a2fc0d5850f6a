"""Find and kill what a worker left behind: descendants, ``setsid`` ones included.

Runs in a forked child of the supervisor that may be abandoned, since ``/proc/PID/environ`` can block on a process
stuck in the kernel. A process belongs to an incarnation if its ancestors lead to the process that was spawned, if it
is in that process's session, or if it was orphaned (so that its parent is the supervisor or init) and its environment
names the incarnation's heartbeat. Invariant: nothing is signalled but through a pidfd whose process was looked at
after opening it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from watchdogd import abi
from watchdogd.act import scope
from watchdogd.observe import procfs
from watchdogd.observe.procfs import Identity

DEADLINE_SECONDS = 2.0
LINGER_SECONDS = 1.0  # to end by themselves, and then again so long after SIGTERM
FIRST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.1  # what does not die at once will not die sooner for being looked at


class Swept(NamedTuple):
    """Outcome of one sweep: pids that got SIGKILL, pids still there at its end."""

    killed: tuple[int, ...]
    left: tuple[int, ...]


def all_processes() -> dict[int, procfs.Stat]:
    found = (procfs.stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {stat.pid: stat for stat in found if stat is not None}


def marks(pid: int) -> bytes | None:
    """The heartbeat that a process's environment names."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            raw = file.read()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    prefix = f"{abi.ENVIRONMENT}=".encode()
    return next((entry[len(prefix) :] for entry in raw.split(b"\0") if entry.startswith(prefix)), None)


def members(root: Identity, heartbeat: str, supervisor: int, *, is_held: bool) -> list[procfs.Stat]:
    """All living members of an incarnation but the root itself. Session 0 is the kernel's and init's own.

    ``is_held``: the root is our child and unreaped, so its number is nobody else's. Else a session of that number
    may be a stranger's: its members count only if their environment says so, too.
    """
    if root.pid <= 0:
        raise ValueError(f"refusing pid {root.pid}")
    processes = all_processes()
    there = processes.get(root.pid)
    is_root = is_held or (there is not None and there.start_ticks == root.start_ticks)
    found = []
    for stat in processes.values():
        if stat.pid in (supervisor, os.getpid()) or (is_root and stat.pid == root.pid) or stat.state in "ZX":
            continue
        if is_root and (stat.session == root.pid or _descends(stat, root.pid, processes)):
            found.append(stat)
        elif (stat.parent in (supervisor, 1) or stat.session == root.pid) and marks(stat.pid) == heartbeat.encode():
            found.append(stat)
            found += [s for s in processes.values() if s.state not in "ZX" and _descends(s, stat.pid, processes)]
    return list({stat.pid: stat for stat in found}.values())


def descendants(ancestor: int) -> list[procfs.Stat]:
    """Every living descendant of a process but this one, marked or not."""
    processes = all_processes()
    others = [stat for stat in processes.values() if stat.pid != os.getpid() and stat.state not in "ZX"]
    return [stat for stat in others if _descends(stat, ancestor, processes)]


def leftovers(heartbeats: str, spared: Callable[[bytes], bool] = lambda _: False) -> list[procfs.Stat]:
    """Every process whose environment names a heartbeat in this directory: what a dead supervisor left.

    But not those of heartbeats that are ``spared``, whose workers live on. Not ourselves nor those we descend from: a
    supervisor may be started from a shell that a worker started.
    """
    prefix = heartbeats.encode() + b"/"
    processes = all_processes()
    me = processes.get(os.getpid())
    marked = [stat for stat in processes.values() if stat.state not in "ZX" and _marked(stat.pid, prefix, spared)]
    return [stat for stat in marked if me is not None and stat is not me and not _descends(me, stat.pid, processes)]


def _marked(pid: int, prefix: bytes, spared: Callable[[bytes], bool]) -> bool:
    mark = marks(pid)
    return mark is not None and mark.startswith(prefix) and not spared(mark)


def _descends(stat: procfs.Stat, ancestor: int, processes: dict[int, procfs.Stat]) -> bool:
    parent = processes.get(stat.parent)
    for _ in range(1000):  # a parent chain cannot be longer than this, unless pids were reused under our eyes
        if parent is None:
            return False
        if parent.pid == ancestor:
            return True
        parent = processes.get(parent.parent)
    return False


def kill(stat: procfs.Stat, number: int = signal.SIGKILL) -> bool:
    """Signal exactly this process. False if it is gone, or is not it any more."""
    try:
        descriptor = os.pidfd_open(stat.pid)
    except ProcessLookupError:
        return False
    try:
        again = procfs.stat(stat.pid)
        if again is None or again.start_ticks != stat.start_ticks:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):  # gone, or another user's: then it stays in what is left
        return False
    finally:
        os.close(descriptor)
    return True


def ask(find: Callable[[], list[procfs.Stat]]) -> dict[int, procfs.Stat]:
    """Let them end: who reads a pipe has its rest to write, who keeps shared memory has it to remove.

    Those that did not in their time, and were sent a SIGTERM.
    """
    asked: dict[int, procfs.Stat] = {}
    for is_time_over in (False, True):
        deadline = time.monotonic() + LINGER_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while found := find():
            if is_time_over:
                asked |= {stat.pid: stat for stat in found if stat.pid not in asked and kill(stat, signal.SIGTERM)}
            if time.monotonic() > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return asked


def sweep(find: Callable[[], list[procfs.Stat]], cgroup: str | None = None, *, patiently: bool = False) -> Swept:
    """Kill until none is left, or the deadline. A process that dies may leave new orphans, so look again.

    ``cgroup``: the worker's own; what is in it dies by one write, however it hid. ``patiently``: ``ask``, first.
    """
    killed = ask(find) if patiently else {}
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while True:
        found = find() if cgroup is None else _with_cgroup(find(), cgroup)
        # One that dies loses its environment before its descriptors: it is not found any more, and not gone yet.
        left = {stat.pid: stat for stat in (*filter(_lives, killed.values()), *found)}
        if not left or time.monotonic() > deadline:
            return Swept(tuple(sorted(killed)), tuple(sorted(left)))
        killed |= {stat.pid: stat for stat in found if kill(stat)}
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _lives(stat: procfs.Stat) -> bool:
    now = procfs.stat(stat.pid)
    return now is not None and now.start_ticks == stat.start_ticks and now.state not in "ZX"


def _with_cgroup(found: list[procfs.Stat], cgroup: str) -> list[procfs.Stat]:
    scope.kill(cgroup)
    inside = (procfs.stat(pid) for pid in scope.processes(cgroup))
    living = [stat for stat in inside if stat is not None and stat.state not in "ZX"]
    return list({stat.pid: stat for stat in (*found, *living)}.values())


class SweepFailed(Exception):
    """It ended without a result: nobody knows what is left."""


_unreaped: list[int] = []


def reap_later(pid: int) -> None:
    """A child that nobody waits for."""
    _unreaped.append(pid)


def reap_ended() -> None:
    """Reap the sweeps and glances that have ended, abandoned ones too."""
    for pid in tuple(_unreaped):
        with suppress(ChildProcessError):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                continue
        _unreaped.remove(pid)


class Sweeper:
    """A sweep in a child of its own. ``descriptor`` becomes readable when it has ended."""

    def __init__(
        self, find: Callable[[], list[procfs.Stat]], cgroup: str | None = None, *, patiently: bool = False
    ) -> None:
        self.descriptor, send = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.pid = os.fork()
        except OSError:
            os.close(self.descriptor)
            os.close(send)
            raise
        if self.pid == 0:
            _run(lambda: sweep(find, cgroup, patiently=patiently), send)
        reap_later(self.pid)
        os.close(send)

    def result(self) -> Swept | None:
        """What it found; None while it runs. Raises SweepFailed."""
        try:
            raw = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return None
        os.close(self.descriptor)
        try:
            value = json.loads(raw)
            return Swept(tuple(value["killed"]), tuple(value["left"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SweepFailed from error

    def wait(self, seconds: float) -> None:
        """Until its result is there, but no longer. For the start and the end of a supervisor only."""
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN)
        poller.poll(seconds * 1000)

    def abandon(self) -> None:
        """It did not return: kill it and forget it. It may be stuck in the kernel, so it is not waited for."""
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.descriptor)


def _run(sweeps: Callable[[], Swept], send: int) -> NoReturn:
    try:
        # Nothing of the supervisor's may stay open in a child that may outlive it: its lock, sockets, pidfds.
        os.dup2(send, 0)
        os.closerange(3, 2**20)
        swept = sweeps()
        os.write(0, json.dumps({"killed": swept.killed, "left": swept.left}).encode())
    finally:
        os._exit(0)
