"""Where the real CUDA driver of a program is: the file that the loader would give it without us.

Invariant: nothing is loaded and no device opened; a candidate that is passed over is passed over for a reason, which is
told if none is left.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from watchdogd.instrument import elf

NAME = "libcuda.so.1"
OVERRIDE = "WATCHDOGD_CUDA_DRIVER"  # the file itself, where it is not to be looked for
CACHE = "/etc/ld.so.cache"
# Beyond what LD_LIBRARY_PATH and the cache say: the loader's own folders and where drivers are known to be.
PLACES = {
    elf.AARCH64: (
        "/usr/lib/aarch64-linux-gnu/tegra",  # JetPack 5
        "/usr/lib/aarch64-linux-gnu/nvidia",  # JetPack 6
        "/usr/lib/aarch64-linux-gnu",
    ),
    elf.X86_64: ("/usr/lib/x86_64-linux-gnu", "/usr/lib/wsl/lib"),
}
EVERYWHERE = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/nvidia/lib64")
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEADER = struct.Struct("<20sIIB3xI12x")
_CACHE_ENTRY = struct.Struct("<iIIIQ")
_CACHE_FLAGS = {elf.X86_64: 0x0303, elf.AARCH64: 0x0A03}
_MOST_CACHE = 1 << 24
_MOST_OF_A_SHIM = 1 << 22  # bytes; a driver has 20 MB and more


class Driver(NamedTuple):
    path: str  # as the loader would name it, so that it holds over an upgrade of what it leads to
    identity: tuple[int, ...]  # of the file: device, inode, time of change, size


class NoDriver(Exception):
    """The message says what was found instead, and what to do."""


def find(environment: Mapping[str, str], directory: str, machine: int, cache: str = CACHE) -> Driver:
    """The driver of a program that is started with that environment in that directory. Raises NoDriver."""
    own = environment.get(OVERRIDE)
    passed_over = []
    for path in [os.path.join(directory, own)] if own else candidates(environment, directory, machine, cache):
        try:
            return _driver(path, machine)
        except (FileNotFoundError, NotADirectoryError):
            if own:
                passed_over.append(f"{path} is not there")
        except OSError as error:
            passed_over.append(f"{path} cannot be read: {error.strerror}")
        except elf.BadObject as error:
            passed_over.append(f"{path} {error}")
    why = f": {'; '.join(dict.fromkeys(passed_over))}" if passed_over else ""
    raise NoDriver(f"no {NAME} for this machine{why}; name it in {OVERRIDE}, or install it")


def candidates(environment: Mapping[str, str], directory: str, machine: int, cache: str = CACHE) -> Iterator[str]:
    """Where it may be, in the loader's order."""
    entries = environment.get("LD_LIBRARY_PATH")
    for entry in re.split("[:;]", entries) if entries else ():  # an empty one among others is the directory
        if "$" not in entry:  # what the loader would put in its place depends on the program
            yield os.path.join(directory, entry, NAME)
    yield from _cached(cache, machine)
    for place in (*PLACES.get(machine, ()), *EVERYWHERE):
        yield f"{place}/{NAME}"


def _driver(path: str, machine: int) -> Driver:
    """Raises OSError, BadObject."""
    if "stubs" in os.path.realpath(path).split("/"):
        raise elf.BadObject("is a stub to link with")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO there would else hold us up
    try:
        there = os.fstat(descriptor)
        library = elf.open_library(descriptor)
        if library.machine != machine:
            raise elf.BadObject(f"is for another machine ({library.machine})")
        if there.st_size <= _MOST_OF_A_SHIM and elf.MARKER in os.pread(descriptor, there.st_size, 0):
            raise elf.BadObject("is the shim of a watchdogd")
    finally:
        os.close(descriptor)
    return Driver(path, (there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size))


def _cached(cache: str, machine: int) -> list[str]:
    """What the loader's cache says; nothing if it cannot be read or understood, as the loader does."""
    try:
        with open(cache, "rb") as file:
            raw = file.read(_MOST_CACHE)
    except OSError:
        return []
    raw = raw[max(raw.find(_CACHE_MAGIC), 0) :]  # an old cache may stand before it
    if len(raw) < _CACHE_HEADER.size:
        return []
    magic, count, *_ = _CACHE_HEADER.unpack_from(raw)
    entries = raw[_CACHE_HEADER.size : _CACHE_HEADER.size + count * _CACHE_ENTRY.size]
    if magic != _CACHE_MAGIC or len(entries) != count * _CACHE_ENTRY.size:
        return []
    flags, key = _CACHE_FLAGS.get(machine), os.fsencode(NAME) + b"\0"
    found = (
        _text(raw, value)
        for of, name, value, _, _ in _CACHE_ENTRY.iter_unpack(entries)
        if of == flags and raw.startswith(key, name)
    )
    return [path for path in found if path.startswith("/")]


def _text(raw: bytes, at: int) -> str:
    return os.fsdecode(raw[at : raw.find(b"\0", at)])  # the key's own NUL ends the file's last text at the latest
