"""Who a launched child is: told by itself, before it is anybody's but ours, in a file that only our user can write.

Invariant: half a birth is none. The next supervisor adopts by nothing else.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from watchdogd.observe import procfs
from watchdogd.observe.procfs import Identity


class Birth(NamedTuple):
    identity: Identity
    cgroup: str | None = None  # its directory, if the worker has one of its own
    problem: str | None = None  # why it has none


def tell(path: str, cgroup: str | None, problem: str | None) -> None:
    """Of this process. Raises OSError, also if somebody has planted something there."""
    me = procfs.stat(os.getpid())
    lines = f"{os.getpid()} {me.start_ticks if me else 0}\n{cgroup or ''}\n{' '.join((problem or '').split())}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    os.write(descriptor, lines.encode("utf-8", "surrogateescape"))
    os.close(descriptor)


def read(path: str) -> Birth | None:
    """None if it has not been told (yet), or not in these words."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            who, cgroup, problem, _ = file.read().split("\n")
        pid, start_ticks = map(int, who.split())
    except (FileNotFoundError, ValueError):
        return None
    return Birth(Identity(pid, start_ticks), cgroup or None, problem or None) if pid > 0 else None
