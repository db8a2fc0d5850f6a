"""What lies in the folder of an incident beside its document: its files, their bytes, hashes and modes.

Invariant: no symbolic link is followed, and what is no regular file is neither opened nor changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

DOCUMENT = "incident.json"
BRIEF = ".brief.json"  # the document in brief, for who looks at many
PART = ".part"  # of a file that is being written; its name begins with a dot as well
FILE_MODE = 0o640
OPEN_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def set_owner(descriptor: int, group: int, mode: int) -> None:
    """Whatever our umask is, and also where the group of the directory is not ours.

    Where we may not give it that group (one of ``exec`` below /tmp), it stays our own's.
    """
    if os.fstat(descriptor).st_gid != group:
        with suppress(PermissionError):
            os.fchown(descriptor, -1, group)
    os.fchmod(descriptor, mode)


def hashes(path: str, group: int) -> tuple[dict[str, str], list[str]]:
    """SHA-256 of each other file below the folder, by its path from there; and what is there and no file."""
    found, odd = {}, []
    for name, info, folder in walk(path):
        if not stat.S_ISREG(info.st_mode):
            odd.append(f"{name} is no file, so that it was left as it is")
            continue
        descriptor = os.open(os.path.basename(name), OPEN_FILE, dir_fd=folder)
        with open(descriptor, "rb") as file:
            set_owner(descriptor, group, FILE_MODE)
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        found[name] = digest.hexdigest()
    return dict(sorted(found.items())), sorted(odd)


def walk(path: str) -> Iterator[tuple[str, os.stat_result, int]]:
    """What is below a folder besides its document and what becomes of it: name, kind and the folder it is in."""
    for root, _, names, folder in os.fwalk(path, follow_symlinks=False):
        for name in names:
            relative = os.path.relpath(os.path.join(root, name), path)
            if relative not in (DOCUMENT, BRIEF) and not (name.startswith(".") and name.endswith(PART)):
                yield relative, os.stat(name, dir_fd=folder, follow_symlinks=False), folder


def size_of(path: str) -> int:
    """Bytes of the files below a folder, the document included."""
    document = os.stat(os.path.join(path, DOCUMENT), follow_symlinks=False).st_size
    return document + sum(info.st_size for _, info, _ in walk(path) if stat.S_ISREG(info.st_mode))
