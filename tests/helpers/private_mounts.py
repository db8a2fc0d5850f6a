"""A part of a test in a forked child with a mount namespace of its own: disks can be full or read-only there alone.

Invariant: nothing is mounted outside the child, whatever becomes of it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


def in_private_mounts(body: Callable[[], None]) -> None:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = _run(body)
        except BaseException:  # noqa: BLE001 - told to the parent, whose test it is
            said = traceback.format_exc()
        finally:
            os.write(send, said.encode()[-60_000:])
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as told:
        said = told.read()
    os.waitpid(child, 0)
    if said.startswith("needs "):
        pytest.skip(said)
    assert said == "", said


def _run(body: Callable[[], None]) -> str:
    if _libc.unshare(_CLONE_NEWNS) != 0:
        return f"needs a mount namespace of its own: {os.strerror(ctypes.get_errno())}"
    mount("--make-rprivate", "/")
    body()
    return ""


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=10)


def small_disk(path: Path, options: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", str(path))


def fill(path: Path) -> Path:
    """Until no byte more goes in. The file that is in the way."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    return filler
