"""What belongs to a CUDA context: streams, events, modules. See ``watchdogd.worker.cuda``.

Invariant: a closed one is never handed to the driver, to which no handle would mean something else (the legacy stream),
and closing twice, or after the context, does nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from watchdogd.worker.cuda_buffers import Buffer, HostBuffer, Memory, Resource, fits
from watchdogd.worker.cuda_driver import ContextFailedError, StickyCudaError, driver, native
from watchdogd.worker.cuda_host import TRAMPOLINE, forget, queued
from watchdogd.worker.cuda_order import Line, reached
from watchdogd.worker.cuda_place import Owner

if TYPE_CHECKING:
    from watchdogd.worker.cuda import Context


class Stream(Resource):
    """What is queued in it runs in order. From ``Context.stream``."""

    __slots__ = ("_line", "_owner")

    def __init__(self, context: Context, handle: Any, owner: Owner | None = None) -> None:
        super().__init__(context, handle)
        self._owner = owner
        self._line = context._new_line(self)

    def _run(self, guard: Any, function: Callable[..., Any], *arguments: Any) -> None:
        if self._owner is not None:
            self._check_owner(function.__name__)
        self._context._run(guard, function, *arguments)

    def _check_owner(self, call: str) -> None:
        if self._owner is not None and not self._owner.is_calling():
            self._context._place.misused(call, self._owner, self.handle)

    def _queue(
        self, what: str, reads: Collection[Memory], writes: Collection[Memory], guard: Any,
        function: Callable[..., Any], *arguments: Any,
    ) -> None:  # fmt: skip
        line, context = self._line, self._context
        if self._owner is not None:
            self._check_owner(function.__name__)
        if line is None:
            context._run(guard, function, *arguments)
            context._queued = what, self._object
            return
        line.begin(reads, writes)
        try:
            context._run(guard, function, *arguments)
            context._queued = what, self._object
            line.queue(reads, writes)
        finally:
            line.end(reads, writes)

    @contextmanager
    def ordered(
        self, reads: Iterable[Memory] = (), writes: Iterable[Memory] = (), what: str = "another library's work"
    ) -> Iterator[int]:
        """``with stream.ordered(...) as handle:`` around what another library queues here: what of that memory it uses.

        ``what`` that is: for errors that come of it.

        Before the block it is ordered behind other streams' uses, and theirs are behind it afterwards.
        """
        reads, writes = tuple(reads), tuple(writes)
        self._context._place.require_owner("Stream.ordered")
        self._check_owner("Stream.ordered")
        line, handle = self._line, self.handle
        if line is not None:
            line.begin(reads, writes)
        self._context._queued = what, self._object
        try:
            yield handle
        finally:  # what failed may have queued some of it
            if line is not None:
                line.queue(reads, writes)
                line.end(reads, writes)

    @property
    def handle(self) -> int:
        """The CUstream, for other libraries. ValueError once closed."""
        return int(native(self._live))

    @property
    def is_idle(self) -> bool:
        """Whether all that was queued is known to be done; that is never known with ``order="off"``."""
        return self._line is not None and not self._line.is_busy()

    def synchronize(self) -> None:
        """Waits until all that was queued is done."""
        line = self._line
        if line is None:
            self._run(self._context._sync, driver.cuStreamSynchronize, self._live)
        else:
            number, seen = line.queued, line.seen and dict(line.seen)
            self._run(self._context._sync, driver.cuStreamSynchronize, self._live)
            line.run(number, seen)
        if self._context._raised:
            self._context._raise()

    def wait(self, event: Event) -> None:
        """What is queued from now on runs after the event; nothing waits here."""
        clock = event._clock  # as it is now: one that another thread records meanwhile may be waited for, or not
        self._run(self._context._launch, driver.cuStreamWaitEvent, self._live, event._live, 0)
        if self._line is not None:
            self._line.join(clock)

    def copy_in(self, buffer: Buffer, host: HostBuffer, nbytes: int | None = None) -> None:
        """Queues a copy of the host buffer, or of its first bytes, to the device."""
        arguments = buffer._live, host._live, fits(host, buffer, nbytes), self._live
        self._queue("copy_in", (host,), (buffer,), self._context._copy, driver.cuMemcpyHtoDAsync, *arguments)

    def copy_out(self, host: HostBuffer, buffer: Buffer, nbytes: int | None = None) -> None:
        """Queues a copy of the device buffer, or of its first bytes, to the host."""
        arguments = host._live, buffer._live, fits(buffer, host, nbytes), self._live
        self._queue("copy_out", (buffer,), (host,), self._context._copy, driver.cuMemcpyDtoHAsync, *arguments)

    def copy(self, target: Buffer, source: Buffer, nbytes: int | None = None) -> None:
        """Queues a copy on the device; the source may be another context's of that device."""
        arguments = target._live, source._live, fits(source, target, nbytes), self._live
        self._queue("copy", (source,), (target,), self._context._copy, driver.cuMemcpyDtoDAsync, *arguments)

    def launch(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        arguments: Sequence[object] = (),
        shared: int = 0,
        reads: Collection[Buffer] = (),
    ) -> None:
        """Queues a kernel; ``shared``: bytes of dynamic shared memory.

        A Buffer among the arguments counts as written, unless it is in ``reads`` too: kernels of several streams that
        only read one, as weights are, need no order among them.

        Arguments: a Buffer is a pointer, an int a C int, a float a C float, anything of ctypes what it says. The driver
        cannot check their number and types.
        """
        values = [_as_ctypes(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = *_three(grid), *_three(block)
        parameters = ctypes.addressof(pointers) if values else 0
        call = driver.cuLaunchKernel, kernel._live, *sizes, shared, self._live, parameters, 0
        writes = [item for item in arguments if isinstance(item, Buffer)]
        if reads:
            read = set(map(id, reads))
            writes = [buffer for buffer in writes if id(buffer) not in read]
        self._queue(kernel.name, reads, writes, self._context._launch, *call)

    def fill(self, buffer: Buffer, byte: int) -> None:
        """Queues a fill of the whole device buffer."""
        arguments = buffer._live, byte, buffer.nbytes, self._live
        self._queue("fill", (), (buffer,), self._context._launch, driver.cuMemsetD8Async, *arguments)

    def host_function(self, function: Callable[[], object]) -> None:
        """Queues a call of a Python function, in a thread of the driver's; what is queued after it waits for it.

        It must make no CUDA call (one of ours raises HostFunctionError there) and wait for nothing that needs the GPU.
        What it raises is raised by the context's next ``synchronize`` of anything. After an error in the context it is
        not called at all, so better record an event, and wait for that.
        """
        number = queued(function, self._context._raised)
        arguments = self._live, TRAMPOLINE, number
        try:
            self._queue("a host function", (), (), self._context._launch, driver.cuLaunchHostFunc, *arguments)
        except BaseException:
            forget(number)
            raise

    def close(self) -> None:
        """Destroys it; what is queued still runs."""
        if self._object is not None:
            self._check_owner("cuStreamDestroy")
        if self._line is not None and self._line.is_busy():
            with suppress(ContextFailedError, StickyCudaError):  # there, nobody waits for anything any more
                self._line.mark()  # for those who will have to wait for it
        self._close(self._context._other, driver.cuStreamDestroy)


class Event(Resource):
    """A point in a stream. From ``Context.event``; it keeps no time."""

    __slots__ = ("_clock",)

    def __init__(self, context: Context, handle: Any) -> None:
        super().__init__(context, handle)
        self._clock: Mapping[Line, int] = {}

    @property
    def handle(self) -> int:
        """The CUevent, for other libraries. ValueError once closed."""
        return int(native(self._live))

    def record(self, stream: Stream) -> None:
        """It is reached when all that is queued in the stream so far is done."""
        # From before the call: what another thread queues meanwhile may be behind it, or not.
        clock = None if stream._line is None else stream._line.clock()
        stream._run(self._context._launch, driver.cuEventRecord, self._live, stream._live)
        if clock is not None:
            self._clock = clock

    def synchronize(self) -> None:
        """Waits until it is reached; at once if it was never recorded."""
        clock = self._clock
        self._context._run(self._context._event, driver.cuEventSynchronize, self._live)
        reached(clock)
        self._context._raise()

    def done(self) -> bool:
        """Whether it is reached; waits for nothing."""
        clock = self._clock
        if self._context._run(self._context._other, driver.cuEventQuery, self._live) is not None:
            return False
        reached(clock)
        return True

    def close(self) -> None:
        self._close(self._context._other, driver.cuEventDestroy)


class Module(Resource):
    """Kernels that were loaded together. From ``Context.module``."""

    __slots__ = ()

    def kernel(self, name: str) -> Kernel:
        """Raises CudaError with CUDA_ERROR_NOT_FOUND when there is none of that name."""
        context = self._context
        function = context._run(context._other, driver.cuModuleGetFunction, self._live, name.encode())
        return Kernel(context, function, name)

    def close(self) -> None:
        """Unloads it; its kernels are gone too."""
        self._close(self._context._other, driver.cuModuleUnload)


class Kernel(Resource):
    """A function of a module. From ``Module.kernel``."""

    __slots__ = ("name",)

    def __init__(self, context: Context, function: Any, name: str) -> None:
        super().__init__(context, function)
        self.name = name


def _three(extent: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (extent,) if isinstance(extent, int) else tuple(extent)
    return *sizes, *(1,) * (3 - len(sizes))


def _as_ctypes(argument: object) -> Any:
    if isinstance(argument, Buffer):
        return ctypes.c_void_p(argument.address)
    if isinstance(argument, int):
        if not -(2**31) <= argument < 2**31:  # ctypes would cut it short without a word
            raise ValueError(f"{argument} is no C int: say which type it is, e.g. ctypes.c_uint64({argument})")
        return ctypes.c_int(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument
