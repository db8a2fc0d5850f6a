"""The shim in front of a worker's driver: found, patched, placed, and first on its LD_LIBRARY_PATH.

Called in the forked child, before it becomes the worker: a disk that does not answer holds up this start, never the
supervisor, and each start finds the driver that is there then. Invariant: whatever is missing, the worker starts, if
need be without the shim and with the reason told.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping

from watchdogd.instrument import driver, elf, place
from watchdogd.instrument.words import Request, Shim

SEARCHED = "LD_LIBRARY_PATH"
INJECTED = "NVTX_INJECTION64_PATH"


def stand(
    request: Request, environment: Mapping[str, str], directory: str, ids: tuple[int, int, tuple[int, ...]] | None
) -> tuple[Shim, dict[str, str]]:
    """With the environment for the worker, which is started in ``directory`` as ``ids``."""
    try:
        shim = _prepare(request, environment, directory, ids)
    except (OSError, driver.NoDriver, elf.BadObject, place.NoPlace) as error:
        return Shim(problem=str(error)), dict(environment)
    mine = with_folder(environment, str(shim.folder))
    if request.nvtx is not None:  # one library has the place: a profiler that is in it stays
        mine.setdefault(INJECTED, f"{shim.folder}/{os.path.basename(request.nvtx)}")
    return shim, mine


def with_folder(environment: Mapping[str, str], folder: str) -> dict[str, str]:
    """The folder first, then what was there; nothing else, since an empty entry is the current directory."""
    own = environment.get(SEARCHED)
    return {**environment, SEARCHED: f"{folder}:{own}" if own else folder}


def _prepare(
    request: Request, environment: Mapping[str, str], directory: str, ids: tuple[int, int, tuple[int, ...]] | None
) -> Shim:
    shim = _read(request.shim)
    beside = {} if request.nvtx is None else {os.path.basename(request.nvtx): _read(request.nvtx)}
    machine = elf.of_bytes(shim).machine
    found = driver.find(environment, directory, machine)
    # hashlib takes 10 ms to import; a collision is nobody's gain, since nobody else can write there.
    parts = repr(found).encode("utf-8", "surrogateescape"), shim, *beside.values()
    name = "".join(f"{zlib.crc32(part):08x}" for part in parts)

    def content() -> bytes:
        with open(found.path, "rb", buffering=0) as file:
            exports = elf.open_library(file.fileno()).exports()
        return elf.patched(shim, found.path, exports)

    return Shim(place.put(name, len(shim), content, request.roots, ids, beside), found.path)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise place.NoPlace(f"this installation lacks the driver shim's {path}: install the package anew") from None
