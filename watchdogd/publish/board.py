"""The board: where the supervisor publishes, and the exporter, ``status`` and people read, without asking it anything.

One file of the runtime directory, mapped by its only writer and read with ``pread`` by everybody else, so that it also
answers when the supervisor is stuck or dead. Fixed words (the tick, the supervisor's own lateness) change with every
tick; the body, a JSON object (``snapshot.py`` documents it), only when something happened.

Invariant: a reader gets a body that was published whole, or a ``BoardError``: the body is written into the slot that is
not current, then made current by one word, and carries its length and checksum.
"""

from __future__ import annotations

import glob
import json
import mmap
import os
import struct
import zlib
from typing import Any, NamedTuple

from watchdogd import abi
from watchdogd.histogram import Histogram

FILE_NAME = "board"  # in the runtime directory
MAGIC = 0x3144_5242_474F_4457  # b"WDOGBRD1"
VERSION = 1

_HEADER = (
    "magic", "version", "pid", "boot_id_high", "boot_id_low", "capacity",
    "current",  # sequence number of the current body; it lies in slot current & 1
    "last_tick_ns", "ticks", "last_tick_duration_ns", "max_lateness_ns", "next_tick_ns",
    "stall_ns", "stall_end_ns",  # how late the last late wake-up was, and when it came: the next supervisor may need it
)  # fmt: skip
_INDEX = {name: index for index, name in enumerate(_HEADER)}
HISTOGRAMS = ("wakeup_lateness", "detection_lateness", "tick_duration")
_HISTOGRAM_START = 16
_SLOT_START = _HISTOGRAM_START + len(HISTOGRAMS) * abi.HISTOGRAM_WORDS
_SLOT_HEADER = struct.Struct("=QQQ")  # sequence, length, crc32


class BoardError(Exception):
    """There is no board, or it is not one, or it never stood still. The message says which."""


class BoardDenied(BoardError):
    """It is not for this user to read."""


class Published(NamedTuple):
    """One consistent reading of the board."""

    pid: int
    boot_id: int
    last_tick_ns: int
    ticks: int
    last_tick_duration_ns: int
    max_lateness_ns: int
    next_tick_ns: int
    stall_ns: int
    stall_end_ns: int
    sequence: int
    histograms: dict[str, Histogram]
    body: dict[str, Any]


class Board:
    """The writer. Made anew by each supervisor: a new inode, in the place of the old one from its first body on, so
    that at every moment there is one that the next supervisor can go on from."""

    def __init__(self, path: str, *, pid: int, boot_id: int, capacity: int, due_ns: int = 0) -> None:
        """``due_ns``: since when a look at the workers is due, while there was none yet."""
        capacity = (capacity + 7) // 8 * 8
        size = _SLOT_START * abi.WORD + 2 * (_SLOT_HEADER.size + capacity)
        fresh = _fresh(path, pid)
        for stale in glob.glob(f"{glob.escape(path)}.*.new"):  # of a supervisor that was killed before its first body
            if stale != fresh:
                os.unlink(stale)
        descriptor = _allocated(fresh, size)
        try:
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._map[:] = bytes(size)  # it may be one that was reserved
        self._words = memoryview(self._map).cast("Q")
        self._capacity = capacity
        self._sequence = 0
        first = {
            "magic": MAGIC, "version": VERSION, "pid": pid, "capacity": capacity,
            "boot_id_high": boot_id >> 64, "boot_id_low": boot_id & (1 << 64) - 1, "next_tick_ns": due_ns,
        }  # fmt: skip
        for name, value in first.items():
            self._words[_INDEX[name]] = value
        self.path = path
        self._fresh: str | None = fresh

    def publish(self, body: bytes) -> None:
        """Make ``body`` current. Raises BoardError if it does not fit."""
        if len(body) > self._capacity:
            raise BoardError(f"snapshot of {len(body)} bytes does not fit the board's {self._capacity}")
        sequence = self._sequence + 1
        start = _SLOT_START * abi.WORD + (sequence & 1) * (_SLOT_HEADER.size + self._capacity)
        header = _SLOT_HEADER.pack(sequence, len(body), zlib.crc32(body))
        self._map[start : start + _SLOT_HEADER.size] = header
        self._map[start + _SLOT_HEADER.size : start + _SLOT_HEADER.size + len(body)] = body
        self._words[_INDEX["current"]] = self._sequence = sequence
        if self._fresh is not None:
            os.rename(self._fresh, self.path)
            self._fresh = None

    def tick(self, now_ns: int, duration_ns: int, next_tick_ns: int) -> None:
        """Mark a complete tick that began at ``now_ns``."""
        words = self._words
        words[_INDEX["last_tick_duration_ns"]] = duration_ns
        words[_INDEX["next_tick_ns"]] = next_tick_ns
        words[_INDEX["ticks"]] += 1
        self.count("tick_duration", duration_ns)
        words[_INDEX["last_tick_ns"]] = now_ns

    def stalled(self, stall_ns: int, end_ns: int) -> None:
        """We woke so late: told before anything is made of it, for whoever goes on from here."""
        self._words[_INDEX["stall_ns"]] = stall_ns
        self._words[_INDEX["stall_end_ns"]] = end_ns

    def count(self, histogram: str, duration_ns: int) -> None:
        """Count one duration; a negative one (woken early) counts as 0."""
        duration_ns = max(duration_ns, 0)
        start = _HISTOGRAM_START + HISTOGRAMS.index(histogram) * abi.HISTOGRAM_WORDS
        self._words[start] += duration_ns
        self._words[start + 1 + abi.bucket_of(duration_ns)] += 1
        if histogram == "wakeup_lateness" and duration_ns > self._words[_INDEX["max_lateness_ns"]]:
            self._words[_INDEX["max_lateness_ns"]] = duration_ns

    def close(self) -> None:
        self._words.release()
        self._map.close()


