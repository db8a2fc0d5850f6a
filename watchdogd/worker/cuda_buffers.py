"""Memory of a CUDA context's, on the device and page-locked on the host. See ``watchdogd.worker.cuda``.

Invariant: as of every resource: a closed one is never handed to the driver, to which no handle would mean something
else, and closing twice, or after the context, does nothing.
"""

from __future__ import annotations

import mmap
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from watchdogd.worker import in_step
from watchdogd.worker.cuda_driver import driver
from watchdogd.worker.cuda_order import Uses
from watchdogd.worker.cuda_place import ContextLost, HostFunctionError, in_host_function

if TYPE_CHECKING:
    from watchdogd.worker.cuda import Context


class HotLoopWarning(RuntimeWarning):
    """An alloc or a free inside a step of a ready worker."""


def notice(context: Context, operation: str) -> None:
    """Counts an alloc or a free in the hot loop; each line of code that asks for one there is warned of once."""
    if not in_step() or in_host_function():  # there the call will be refused
        return
    context.hot_calls += 1
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("watchdogd.worker."):
        level, frame = level + 1, frame.f_back
    text = f"{operation} inside a step: it may wait for the device; see Pool"
    warnings.warn(text, HotLoopWarning, level + 1)


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
        if released is None or self._context._context is None:
            return
        try:
            self._context._run(guard, function, released)
        except (ContextLost, HostFunctionError):  # nothing was called: who may close it still can
            self._object = released
            raise


class Memory(Resource):
    __slots__ = ("_uses", "nbytes")

    def __init__(self, context: Context, address: int, nbytes: int) -> None:
        super().__init__(context, address)
        self.nbytes = nbytes
        self._uses = Uses()

    @property
    def address(self) -> int:
        """ValueError once freed."""
        return int(self._live)

    def _take(self) -> int:
        """Its address, which is somebody else's from now on. ValueError once freed."""
        address, self._object = self.address, None
        return address


class Buffer(Memory):
    """Device memory. From ``Context.alloc``, ``Context.alloc_managed`` or ``Pool.alloc``."""

    __slots__ = ("capacity",)

    def __init__(self, context: Context, address: int, nbytes: int, capacity: int | None = None) -> None:
        super().__init__(context, address, nbytes)
        self.capacity = nbytes if capacity is None else capacity
        """What is there, ``nbytes`` or more."""

    def free(self) -> None:
        """Gives it back, which may wait for the device."""
        if self._object is not None:
            notice(self._context, "free")
        self._close(self._context._free, driver.cuMemFree)


class HostBuffer(Memory):
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
        if self._object is not None:
            notice(self._context, "free")
        self.unlock()

    def unlock(self) -> None:
        """``free``, where that is no matter of the hot loop: as its context is closed."""
        address = self._object
        self._close(self._context._free, driver.cuMemHostUnregister)
        self._context._pinned.pop(address, None)


def fits(source: Buffer | HostBuffer, target: Buffer | HostBuffer, nbytes: int | None = None) -> int:
    """How many bytes to copy: ``nbytes``, or the whole source. ValueError unless both have as many."""
    size = source.nbytes if nbytes is None else nbytes
    if size > source.nbytes:
        raise ValueError(f"{size} bytes are not in {source.nbytes}")
    if size > target.nbytes:
        raise ValueError(f"{size} bytes do not fit into {target.nbytes}")
    return size
