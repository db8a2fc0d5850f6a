"""What the supervisor leaves of an incident in its runtime directory, before anything is done about the worker.

One file an incident on tmpfs, which no disk can delay: a line of JSON, then blobs. It is the only thing that has to
be written before a kill. The keeper makes the document of it and removes it; where a supervisor was killed, the keeper
of the next one does.

========================  =============================================================================================
head, of the first        fields of ``incident.Incident`` as ``codec.to_json`` has them: ``id`` ``worker``
                          ``incarnation`` ``opened`` ``opened_unix_ns`` ``boot_id`` ``version`` ``accelerator``
                          ``level`` ``budget_ns`` ``verdict`` ``loads`` ``sources`` ``kernel`` ``suspects``
                          ``stalled_ns`` ``command`` ``environment`` ``threads``; besides them ``heartbeat`` (path of
                          the worker's) and ``pids``
head, of each             ``id``; ``capture``: ``when`` ``at_ns`` ``took_ns`` ``left_out`` of ``incident.Capture``;
                          ``workers``: for each one read or tried, ``name`` ``phase`` ``incarnation`` ``accelerator``
                          ``pid`` ``coupled_with`` ``spawned_ns`` ``ready_ns`` ``killed_ns`` ``unread`` of
                          ``incident.Worker``, and ``orphaned``: [offset, word] of each call whose thread is gone
blob ``WORKER/pulse``     header and hot lines, as ``pulse.Pulse.raw``
blob ``WORKER/ring.N``    the ring of lane N, read after the pulse
blob ``WORKER/stages``    the stage names, or as much of their beginning as is in use
blob ``WORKER/driver``    the driver region, where a shim was asked for
blob ``WORKER/sums``      the sum of its cold blocks without their rings: what others were slowed down by is the
                          difference between the first capture and a later one
========================  =============================================================================================

Invariant: a file under its own name is whole (it is written under another and renamed); and however many there are that
nobody has made a document of, they leave room for the heartbeats of workers that start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

SUFFIX = ".spool"
ROOM = 16 << 20  # bytes, or a quarter of a smaller file system


class BadSpool(Exception):
    """The message says what is wrong with the file."""


class Spool(NamedTuple):
    head: dict[str, Any]
    blobs: dict[str, bytes]  # by name: "WORKER/pulse", "WORKER/ring.LANE", "WORKER/stages"


def write(path: str, head: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
    """Raises OSError; nothing is left then."""
    sizes = [[name, len(blob)] for name, blob in blobs.items()]
    line = json.dumps({**head, "blobs": sizes}, separators=(",", ":")).encode() + b"\n"
    _leave_room(os.path.dirname(path), len(line) + sum(map(len, blobs.values())))
    being_written = f"{path}.tmp"
    descriptor = os.open(being_written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        left = b"".join((line, *blobs.values()))
        while left:
            left = left[os.write(descriptor, left) :]
        os.rename(being_written, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(being_written)
        raise
    finally:
        os.close(descriptor)


def _leave_room(directory: str, size: int) -> None:
    told = os.statvfs(directory)
    room = min(ROOM // told.f_frsize, told.f_blocks // 4)  # without a limit a tmpfs has no blocks, and none are free
    if told.f_blocks and told.f_bavail - size // told.f_frsize < room:
        raise OSError(errno.ENOSPC, "the room that is left is for heartbeats")


def read(path: str) -> Spool:
    """Raises OSError, BadSpool."""
    with open(path, "rb") as file:
        line, rest = file.readline(), file.read()
    try:
        head = json.loads(line)
        sizes = [(str(name), int(size)) for name, size in head.pop("blobs")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadSpool(f"{path}: {error}") from None
    if sum(size for _, size in sizes) != len(rest):
        raise BadSpool(f"{path}: {len(rest)} bytes of evidence in place of {sum(size for _, size in sizes)}")
    blobs, offset = {}, 0
    for name, size in sizes:
        blobs[name] = rest[offset : offset + size]
        offset += size
    return Spool(head, blobs)
