"""cuda-python's driver API as ``watchdogd.worker.cuda`` uses it: found, checked, its errors typed and recorded.

Invariant: a result that is not success becomes exactly one exception and one record in the heartbeat, and a sticky
error recorded there stays: what fails after it is only its consequence.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from watchdogd.cuda_bindings import holds_gil
from watchdogd.cuda_results import CONTEXT_ERRORS, STICKY_ERRORS, STICKY_EXIT
from watchdogd.worker import attach

try:
    from cuda import bindings
    from cuda.bindings import driver
except ImportError as error:
    raise ImportError(
        f"watchdogd.worker.cuda needs cuda-python ({error}): pip install 'watchdogd[cuda]', for CUDA 12"
        " with 'cuda-bindings>=12.9.1,<13'"
    ) from error

try:
    from cuda.bindings.utils import get_cuda_native_handle as native
except ImportError:  # before 12.9.1
    native = int

__all__ = [
    "NOT_READY",
    "SUCCESS",
    "BacklogFullError",
    "ContextFailedError",
    "CudaError",
    "CudaUnavailableError",
    "StickyCudaError",
    "check",
    "create_context",
    "driver",
    "exit_on_sticky",
    "failure",
    "initialize",
    "native",
]

SUCCESS = driver.CUresult.CUDA_SUCCESS
NOT_READY = driver.CUresult.CUDA_ERROR_NOT_READY  # what a query says of work in flight; no error
_ASYNCHRONOUS = STICKY_ERRORS.keys() | {710}  # what only kernels and copies can do wrong


class CudaError(Exception):
    """A driver call that did not succeed: ``name`` and ``code`` of its CUresult, and the ``call``.

    ``origin``: whose error it is, where it is not the call's own.
    """

    def __init__(self, name: str, code: int, call: str, origin: str = "") -> None:
        super().__init__(name, code, call, origin)
        self.name = name
        self.code = code
        self.call = call
        self.origin = origin

    def __str__(self) -> str:
        return f"{self.call}: {self.name} ({self.code})" + (f"; {self.origin}" if self.origin else "")


class StickyCudaError(CudaError):
    """Every later call fails too: only a new process helps. The supervisor starts one where the error is recorded."""


class ContextFailedError(CudaError):
    """Every later call in this context fails too: only a new context helps."""


class CudaUnavailableError(RuntimeError):
    """There is no CUDA driver that this process can load."""


class BacklogFullError(RuntimeError):
    """More waits than was allowed: what was to be added was not, and is still the caller's."""


LAST_WORDS_SECONDS = 1.0

_sticky: tuple[int, str] | None = None  # the first of this process, and the call that brought it
_exits = False


def exit_on_sticky() -> None:
    """From now on, the first sticky error ends this process at once with status 76, whoever would catch it.

    What it was is on standard error, with the stack, unless nobody takes that within ``LAST_WORDS_SECONDS``, and in the
    heartbeat, so the supervisor names it. Nothing is tidied up (no ``finally``, no ``atexit``): after a sticky error,
    each CUDA call of that fails, or hangs.
    """
    global _exits  # noqa: PLW0603 (one process)
    _exits = True


def failure(result: Any, call: str, queued: str = "") -> CudaError:
    """The exception for a result, recorded in the heartbeat. ``queued``: what was last queued before the call."""
    global _sticky  # noqa: PLW0603 (one header per process)
    code = int(result)
    first = _sticky
    if first is None:
        if code in STICKY_ERRORS:
            _sticky = code, call
        attach().error(code)
        overtaken: Any = _sticky
        if overtaken is not None and overtaken[0] != code:  # another thread's, which this record may have hidden
            attach().error(overtaken[0])
    kind = StickyCudaError if code in STICKY_ERRORS else ContextFailedError if code in CONTEXT_ERRORS else CudaError
    error = kind(result.name, code, call, _origin(code, first, queued))
    if _exits and code in STICKY_ERRORS:
        _exit(error)
    return error


def _origin(code: int, first: tuple[int, str] | None, queued: str) -> str:
    """The driver tells of what went wrong on the device at some later call, which has nothing to do with it."""
    if code not in _ASYNCHRONOUS:
        return ""
    if first is not None:
        return f"as since {first[1]}"
    return "of earlier asynchronous work" + (f", last queued: {queued}" if queued else "")


def _exit(error: CudaError) -> None:
    stack = "".join(traceback.format_stack(sys._getframe(2)))
    try:  # in a thread: a pipe may be full, and its lock be held by one who waits for that
        words = f"{stack}watchdogd: {error}: this process ends with status {STICKY_EXIT}\n"
        speaker = threading.Thread(target=_speak, args=(words,), daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS_SECONDS)
    finally:
        os._exit(STICKY_EXIT)


def _speak(words: str) -> None:
    for stream, text in ((sys.stderr, words), (sys.stdout, "")):
        try:
            stream.write(text)
            stream.flush()
        except (AttributeError, OSError, ValueError):  # there is none, or no reader: no reason to stay
            continue


def check(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the driver: its value, or None where it has none. Raises CudaError."""
    answer = function(*arguments)
    if answer[0] is not SUCCESS:
        raise failure(answer[0], function.__name__)
    return answer[1] if len(answer) > 1 else None


def initialize() -> None:
    """``cuInit``, with words for what is missing. Raises CudaUnavailableError or CudaError."""
    try:
        check(driver.cuInit, 0)
    except (RuntimeError, OSError) as error:  # RuntimeError is how the bindings say that dlopen failed
        raise CudaUnavailableError(
            f"no CUDA driver: {str(error).rstrip('.')}. Install NVIDIA's driver (on Jetson: JetPack); start a container"
            " with the NVIDIA runtime (docker run --gpus all, on Jetson --runtime nvidia)"
        ) from None


def create_context(flags: int, device: int) -> Any:
    """A new context, current to nobody. Raises CudaError."""
    ordinal = check(driver.cuDeviceGet, device)
    before_13 = driver.CUDA_VERSION < 13000
    context = check(driver.cuCtxCreate, *(() if before_13 else (None,)), flags, ordinal)
    check(driver.cuCtxPopCurrent)
    return context


if holds_gil(bindings.__version__):
    print(
        f"watchdogd: cuda-bindings {bindings.__version__} holds the GIL during driver calls: a hung call stops every"
        " thread of this process; install cuda-bindings 12.9.1 or later",
        file=sys.stderr,
    )
