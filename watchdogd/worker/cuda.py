"""CUDA for a worker, by cuda-python: a context of its own, whose calls say in the heartbeat that they may be stuck.

    from watchdogd.worker import cuda

    with cuda.Context(device=0, wait="blocking") as ctx:
        stream, host, buffer = ctx.stream(), ctx.alloc_host(4096), ctx.alloc(4096)
        kernel = ctx.module(image).kernel("scale")
        stream.copy_in(buffer, host)
        stream.launch(kernel, grid=4, block=256, arguments=(buffer, 1024))
        stream.copy_out(host, buffer)
        stream.synchronize()
        result = host.view.cast("f")

Invariant: every driver call is made inside ``worker.call(...)``, with its context current to the calling thread for
that long and no longer, whatever other library has one there. ``sync``: a stream or context is waited for; ``event``:
an event is; ``alloc`` and ``free``: memory, also page-locked; ``copy``: queueing a copy; ``launch``: queueing anything
else; ``other``: the rest.

A call that fails raises CudaError with the CUresult's name, StickyCudaError where only a new process helps. Nothing
calls the driver when it is garbage-collected, as that may block at any time: what is not closed lives as long as its
context, and a context that is not closed as long as the process.
"""

from __future__ import annotations

import ctypes
import mmap
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakValueDictionary

from watchdogd.cuda_results import STICKY_ERRORS
from watchdogd.worker import attach
from watchdogd.worker.cuda_buffers import Buffer, HostBuffer, HotLoopWarning, notice
from watchdogd.worker.cuda_driver import (
    NOT_READY,
    SUCCESS,
    ContextFailedError,
    CudaError,
    CudaUnavailableError,
    StickyCudaError,
    check,
    create_context,
    driver,
    exit_on_sticky,
    failure,
    initialize,
    native,
)
from watchdogd.worker.cuda_order import MODES, Line, OrderError, reached
from watchdogd.worker.cuda_place import MISUSES, ContextLost, HostFunctionError, Owner, Place, in_host_function
from watchdogd.worker.cuda_resources import Event, Kernel, Module, Stream

__all__ = [
    "Buffer",
    "Context",
    "ContextFailedError",
    "ContextLost",
    "CudaError",
    "CudaUnavailableError",
    "Event",
    "HostBuffer",
    "HostFunctionError",
    "HotLoopWarning",
    "Kernel",
    "Module",
    "OrderError",
    "StickyCudaError",
    "Stream",
    "exit_on_sticky",
]

_FLAGS = driver.CUctx_flags
_WAITS = {
    "auto": int(_FLAGS.CU_CTX_SCHED_AUTO),
    "spin": int(_FLAGS.CU_CTX_SCHED_SPIN),
    "yield": int(_FLAGS.CU_CTX_SCHED_YIELD),
    "blocking": int(_FLAGS.CU_CTX_SCHED_BLOCKING_SYNC),
}
_NON_BLOCKING = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
_DISABLE_TIMING = int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
_BLOCKING_SYNC = int(driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC)

_GLOBAL = int(driver.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL)

_open: set[Context] = set()


