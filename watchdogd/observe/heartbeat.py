"""The supervisor's and the readers' side of a heartbeat file (the format is ``watchdogd.abi``).

Invariant: a reader never maps what a worker can write; every read is a ``pread`` that may come back short, and whatever
does not look like a heartbeat is a ``HeartbeatError`` with a typed reason, never a value.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence
from enum import Enum

from watchdogd import abi, abi_driver
from watchdogd.decide.requests import Entry, Requests
from watchdogd.histogram import Histogram
from watchdogd.observe import driver_region
from watchdogd.pulse import Pulse, word_at

# The start of a header of any version that can be read.
_PREFIXES = tuple(
    struct.pack(f"={len(abi.CONSTANT_HEADER)}Q", *{**abi.CONSTANT_HEADER, "oldest_writer": version}.values())
    for version in range(1, abi.VERSION + 1)
)


class Unreadable(str, Enum):
    """Why a heartbeat cannot be believed."""

    MISSING = "missing"
    TRUNCATED = "truncated"
    BAD_MAGIC = "bad magic"
    NEWER_VERSION = "made by a newer version"
    BAD_HEADER = "bad header"
    IMPOSSIBLE_LANES = "impossible lane count"


class HeartbeatError(Exception):
    def __init__(self, reason: Unreadable, path: str) -> None:
        super().__init__(f"heartbeat {path}: {reason.value}")
        self.reason = reason


def create(
    path: str, *, boot_id: int, incarnation: int, spawned_ns: int, owner: tuple[int, int] | None = None,
    bisect: bool = False, driver: int = 0, given: Sequence[Entry] = (),
) -> HeartbeatReader:  # fmt: skip
    """Make the heartbeat of a new incarnation: a new inode, its space reserved, readable by the owner's group.

    ``owner`` is (uid, gid) of the worker where it differs from ours; ``bisect``: whether it is to synchronize after
    each stage; ``driver``: what the driver shim is to do (bits of ``abi_driver.OPTIONS``); ``given``: requests
    for it to work on again. Raises OSError (no space, no permission, exists).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        # Reserved now, so that a full tmpfs fails our start and not the worker's store (SIGBUS).
        os.posix_fallocate(descriptor, 0, abi_driver.FILE_SIZE)
        if given:  # before the header: a file with one is whole
            os.pwrite(descriptor, _table_of(given), abi.REQUESTS_OFFSET)
        words = [0] * len(abi.HEADER)
        for name, value in abi.CONSTANT_HEADER.items():
            words[abi.H[name]] = value
        words[abi.H["version"]] = abi.VERSION
        words[abi.H["boot_id_high"]] = boot_id >> 64
        words[abi.H["boot_id_low"]] = boot_id & (1 << 64) - 1
        words[abi.H["incarnation"]] = incarnation
        words[abi.H["spawned_ns"]] = spawned_ns
        words[abi.H["bisect"]] = abi.BISECT["asked" if bisect else "off"]
        words[abi.H["driver"]] = driver
        words[abi.H["state"]] = abi.stamp(spawned_ns, abi.STATE["created"])
        os.pwrite(descriptor, struct.pack(f"={len(words)}Q", *words), 0)
        if owner is not None:
            os.fchown(descriptor, *owner)
    except OSError:
        os.close(descriptor)
        os.unlink(path)
        raise
    return HeartbeatReader(path, descriptor)


