"""The heartbeat's memory for the pure-Python fallback: mapping it, and claiming lanes and stage names in it.

Invariant: lanes and stages that ``abi.is_locked()`` says yes for change hands only under a record lock on byte 0 of the
file; nobody waits longer than ``_LOCK_PATIENCE_NS`` for it. The caller holds the lock of its own process.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import struct
import time
from contextlib import suppress

from watchdogd import abi

_LOCK_PATIENCE_NS = 10_000_000  # holders need microseconds: longer is a stopped one
_LOCK_RETRY_SECONDS = 0.0005
_LOCKED_LANES = tuple(filter(abi.is_locked, range(abi.LANES)))
_LOCKED_STAGES = tuple(filter(abi.is_locked, range(abi.FIRST_DYNAMIC_STAGE, abi.STAGES)))
_STAGE_WORDS = abi.STAGE_NAME_SIZE // abi.WORD
_LAYOUT = tuple(name for name in abi.CONSTANT_HEADER if name not in ("magic", "oldest_writer", "byte_order"))


class _RejectedError(Exception):
    """Why a file cannot be a heartbeat of ours."""


def _check(descriptor: int) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _RejectedError("not a regular file")
    raw = os.pread(descriptor, abi.HEADER_SIZE, 0)
    if len(raw) < abi.HEADER_SIZE:
        raise _RejectedError("truncated")
    header = dict(zip(abi.HEADER, struct.unpack(f"={len(abi.HEADER)}Q", raw), strict=True))
    if header["magic"] == int.from_bytes(abi.MAGIC.to_bytes(8, "little"), "big"):
        raise _RejectedError("other byte order")
    if header["magic"] != abi.MAGIC:
        raise _RejectedError("wrong magic")
    if header["oldest_writer"] > abi.VERSION:
        raise _RejectedError("needs a newer version")
    if header["byte_order"] != abi.BYTE_ORDER:
        raise _RejectedError("other byte order")
    if any(header[name] != abi.CONSTANT_HEADER[name] for name in _LAYOUT):
        raise _RejectedError("other layout")
    if status.st_size < abi.SIZE:
        raise _RejectedError("truncated")


def _tell(line: str) -> None:
    with suppress(OSError):  # closed or full: no reason for a worker to end
        os.write(2, line.encode("utf-8", "backslashreplace"))


def _map(path: str) -> tuple[int, mmap.mmap] | None:
    """The heartbeat's descriptor and mapping, or None after one line on standard error."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        _check(descriptor)
        return descriptor, mmap.mmap(descriptor, abi.SIZE)
    except (OSError, ValueError, _RejectedError) as error:
        if descriptor is not None:
            os.close(descriptor)
        reason = error.strerror if isinstance(error, OSError) else error
        _tell(f"watchdogd: heartbeat {path}: {reason}; going on unwatched\n")
        return None


def _is_gone(owner: int) -> bool:
    """Whether the thread (or, without a tid, the process) that owns a lane no longer exists."""
    try:
        os.kill((owner & 0x7FFF_FFFF) or owner >> 32 & 0x7FFF_FFFF, 0)  # kill(2) finds threads, too
    except ProcessLookupError:
        return True
    except PermissionError:  # it does exist
        pass
    return False


def _image() -> int:
    """What tells the image of this process from those before and after an exec; 0 if it cannot be known."""
    try:
        with open("/proc/self/stat", "rb") as file:
            raw = file.read()
    except OSError:  # no /proc
        return 0
    return int(raw[raw.rindex(b")") + 2 :].split()[25])


