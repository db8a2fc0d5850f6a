"""Which TensorRT module is there, and what it says: the first that fits the plan, with one logger for this process.

Invariant: no runtime is used, nor freed, that TensorRT complained of while it made it. Without a driver, or with one
that it cannot use, ``tensorrt_lean`` (10.16 and 11.4) logs errors and makes one whose first use, and whose end, is a
segmentation fault. The logger never raises, and keeps what an exception is to tell.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from watchdogd.worker.cuda_driver import CudaUnavailableError, initialize
from watchdogd.worker.tensorrt_api import Named, Runtime

NAMES = ("tensorrt", "tensorrt_lean", "tensorrt_rtx")
_KEPT = 32  # messages
_ERRORS = ("INTERNAL_ERROR", "ERROR")
_TOLD = (*_ERRORS, "WARNING")


class TensorRTUnavailableError(ImportError):
    """There is no TensorRT module that this process can import."""


class Messages:
    """What TensorRT said lately. Warnings and errors go to standard error, too."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, str]] = deque(maxlen=_KEPT)
        self.count = 0
        """How many errors so far."""

    def add(self, severity: str, text: str) -> None:
        if severity in _ERRORS:
            self.count += 1
            self._kept.append((self.count, text))
        if severity in _TOLD:
            with suppress(OSError, ValueError):  # nobody reads it: no reason to raise into TensorRT's C++
                print(f"watchdogd: TensorRT {severity.lower()}: {text}", file=sys.stderr)

    def errors(self, since: int = 0) -> str:
        """The errors kept, beyond the first ``since``."""
        return "; ".join(text for number, text in self._kept if number > since)


@dataclass(frozen=True)
class Module:
    """A TensorRT module. ``trt`` is the module itself."""

    name: str
    version: str
    trt: Any
    messages: Messages
    logger: object

    @property
    def has_dla(self) -> bool:
        return self.name != "tensorrt_rtx" and int(self.version.split(".")[0]) < 11

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def runtime(self) -> Runtime:
        """A new one. Raises CudaUnavailableError where there is no driver, or none that it can use."""
        initialize()
        before = self.messages.count
        made: Runtime = self.trt.Runtime(self.logger)
        if self.messages.count > before:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # for good
            raise CudaUnavailableError(f"{self} cannot use the driver here: {self.messages.errors(before)}")
        return made


def find(names: tuple[str, ...] = NAMES) -> Module:
    """The first of these that can be imported. Raises TensorRTUnavailableError."""
    problems = []
    for name in names:
        try:
            return _load(name)
        except (ImportError, AttributeError, OSError) as error:  # also a mere folder of that name, or libraries amiss
            problems.append(f"{name}: {error}")
    wanted = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    raise TensorRTUnavailableError(
        f"no module of TensorRT's for this plan ({'; '.join(problems)}): on Jetson it is the system Python's (JetPack;"
        f" make the environment with --system-site-packages), else pip install {wanted}"
    )


@cache
def _load(name: str) -> Module:
    trt = importlib.import_module(name)
    messages = Messages()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # its bindings want it by name

        def log(self, severity: Named, msg: str) -> None:
            messages.add(severity.name, msg)

    # One for the process: TensorRT complains of a second.
    module = Module(name, str(trt.__version__), trt, messages, Logger())
    print(f"watchdogd: inference by {module}", file=sys.stderr)
    return module