class Context:
    """A context of this process on a device; any thread may use it, and a process may have several.

    ``wait``: how a thread waits for the device. "blocking" sleeps; "spin" answers some microseconds sooner and costs a
    core; "yield" spins but lets others run; "auto" is the driver's choice. ``with Context() as ctx`` closes it, and
    until then has it current to the thread, which saves 0.2 us a call. Raises CudaUnavailableError without a driver.

    ``owner="thread"`` pins it to the calling thread, where it is current until it is closed: a call by any other
    thread, or while another context is current there, raises ContextLost. ``on_misuse="rebind"`` makes the call all the
    same, with the context current for it, and counts it in ``rebound``.

    ``order``: where two streams use the same memory with no order between them, "insert" has the later wait for the
    earlier, by an event; "strict" raises OrderError; "off" leaves it to the caller.
    """

    def __init__(
        self, device: int = 0, wait: str = "blocking", *, owner: str | None = None, on_misuse: str = "raise",
        order: str = "insert",
    ) -> None:  # fmt: skip
        _one_of("wait", wait, _WAITS)
        _one_of("owner", owner, (None, "thread"))
        _one_of("on_misuse", on_misuse, MISUSES)
        _one_of("order", order, MODES)
        if in_host_function():
            raise HostFunctionError("Context")
        guards = [attach().call(name) for name in ("sync", "event", "alloc", "free", "copy", "launch", "other")]
        self._sync, self._event, self._alloc, self._free, self._copy, self._launch, self._other = guards
        # An event goes by its own flag, not by its context's.
        self._event_flags = _DISABLE_TIMING | (_BLOCKING_SYNC if wait == "blocking" else 0)
        self._pinned: dict[int, HostBuffer] = {}
        with self._other:
            initialize()
            self._context: Any = create_context(_WAITS[wait], device)
            self._place = Place(self._context, owner is not None, on_misuse)
            if owner is not None:
                check(driver.cuCtxPushCurrent, self._context)
        self._look()
        self._order = order
        self._stream: type[Stream] = Stream
        if attach().is_bisecting:
            from watchdogd.worker.cuda_bisecting import SynchronizedStream  # noqa: PLC0415 - nobody else is to pay

            self._stream = SynchronizedStream
        self._lines: WeakValueDictionary[int, Line] = WeakValueDictionary()
        self.hot_calls = 0
        """How many allocs and frees were made inside steps of a ready worker; each line of code is warned of once."""
        self._raised: deque[BaseException] = deque()  # by host functions
        self._queued: tuple[str, Any] | None = None  # what was last, and in which CUstream
        _open.add(self)

    def _look(self) -> None:
        """Bound here rather than methods that call: a Python frame costs more than the check."""
        self._here = self._place.here
        self.check: Callable[[], None] = self._place.check
        """Raises ContextLost unless it is current here and now and, if it is pinned, this is its thread. 0.1 us."""
        self.expected: AbstractContextManager[None] = self._place.expected
        """``with context.expected:`` around other libraries' calls: checks before them, and after them once more."""

    def _run(self, guard: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        with guard:
            context = self._context
            if context is None:
                raise ValueError("the Context is closed")
            if self._here():
                answer = function(*arguments)
            else:
                self._place.away(function.__name__)
                answer = driver.cuCtxPushCurrent(context)
                if answer[0] is SUCCESS:
                    try:
                        answer = function(*arguments)
                    finally:
                        driver.cuCtxPopCurrent()
        if answer[0] is not SUCCESS:
            if answer[0] is NOT_READY:
                return NOT_READY
            raise failure(answer[0], function.__name__, self._last_queued(int(answer[0])))
        return answer[1] if len(answer) > 1 else None

    def _new_line(self, stream: Stream) -> Line | None:
        if self._order == "off":
            return None
        line = Line(stream, self._order == "strict")
        self._lines[id(line)] = line
        return line

    def _raise(self) -> None:
        if self._raised:
            raise self._raised.popleft()

    def _last_queued(self, code: int) -> str:
        """Here, and after a sticky error, which is the process's, in each other context, too."""
        others = _open - {self} if code in STICKY_ERRORS else ()
        queued = [context._queued for context in (self, *others)]
        return ", ".join(f"{last[0]} in CUstream {int(native(last[1])):#x}" for last in queued if last is not None)

    def stream(self, owner: str | None = None) -> Stream:
        """A new stream, independent of the legacy default stream. ``owner="thread"``: only for the calling thread."""
        _one_of("owner", owner, (None, "thread"))
        handle = self._run(self._other, driver.cuStreamCreate, _NON_BLOCKING)
        pinned = None if owner is None else Owner.calling()
        return self._stream(self, handle, None if pinned == self.owner else pinned)  # or a misuse would count twice

    def event(self) -> Event:
        return Event(self, self._run(self._other, driver.cuEventCreate, self._event_flags))

    def alloc(self, nbytes: int) -> Buffer:
        """Device memory, not cleared."""
        notice(self, "alloc")
        return Buffer(self, int(self._run(self._alloc, driver.cuMemAlloc, nbytes)), nbytes)

    def alloc_managed(self, nbytes: int) -> Buffer:
        """Memory of device and host alike, not cleared."""
        notice(self, "alloc")
        return Buffer(self, int(self._run(self._alloc, driver.cuMemAllocManaged, nbytes, _GLOBAL)), nbytes)

    def alloc_host(self, nbytes: int) -> HostBuffer:
        """Page-locked host memory, zeros."""
        # Our own pages, locked by the driver: a view that somebody kept is plain memory once they are freed, where the
        # driver's would be gone. Shared, as a write after a fork would move private ones away from under the device.
        notice(self, "alloc")
        memory = mmap.mmap(-1, nbytes)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._run(self._alloc, driver.cuMemHostRegister, address, nbytes, 0)
        host = self._pinned[address] = HostBuffer(self, address, memory)
        return host

    def module(self, image: bytes) -> Module:
        """Loads a cubin, a fatbin or PTX (which the driver compiles)."""
        return Module(self, self._run(self._other, driver.cuModuleLoadData, image))

    def synchronize(self) -> None:
        """Waits for everything queued in this context."""
        clocks = [line.clock() for ref in self._lines.valuerefs() if (line := ref()) is not None]
        self._run(self._sync, driver.cuCtxSynchronize)
        for clock in clocks:
            reached(clock)
        self._raise()

    @contextmanager
    def current(self) -> Iterator[Context]:
        """Has it current to this thread for a while: for other libraries, and for speed."""
        context = self._context
        self._run(self._other, driver.cuCtxPushCurrent, context)
        try:
            yield self
        finally:
            if driver.cuCtxGetCurrent()[1] == context:  # else it was closed, which popped it
                driver.cuCtxPopCurrent()

    def rebind(self) -> None:
        """Has it current to the calling thread in place of what is: once another library has changed that."""
        _ = self.handle
        self._place.require_owner("Context.rebind")
        self._place.rebind()

    @property
    def owner(self) -> Owner | None:
        """The thread it is pinned to."""
        return self._place.owner

    @property
    def rebound(self) -> int:
        """How many misuses were put right; with ``on_misuse="rebind"``."""
        return self._place.rebound

    @property
    def handle(self) -> int:
        """The CUcontext, for other libraries. ValueError once closed."""
        if self._context is None:
            raise ValueError("the Context is closed")
        return int(native(self._context))

    def close(self) -> None:
        """Destroys it and all that it has, which may wait for the device. Closed already: does nothing."""
        if self._context is None:
            return
        self._place.require_owner("Context.close")
        problem: CudaError | None = None
        for host in tuple(self._pinned.values()):  # the driver destroys the rest with the context
            try:
                host.unlock()
            except CudaError as error:
                problem = problem or error
        context, self._context = self._context, None
        if context is None:  # another thread was faster
            return
        _open.discard(self)
        self._place.close()
        self._look()
        with self._other:
            check(driver.cuCtxDestroy, context)
        if problem is not None:
            raise problem

    def __enter__(self) -> Context:
        if self._place.owner is None:  # else it is current already
            self._run(self._other, driver.cuCtxPushCurrent, self._context)
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            self.close()  # which also pops it
        except CudaError:
            if kind is None:  # else the error on its way says more than what follows from it
                raise


def _one_of(name: str, value: object, allowed: Collection[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: use one of {', '.join(map(str, allowed))}")
