"""cuda-python's driver API as ``watchdogd.worker.cuda`` uses it: found, checked, its errors typed and recorded.

Invariant: a result that is not success becomes exactly one exception and one record in the heartbeat, and a sticky
error recorded there stays: what fails after it is only its consequence.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from watchdogd.cuda_bindings import holds_gil
from watchdogd.cuda_results import STICKY_ERRORS
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
    "SUCCESS",
    "CudaError",
    "CudaUnavailableError",
    "StickyCudaError",
    "check",
    "create_context",
    "driver",
    "failure",
    "initialize",
    "native",
]

SUCCESS = driver.CUresult.CUDA_SUCCESS


class CudaError(Exception):
    """A driver call that did not succeed: ``name`` and ``code`` of its CUresult, and the ``call``."""

    def __init__(self, name: str, code: int, call: str) -> None:
        super().__init__(name, code, call)
        self.name = name
        self.code = code
        self.call = call

    def __str__(self) -> str:
        return f"{self.call}: {self.name} ({self.code})"


class StickyCudaError(CudaError):
    """Every later call fails too: only a new process helps. The supervisor starts one where the error is recorded."""


class CudaUnavailableError(RuntimeError):
    """There is no CUDA driver that this process can load."""


_sticky = 0  # the first of this process


def failure(result: Any, call: str) -> CudaError:
    """The exception for a result, recorded in the heartbeat."""
    global _sticky  # noqa: PLW0603 (one header per process)
    code = int(result)
    if not _sticky:
        if code in STICKY_ERRORS:
            _sticky = code
        attach().error(code)
        if _sticky not in (0, code):  # another thread's, which this record may have hidden
            attach().error(_sticky)
    return (StickyCudaError if code in STICKY_ERRORS else CudaError)(result.name, code, call)


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
