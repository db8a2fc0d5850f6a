"""``STATE/history/calls.jsonl``: how long calls took, for reports over weeks.

A line an hour of each worker that did anything, one at the end of each incarnation, and one at the keeper's end. It
holds **all calls of that incarnation so far**, so that nobody has to remember what was written: who reads subtracts
(``decide.reporting.calls``), a line that was lost or written twice changes nothing, and what is known survives every
restart. One JSON object a line:

==========  ===========================================================================================================
schema      1
time        RFC 3339, for people; ``unix_ns``, and ``began_unix_ns`` of the incarnation
boot_id     with ``worker`` and ``spawned_ns`` it says which incarnation; ``incarnation`` is its number
deadlines   seconds by operation, those that were set then
calls       by operation (and ``step``): ``total_ns`` and ``counts``, of the buckets of ``abi`` that are not empty
==========  ===========================================================================================================

Invariant: what is read here (the board, heartbeats) is in memory; only ``append`` touches the disk, so that whoever
must not be blocked by it can have it run elsewhere. ``MOST_FILES`` files of about ``MOST_BYTES`` are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from watchdogd import abi
from watchdogd.decide.reporting import OPERATIONS, Snapshot
from watchdogd.histogram import EMPTY_COUNTS, Histogram
from watchdogd.model import SECOND
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.publish import board, events

SCHEMA = 1
DIRECTORY, FILE_NAME = "history", "calls.jsonl"
EVERY_NS = 3600 * SECOND
MOST_BYTES, MOST_FILES = 8 << 20, 4
_LARGEST_LINE = 1 << 20


# --- what is to be written ------------------------------------------------------------------------------------------


class _Life:
    """One incarnation, whose file may be gone while its last counts are still to be read: so it is kept open."""

    def __init__(self, body: Mapping[str, Any], boot_id: str, reader: HeartbeatReader) -> None:
        self.boot_id, self.reader = boot_id, reader
        self.worker, self.incarnation = str(body["name"]), int(body["incarnation"])
        self.spawned_ns = reader.read().header("spawned_ns")
        self.deadlines: Mapping[str, float] = {}
        self._calls: dict[str, Histogram] = {}

    def line(self, now_ns: int, wall_ns: int) -> bytes | None:
        """None where it has done nothing since the last one."""
        try:
            calls = self.reader.histograms(self.reader.read())
        except (HeartbeatError, OSError):  # cut by the worker: what was written so far stands
            return None
        if calls == self._calls or not any(one.count for one in calls.values()):
            return None
        self._calls = calls
        told = {
            "schema": SCHEMA,
            "time": events.rfc3339(wall_ns),
            "unix_ns": wall_ns,
            "began_unix_ns": wall_ns - (now_ns - self.spawned_ns),
            "boot_id": self.boot_id,
            "worker": self.worker,
            "incarnation": self.incarnation,
            "spawned_ns": self.spawned_ns,
            "deadlines": self.deadlines,
            "calls": {name: _sparse(one) for name, one in calls.items() if one.count},
        }
        return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def _sparse(histogram: Histogram) -> dict[str, Any]:
    counts = {str(index): count for index, count in enumerate(histogram.counts) if count}
    return {"total_ns": histogram.total_ns, "counts": counts}


class Follower:
    """Follows the workers of the supervisor whose board it reads, from incarnation to incarnation."""

    def __init__(self, runtime_dir: str, now_ns: int) -> None:
        self._path = os.path.join(runtime_dir, board.FILE_NAME)
        self._lives: dict[str, _Life] = {}
        self._due_ns = now_ns + EVERY_NS

    def look(self, now_ns: int, wall_ns: int) -> list[bytes]:
        """Every few seconds: the lines that are now due. An incarnation that nobody looked at in its life is missed."""
        try:
            published = board.read(self._path)
        except board.BoardError:
            return []
        bodies = {str(body["name"]): body for body in published.body.get("workers", ())}
        lines = []
        for name in [*self._lives]:
            if name not in bodies or self._is_another(bodies[name]):
                lines.append(self._lives.pop(name))
        due = [line for life in lines if (line := _end(life, now_ns, wall_ns)) is not None]
        for name, body in bodies.items():
            if name not in self._lives and body["heartbeat"] is not None:
                self._begin(name, body, events.boot_id_text(published.boot_id))
            if name in self._lives:
                self._lives[name].deadlines = body["deadlines"]
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + EVERY_NS
            due += self.last(now_ns, wall_ns)
        return due

    def last(self, now_ns: int, wall_ns: int) -> list[bytes]:
        """Lines of all that has done anything since its last one; also at the end."""
        return [line for life in self._lives.values() if (line := life.line(now_ns, wall_ns)) is not None]

    def _is_another(self, body: Mapping[str, Any]) -> bool:
        life = self._lives[str(body["name"])]
        return body["heartbeat"] is not None and (body["heartbeat"], body["incarnation"]) != (
            life.reader.path, life.incarnation,
        )  # fmt: skip

    def _begin(self, name: str, body: Mapping[str, Any], boot_id: str) -> None:
        try:
            reader = HeartbeatReader(body["heartbeat"])
        except (HeartbeatError, OSError):
            return  # gone again: the next look tries again
        try:
            life = _Life(body, boot_id, reader)
            if reader.read().header("incarnation") == life.incarnation:  # else already the next one's
                self._lives[name] = life
                return
        except (HeartbeatError, OSError):
            pass  # not one that can be read
        reader.close()


def _end(life: _Life, now_ns: int, wall_ns: int) -> bytes | None:
    try:
        return life.line(now_ns, wall_ns)
    finally:
        life.reader.close()


# --- on the disk ----------------------------------------------------------------------------------------------------


def append(state_dir: str, lines: Iterable[bytes]) -> None:
    """Raises OSError. May block as long as the disk does."""
    data = b"".join(lines)
    if not data:
        return
    group = os.stat(state_dir).st_gid
    folder = os.path.join(state_dir, DIRECTORY)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
        os.chown(folder, -1, group)
        os.chmod(folder, 0o750)  # whatever our umask is
    path = os.path.join(folder, FILE_NAME)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o640)
        elif os.pread(descriptor, 1, size - 1) != b"\n":  # torn by a crash: that line alone is lost
            data = b"\n" + data
        size += len(data)
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
    if size > MOST_BYTES:
        for number in range(MOST_FILES - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path if number == 1 else f"{path}.{number - 1}", f"{path}.{number}")


def read(state_dir: str) -> Iterator[Snapshot]:
    """Oldest file first; what is no snapshot is left out. Raises OSError where a file may not be read."""
    path = os.path.join(state_dir, DIRECTORY, FILE_NAME)
    for name in (*(f"{path}.{number}" for number in range(MOST_FILES - 1, 0, -1)), path):
        try:
            file = open(name, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            continue
        with file:
            while line := file.readline(_LARGEST_LINE):
                snapshot = decode(line)
                if snapshot is not None:
                    yield snapshot


def decode(line: bytes) -> Snapshot | None:
    """The snapshot in a line; None if there is none."""
    try:
        told = json.loads(line)
        if told["schema"] != SCHEMA:
            return None
        life = (str(told["boot_id"]), str(told["worker"]), int(told["spawned_ns"]))
        deadlines = {str(name): round(seconds * SECOND) for name, seconds in told["deadlines"].items()}
        calls = {name: _histogram(told["calls"][name]) for name in OPERATIONS if name in told["calls"]}
        return Snapshot(int(told["unix_ns"]), int(told["began_unix_ns"]), life, deadlines, calls)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        return None


def _histogram(told: Mapping[str, Any]) -> Histogram:
    counts = list(EMPTY_COUNTS)
    for index, count in told["counts"].items():
        if not 0 <= int(index) < abi.BUCKETS or type(count) is not int or count < 0:
            raise ValueError(index)
        counts[int(index)] = count
    return Histogram(int(told["total_ns"]), counts)
