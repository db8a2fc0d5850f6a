"""The directories of one life of `exec`: made where nothing waits for a disk, and gone after it.

Its name is no lock, since two containers may share the place and not the pids. A lock of ``flock`` on the directory
itself is: who holds it lives. Invariant: what is removed was locked before, and is our own user's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from watchdogd.act import trust
from watchdogd.act.runtime import CannotStart
from watchdogd.act.sweep import Sweeper, SweepFailed, leftovers

PREFIX = "watchdogd-exec-"
LEAST_FREE_BYTES = 16 << 20  # two heartbeats, the board and the record of events
SWEEP_SECONDS = 3.0
_IN_MEMORY = frozenset(("tmpfs", "ramfs"))


class Private:
    """Raises CannotStart. Both have mode 0700 and end with us: ``run`` is in memory, ``state`` where code may be run.

    Docker mounts /dev/shm noexec, and a shim in front of the driver is a library.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._made: list[tuple[str, int]] = []
        refused: list[str] = []
        usable = [place for place in _places(environ) if _is_usable(place, refused)]
        usable.sort(key=lambda place: not is_in_memory(place))  # a stable sort
        home = self._make(usable, refused)
        if home is None:
            raise CannotStart(
                f"no directory for the heartbeat ({'; '.join(refused)}); mount a tmpfs (docker run --tmpfs /tmp), "
                "or set TMPDIR to a directory that can be written"
            )
        apart = None if _may_execute(home) else self._make([place for place in usable if _may_execute(place)], refused)
        self.run, self.state = f"{home}/run", f"{apart or home}/state"

    def _make(self, places: Iterable[str], refused: list[str]) -> str | None:
        for place in places:
            try:
                _clear(place)
                self._made.append(_made(place))
            except OSError as error:
                refused.append(f"{place}: {error.strerror}")
            else:
                return self._made[-1][0]
        return None

    def remove(self) -> None:
        for path, lock in self._made:
            shutil.rmtree(path, ignore_errors=True)  # what is left of it, the next one finds unlocked
            os.close(lock)


def _may_execute(place: str) -> bool:
    return not os.statvfs(place).f_flag & os.ST_NOEXEC


def _places(environ: Mapping[str, str]) -> Iterator[str]:
    named = (environ.get("XDG_RUNTIME_DIR"), "/dev/shm", "/run", environ.get("TMPDIR"), "/tmp")
    yield from dict.fromkeys(os.path.realpath(place) for place in named if place)


def _is_usable(place: str, refused: list[str]) -> bool:
    try:
        room = os.statvfs(place)
        problem = trust.doubt(place, on_the_way=True)
    except OSError as error:
        problem = f"{place}: {error.strerror}"
    else:
        if problem is None and room.f_bavail * room.f_frsize < LEAST_FREE_BYTES:
            problem = f"{place} is full"
        elif problem is None and not os.access(place, os.W_OK | os.X_OK):
            problem = f"{place} cannot be written"
    if problem is not None:
        refused.append(problem)
    return problem is None


def is_in_memory(path: str) -> bool:
    """Whether no page of a file there is ever written to a disk but as swap."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split() for line in file]
    return any(mount[2] == number and mount[mount.index("-") + 1] in _IN_MEMORY for mount in mounts)


def _made(place: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        with suppress(FileNotFoundError):  # as below
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if _is_locked(descriptor) and os.fstat(descriptor).st_nlink:  # else it was taken for a leftover: another
                return path, descriptor
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(place: str) -> None:
    """Remove what those left that could not do so themselves, and end what they left running."""
    for entry in list(os.scandir(place)):
        if not entry.name.startswith(PREFIX):
            continue
        with suppress(OSError):  # another user's, or removed meanwhile
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid() and _is_locked(descriptor) and _is_swept(entry.path):
                    shutil.rmtree(entry.path)
            finally:
                os.close(descriptor)


def _is_swept(path: str) -> bool:
    """Whether nothing of it runs any more; looked for by a child, since such a look may never return."""
    sweeper = Sweeper(lambda: leftovers(os.path.join(path, "run", "heartbeats")))
    sweeper.wait(SWEEP_SECONDS)
    try:
        swept = sweeper.result()
    except SweepFailed:
        return False
    if swept is None:
        sweeper.abandon()
    return swept is not None and not swept.left
