"""The folders of incidents: ``ROOT/ID`` with ``incident.json`` in it and the files of collectors beside it.

``ROOT`` is ``STATE/incidents``, or where ``exec`` was told to keep them. It has the group of the directory it is in.

A document is replaced as a whole and only where it is on the disk; who changes one holds its folder's lock. Nothing
here has a deadline of its own: a disk may block whoever writes, so that the keeper writes in jobs that have one.

Invariant: no content of the directory makes a reader raise; what is torn or foreign is skipped with a message and
never removed, and no symbolic link is followed.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

from watchdogd.incident import Incident
from watchdogd.incidents import brief, codec, contents
from watchdogd.incidents.contents import BRIEF, FILE_MODE, OPEN_FILE, PART, hashes, set_owner, size_of

DIRECTORY = "incidents"
DOCUMENT = contents.DOCUMENT
LEAVING = ".removed."  # before the id of a folder that is being removed
LARGEST_DOCUMENT = 32 * 1024 * 1024
FOLDER_MODE = 0o750
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class BadFolder(Exception):
    """It holds no incident that can be read; the message says why."""


class Kept(NamedTuple):
    path: str
    incident: Incident  # in brief
    size: int  # bytes of its files


class Listing(NamedTuple):
    kept: tuple[Kept, ...]  # oldest first
    skipped: tuple[str, ...]  # what else is there, and why it is no incident


def path_of(root: str, incident: str) -> str:
    """Of the folder. Raises BadFolder for an id that could lead elsewhere."""
    if not incident or incident.startswith(".") or "/" in incident or not incident.isprintable():
        raise BadFolder(f"{incident!r} is no id of an incident")
    return os.path.join(os.path.abspath(root), incident)


# --- writing --------------------------------------------------------------------------------------------------------


def make(root: str, incident: str) -> str:
    """The folder, made where it is not there. Raises OSError, BadFolder."""
    path = path_of(root, incident)
    for folder in (os.path.dirname(path), path):
        try:
            os.mkdir(folder, FOLDER_MODE)
        except FileExistsError:
            continue
        above = os.path.dirname(folder)
        descriptor = os.open(folder, _OPEN_FOLDER)
        try:
            set_owner(descriptor, os.stat(above).st_gid, FOLDER_MODE)
        finally:
            os.close(descriptor)
        _sync(above)
    return path


def update(root: str, incident: str, change: Callable[[Incident | None], Incident], *, is_new: bool = True) -> Incident:
    """``change`` the document, from None where there is none that can be read; what it makes of it is on the disk then.

    ``is_new``: the folder is made where it is not there. Raises OSError, BadFolder.
    """
    path = make(root, incident) if is_new else path_of(root, incident)
    with _locked(path) as folder:
        try:
            before: Incident | None = _read(folder, incident)
        except (BadFolder, FileNotFoundError):
            before = None
        after = change(before)
        _replace(folder, after)
        return after


def complete(root: str, incident: str, change: Callable[[Incident | None], Incident]) -> Incident:
    """``update``, and the other files get their hashes into it and their modes."""
    path = make(root, incident)
    group = os.stat(path).st_gid

    def with_files(before: Incident | None) -> Incident:
        after = change(before)
        files, odd = hashes(path, group)
        return replace(after, files=files, problems=tuple(dict.fromkeys((*after.problems, *odd))))

    return update(root, incident, with_files)


@contextmanager
def _locked(path: str) -> Iterator[int]:
    folder = os.open(path, _OPEN_FOLDER)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def write_file(root: str, incident: str, name: str, data: bytes) -> None:
    """Another file of its folder, whole. Who completes the document hashes it. Raises OSError, BadFolder."""
    folder = os.open(make(root, incident), _OPEN_FOLDER)
    try:
        _put(folder, name, data)
    finally:
        os.close(folder)


def _replace(folder: int, incident: Incident) -> None:
    data = json.dumps(codec.to_json(incident), indent=1, ensure_ascii=False).encode(errors="replace") + b"\n"
    _put(folder, DOCUMENT, data)
    _put(folder, BRIEF, brief.encode(incident, os.stat(DOCUMENT, dir_fd=folder)), is_durable=False)


def _put(folder: int, name: str, data: bytes, *, is_durable: bool = True) -> None:
    part = f".{name}{PART}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(part, flags, FILE_MODE, dir_fd=folder)
    try:
        set_owner(descriptor, os.fstat(folder).st_gid, FILE_MODE)
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    if is_durable:
        os.fsync(folder)


def _sync(path: str) -> None:
    descriptor = os.open(path, _OPEN_FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading --------------------------------------------------------------------------------------------------------


def read(path: str, *, is_brief: bool = False) -> Incident:
    """The incident in a folder. Raises OSError, BadFolder.

    ``is_brief``: without what takes long to decode and nobody needs who looks at many (``brief``).
    """
    try:
        folder = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        if os.path.islink(path):
            raise BadFolder("it is a symbolic link") from None
        if isinstance(error, NotADirectoryError):
            raise BadFolder("it is no folder") from None
        raise error from None
    try:
        return _read(folder, os.path.basename(path), is_brief=is_brief)
    except FileNotFoundError:
        raise BadFolder(f"no {DOCUMENT} in it") from None
    finally:
        os.close(folder)


def _read(folder: int, name: str, *, is_brief: bool = False) -> Incident:
    try:
        descriptor = os.open(DOCUMENT, OPEN_FILE, dir_fd=folder)
    except OSError as error:
        if stat.S_ISLNK(os.stat(DOCUMENT, dir_fd=folder, follow_symlinks=False).st_mode):
            raise BadFolder(f"its {DOCUMENT} is a symbolic link") from None
        raise error from None
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        short = _read_brief(folder, info) if is_brief else None
        if short is not None and short.id == name:
            return short
        if not stat.S_ISREG(info.st_mode) or info.st_size > LARGEST_DOCUMENT:
            raise BadFolder(f"its {DOCUMENT} is no file of at most {LARGEST_DOCUMENT >> 20} MiB")
        raw = file.read()
    try:
        document = json.loads(raw)
        incident = codec.from_json(brief.of(document) if is_brief and isinstance(document, dict) else document)
    except (ValueError, RecursionError) as error:
        raise BadFolder(f"its {DOCUMENT} is torn or no JSON: {error}") from None
    except codec.BadDocument as error:
        raise BadFolder(f"its {DOCUMENT} is no incident: {error}") from None
    if incident.id != name:
        raise BadFolder(f"its {DOCUMENT} is of incident {incident.id!r}")
    return incident


def _read_brief(folder: int, document: os.stat_result) -> Incident | None:
    """Of this very document; None: there is none, and it has to be read itself."""
    with suppress(OSError), open(os.open(BRIEF, OPEN_FILE, dir_fd=folder), "rb") as file:
        return brief.decode(file.read(LARGEST_DOCUMENT), document)
    return None


def listing(root: str) -> Listing:
    """All that can be read, in brief. Raises OSError where the directory itself may not be."""
    kept, skipped = [], []
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return Listing((), ())
    for name in names:
        path = os.path.join(root, name)
        if name.startswith(LEAVING):
            continue
        try:
            kept.append(Kept(path, read(path, is_brief=True), size_of(path)))
        except BadFolder as problem:
            skipped.append(f"{path}: {problem}")
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            skipped.append(f"{path}: {error.strerror}")
    kept.sort(key=lambda one: (one.incident.opened_unix_ns, one.incident.id))
    return Listing(tuple(kept), tuple(skipped))
