"""What belongs to a CUDA context: streams, events, memory, modules. See ``watchdogd.worker.cuda``.

Invariant: a closed one is never handed to the driver, to which no handle would mean something else (the legacy stream),
and closing twice, or after the context, does nothing.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any

from watchdogd.worker.cuda_driver import driver, native
from watchdogd.worker.cuda_host import TRAMPOLINE, forget, queued
from watchdogd.worker.cuda_place import Owner

if TYPE_CHECKING:
    from watchdogd.worker.cuda import Context


class Resource:
    """Something of a context's, gone with it."""

    __slots__ = ("_context", "_object")

    def __init__(self, context: Context, handle: Any) -> None:
        self._context = context
        self._object = handle

    @property
    def _live(self) -> Any:
        if self._object is None:
            raise ValueError(f"the {type(self).__name__} is closed")
        return self._object

    def _close(self, guard: Any, function: Callable[..., Any]) -> None:
        released, self._object = self._object, None
        if released is not None and self._context._context is not None:
            self._context._run(guard, function, released)


class Stream(Resource):
    """What is queued in it runs in order. From ``Context.stream``."""

    __slots__ = ("_owner",)

    def __init__(self, context: Context, handle: Any, owner: Owner | None = None) -> None:
        super().__init__(context, handle)
        self._owner = owner

    def _run(self, guard: Any, function: Callable[..., Any], *arguments: Any) -> None:
        if self._owner is not None and self._owner.ident != get_ident():
            self._context._place.misused(function.__name__, self._owner)
        self._context._run(guard, function, *arguments)

    def _queue(self, what: str, guard: Any, function: Callable[..., Any], *arguments: Any) -> None:
        self._run(guard, function, *arguments)
        self._context._queued = what, self._object

    @property
    def handle(self) -> int:
        """The CUstream, for other libraries. ValueError once closed."""
        return int(native(self._live))

    def synchronize(self) -> None:
        """Waits until all that was queued is done."""
        self._run(self._context._sync, driver.cuStreamSynchronize, self._live)
        self._context._raise()

    def wait(self, event: Event) -> None:
        """What is queued from now on runs after the event; nothing waits here."""
        self._run(self._context._launch, driver.cuStreamWaitEvent, self._live, event._live, 0)

    def copy_in(self, buffer: Buffer, host: HostBuffer) -> None:
        """Queues a copy of the whole host buffer to the device."""
        nbytes = _fits(host, buffer)
        arguments = buffer._live, host._live, nbytes, self._live
        self._queue("copy_in", self._context._copy, driver.cuMemcpyHtoDAsync, *arguments)

    def copy_out(self, host: HostBuffer, buffer: Buffer) -> None:
        """Queues a copy of the whole device buffer to the host."""
        nbytes = _fits(buffer, host)
        arguments = host._live, buffer._live, nbytes, self._live
        self._queue("copy_out", self._context._copy, driver.cuMemcpyDtoHAsync, *arguments)

    def launch(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        arguments: Sequence[object] = (),
        shared: int = 0,
    ) -> None:
        """Queues a kernel; ``shared``: bytes of dynamic shared memory.

        Arguments: a Buffer is a pointer, an int a C int, a float a C float, anything of ctypes what it says. The driver
        cannot check their number and types.
        """
        values = [_as_ctypes(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = *_three(grid), *_three(block)
        parameters = ctypes.addressof(pointers) if values else 0
        call = driver.cuLaunchKernel, kernel._live, *sizes, shared, self._live, parameters, 0
        self._queue(kernel.name, self._context._launch, *call)

    def host_function(self, function: Callable[[], object]) -> None:
        """Queues a call of a Python function, in a thread of the driver's; what is queued after it waits for it.

        It must make no CUDA call (one of ours raises HostFunctionError there) and wait for nothing that needs the GPU.
        What it raises is raised by the context's next ``synchronize`` of anything. After an error in the context it is
        not called at all, so better record an event, and wait for that.
        """
        number = queued(function, self._context._raised)
        arguments = self._live, TRAMPOLINE, number
        try:
            self._queue("a host function", self._context._launch, driver.cuLaunchHostFunc, *arguments)
        except BaseException:
            forget(number)
            raise

    def close(self) -> None:
        """Destroys it; what is queued still runs."""
        self._close(self._context._other, driver.cuStreamDestroy)


class Event(Resource):
    """A point in a stream. From ``Context.event``; it keeps no time."""

    __slots__ = ()

    @property
    def handle(self) -> int:
        """The CUevent, for other libraries. ValueError once closed."""
        return int(native(self._live))

    def record(self, stream: Stream) -> None:
        """It is reached when all that is queued in the stream so far is done."""
        stream._run(self._context._launch, driver.cuEventRecord, self._live, stream._live)

    def synchronize(self) -> None:
        """Waits until it is reached; at once if it was never recorded."""
        self._context._run(self._context._event, driver.cuEventSynchronize, self._live)
        self._context._raise()

    def done(self) -> bool:
        """Whether it is reached; waits for nothing."""
        return self._context._run(self._context._other, driver.cuEventQuery, self._live) is None

    def close(self) -> None:
        self._close(self._context._other, driver.cuEventDestroy)


class _Memory(Resource):
    __slots__ = ("nbytes",)

    def __init__(self, context: Context, address: int, nbytes: int) -> None:
        super().__init__(context, address)
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """ValueError once freed."""
        return int(self._live)

    def _take(self) -> int:
        """Its address, which is somebody else's from now on. ValueError once freed."""
        address, self._object = self.address, None
        return address


class Buffer(_Memory):
    """Device memory. From ``Context.alloc``, ``Context.alloc_managed`` or ``Pool.alloc``."""

    __slots__ = ("capacity",)

    def __init__(self, context: Context, address: int, nbytes: int, capacity: int | None = None) -> None:
        super().__init__(context, address, nbytes)
        self.capacity = nbytes if capacity is None else capacity
        """What is there, ``nbytes`` or more."""

    def free(self) -> None:
        """Gives it back, which may wait for the device."""
        self._context._count("free")
        self._close(self._context._free, driver.cuMemFree)


class HostBuffer(_Memory):
    """Page-locked host memory. From ``Context.alloc_host``."""

    __slots__ = ("_memory",)

    def __init__(self, context: Context, address: int, memory: mmap.mmap) -> None:
        super().__init__(context, address, len(memory))
        self._memory = memory

    @property
    def view(self) -> memoryview:
        """The bytes, to read and write. A view kept after ``free`` is plain memory. ValueError once freed."""
        _ = self._live
        return memoryview(self._memory)

    def free(self) -> None:
        """Unlocks it, which may wait for the device."""
        self._context._count("free")
        address = self._object
        self._close(self._context._free, driver.cuMemHostUnregister)
        self._context._pinned.pop(address, None)


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


def _fits(source: Buffer | HostBuffer, target: Buffer | HostBuffer) -> int:
    if source.nbytes > target.nbytes:
        raise ValueError(f"{source.nbytes} bytes do not fit into {target.nbytes}")
    return source.nbytes


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
