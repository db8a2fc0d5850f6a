"""What the processes of workers hold together, for a child that may be given up.

A descriptor table of 100,000 entries takes long to list, so nobody who must answer reads it. Memory is what no file
backs (``RssAnon``, ``RssShmem``) and what of it was swapped out: what a mapped file holds resident the kernel can take
back, and swapping must not hide a leak. Invariant: a figure that one process of a worker does not tell is unknown for
the worker; a process that has ended holds nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from watchdogd.observe import procfs

MOST_PIDS = 64  # told of a worker, so that its part of a device's memory can be found: of one with more it is unknown
MOST_STATUS = 16384  # bytes
_MEMORY = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


class Holdings(NamedTuple):
    """Of one process. None: not known."""

    memory: int | None
    descriptors: int | None
    threads: int | None


def look(roots: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Of each worker whose first process (``roots``) is there: sums over its tree and its session, and the pids."""
    trees = families(set(roots.values()))
    found = {}
    for worker, root in roots.items():
        pids = trees.get(root, [])
        held = [each for each in map(holdings, pids) if each is not None]
        if root in pids and held:
            found[worker] = {**_sum(held)._asdict(), "pids": pids if len(pids) <= MOST_PIDS else []}
    return found


def families(roots: set[int]) -> dict[int, list[int]]:
    """The processes that are there, by the root whose descendants they are, or in whose session."""
    stats = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            stat = procfs.stat(pid)
        except PermissionError:
            continue
        if stat is not None and stat.state not in "ZX":
            stats[pid] = stat
    found: dict[int, list[int]] = {}
    for pid in sorted(stats):
        root = _root(pid, stats, roots)
        if root is not None:
            found.setdefault(root, []).append(pid)
    return found


def _root(pid: int, stats: Mapping[int, procfs.Stat], roots: set[int]) -> int | None:
    session = stats[pid].session
    for _ in range(procfs.MOST_ANCESTORS):
        if pid in roots:
            return pid
        if pid not in stats:
            break
        pid = stats[pid].parent
    return session if session in roots else None  # its parent has ended


def holdings(pid: int) -> Holdings | None:
    """None if it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read(MOST_STATUS).split(b"\n")
        fields = {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith((*_MEMORY, b"Threads:"))}
        if b"RssAnon:" not in fields and b"Threads:" not in fields:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        return Holdings(None, None, None)
    memory = sum(fields.get(name, 0) for name in _MEMORY) * 1024 if b"RssAnon:" in fields else None
    try:
        count = os.stat(f"/proc/{pid}/fd").st_size or listed_descriptors(pid)  # the former since Linux 6.2
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        return Holdings(memory, None, fields.get(b"Threads:"))
    return Holdings(memory, count, fields.get(b"Threads:"))


def listed_descriptors(pid: int) -> int:
    with os.scandir(f"/proc/{pid}/fd") as entries:
        return sum(1 for _ in entries)


def _sum(each: list[Holdings]) -> Holdings:
    return Holdings(*(_total(column) for column in zip(*each, strict=True)))


def _total(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