class HeartbeatReader:
    """Reads one heartbeat file. Cheap: one ``pread`` of the header and the lanes in use."""

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self._size = abi.HOT_OFFSET + 8 * abi.HOT_STRIDE
        if descriptor is None:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise HeartbeatError(Unreadable.MISSING, path) from None
        self._descriptor = descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def write_spawned_pid(self, pid: int) -> None:
        """The creator only: the pid is known after the fork."""
        os.pwrite(self._descriptor, struct.pack("=Q", pid), abi.H["spawned_pid"] * abi.WORD)

    def write_ready(self, now_ns: int) -> None:
        """The supervisor only, where what tells of readiness is not the worker. Raises OSError.

        Opened anew: who adopted the worker can only read.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            word = abi.stamp(now_ns, abi.STATE["ready"])
            os.pwrite(descriptor, struct.pack("=Q", word), abi.H["state"] * abi.WORD)
        finally:
            os.close(descriptor)

    def read(self) -> Pulse:
        """Header and hot lines. Raises HeartbeatError."""
        raw = os.pread(self._descriptor, self._size, 0)
        if not raw.startswith(_PREFIXES):
            raise HeartbeatError(_why(raw), self.path)
        if len(raw) < abi.HEADER_SIZE:
            raise HeartbeatError(Unreadable.TRUNCATED, self.path)
        version, used_cas, used_locked = _VARIABLE.unpack_from(raw, _VARIABLE_OFFSET)
        if version > abi.VERSION:  # nobody asks again: every word says itself what is not known
            raise HeartbeatError(Unreadable.NEWER_VERSION, self.path)
        lanes = used_cas if used_cas > used_locked else used_locked
        if lanes > abi.LANES:
            raise HeartbeatError(Unreadable.IMPOSSIBLE_LANES, self.path)
        size = abi.HOT_OFFSET + lanes * abi.HOT_STRIDE
        if size > self._size:  # more lanes in use than last time: once per growth
            self._size = size
            raw = os.pread(self._descriptor, size, 0)
        if len(raw) < size:
            raise HeartbeatError(Unreadable.TRUNCATED, self.path)
        return Pulse(raw[:size], lanes)

    def word(self, offset: int) -> int | None:
        """One word, read now; None if the file no longer reaches that far."""
        raw = os.pread(self._descriptor, abi.WORD, offset)
        return word_at(raw, 0) if len(raw) == abi.WORD else None

    def raw(self, offset: int, size: int) -> bytes | None:
        """So many bytes, read now; None if the file does not reach that far."""
        raw = os.pread(self._descriptor, size, offset)
        return raw if len(raw) == size else None

    def outputs(self) -> dict[str, int]:
        """How many outputs the worker looked at, by ``abi.OUTPUTS``. Raises HeartbeatError."""
        words = 2 * abi.OUTPUT_COUNTS
        raw = os.pread(self._descriptor, words * abi.WORD, abi.OUTPUT_COUNTS_OFFSET)
        if len(raw) < words * abi.WORD:
            raise HeartbeatError(Unreadable.TRUNCATED, self.path)
        counts = struct.unpack(f"={words}Q", raw)
        return {kind: counts[code] + counts[abi.OUTPUT_COUNTS + code] for kind, code in abi.OUTPUT.items()}

    def driver(self) -> driver_region.Driver | None:
        """What the driver shim saw; None if it is not there, or the file is of a version that has no room for it."""
        return driver_region.parse(os.pread(self._descriptor, abi_driver.SIZE, abi_driver.OFFSET))

    def requests(self) -> Requests:
        """What became of the requests of its steps. Raises HeartbeatError."""
        raw = os.pread(self._descriptor, abi.REQUESTS_SIZE, abi.REQUESTS_OFFSET)
        if len(raw) < abi.REQUESTS_SIZE:
            raise HeartbeatError(Unreadable.TRUNCATED, self.path)
        words = memoryview(raw).cast("Q").tolist()
        header = dict(zip(abi.REQUESTS_HEADER, words, strict=False))
        table = words[len(abi.REQUESTS_HEADER) :]
        pairs = zip(table[:: abi.REQUEST_WORDS], table[1 :: abi.REQUEST_WORDS], strict=True)
        entries = tuple(Entry(word, request, place) for place, (word, request) in enumerate(pairs) if word)
        return Requests(entries, header["asked_ns"] != 0, header["unkept_cas"] + header["unkept_locked"])

    def stage_name(self, code: int) -> str:
        """The name of a stage code (``stage 17`` where it was claimed but not yet named)."""
        if code < len(abi.WELL_KNOWN_STAGES):
            return abi.WELL_KNOWN_STAGES[code]
        raw = os.pread(self._descriptor, abi.STAGE_NAME_SIZE, abi.STAGE_OFFSET + code * abi.STAGE_NAME_SIZE)
        name = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in name) or f"stage {code}"

    def histograms(self, pulse: Pulse) -> dict[str, Histogram]:
        """Durations per operation name, and of steps under ``step``, over all lanes that were ever used."""
        total = 0  # all words of a block as one number: a hundred times faster than to add them one by one
        used = zip(pulse.column("calls"), pulse.column("steps_done"), strict=True)
        for lane, (calls, steps) in enumerate(used):
            if calls or steps:
                raw = os.pread(self._descriptor, abi.RING_OFFSET, abi.COLD_OFFSET + lane * abi.COLD_STRIDE)
                if len(raw) < abi.RING_OFFSET:
                    raise HeartbeatError(Unreadable.TRUNCATED, self.path)
                total += int.from_bytes(raw, sys.byteorder)
        words = memoryview((total & _BLOCK_MASK).to_bytes(abi.RING_OFFSET, sys.byteorder)).cast("Q").tolist()
        result = {}
        for code in range(abi.HISTOGRAMS):
            block = words[code * abi.HISTOGRAM_WORDS : (code + 1) * abi.HISTOGRAM_WORDS]
            name = "step" if code == abi.STEP_HISTOGRAM else abi.OPERATIONS[code]
            result[name] = Histogram(block[0], block[1:])
        return result


_BLOCK_MASK = (1 << 8 * abi.RING_OFFSET) - 1  # counts of a worker that writes nonsense may overflow
# version, lanes_used_cas and, right after that, lanes_used_locked
_VARIABLE = struct.Struct(f"=Q{(abi.H['lanes_used_cas'] - abi.H['version'] - 1) * abi.WORD}xQQ")
_VARIABLE_OFFSET = abi.H["version"] * abi.WORD


def _table_of(given: Sequence[Entry]) -> bytes:
    words = [0] * (abi.REQUESTS_SIZE // abi.WORD)
    words[abi.REQUESTS_HEADER.index("given")] = len(given)
    for entry in given:
        first = len(abi.REQUESTS_HEADER) + entry.place * abi.REQUEST_WORDS
        words[first : first + abi.REQUEST_WORDS] = entry.word, entry.request
    return struct.pack(f"={len(words)}Q", *words)


def _why(raw: bytes) -> Unreadable:
    if len(raw) < len(_PREFIXES[0]):
        return Unreadable.TRUNCATED
    if word_at(raw, 0) != abi.MAGIC:
        return Unreadable.BAD_MAGIC
    if word_at(raw, abi.H["oldest_writer"] * abi.WORD) > abi.VERSION:
        return Unreadable.NEWER_VERSION
    return Unreadable.BAD_HEADER
