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
from threading import get_ident
from typing import NamedTuple

from watchdogd.worker.cuda import Buffer, Context, CudaError, Event, Stream
from watchdogd.worker.cuda_driver import BacklogFullError
from watchdogd.worker.cuda_place import Owner, in_host_function, lost

BACKLOG = 256
GRANULE = 512  # bytes; what a size is rounded up to, so that nearly equal ones can stand in for each other
_OUT_OF_MEMORY = 2


class _Gated(NamedTuple):
    buffer: Buffer
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
        """Frees it after what is queued in these streams by now. It cannot be used any more."""
        if not streams or buffer._context is not self.context:
            raise ValueError("free needs a buffer of its own context, and the streams that use it")
        is_owner = get_ident() == self.owner.ident and not in_host_function()
        if is_owner:
            self.collect()
        if self.waiting >= self._backlog:
            if not (is_owner and self._waits):
                raise BacklogFullError(f"{self._backlog} buffers wait to be freed by {self.owner}")
            self._wait_for_oldest()
        taken = Buffer(self.context, buffer._take(), buffer.capacity)
        if is_owner:
            self._gate(taken, streams)
        else:
            self._arrived.append((taken, streams))

    def collect(self) -> int:
        """Frees what can be without waiting; how many were. For the owner, e.g. after each step."""
        self._require_owner("collect")
        self._admit()
        kept: deque[_Gated] = deque()
        freed = 0
        while self._gated:
            gated = self._gated.popleft()
            if all(event.done() for event in gated.events):
                self._let_go(gated)
                freed += 1
            else:
                kept.append(gated)
        self._gated = kept
        return freed

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
        if get_ident() != self.owner.ident or in_host_function():
            raise lost(f"{type(self).__name__}.{call}", self.context.handle, self.owner)

    def _admit(self) -> None:
        """Recorded now, an event is reached later than when ``free`` was called, never sooner."""
        while self._arrived:
            self._gate(*self._arrived.popleft())

    def _gate(self, buffer: Buffer, streams: Sequence[Stream]) -> None:
        events = tuple(self._events.pop() if self._events else self.context.event() for _ in streams)
        for event, stream in zip(events, streams, strict=True):
            event.record(stream)
        self._gated.append(_Gated(buffer, events))

    def _wait_for_oldest(self) -> None:
        self._admit()
        gated = self._gated.popleft()
        for event in gated.events:
            event.synchronize()
        self._let_go(gated)

    def _let_go(self, gated: _Gated) -> None:
        self._events += gated.events
        self._give_back(gated.buffer)

    def _give_back(self, buffer: Buffer) -> None:
        buffer.free()


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
            if error.code != _OUT_OF_MEMORY or not (self._idle or self._gated):
                raise
        self.drain()
        self.trim()
        return self.context.alloc(size)

    def trim(self) -> None:
        """Gives what is not in use back to the driver. For the owner."""
        self._require_owner("trim")
        while self._idle:
            for buffer in self._idle.popitem()[1]:
                buffer.free()

    def close(self) -> None:
        super().close()
        if self.context._context is not None:
            self.trim()

    def _give_back(self, buffer: Buffer) -> None:
        if buffer.capacity % GRANULE:  # not from here: of no use to ``alloc``
            buffer.free()
        else:
            self._idle.setdefault(buffer.capacity, []).append(buffer)
