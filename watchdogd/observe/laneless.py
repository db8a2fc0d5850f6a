"""Processes of a worker that use CUDA past the shim in front of its driver, for a child that may be given up.

Of those that load the driver's library or hold a device that only CUDA opens. One that has the shim in its memory is
stamped, with a lane or (the child of a fork) with none yet. Invariant: bounded in size; what may not be read is left
out, and accuses nobody.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from watchdogd.observe import procfs, usage
from watchdogd.observe.holders import held

# Management libraries and displays open the other ones, too.
DEVICES = ("/dev/nvidia-uvm", "/dev/nvhost-nvdla", "/dev/nvhost-ctrl-nvdla")
MOST_TOLD = 4  # of one worker
_LIBRARY = b"/libcuda.so"
_MOST_MAPS = 1 << 24  # bytes; PyTorch has 300 KB of them
_MOST_ENVIRONMENT = 1 << 18


class Asked(NamedTuple):
    root: int  # the worker's first process
    folder: str  # of its shim
    stamped: frozenset[int]  # pids that own a lane


def look(asked: Mapping[str, Asked], devices: tuple[str, ...] = DEVICES) -> dict[str, list[dict[str, Any]]]:
    """Of each worker that is there: the processes past its shim, with the likely reason."""
    families = usage.families({each.root for each in asked.values()})
    return {name: _past(each, families[each.root], devices) for name, each in asked.items() if families.get(each.root)}


def _past(asked: Asked, pids: Collection[int], devices: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for pid in pids:
        libraries = _libraries(pid)
        if libraries is None or pid in asked.stamped or any(path.startswith(asked.folder) for path in libraries):
            continue
        used = libraries or sorted(set(held(pid, devices)))
        if used:
            found.append({"pid": pid, "name": procfs.name(pid), "uses": used[0], "why": _why(pid, asked.folder)})
    return found[:MOST_TOLD]


def _libraries(pid: int) -> list[str] | None:
    """Where the CUDA drivers in its memory come from; None if it has ended or may not be looked into."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            raw = file.read(_MOST_MAPS)
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    paths = (line.split(None, 5)[-1] for line in raw.split(b"\n") if _LIBRARY in line)
    return sorted({os.fsdecode(path) for path in paths})


def _why(pid: int, folder: str) -> str:
    try:
        program = os.stat(f"/proc/{pid}/exe")
        if program.st_mode & 0o6000 or _has_capabilities(pid):
            return "it is setuid, setgid or has file capabilities, so that the loader ignores LD_LIBRARY_PATH"
        with open(f"/proc/{pid}/environ", "rb") as file:
            searched = [item for item in file.read(_MOST_ENVIRONMENT).split(b"\0") if item.startswith(_SEARCHED)]
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return "it cannot be looked into"
    if not any(os.fsencode(folder) in item for item in searched):
        return "it was started with an LD_LIBRARY_PATH without the shim's folder"
    return "it names the driver's file itself, or finds it by an RPATH"


_SEARCHED = b"LD_LIBRARY_PATH="


def _has_capabilities(pid: int) -> bool:
    try:
        return "security.capability" in os.listxattr(f"/proc/{pid}/exe")
    except OSError:  # it has ended, or its file system knows none
        return False
