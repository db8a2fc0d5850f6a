"""The directories of one supervisor: made, locked against a second one, cleared of what a dead one left.

Invariant: nothing is removed, and nothing signalled, before the lock is held.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from watchdogd.act import trust
from watchdogd.act.sweep import Sweeper, SweepFailed, descendants, leftovers
from watchdogd.model import SupervisorSettings
from watchdogd.observe.procfs import Stat

SWEEP_SECONDS = 3.0
# What a disk that is full or fell back to read-only says, and what is missing on it since: nothing is recorded there,
# and that is shown; but no worker goes unwatched for it.
CANNOT_BE_WRITTEN = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT})


class CannotStart(Exception):
    """The message says why, and what to do."""


class Runtime:
    """Paths below the runtime and state directories. Raises CannotStart.

    ``is_known``: the image before this one, in this process, has them already, and workers of its own in them.
    """

    def __init__(self, settings: SupervisorSettings, *, is_known: bool = False) -> None:
        # One directory, one name: leftovers are known by the paths in their environment.
        self.directory = os.path.realpath(settings.runtime_dir)
        self.state_directory = os.path.realpath(settings.state_dir)
        self.heartbeats = f"{self.directory}/heartbeats"
        self.births = f"{self.directory}/births"
        self.incidents = f"{self.directory}/incidents"  # what is not written yet of them
        self.board = f"{self.directory}/board"
        self.socket = f"{self.directory}/control.sock"
        self.events = settings.events_file or f"{self.state_directory}/events.jsonl"
        self.logs = f"{self.state_directory}/log"
        self.shims = (self.state_directory, self.directory)  # /run is often mounted noexec
        for name, directory, inside, mode in (
            ("runtime_dir", self.directory, "", 0o751),  # workers of other users pass through to their heartbeat
            ("runtime_dir", self.directory, "heartbeats", 0o751),
            ("runtime_dir", self.directory, "births", 0o700),
            ("runtime_dir", self.directory, "incidents", 0o700),
            ("state_dir", self.state_directory, "", 0o751),  # and to their shim; what is in it says who may read it
            ("state_dir", self.state_directory, "log", 0o750),
        ):
            path = os.path.join(directory, inside) if inside else getattr(settings, name)
            try:
                os.makedirs(path, mode, exist_ok=True)
                whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
                problem = None if is_known else trust.doubt(whole)
            except OSError as error:
                if name == "state_dir" and error.errno in CANNOT_BE_WRITTEN:
                    continue
                raise CannotStart(
                    f"cannot make {path}: {error.strerror}; make it, or change it in [supervisor]"
                ) from None
            if inside and os.path.islink(path) and not is_known:
                problem = f"{path} is a symbolic link"  # and what it leads to would be cleared
            if problem is not None:
                raise CannotStart(
                    f"{problem}, so that what is in it cannot be believed; see to that, or change "
                    f"supervisor.{name} to a directory that only user {os.geteuid()} and root may change"
                )
        self._locks = [_take_lock(self.directory), _take_lock(self.state_directory, CANNOT_BE_WRITTEN)]

    def clear_leftovers(self, kept: frozenset[str]) -> Sweeper:
        """Begin to end what a dead supervisor's workers left, but those of ``kept`` heartbeats; remove the others."""
        names = frozenset(os.path.basename(path) for path in kept)
        _remove_all(self.heartbeats, names)
        _remove_all(self.births, names)
        paths = {path.encode() for path in kept}
        # A heartbeat that is still there is in use, too: by a worker that is started while the search runs.
        return Sweeper(lambda: leftovers(self.heartbeats, lambda mark: mark in paths or os.path.exists(mark)))

    def heartbeat(self, worker: str, incarnation: int) -> str:
        return f"{self.heartbeats}/{worker}.{incarnation}"

    def birth(self, worker: str, incarnation: int) -> str:
        """Where a worker's process says which one it is; only we can write there."""
        return f"{self.births}/{worker}.{incarnation}"

    def born(self, worker: str) -> list[int]:
        """Incarnations of which a birth is there, the youngest first."""
        numbers = [file.rpartition(".")[2] for file in os.listdir(self.births) if file.rpartition(".")[0] == worker]
        return sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)

    def remove_incarnation(self, worker: str, incarnation: int) -> None:
        for path in (self.heartbeat(worker, incarnation), self.birth(worker, incarnation)):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        """Also ends orphans of workers that have shed their environment: only descent still shows whose they are."""
        with suppress(ChildProcessError):  # the usual case: nobody is left
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            supervisor = os.getpid()
            _sweep(lambda: descendants(supervisor))
        _remove_all(self.heartbeats)
        _remove_all(self.births)
        for lock in self._locks:
            if lock is not None:
                os.close(lock)


def _remove_all(directory: str, kept: frozenset[str] = frozenset()) -> None:
    for name in os.listdir(directory) if os.path.isdir(directory) else ():  # else somebody was quicker
        if name in kept:
            continue
        try:
            os.unlink(f"{directory}/{name}")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CannotStart(
                f"cannot remove {directory}/{name}: {error.strerror}; it is not ours, remove it"
            ) from None


def _take_lock(directory: str, excused: frozenset[int] = frozenset()) -> int | None:
    """None where it cannot be made for an ``excused`` errno. Nobody else may open it: whoever can read may lock.

    A record lock: it is this process's alone and ends with it, while one of ``flock`` lives on in every copy of the
    descriptor, so that a child which has not come to close its own would keep the next supervisor out.
    """
    path = f"{directory}/supervisor.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in excused:
            return None
        raise CannotStart(f"cannot open {path}: {error.strerror}; is it ours? remove it") from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise CannotStart(
            f"another supervisor (pid {holder}) uses {directory}; stop it, or give this one directories of its own"
        ) from None
    with suppress(OSError):  # a full disk: the lock holds all the same, and only its holder's name is missing
        os.fchmod(descriptor, 0o600)  # one made by a version that let others read it
        os.pwrite(descriptor, f"{os.getpid():<31}\n".encode(), 0)  # over the last one's: truncating waits for the disk
    return descriptor


def _sweep(find: Callable[[], list[Stat]]) -> None:
    """Waits, but not for ever: for the end of a supervisor only."""
    sweeper = Sweeper(find)
    sweeper.wait(SWEEP_SECONDS)
    with suppress(SweepFailed):
        if sweeper.result() is None:
            sweeper.abandon()
