"""Where the patched copy of the shim lies: a folder that the worker may pass through and run code from.

A folder is named by what is in it, so that a restart finds it again and an upgraded driver gets another. Invariant: a
folder that can be seen under its name is whole; nobody but us can change what is in it; and none goes that a start has
taken within a minute, or of which somebody says that it is in use.
"""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from watchdogd.instrument.driver import NAME

SUBFOLDER = "shim"
YOUNG_NS = 60_000_000_000
_PLAIN_NAME = "libcuda.so"  # what some programs load
_Ids = tuple[int, int, tuple[int, ...]]  # uid, gid, groups


class NoPlace(Exception):
    """The message says why each folder is none, and what to do."""


def put(
    name: str, size: int, content: Callable[[], bytes], roots: Iterable[str], ids: _Ids | None,
    beside: Mapping[str, bytes] | None = None,
) -> str:  # fmt: skip
    """The folder with that content of that size, in the first root where it can be. Raises NoPlace.

    ``ids``: whom the worker runs as, None = as we do. ``beside``: what else lies in it, by name.
    """
    problems = []
    for root in roots:
        home = f"{root}/{SUBFOLDER}"
        try:
            problem = _unfit(home) or _closed_to(home, ids)
            if problem is None:
                _make(home, name, size, content, beside or {})
                return f"{home}/{name}"
        except OSError as error:
            problem = f"{home}: {error}"
        problems.append(problem)
    remedy = "name a supervisor.state_dir that it can read, on a file system that is not mounted noexec"
    raise NoPlace(f"the shim can be put nowhere: {'; '.join(problems)}; {remedy}")


def sweep(roots: Iterable[str], kept: Collection[str]) -> None:
    """Remove the folders but those of ``kept``: the worker of one may still start programs. Raises OSError.

    A start that takes a folder has not said so yet: so the young ones stay too, and one that is taken as it goes.
    """
    for root in roots:
        home = f"{root}/{SUBFOLDER}"
        for name in os.listdir(home) if os.path.isdir(home) and not os.path.islink(home) else ():
            folder = f"{home}/{name}"
            if name.startswith("."):
                if not _is_in_the_making(name):
                    _remove(folder)
            elif folder not in kept and not _is_young(folder):
                aside = f"{home}/.gone.{name}.{os.getpid()}"
                os.rename(folder, aside)  # from here on nobody can take it
                if not (_is_young(aside) and _renamed(aside, folder)):
                    _remove(aside)


def _take(folder: str) -> None:
    """By the monotonic clock, which nobody sets. Raises FileNotFoundError: a sweep was quicker."""
    now_ns = time.monotonic_ns()
    os.utime(folder, ns=(now_ns, now_ns))


def _is_young(folder: str) -> bool:
    return 0 <= time.monotonic_ns() - os.lstat(folder).st_mtime_ns < YOUNG_NS


def _is_in_the_making(name: str) -> bool:
    """Whether the process that makes it, whose pid ends its name, still lives."""
    try:
        os.kill(int(name.rpartition(".")[2]), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _unfit(home: str) -> str | None:
    """Make it; why it cannot be ours alone, if that is so. Raises OSError."""
    if any(character in home for character in ":;$"):
        return f"{home}: LD_LIBRARY_PATH cannot hold this name"
    try:
        os.mkdir(home)
        os.chmod(home, 0o755)  # whatever our umask is
    except FileExistsError:
        pass
    there = os.lstat(home)
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or there.st_mode & 0o022:
        return f"{home} is not a directory that only user {os.geteuid()} can write"
    return None


def _closed_to(home: str, ids: _Ids | None) -> str | None:
    path = os.path.realpath(home)
    while ids is not None and ids[0] != 0:
        there = os.stat(path)
        shift = 6 if there.st_uid == ids[0] else 3 if there.st_gid in (ids[1], *ids[2]) else 0
        if not there.st_mode >> shift & 1:
            return f"user {ids[0]} cannot pass through {path} (mode {stat.S_IMODE(there.st_mode):04o})"
        if path == "/":
            break
        path = os.path.dirname(path)
    return None


def _make(home: str, name: str, size: int, content: Callable[[], bytes], beside: Mapping[str, bytes]) -> None:
    folder, parts = f"{home}/{name}", f"{home}/.{name}.{os.getpid()}"
    if os.path.isdir(folder):
        sizes = {NAME: size, **{file: len(inside) for file, inside in beside.items()}}
        if all(_is_whole(f"{folder}/{file}", bytes_) for file, bytes_ in sizes.items()):
            _try_to_run(f"{folder}/{NAME}")
            with suppress(FileNotFoundError):
                _take(folder)
                return
        else:
            _remove(folder)
    new = content()
    os.mkdir(parts)
    try:
        os.chmod(parts, 0o755)
        for file, inside in {NAME: new, **beside}.items():
            _write(f"{parts}/{file}", inside)
        _try_to_run(f"{parts}/{NAME}")
        os.symlink(NAME, f"{parts}/{_PLAIN_NAME}")
        _take(parts)
        if not _renamed(parts, folder):  # another worker's start was quicker
            _remove(parts)
    except BaseException:
        _remove(parts)
        raise


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), 0o755)
        os.fsync(file.fileno())  # the name is to stand for the content, over a power cut too


def _renamed(parts: str, folder: str) -> bool:
    try:
        os.rename(parts, folder)
    except OSError:
        if os.path.isdir(folder):
            return False
        raise
    return True


def _is_whole(path: str, size: int) -> bool:
    there = os.lstat(path) if os.path.lexists(path) else None
    return there is not None and stat.S_ISREG(there.st_mode) and there.st_size == size


def _try_to_run(path: str) -> None:
    """As the loader will. Raises OSError: it is mounted noexec."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mmap.mmap(descriptor, 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    except PermissionError as error:
        raise OSError(error.errno, "no code can be run from there (mounted noexec?)") from None
    finally:
        os.close(descriptor)


def try_directory(directory: str) -> None:
    """Whether code could be run from a file in it. Raises OSError."""
    path = f"{directory}/.watchdogd.{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, b"\0")
        _try_to_run(path)
    finally:
        os.close(descriptor)
        os.unlink(path)


def _remove(folder: str) -> None:
    """One of ours, whole or half; what is not ours in it makes it fail."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        os.unlink(folder)
        return
    for name in os.listdir(folder):
        os.unlink(f"{folder}/{name}")
    os.rmdir(folder)
