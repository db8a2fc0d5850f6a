"""Who a launched child is: told by itself, before it is anybody's but ours, in a file that only our user can write.

Invariant: half a birth is none. The next supervisor adopts by nothing else.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from watchdogd.instrument.words import Shim
from watchdogd.observe import procfs
from watchdogd.observe.procfs import Identity


class Birth(NamedTuple):
    identity: Identity
    cgroup: str | None = None  # its directory, if the worker has one of its own
    problem: str | None = None  # why it has none
    shim: Shim | None = None  # what stands in front of its driver; None = not told (yet)


def tell(path: str, cgroup: str | None, problem: str | None) -> None:
    """Of this process. Raises OSError, also if somebody has planted something there."""
    me = procfs.stat(os.getpid())
    lines = f"{os.getpid()} {me.start_ticks if me else 0}\n{cgroup or ''}\n{_line(problem)}\n"
    _write(path, os.O_CREAT | os.O_EXCL, lines)


def add_shim(path: str, shim: Shim) -> None:
    """To what was told. Raises OSError."""
    _write(path, os.O_APPEND, "".join(f"{_line(word)}\n" for word in shim))


def folders(births: str) -> set[str]:
    """The shims of all whose birth is there. Raises OSError."""
    told = (read(f"{births}/{name}") for name in os.listdir(births))
    return {each.shim.folder for each in told if each is not None and each.shim is not None and each.shim.folder}


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _write(path: str, how: int, lines: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | how, 0o644)
    os.write(descriptor, lines.encode("utf-8", "surrogateescape"))
    os.close(descriptor)


def read(path: str) -> Birth | None:
    """None if it has not been told (yet), or not in these words."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            who, cgroup, problem, *more = file.read().split("\n")
        if not more:
            return None
        pid, start_ticks = map(int, who.split())
    except (FileNotFoundError, ValueError):
        return None
    *shim, _ = more
    told = Shim(*(word or None for word in shim)) if len(shim) == len(Shim._fields) else None
    return Birth(Identity(pid, start_ticks), cgroup or None, problem or None, told) if pid > 0 else None
