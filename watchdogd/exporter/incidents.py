"""``/incidents/ID/timeline.html``, and which incidents the page links to.

The exporter may run as another user than who keeps them: then a page says how to see them. Invariant: nothing is
opened but a file of that name in a folder of ``STATE/incidents`` itself; no path that is asked for leads elsewhere, by
its words or by a symbolic link, and nothing that lies there can make the reader wait.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import NamedTuple

from watchdogd.config.values import WORKER_NAME
from watchdogd.exporter.server import Page, text
from watchdogd.incidents import folders, timeline

PREFIX = "/incidents/"
MOST = 8  # linked to

_ID = re.compile(rf"[0-9]{{8}}T[0-9]{{6}}Z-{WORKER_NAME.pattern}-[0-9]{{1,10}}\.[0-9]{{1,10}}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
# The file has a policy of its own, which names its style; this one also holds for a file that is not as we wrote it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "sandbox"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Links(NamedTuple):
    """The newest incidents, and why they cannot be told."""

    ids: tuple[str, ...] = ()
    problem: str | None = None


class Incidents:
    """``state_dir`` says where the supervisor keeps them that runs or ran last; empty: nobody knows."""

    def __init__(self, state_dir: Callable[[], str]) -> None:
        self._state_dir = state_dir

    def links(self) -> Links:
        """Of those that have a timeline, newest first."""
        try:
            root = os.open(self._root(), _FOLDER)
        except FileNotFoundError:
            return Links()
        except OSError as error:
            return Links(problem=error.strerror)
        try:
            names = sorted(filter(_ID.fullmatch, os.listdir(root)), reverse=True)[:MOST]
            return Links(tuple(name for name in names if _has_timeline(root, name)))
        except OSError as error:
            return Links(problem=error.strerror)
        finally:
            os.close(root)

    def page(self, rest: str) -> Page:
        """Of what follows ``PREFIX``."""
        incident, _, name = rest.partition("/")
        if name != timeline.FILE_NAME or _ID.fullmatch(incident) is None:
            return text(404, f"there is {PREFIX}ID/{timeline.FILE_NAME}")
        try:
            file = self._open(incident)
        except FileNotFoundError:
            how = f"`watchdogd incidents show {incident}` tells what is known of it"
            return text(404, f"incident {incident} has no timeline here, or not yet; {how}")
        except PermissionError:
            path = os.path.join(self._root(), incident, timeline.FILE_NAME)
            return text(403, f"the exporter's user may not read incidents; open {path} on its machine, as one who may")
        except OSError as error:
            return text(404, f"incident {incident} cannot be read: {error.strerror}")
        if file is None:
            return text(404, f"the timeline of incident {incident} is no file of at most {timeline.MOST_BYTES} bytes")
        return Page(200, "text/html; charset=utf-8", b"", HEADERS, file)

    def _root(self) -> str:
        return os.path.join(self._state_dir() or "/nonexistent", folders.DIRECTORY)

    def _open(self, incident: str) -> int | None:
        """A descriptor; None for what is no plain file, or too large. Raises OSError."""
        root = os.open(self._root(), _FOLDER)
        try:
            folder = os.open(incident, _FOLDER, dir_fd=root)
        finally:
            os.close(root)
        try:
            file = os.open(timeline.FILE_NAME, _FILE, dir_fd=folder)
        finally:
            os.close(folder)
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and found.st_size <= timeline.MOST_BYTES:
            return file
        os.close(file)
        return None


def _has_timeline(root: int, name: str) -> bool:
    try:
        found = os.stat(os.path.join(name, timeline.FILE_NAME), dir_fd=root, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode)
