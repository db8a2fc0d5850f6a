"""What runs before what: which streams last wrote and read each piece of memory, and whether later work waits for them.

A *line* is one stream's order: it counts what is queued, and knows how far into other lines that comes after (a vector
clock), from the events that were waited for. A host that has synchronized is behind everything that was done by then.

Invariant: no two uses of one piece of memory, at least one of them a write, are queued without an order between them:
in mode ``insert`` the later one waits for an event recorded behind the earlier one; in ``strict``, or where that stream
is another thread's alone, or both are being queued at once, it raises OrderError and queues nothing. Only what is
queued by us, or told by ``Stream.ordered``, is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdogd.worker.cuda_buffers import Memory
    from watchdogd.worker.cuda_resources import Event, Stream

_lock = Lock()  # of every line's ``seen``, for those who change it; never held during a call of the driver
MANY = 8  # readers of one piece of memory; from then on those that are done are looked for
MODES = ("insert", "strict", "off")


class OrderError(Exception):
    """Work on memory that another stream uses, with no order between the two; nothing was queued."""


class Line:
    __slots__ = ("__weakref__", "done", "marker", "queued", "seen", "stream", "strict")

    def __init__(self, stream: Stream, strict: bool) -> None:
        self.stream = stream
        self.strict = strict
        self.queued = 0
        self.done = 0  # so many are known to have run
        self.seen: dict[Line, int] = {}  # what is queued here from now on runs after so many of another
        self.marker: Event | None = None  # ours, to be waited for by others

    # --- uses of memory ---

    def begin(self, reads: Collection[Memory], writes: Collection[Memory]) -> None:
        """Orders what is about to be queued here behind what others did with that memory. ``end`` must follow.

        Said before it is looked whether others say so: of two threads that begin at once, one at least sees the other.
        """
        for memory in reads:
            memory._uses.reading.append(self)
        for memory in writes:
            memory._uses.writing.append(self)
        try:
            self._order(reads, writes)
        except BaseException:
            self.end(reads, writes)
            raise

    def end(self, reads: Collection[Memory], writes: Collection[Memory]) -> None:
        for memory in reads:
            memory._uses.reading.remove(self)
        for memory in writes:
            memory._uses.writing.remove(self)

    def _order(self, reads: Collection[Memory], writes: Collection[Memory]) -> None:
        for memory in reads:
            uses = memory._uses
            if uses.writing:
                self._refuse_others(memory, uses.writing)
            if uses.writer is not self and uses.writer is not None:
                self._behind(memory, uses.writer, uses.number, "written")
        for memory in writes:
            uses = memory._uses
            if len(uses.writing) > 1 or uses.reading:  # one is this
                self._refuse_others(memory, [*uses.writing, *uses.reading])
            if uses.writer is not self and uses.writer is not None:
                self._behind(memory, uses.writer, uses.number, "written")
            if uses.readers:
                for line, number in tuple(uses.readers.items()):
                    if line is not self:
                        self._behind(memory, line, number, "read")

    def queue(self, reads: Collection[Memory], writes: Collection[Memory]) -> None:
        """It was queued."""
        self.queued += 1
        for memory in reads:
            memory._uses.read(self, self.queued)
        for memory in writes:
            uses = memory._uses
            uses.writer, uses.number = self, self.queued
            if uses.readers:
                uses.readers = {}

    def _refuse_others(self, memory: Memory, lines: list[Line]) -> None:
        for line in lines:
            if line is not self:  # what is not queued yet cannot be waited for
                what = f"{type(memory).__name__} {memory.address:#x}"
                raise OrderError(f"{what} is being used in {line} and in {self} at once: let one call follow the other")

    def _behind(self, memory: Memory, line: Line, number: int, how: str) -> None:
        if line.is_over(number) or self.seen.get(line, 0) >= number:
            return
        if self.strict or not line.may_mark():
            what = f"{type(memory).__name__} {memory.address:#x}"
            remedy = "record an event there, and wait for it here"
            raise OrderError(f"{what} was {how} in {line}, and is used in {self} with no order between them: {remedy}")
        self.stream.wait(line.mark())

    def is_over(self, number: int) -> bool:
        """Whether its ``number``-th use is known to have run."""
        return self.done >= number or self.stream._context._context is None

    def may_mark(self) -> bool:
        """Whether the calling thread may record an event in this stream."""
        owner = self.stream._owner or self.stream._context.owner
        return owner is None or owner.is_calling() or self.stream._object is None

    def mark(self) -> Event:
        """An event behind all that is queued here."""
        if self.marker is None:
            self.marker = self.stream._context.event()
        if self.stream._object is not None:  # else it was recorded before the close
            self.marker.record(self.stream)
        return self.marker

    def is_busy(self) -> bool:
        """Whether something may still run in the open stream."""
        is_open = self.stream._object is not None and self.stream._context._context is not None
        return is_open and self.queued > self.done

    # --- events and waits ---

    def clock(self) -> Mapping[Line, int]:
        """What an event recorded now is behind."""
        return {**self.seen, self: self.queued}

    def run(self, number: int, seen: Mapping[Line, int]) -> None:
        """The host has waited for all that was queued when these were taken."""
        self.done = max(self.done, number)
        if seen:
            reached(seen)
            _forget_over(self)

    def join(self, clock: Mapping[Line, int]) -> None:
        """What is queued here from now on runs after that."""
        with _lock:
            for line, count in clock.items():
                if line is not self and count > max(line.done, self.seen.get(line, 0)):
                    self.seen[line] = count

    def __str__(self) -> str:
        return "a closed stream" if self.stream._object is None else f"CUstream {self.stream.handle:#x}"


class Uses:
    """Of one piece of memory: the last write, the ``number``-th of its line, and what has read it since."""

    __slots__ = ("number", "readers", "reading", "writer", "writing")

    def __init__(self) -> None:
        self.reading: list[Line] = []  # what is being queued now
        self.writing: list[Line] = []
        self.writer: Line | None = None
        self.number = 0
        self.readers: dict[Line, int] = {}

    def unfinished(self) -> list[Line]:
        """Whose use is not known to have run."""
        users = [*self.readers.items()]
        if self.writer is not None:
            users.append((self.writer, self.number))
        return [line for line, number in users if not line.is_over(number)]

    def read(self, line: Line, number: int) -> None:
        if len(self.readers) >= MANY:  # of streams that came and went, perhaps
            for other, last in list(self.readers.items()):
                if other.is_over(last):
                    self.readers.pop(other, None)
        self.readers[line] = number


def reached(clock: Mapping[Line, int]) -> None:
    """The host has seen an event with this clock: all that it is behind has run."""
    for line, count in clock.items():
        line.done = max(line.done, count)
        if line.seen:
            _forget_over(line)


def _forget_over(line: Line) -> None:
    """Or lines of streams long closed would be kept."""
    with _lock:
        line.seen = {other: count for other, count in line.seen.items() if other.done < count}
