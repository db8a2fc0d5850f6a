"""Who holds an accelerator, and which of their threads stand in D state, for a child that may be given up.

``/proc/PID/fd`` and ``wchan`` may be read here because the process that reads them is nobody's who must answer.
Invariant: bounded in time and in size; what may not be read is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from typing import Any

from watchdogd.observe import procfs

DEVICES = ("/dev/nvidia", "/dev/nvhost", "/dev/nvgpu/", "/dev/nvmap")
SECONDS = 2.0
MOST_HOLDERS = 32
MOST_DEVICES = 4
MOST_DESCRIPTORS = 4096
MOST_PLACE = 64  # characters


def look(also: Collection[int] = (), devices: tuple[str, ...] = DEVICES) -> list[dict[str, Any]]:
    """Every process but this one that has such a device open, and those of ``also``. Those in D state come first."""
    give_up = time.monotonic() + SECONDS
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if time.monotonic() > give_up:
            break
        open_here = sorted(set(held(pid, devices)))
        if (open_here or pid in also) and pid != os.getpid():
            found.append(_holder(pid, open_here))
    found.sort(key=lambda holder: not holder["waits"])
    return found[:MOST_HOLDERS]


def held(pid: int, devices: tuple[str, ...]) -> Iterator[str]:
    """Which of the devices it has open."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")[:MOST_DESCRIPTORS]
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return
    for number in numbers:
        try:
            path = os.readlink(f"/proc/{pid}/fd/{number}")
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if path.startswith(devices):
            yield path


def _holder(pid: int, devices: list[str]) -> dict[str, Any]:
    threads = procfs.threads(pid) or {}
    return {
        "pid": pid,
        "name": procfs.name(pid),
        "devices": devices[:MOST_DEVICES],
        "lineage": sorted(procfs.lineage(pid)),
        "waits": [
            {"tid": tid, "ran_ns": sample.ran_ns, "place": _place(pid, tid)}
            for tid, sample in threads.items()
            if sample.state == "D"
        ],
    }


def _place(pid: int, tid: int) -> str | None:
    """The function of the kernel it waits in; None where that is hidden, or the kernel was built without it."""
    try:
        with open(f"/proc/{pid}/task/{tid}/wchan", encoding="ascii", errors="replace") as file:
            place = file.read(MOST_PLACE).strip("\0\n ")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    return place if place not in ("", "0") else None
