"""An incident as one file, for a bug report: ``ID.tar.zst`` with its folder and a README.txt that says what is in it.

Compressed by what there is: Python's own zstd (3.14), the package zstandard, the program zstd; else by gzip, with a
name that says so.

Invariant: only regular files of the folder get into it, no symbolic link is followed, and it is whole or not there.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import os
import platform
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

from watchdogd.incident import Incident
from watchdogd.incidents import contents, folders

README = "README.txt"
ZSTD, GZIP = ".tar.zst", ".tar.gz"
LEVEL = 9
FINISH_SECONDS = 60.0
_MACHINE = (
    "/proc/driver/nvidia/version", "/proc/version", "/etc/nv_tegra_release", "/proc/device-tree/model",
    "/sys/module/nvgpu/version", "/sys/module/nvidia/version",
)  # fmt: skip
_README = """\
{title}
{underline}

{first}

incident.json   the incident as a document: all calls of all workers that were in flight, their last ones, what was
                collected, what was done and when. docs/INCIDENTS.md of watchdogd explains every field; its times are
                ns of CLOCK_MONOTONIC of the boot {boot}.
timeline.html   the same to look at, in a browser; it needs nothing else.
{files}
Environment variables and command lines were redacted as they were written: "(redacted)" stands for their secrets. A
GPU core dump was not: it may hold what was in the registers and, where the driver was told so, the memory of the GPU.

SHA-256
{hashes}

The machine, at the time of this export
{machine}
"""


class CannotExport(Exception):
    """The message says why."""


def method() -> str:
    """The ending of the file that will be made."""
    return GZIP if _compressor() is None else ZSTD


def write(folder: str, target: str, first_lines: tuple[str, ...]) -> str:
    """What was made, ``target`` or what it is called without zstd. Raises OSError, CannotExport, BadFolder."""
    incident = folders.read(folder)
    if os.path.lexists(target):
        raise CannotExport(f"{target} exists already; name another file with -o")
    part = f"{target}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise CannotExport(f"cannot make {part}: {error.strerror}; name a file elsewhere with -o") from None
    try:
        with open(descriptor, "wb") as file:
            with _compressed(file, target) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
                _fill(archive, folder, incident, first_lines)
            file.flush()
            os.fsync(descriptor)
        os.rename(part, target)
    except (OSError, CannotExport):
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    return target


def _fill(archive: tarfile.TarFile, folder: str, incident: Incident, first_lines: tuple[str, ...]) -> None:
    readme = _readme(incident, first_lines).encode(errors="replace")
    _add(archive, f"{incident.id}/{README}", io.BytesIO(readme), len(readme), incident)
    with open(os.open(os.path.join(folder, contents.DOCUMENT), contents.OPEN_FILE), "rb") as file:
        _add(archive, f"{incident.id}/{contents.DOCUMENT}", file, os.fstat(file.fileno()).st_size, incident)
    for name, info, place in contents.walk(folder):
        if stat.S_ISREG(info.st_mode):
            with open(os.open(os.path.basename(name), contents.OPEN_FILE, dir_fd=place), "rb") as file:
                _add(archive, f"{incident.id}/{name}", file, os.fstat(file.fileno()).st_size, incident)


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes], size: int, incident: Incident) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, incident.opened_unix_ns // 1_000_000_000
    archive.addfile(info, file)


def _readme(incident: Incident, first_lines: tuple[str, ...]) -> str:
    title = f"Incident {incident.id}"
    others = [name for name in incident.files if name != "timeline.html"]
    return _README.format(
        title=title,
        underline="=" * len(title),
        first="\n".join(first_lines),
        boot=incident.boot_id,
        files="".join(f"{name}\n" for name in others),
        hashes="\n".join(f"{digest}  {name}" for name, digest in incident.files.items()) or "no other file",
        machine="\n".join(_machine(incident)),
    )


def _machine(incident: Incident) -> Iterator[str]:
    yield f"watchdogd {incident.version}"
    yield f"{platform.system()} {platform.release()} {platform.machine()}"
    for path in _MACHINE:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            yield f"{path}: {' '.join(file.read(2000).replace(chr(0), '').split())}"


# --- compression ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _compressed(file: IO[bytes], target: str) -> Iterator[IO[bytes]]:
    compressor = None if target.endswith(".gz") else _compressor()
    if compressor is None:
        with gzip.open(file, "wb", LEVEL) as stream:
            yield cast(IO[bytes], stream)
    elif isinstance(compressor, str):
        with _by_program(compressor, file) as stream:
            yield stream
    else:
        with compressor(file) as stream:
            yield stream


def _compressor() -> Any:
    """A function that opens a stream on a file, the path of a program, or None."""
    with contextlib.suppress(ImportError):
        zstd = importlib.import_module("compression.zstd")
        return lambda file: zstd.ZstdFile(file, "wb", level=LEVEL)
    with contextlib.suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        return lambda file: zstandard.ZstdCompressor(level=LEVEL).stream_writer(file, closefd=False)
    return shutil.which("zstd")


@contextlib.contextmanager
def _by_program(program: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    with subprocess.Popen([program, "-q", f"-{LEVEL}", "-c"], stdin=subprocess.PIPE, stdout=file) as process:
        try:
            yield cast(IO[bytes], process.stdin)
            cast(IO[bytes], process.stdin).close()
            status = process.wait(FINISH_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            process.kill()
            raise CannotExport(f"{program}: {error}") from None
        if status:
            raise CannotExport(f"{program} ended with status {status}")
