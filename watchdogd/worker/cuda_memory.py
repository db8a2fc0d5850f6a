"""Freeing device memory without waiting for the device, and not at all in the steady state.

    pool = Pool(context)                        # by the thread that does the CUDA work, e.g. in a task of a CudaThread
    buffer = pool.alloc(nbytes)
    stream.launch(kernel, grid, block, (buffer,))
    pool.free(buffer, stream)                   # by any thread; used again once the stream has passed this point

``cuMemFree`` waits for the device, and may do so while it holds what another thread's call needs. Here a buffer is
given back once an event recorded after its last use is reached, so there is nothing to wait for.

Invariant: the driver is called by the owner alone, the thread that made it, and no lock of ours is held meanwhile.
``free`` by another thread, or in a host function, only puts the buffer in a list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from watchdogd.worker.cuda import Buffer, Context, CudaError, Event, Stream
from watchdogd.worker.cuda_driver import BacklogFullError
from watchdogd.worker.cuda_place import Owner, in_host_function, lost

BACKLOG = 256
GRANULE = 512  # bytes; what a size is rounded up to, so that nearly equal ones can stand in for each other
_OUT_OF_MEMORY = 2


class _Gated(NamedTuple):
    buffer: Buffer
    streams: tuple[Stream, ...]
    events: tuple[Event, ...]


class DeferredFree:
    """``backlog``: how many buffers may wait to be freed. With one more, ``full="wait"`` waits for the event of the
    oldest: a stamped call, so back-pressure that lasts too long is a hang. ``full="raise"``, and every ``free`` that is
    not by the owner, raises BacklogFullError, and the buffer stays the caller's.
    """

    def __init__(self, context: Context, backlog: int = BACKLOG, full: str = "wait") -> None:
        if full not in ("wait", "raise"):
            raise ValueError(f"full={full!r}: use one of wait, raise")
        self.context = context
        self.owner = Owner.calling()
        self._backlog = backlog
        self._waits = full == "wait"
        self._arrived: deque[tuple[Buffer, Sequence[Stream]]] = deque()  # from other threads: no event recorded yet
        self._gated: deque[_Gated] = deque()
        self._events: list[Event] = []  # done with, to be recorded again

    @property
    def waiting(self) -> int:
        """Buffers that wait to be freed."""
        return len(self._arrived) + len(self._gated)

    def free(self, buffer: Buffer, *streams: Stream) -> None:
        """Frees it after what is queued in these streams by now. It cannot be used any more.

        Other streams that are known to use it (see ``order`` of Context) are waited for, too.
        """
        if not streams or any(item._context is not self.context for item in (buffer, *streams)):
            raise ValueError("free needs a buffer of its own context, and the streams of it that use it")
        for stream in streams:
            if stream._owner not in (None, self.owner):
                raise ValueError(f"{self.owner} frees it, and may record no event in the stream of {stream._owner}")
        is_owner = self.owner.is_calling() and not in_host_function()
        if is_owner:
            self.collect()
        if self.waiting >= self._backlog:
            if not (is_owner and self._waits):
                remedy = "have it collect() more often, or make backlog larger"
                raise BacklogFullError(f"{self._backlog} buffers wait to be freed by {self.owner}: {remedy}")
            self._wait_for_oldest()
        users = _users(buffer, streams)
        self._arrived.append((Buffer(self.context, buffer._take(), buffer.capacity), users))
        if is_owner:
            self._admit()

    def collect(self) -> int:
        """Frees what can be without waiting; how many were. For the owner, e.g. after each step."""
        self._require_owner("collect")
        self._admit()
        busy: set[Stream] = set()
        over: list[_Gated] = []
        kept: deque[_Gated] = deque()
        for gated in self._gated:
            (over if _is_over(gated, busy) else kept).append(gated)
        self._gated = kept  # not before all were asked: where that raises, nothing is lost
        for gated in over:
            self._let_go(gated)
        return len(over)

    def drain(self) -> None:
        """Waits for all that is to be freed, in stamped calls, and frees it. For the owner."""
        self._require_owner("drain")
        self._admit()
        while self._gated:
            self._wait_for_oldest()

    def close(self) -> None:
        """Drains, and gives its events back. After the context: that has freed all."""
        if self.context._context is not None:
            self.drain()
        self._arrived.clear()
        self._gated.clear()
        while self._events:
            self._events.pop().close()

    def _require_owner(self, call: str) -> None:
        if not self.owner.is_calling() or in_host_function():
            raise lost(f"{type(self).__name__}.{call}", self.context.handle, self.owner)

    def _admit(self) -> None:
        """Recorded now, an event is reached later than when ``free`` was called, never sooner."""
        while self._arrived:
            self._gate(*self._arrived[0])
            self._arrived.popleft()

    def _gate(self, buffer: Buffer, streams: Sequence[Stream]) -> None:
        recorded = tuple(stream for stream in streams if self._may_record(stream))
        if len(recorded) < len(streams):  # closed since, e.g.: there is nothing else to wait for
            self.context.synchronize()
        events: list[Event] = []
        try:
            for stream in recorded:
                events.append(self._events.pop() if self._events else self.context.event())
                events[-1].record(stream)
        except BaseException:
            self._events += events
            raise
        self._gated.append(_Gated(buffer, recorded, tuple(events)))

    def _may_record(self, stream: Stream) -> bool:
        return stream._object is not None and stream._owner in (None, self.owner)

    def _wait_for_oldest(self) -> None:
        self._admit()
        gated = self._gated[0]
        for event in gated.events:
            event.synchronize()
        self._gated.popleft()
        self._let_go(gated)

    def _let_go(self, gated: _Gated) -> None:
        self._events += gated.events
        self._give_back(gated.buffer)

    def _give_back(self, buffer: Buffer) -> None:
        buffer.free()


def _users(buffer: Buffer, streams: Sequence[Stream]) -> tuple[Stream, ...]:
    """These, and the others of its context that may still use it."""
    known = dict.fromkeys(streams)
    known.update((line.stream, None) for line in buffer._uses.unfinished() if line.stream._context is buffer._context)
    return tuple(known)


def _is_over(gated: _Gated, busy: set[Stream]) -> bool:
    """``busy``: streams with an event that is not reached, so that none recorded there later is."""
    for stream, event in zip(gated.streams, gated.events, strict=True):
        if stream in busy or not event.done():
            busy.add(stream)
            return False
    return True


class Pool(DeferredFree):
    """Memory that is used again rather than freed: in the steady state no call allocates or frees.

    ``hits`` and ``misses`` count what ``alloc`` found here, and what the driver was asked for.
    """

    def __init__(self, context: Context, backlog: int = BACKLOG, full: str = "wait") -> None:
        super().__init__(context, backlog, full)
        self._idle: dict[int, list[Buffer]] = {}  # by size
        self.hits = 0
        self.misses = 0

    def alloc(self, nbytes: int) -> Buffer:
        """Device memory, with what was left in it. For the owner."""
        self._require_owner("alloc")
        self.collect()
        size = -(-nbytes // GRANULE) * GRANULE
        idle = self._idle.get(size)
        if idle:
            self.hits += 1
            address = idle.pop()._take()
        else:
            self.misses += 1
            address = self._ask(size)._take()
        return Buffer(self.context, address, nbytes, size)

    def _ask(self, size: int) -> Buffer:
        try:
            return self.context.alloc(size)
        except CudaError as error:
            if error.code != _OUT_OF_MEMORY or not (any(self._idle.values()) or self._gated):
                raise
        self.drain()
        self.trim()
        return self.context.alloc(size)

    def trim(self) -> None:
        """Gives what is not in use back to the driver. For the owner."""
        self._require_owner("trim")
        for idle in self._idle.values():
            while idle:
                idle[-1].free()
                idle.pop()

    def close(self) -> None:
        super().close()
        if self.context._context is not None:
            self.trim()

    def _give_back(self, buffer: Buffer) -> None:
        if buffer.capacity % GRANULE:  # not from here: of no use to ``alloc``
            buffer.free()
        else:
            self._idle.setdefault(buffer.capacity, []).append(buffer)
