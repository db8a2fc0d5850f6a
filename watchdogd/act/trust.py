"""Whether a stranger could plant something in a directory of ours, or put another in its place.

What lies there is believed: whom to adopt, which cgroup to end, what was remembered. Invariant: whoever is trusted is
the supervisor's own user or root, on the whole way from ``/`` down.
"""

from __future__ import annotations

import os
import stat


def doubt(path: str, *, on_the_way: bool = False) -> str | None:
    """Why an absolute path cannot be believed; None if it can. Raises OSError.

    ``on_the_way``: it is only passed through, so that the sticky bit protects what of ours is in it.
    """
    parent = os.path.dirname(path)
    if parent != path and (found := doubt(parent, on_the_way=True)) is not None:
        return found
    there = os.lstat(path)
    if there.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to user {there.st_uid}"
    if stat.S_ISLNK(there.st_mode):
        return doubt(os.path.join(parent, os.readlink(path)), on_the_way=on_the_way)
    group_may = there.st_mode & stat.S_IWGRP and there.st_gid not in (0, os.getegid())
    if not (group_may or there.st_mode & stat.S_IWOTH) or (on_the_way and there.st_mode & stat.S_ISVTX):
        return None
    return f"{path} may be written by {f'group {there.st_gid}' if group_may else 'everybody'}"
