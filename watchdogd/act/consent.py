"""``python -m watchdogd.act.consent FILE``: waits until FILE is there, and ends with 0.

Invariant: a file counts only in a directory that nobody but root and ourselves can write; where others can, it ends at
once with ``NOT_BELIEVED``, file or no file.
"""

from __future__ import annotations

import os
import sys
import time

NOT_BELIEVED = 77  # EX_NOPERM of sysexits.h
LOOK_SECONDS = 0.1


def is_believed(directory: os.stat_result) -> bool:
    return directory.st_uid in (0, os.geteuid()) and not directory.st_mode & 0o022


def is_there(path: str) -> bool:
    """Raises PermissionError: anybody could have put it there."""
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if not is_believed(os.fstat(directory)):
            raise PermissionError(path)
        os.stat(os.path.basename(path), dir_fd=directory)
    except FileNotFoundError:
        return False
    finally:
        os.close(directory)
    return True


def main(path: str) -> int:
    try:
        while not is_there(path):
            time.sleep(LOOK_SECONDS)
    except PermissionError:
        return NOT_BELIEVED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
