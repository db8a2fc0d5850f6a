"""``python -m watchdogd.act.durably FILE``: standard input becomes the file, whole or not at all, on the disk.

A process of its own, since a disk may take seconds for that. Invariant: exit status 0 means that it is on the disk.
"""

from __future__ import annotations

import os
import sys


def write(path: str, data: bytes) -> None:
    """Raises OSError."""
    part = f"{path}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.replace(part, path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


if __name__ == "__main__":
    try:
        write(sys.argv[1], sys.stdin.buffer.read())
    except OSError as error:
        sys.exit(f"watchdogd: {error}")
