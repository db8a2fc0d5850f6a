"""The shim in front of a worker's driver: found, patched, placed, and first on its LD_LIBRARY_PATH.

Called in the forked child, before it becomes the worker: a disk that does not answer holds up this start, never the
supervisor, and each start finds the driver that is there then. Invariant: whatever is missing, the worker starts, if
need be without the shim and with the reason told.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from watchdogd.instrument import driver, elf, place
from watchdogd.instrument.words import Request, Shim

SEARCHED = "LD_LIBRARY_PATH"


def stand(
    request: Request, environment: Mapping[str, str], directory: str, ids: tuple[int, int, tuple[int, ...]] | None
) -> tuple[Shim, dict[str, str]]:
    """With the environment for the worker, which is started in ``directory`` as ``ids``."""
    try:
        shim = _prepare(request, environment, directory, ids)
    except (OSError, driver.NoDriver, elf.BadObject, place.NoPlace) as error:
        return Shim(problem=str(error)), dict(environment)
    return shim, with_folder(environment, str(shim.folder))


def with_folder(environment: Mapping[str, str], folder: str) -> dict[str, str]:
    """The folder first, then what was there; nothing else, since an empty entry is the current directory."""
    own = environment.get(SEARCHED)
    return {**environment, SEARCHED: f"{folder}:{own}" if own else folder}


def _prepare(
    request: Request, environment: Mapping[str, str], directory: str, ids: tuple[int, int, tuple[int, ...]] | None
) -> Shim:
    shim = _shim(request.shim)
    machine = elf.of_bytes(shim).machine
    found = driver.find(environment, directory, machine)
    # hashlib takes 10 ms to import; a collision is nobody's gain, since nobody else can write there.
    name = f"{zlib.crc32(repr(found).encode('utf-8', 'surrogateescape')):08x}{zlib.crc32(shim):08x}"

    def content() -> bytes:
        with open(found.path, "rb", buffering=0) as file:
            exports = elf.open_library(file.fileno()).exports()
        return elf.patched(shim, found.path, exports)

    return Shim(place.put(name, len(shim), content, request.roots, ids), found.path)


def _shim(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise place.NoPlace(f"this installation has no driver shim ({path}): install the package anew") from None