class Heartbeat:
    """The words of a heartbeat file, or of private memory (``path`` None, or not a usable heartbeat)."""

    __slots__ = ("_descriptor", "_image", "_namespace", "supervised", "words")

    def __init__(self, path: str | None) -> None:
        mapped = None if path is None else _map(path)
        self.supervised = mapped is not None
        # Private, not mmap's default: a forked child is not to share it, as there is no file to lock.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._descriptor: int | None
        self._descriptor, memory = mapped or (None, mmap.mmap(-1, abi.SIZE, flags=private))
        self.words = memoryview(memory).cast("Q")
        try:
            self._namespace = os.stat("/proc/self/ns/pid").st_ino
        except OSError:  # no /proc
            self._namespace = 0
        self._image = _image()

    def attach(self) -> None:
        """This process uses it: says so in the header."""
        words = self.words
        if words[abi.H["pid_namespace"]] == self._namespace:
            self._free_lanes_of_old_image()
        words[abi.H["pid_namespace"]] = self._namespace
        words[abi.H["attached_pid"]] = os.getpid()
        if not self.is_ready():
            self.set_state("attached")

    def is_ready(self) -> bool:
        return self.words[abi.H["state"]] & abi.CODE_MASK == abi.STATE["ready"]

    def set_state(self, name: str) -> None:
        self.words[abi.H["state"]] = abi.stamp(time.monotonic_ns(), abi.STATE[name])

    def bisect(self, done: bool) -> bool:
        """Whether each stage is to be synchronized; ``done`` says that it is."""
        word = abi.H["bisect"]
        if done and self.words[word] != abi.BISECT["off"]:
            self.words[word] = abi.BISECT["done"]
        return bool(self.words[word] != abi.BISECT["off"])

    def claim(self, tid: int) -> int | None:
        """A lane for this thread (0: for the process as a whole); None, and counted, if there is none."""
        words = self.words
        if self.lock():
            try:
                lane = self._free_lane()
                if lane is not None:
                    hot = hot_word(lane)
                    for word in range(abi.L["owner"]):  # first, lest a dead owner's call be read as the new one's
                        words[hot + word] = 0
                    words[hot + abi.L["owner"]] = os.getpid() << 32 | tid
                    if tid == 0:
                        words[hot + abi.L["stage"]] = self._image
                    words[abi.H["lanes_used_locked"]] = max(words[abi.H["lanes_used_locked"]], lane + 1)
                    return lane
            finally:
                self.unlock()
        words[abi.H["laneless_locked"]] += 1
        return None

    def stage_code(self, name: str) -> int:
        """Its well-known code, one that somebody has claimed, or a new one; 0 if there is none left."""
        if name in abi.WELL_KNOWN_STAGES:
            return abi.WELL_KNOWN_STAGES.index(name)
        # Cut to 31 bytes, not within a character; at the first NUL, as C does.
        text = name.partition("\0")[0].encode("utf-8", "replace")[: abi.STAGE_NAME_SIZE - 1].decode("utf-8", "ignore")
        wanted = struct.unpack(f"={_STAGE_WORDS}Q", text.encode().ljust(abi.STAGE_NAME_SIZE, b"\0"))
        code = self._stage_named(wanted)
        if code == 0 and text and self.lock():
            try:
                code = self._stage_named(wanted) or self._claim_stage(wanted)
            finally:
                self.unlock()
        return code

    def looked_at(self, run: int, kind: int) -> int:
        """Count an output of this kind and show the run that it makes of ``run``, if that is the longest under way."""
        words, longest = self.words, abi.MOST_IN_A_ROW << abi.RUN_LENGTH_SHIFT
        now = 0
        if kind:
            begun_ns = run or time.monotonic_ns()
            now = abi.run_of_bad(begun_ns, ((run & longest) >> abi.RUN_LENGTH_SHIFT) + 1, abi.OUTPUTS[kind])
        shown = words[abi.H["bad_outputs"]]
        if shown == run or shown & longest < now & longest:
            words[abi.H["bad_outputs"]] = now
        if self.lock():
            try:
                words[abi.OUTPUT_COUNTS_OFFSET // abi.WORD + abi.OUTPUT_COUNTS + kind] += 1
            finally:
                self.unlock()
        return now

    def _free_lanes_of_old_image(self) -> None:
        """After an exec: the words of the image before this one are nobody's, and its lanes are free."""
        words, pid = self.words, os.getpid()
        lanes = [hot_word(lane) for lane in range(abi.LANES)]
        ours = [hot for hot in lanes if words[hot + abi.L["owner"]] >> 32 == pid]
        images = {words[hot + abi.L["stage"]] for hot in ours if words[hot + abi.L["owner"]] == pid << 32}
        if not images or images & {0, self._image} or not self._image:
            return  # unknown, or another object of this image was here before
        for hot in ours:
            for word in range(abi.L["owner"] + 1):  # the owner last
                words[hot + word] = 0

    def _free_lane(self) -> int | None:
        owners = [(lane, self.words[hot_word(lane) + abi.L["owner"]]) for lane in _LOCKED_LANES]
        for lane, owner in owners:
            if owner == 0:
                return lane
        if self.words[abi.H["pid_namespace"]] == self._namespace:  # else its owner cannot be looked up
            for lane, owner in owners:
                if _is_gone(owner):
                    return lane
        return None

    def _stage_named(self, wanted: tuple[int, ...]) -> int:
        table = abi.STAGE_OFFSET // abi.WORD
        for code in range(abi.FIRST_DYNAMIC_STAGE, abi.STAGES):
            first = table + code * _STAGE_WORDS
            if self.words[first] == wanted[0] != 0 and tuple(self.words[first : first + _STAGE_WORDS]) == wanted:
                return code
        return 0

    def _claim_stage(self, wanted: tuple[int, ...]) -> int:
        used = self.words[abi.H["stages_used_locked"]]  # highest claimed code + 1
        for code in _LOCKED_STAGES:
            if code >= used:
                first = abi.STAGE_OFFSET // abi.WORD + code * _STAGE_WORDS
                for word in reversed(range(_STAGE_WORDS)):  # the first word last: it says that the name is there
                    self.words[first + word] = wanted[word]
                self.words[abi.H["stages_used_locked"]] = code + 1
                return code
        return 0

    def lock(self) -> bool:
        """Of the file, among processes; False if it could not be had in time."""
        if self._descriptor is None:
            return True
        give_up_ns = time.monotonic_ns() + _LOCK_PATIENCE_NS
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
                return True
            except OSError:  # held (EAGAIN or EACCES), or a file that cannot be locked: then nothing is claimed
                if time.monotonic_ns() > give_up_ns:
                    return False
                time.sleep(_LOCK_RETRY_SECONDS)

    def unlock(self) -> None:
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, 0)


def hot_word(lane: int) -> int:
    """Index of a lane's first hot word."""
    return (abi.HOT_OFFSET + lane * abi.HOT_STRIDE) // abi.WORD