def reserve(path: str, pid: int) -> None:
    """Have room for the board that this process makes next, after it has executed itself. Raises OSError."""
    os.close(_allocated(_fresh(path, pid), os.stat(path).st_size))


def _fresh(path: str, pid: int) -> str:
    return f"{path}.{pid}.new"


def _allocated(fresh: str, size: int) -> int:
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        os.ftruncate(descriptor, min(size, os.fstat(descriptor).st_size))
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        os.unlink(fresh)
        raise
    return descriptor


def read(path: str) -> Published:
    """Read the board. Raises BoardError (missing, foreign, torn for 100 readings in a row)."""
    try:
        # Not to wait for the other end of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            for _ in range(100):
                published = _parse(os.pread(descriptor, os.fstat(descriptor).st_size, 0), path)
                if published is not None:
                    return published
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise BoardError(f"{path} does not exist: the supervisor has not run with this runtime directory") from None
    except PermissionError:
        raise BoardDenied(f"{path}: permission denied") from None
    except OSError as error:
        raise BoardError(f"{path} is not a watchdogd board ({error.strerror})") from None
    raise BoardError(f"{path} never stood still: its writer stopped in the middle, or something else writes it")


def _parse(raw: bytes, path: str) -> Published | None:
    if len(raw) < _SLOT_START * abi.WORD or len(raw) % abi.WORD:
        raise BoardError(f"{path} is not a watchdogd board (too short)")
    words = memoryview(raw).cast("Q")
    value = {name: words[index] for index, name in enumerate(_HEADER)}
    if value["magic"] != MAGIC:
        raise BoardError(f"{path} is not a watchdogd board")
    if value["version"] != VERSION:
        raise BoardError(f"{path} is a board of version {value['version']}; this program reads {VERSION}")
    start = _SLOT_START * abi.WORD + (value["current"] & 1) * (_SLOT_HEADER.size + value["capacity"])
    if len(raw) < start + _SLOT_HEADER.size:
        raise BoardError(f"{path} is cut off")
    sequence, length, checksum = _SLOT_HEADER.unpack_from(raw, start)
    body = raw[start + _SLOT_HEADER.size : start + _SLOT_HEADER.size + length]
    if sequence != value["current"] or len(body) != length or zlib.crc32(body) != checksum:
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BoardError(f"{path} holds no snapshot")
    histograms = {}
    for index, name in enumerate(HISTOGRAMS):
        first = _HISTOGRAM_START + index * abi.HISTOGRAM_WORDS
        block = words[first : first + abi.HISTOGRAM_WORDS].tolist()
        histograms[name] = Histogram(block[0], block[1:])
    return Published(
        pid=value["pid"],
        boot_id=value["boot_id_high"] << 64 | value["boot_id_low"],
        last_tick_ns=value["last_tick_ns"],
        ticks=value["ticks"],
        last_tick_duration_ns=value["last_tick_duration_ns"],
        max_lateness_ns=value["max_lateness_ns"],
        next_tick_ns=value["next_tick_ns"],
        stall_ns=value["stall_ns"],
        stall_end_ns=value["stall_end_ns"],
        sequence=sequence,
        histograms=histograms,
        body=content,
    )
