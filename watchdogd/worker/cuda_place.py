"""Where a context's calls belong: its own thread, if it is pinned to one, and itself current there.

``Context.check()`` and ``with context.expected:`` guard what other libraries do with a current context:

    with context.expected:          # raises ContextLost unless it is current here, now and after the block
        predictor.run()

Invariant: a misuse is one ContextLost that names both contexts and both threads, or, where the context was made with
``on_misuse="rebind"``, one count in ``rebound``. No driver call is made in a host function.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from watchdogd.worker import IMPLEMENTATION
from watchdogd.worker.cuda_driver import check, driver, native

TYPE_CHECKING = False
if TYPE_CHECKING or IMPLEMENTATION == "native":
    from watchdogd._native import host_function, in_host_function, place
else:
    from watchdogd.worker._place import host_function, in_host_function, place

__all__ = ["MISUSES", "ContextLost", "HostFunctionError", "Owner", "Place", "host_function", "in_host_function"]

MISUSES = ("raise", "rebind")
_ANY_THREAD, _NO_THREAD = 0, 2**64 - 1
_GET_CURRENT_SINCE = 4000  # the CUDA version that has cuCtxGetCurrent in its present form


class Owner(NamedTuple):
    """A thread."""

    ident: int
    name: str
    tid: int

    @classmethod
    def calling(cls) -> Owner:
        return cls(threading.get_ident(), threading.current_thread().name, threading.get_native_id())

    def is_calling(self) -> bool:
        """By both numbers: the interpreter gives that of a thread that has ended to the next one."""
        return self.ident == threading.get_ident() and self.tid == threading.get_native_id()

    def __str__(self) -> str:
        return f"thread {self.name!r} (tid {self.tid})"


class ContextLost(Exception):
    """A call made where its context is not current, or by a thread that is not its owner; nothing was called.

    ``expected`` and ``found``: CUcontexts, 0 for none. ``owner`` is None where any thread may call. ``stream``: the
    CUstream that is its owner's, 0 where the context is.
    """

    def __init__(
        self, call: str, expected: int, found: int, owner: Owner | None, caller: Owner, stream: int = 0
    ) -> None:
        super().__init__(call, expected, found, owner, caller, stream)
        self.call = call
        self.expected = expected
        self.found = found
        self.owner = owner
        self.caller = caller
        self.stream = stream

    def __str__(self) -> str:
        if self.stream:
            return f"{self.call}: CUstream {self.stream:#x} is of {self.owner}, not of {self.caller}; {self.remedy}"
        owner = "" if self.owner is None else f" of {self.owner}"
        found = f"context {self.found:#x}" if self.found else "no context"
        return f"{self.call}: expected context {self.expected:#x}{owner}, found {found} in {self.caller}; {self.remedy}"

    @property
    def remedy(self) -> str:
        if self.owner is None:
            return "make it current: with context.current()"
        if self.owner == self.caller:
            return "put it back with context.rebind(), or make on_misuse='rebind' do so"
        return "hand the call to its thread: CudaThread.submit"


class HostFunctionError(RuntimeError):
    """A CUDA call in a host function: the driver forbids it, and may wait there for ever."""

    def __init__(self, call: str) -> None:
        super().__init__(f"{call}: no CUDA call is allowed in a host function; hand the work to a thread")


def lost(call: str, expected: int, owner: Owner | None, stream: int = 0) -> Exception:
    """What to raise for a misuse by the calling thread."""
    if in_host_function():
        return HostFunctionError(call)
    return ContextLost(call, expected, int(native(check(driver.cuCtxGetCurrent))), owner, Owner.calling(), stream)


_WORDS = {
    "now": "check",
    "before": "before the block",
    "after": "after the block, which has changed the current context",
}


class Place:
    """``owned``: by the calling thread."""

    def __init__(self, context: Any, owned: bool, on_misuse: str) -> None:
        self.owner = Owner.calling() if owned else None
        self.rebound = 0
        self._context = context
        self._handle = int(native(context))
        self._raises = on_misuse == "raise"
        # The driver's own function: cuda-python would make three objects a call.
        self._get_current = int(check(driver.cuGetProcAddress, b"cuCtxGetCurrent", _GET_CURRENT_SINCE, 0))
        self._watch(self.owner.ident if self.owner else _ANY_THREAD)

    def _watch(self, thread: int) -> None:
        self.expected = place(self._get_current, self._handle, thread, self._missed)
        self.here = self.expected.here
        self.check = self.expected.check

    def close(self) -> None:
        """Before the context is destroyed: nothing is in its place from now on."""
        self._context = None
        self._watch(_NO_THREAD)

    def away(self, call: str) -> None:
        """For a call of ours that is not ``here``. Raises; or it may be made after a push of the context."""
        if self.owner is not None:
            self.misused(call)
        elif in_host_function():
            raise HostFunctionError(call)

    def misused(self, call: str, owner: Owner | None = None, stream: int = 0) -> None:
        """Raises, or counts. ``owner``: of a stream that is pinned for itself."""
        problem = lost(call, self._handle, owner or self.owner, stream)
        if self._raises or isinstance(problem, HostFunctionError):
            raise problem
        self.rebound += 1

    def require_owner(self, call: str) -> None:
        """For a call that needs the pinned thread, if there is one, but not the context. Raises, or counts."""
        if in_host_function():
            raise HostFunctionError(call)
        if self.owner is not None and not self.owner.is_calling():
            self.misused(call)

    def rebind(self) -> None:
        """Has the context current to the calling thread again."""
        check(driver.cuCtxSetCurrent, self._context)

    def _missed(self, when: str) -> None:
        """A call that is not ours, and not in its place."""
        if self._context is None:
            raise ValueError("the Context is closed")
        self.misused(_WORDS[when])
        self.rebind()
