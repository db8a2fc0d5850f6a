"""A heartbeat file as tests make, read and spoil it, from ``watchdogd.abi`` alone."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from watchdogd import abi, abi_driver


class HeartbeatFile:
    def __init__(self, path: Path, **header: int) -> None:
        self.path = path
        path.write_bytes(bytes(abi_driver.FILE_SIZE))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        for name, value in {**abi.CONSTANT_HEADER, **header}.items():
            self.set_header(name, value)

    def word(self, offset: int) -> int:
        value: int = struct.unpack("=Q", os.pread(self._descriptor, abi.WORD, offset))[0]
        return value

    def words(self, offset: int, count: int) -> list[int]:
        return list(struct.unpack(f"={count}Q", os.pread(self._descriptor, count * abi.WORD, offset)))

    def set_word(self, offset: int, value: int) -> None:
        os.pwrite(self._descriptor, struct.pack("=Q", value), offset)

    def header(self, name: str) -> int:
        return self.word(abi.H[name] * abi.WORD)

    def set_header(self, name: str, value: int) -> None:
        self.set_word(abi.H[name] * abi.WORD, value)

    @property
    def state(self) -> str:
        return abi.STATES[self.header("state") & abi.CODE_MASK]

    def lane(self, lane: int, name: str) -> int:
        return self.word(lane_offset(lane, name))

    def set_lane(self, lane: int, name: str, value: int) -> None:
        self.set_word(lane_offset(lane, name), value)

    def owners(self) -> dict[int, tuple[int, int]]:
        """pid and tid by lane, of the lanes that are owned."""
        words = {lane: self.lane(lane, "owner") for lane in range(abi.LANES)}
        return {lane: (word >> 32, word & 0xFFFF_FFFF) for lane, word in words.items() if word}

    def process_lane(self, pid: int) -> int:
        """The lane that holds the steps of a process."""
        return next(lane for lane, owner in self.owners().items() if owner == (pid, 0))

    def thread_lanes(self, pid: int) -> list[int]:
        return [lane for lane, (owner, tid) in self.owners().items() if owner == pid and tid]

    def total(self, name: str) -> int:
        return sum(self.lane(lane, name) for lane in range(abi.LANES))

    def histogram(self, lane: int, code: int) -> tuple[int, list[int]]:
        """Sum of durations in ns, and the counts."""
        offset = abi.COLD_OFFSET + lane * abi.COLD_STRIDE + code * abi.HISTOGRAM_WORDS * abi.WORD
        total_ns, *counts = self.words(offset, abi.HISTOGRAM_WORDS)
        return total_ns, counts

    def ring(self, lane: int) -> list[tuple[int, int]]:
        """Entry stamp, and duration_ns << 8 | stage code, of recent calls, the newest last."""
        calls = self.lane(lane, "calls")
        words = self.words(
            abi.COLD_OFFSET + lane * abi.COLD_STRIDE + abi.RING_OFFSET, abi.RING_ENTRIES * abi.RING_ENTRY_WORDS
        )
        newest = range(max(0, calls - abi.RING_ENTRIES), calls)
        return [(words[2 * (n % abi.RING_ENTRIES)], words[2 * (n % abi.RING_ENTRIES) + 1]) for n in newest]

    def stage_name(self, code: int) -> str:
        offset = abi.STAGE_OFFSET + code * abi.STAGE_NAME_SIZE
        return os.pread(self._descriptor, abi.STAGE_NAME_SIZE, offset).rstrip(b"\0").decode()


def lane_offset(lane: int, name: str) -> int:
    return abi.HOT_OFFSET + lane * abi.HOT_STRIDE + abi.L[name] * abi.WORD
