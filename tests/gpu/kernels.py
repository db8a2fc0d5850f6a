"""The kernels of the GPU tests, or their likes where the driver is the simulated one.

Invariant: what they are called with is the same on both, and they run on the current device 0.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from cuda.bindings import driver

from watchdogd.worker import cuda

PTX = Path(__file__).with_name("kernels.ptx")


def device_name() -> str:
    """Of device 0, once there is a context."""
    name: bytes = driver.cuDeviceGetName(96, 0)[1]
    return name.split(b"\0")[0].decode()


class Kernels:
    """``empty``, ``sleep`` and ``spin`` in one context."""

    def __init__(self, ctx: cuda.Context, stream: cuda.Stream, sleep_us: int) -> None:
        self._stream = stream
        module = ctx.module(PTX.read_bytes() + b"\0")
        names = ["empty", "sleep_us", "spin"]
        if device_name().startswith("Simulated"):  # it goes by a kernel's name alone
            names = ["sim_sleep_us_0", f"sim_sleep_us_{sleep_us}", "sim_spin"]
        self._empty, self._sleep, self._spin = map(module.kernel, names)
        self._duration = ctypes.c_uint32(sleep_us)

    def empty(self) -> None:
        self._stream.launch(self._empty, 1, 1)

    def sleep(self) -> None:
        """For ``sleep_us``."""
        self._stream.launch(self._sleep, 1, 1, (self._duration,))

    def spin(self) -> None:
        """For ever."""
        self._stream.launch(self._spin, 1, 1)
