"""A core dump of the GPU, asked of the CUDA driver through the pipe that it made (``instrument/core_dump.py``).

The hung call returns because of it: which is why it is ``destructive``. What the dump says is read afterwards
(``gpu_kernels.py``), when the kill no longer waits. Invariant: nothing is written but to a pipe that somebody reads,
and nothing is waited for beyond the deadline.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

from watchdogd.incidents.collectors import cuda_core, proc
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target
from watchdogd.instrument import core_dump

MOST_PROCESSES = 8
LOOK_SECONDS = 0.005
SECONDS = 2.0  # 0.26 s was seen; the budget ends it before
OFF = "gpu_core_dump is off for this worker"
NO_PIPE = (
    "no pipe in {}: none of its processes has a CUDA context, the driver knows no dump at a user's request, or the"
    " worker's environment has core dump variables of its own"
)


def collect(target: Target) -> Evidence:
    if target.dump is None:
        return Evidence("not asked for", OFF)
    give_up = (target.until_ns or time.monotonic_ns() + int(SECONDS * 1e9)) - proc.RESERVE_NS
    folder = target.dump.folder
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(core_dump.PIPE))[:MOST_PROCESSES]
    except PermissionError as error:
        return Evidence("no permission", f"{folder}: {error.strerror}: {proc.RIGHTS}")
    except OSError as error:
        return Evidence("failed", f"{folder}: {error.strerror}")
    if not names:
        return Evidence("failed", NO_PIPE.format(folder))
    problems = []
    asked = []
    for name in names:
        pid = name.removeprefix(core_dump.PIPE)
        with suppress(OSError):  # one that was asked for before
            os.unlink(f"{folder}/{core_dump.CORE}{pid}")
        problem = ask(f"{folder}/{name}")
        if problem is None:
            asked.append(pid)
        else:
            problems.append(f"pid {pid}: {problem}")
    began_ns = time.monotonic_ns()
    told = [_told(pid, size, began_ns) for pid, size in _wait(folder, asked, give_up)]
    missing = len(asked) - len(told)
    if missing:
        problems.append(f"{missing} of {len(asked)} dumps were not whole in time")
    return Evidence("ok" if told else "failed", "; ".join((*told, *problems)))


def ask(pipe: str) -> str | None:
    """None if the driver was asked; else why not."""
    try:
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:  # ENXIO: nobody reads it
        return f"{os.path.basename(pipe)}: {error.strerror}; no driver listens there"
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return f"{os.path.basename(pipe)} is no pipe"
        os.write(descriptor, b"1\n")
    except OSError as error:
        return f"{os.path.basename(pipe)}: {error.strerror}"
    finally:
        os.close(descriptor)
    return None


def _wait(folder: str, pids: list[str], give_up: int) -> Iterator[tuple[str, int]]:
    """Each dump that is whole, and its size, as they come."""
    before: dict[str, int] = {}
    left = list(pids)
    while left and time.monotonic_ns() < give_up:
        for pid in tuple(left):
            size = whole(f"{folder}/{core_dump.CORE}{pid}")
            if size is not None and before.get(pid) == size:
                left.remove(pid)
                yield pid, size
            if size is not None:
                before[pid] = size
        time.sleep(LOOK_SECONDS)


def whole(path: str) -> int | None:
    """The size of a dump whose parts are all there; None of another one, or none."""
    try:
        descriptor = opened(path)
    except OSError:  # not there yet, or nothing that we may read
        return None
    try:
        size = os.fstat(descriptor).st_size
        return size if cuda_core.is_whole(lambda at, count: os.pread(descriptor, count, at), size) else None
    finally:
        os.close(descriptor)


def opened(path: str) -> int:
    """A descriptor of a regular file. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(0, "is no regular file", path)
    return descriptor


def _told(pid: str, size: int, began_ns: int) -> str:
    return f"pid {pid}: {size} bytes in {(time.monotonic_ns() - began_ns) / 1e9:.2f} s"


COLLECTOR = Collector(
    "gpu core dump", destructive=True, seconds=SECONDS, available=lambda: None, collect=collect,
    after=("proc", "python stacks late"),
)  # fmt: skip
