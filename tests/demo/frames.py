"""Frames at a fixed rate, counted where others can read them: how many were done and lost, and when each ended.

A file of 8-byte words: frames done, frames lost, when the last was due, and a ring of the instants at which the last
ones ended (CLOCK_MONOTONIC, ns). Invariant: one writer at a time; an instant is there before the frame is counted.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Generator
from pathlib import Path

RING = 4096
_DONE, _LOST, _DUE, _ENDS = range(4)
SIZE = 8 * (_ENDS + RING)


def make(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


def paced(path: str | Path, period_ns: int, queue: int = 0) -> Generator[None, None, None]:
    """One turn for each frame, for ever. The camera goes on while its worker is late, hung or replaced: of the frames
    that are due by then the last ``queue`` are kept, the others are lost.
    """
    with open(path, "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), SIZE)).cast("Q")
    due_ns = words[_DUE] or time.monotonic_ns()
    while True:
        due_ns += period_ns
        late = (time.monotonic_ns() - due_ns) // period_ns - queue
        if late > 0:
            words[_LOST] += late
            due_ns += late * period_ns
        words[_DUE] = due_ns
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        yield
        words[_ENDS + words[_DONE] % RING] = time.monotonic_ns()
        words[_DONE] += 1


class Count:
    """Of one file, as it was when this was made."""

    def __init__(self, path: Path) -> None:
        raw = memoryview(path.read_bytes()).cast("Q")
        self.done, self.lost = raw[_DONE], raw[_LOST]
        self.ends_ns = [raw[_ENDS + number % RING] for number in range(max(0, self.done - RING + 1), self.done)]
        """The older ones first."""

    def between(self, begin_ns: int, end_ns: int) -> int:
        """How many frames ended then."""
        return sum(begin_ns <= instant < end_ns for instant in self.ends_ns)

    def longest_gap_ns(self, begin_ns: int, end_ns: int) -> int:
        """The longest time with no frame's end, in that interval."""
        inside = [instant for instant in self.ends_ns if begin_ns < instant < end_ns]
        return max(later - earlier for earlier, later in zip([begin_ns, *inside], [*inside, end_ns], strict=True))
