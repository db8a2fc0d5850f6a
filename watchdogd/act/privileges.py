"""What the supervisor takes for itself alone: a real-time priority, locked memory, CPUs, other people's orphans.

Invariant: nothing of it is handed down to a worker (``spawning``), and what is refused is told, never fatal.
"""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_CHILD_SUBREAPER = 36
_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_libc = ctypes.CDLL(None, use_errno=True)
unpinned: list[int] = []  # the CPUs that were ours before ``pin``

RUNAWAY_SECONDS = 1  # of CPU without a pause, at real-time priority: ended by SIGXCPU before it can starve a machine


def become_subreaper() -> None:
    """Orphans of our workers come to us instead of init. Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def become_realtime(priority: int) -> str:
    """SCHED_FIFO for this process alone: whatever it starts is scheduled normally. Returns what it has become."""
    if priority == 0:
        if os.sched_getscheduler(0) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK:  # our own doing, before a reload
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return "normal"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except PermissionError:
        return "normal (real-time priority was refused; CAP_SYS_NICE or LimitRTPRIO= allows it)"
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    resource.setrlimit(resource.RLIMIT_RTTIME, (RUNAWAY_SECONDS * 1_000_000, hard))
    return f"fifo:{priority}"


def pin(cpus: tuple[int, ...]) -> None:
    """Keep this process to these CPUs; whatever it launches may go where it could before. Raises OSError."""
    if cpus:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        unpinned[:] = before


def lock_memory() -> str:
    """Keep what this process has touched in RAM, so that no tick waits for a disk. Returns what has become of that.

    Only where no limit holds: under one, an allocation past it would fail later, in the middle of a tick.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and not _has_capability(_CAP_IPC_LOCK):
        return "not locked (CAP_IPC_LOCK or LimitMEMLOCK=infinity allows it)"
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"not locked ({os.strerror(ctypes.get_errno())})"
    return "locked"


def _has_capability(number: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)
