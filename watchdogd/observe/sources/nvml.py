"""Prints the load of each GPU that NVML knows, a JSON object a line. A discrete GPU's source, and Thor's. Now and then
also what each process holds of all their memory, where every GPU tells that.

Invariant: only NVML is called, never CUDA: no context, no GPU memory, no place in the GPU's queues. (NVML itself maps
libcuda and opens /dev/nvidia-uvm: seen with driver 580.159.04. One more reason to keep it out of the supervisor.)
A load that NVML does not have is ``null``. Indices are NVML's, which follow the PCI bus; CUDA's do so with
``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from watchdogd.model import DeviceMemory, LoadSample
from watchdogd.observe.sources import child

MEMORY_SECONDS = 10.0


class Gpus:
    """The GPUs found at the start. Raises `child.Unavailable` where there is no NVML, no driver or no GPU."""

    def __init__(self) -> None:
        self._complaints: set[str] = set()
        self._next_memory = 0.0
        try:
            self._nvml: ModuleType = importlib.import_module("pynvml")
        except ImportError as error:
            raise child.Unavailable(f"no NVML bindings ({error}): pip install 'watchdogd[nvml]'") from error
        # The driver may be older than the bindings: then it lacks what they call.
        mismatch = getattr(self._nvml, "NVMLLibraryMismatchError", self._nvml.NVMLError)
        self._refusals: tuple[type[Exception], ...] = (self._nvml.NVMLError, mismatch)
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            raise child.Unavailable(
                f"NVML does not answer ({error}): load the NVIDIA driver, or set command = [] for the nvml source"
            ) from error
        if count == 0:
            raise child.Unavailable("NVML finds no GPU: set command = [] for the nvml source")
        self._gpus = [(index, *self._identify(index)) for index in range(count)]

    def read(self) -> Sequence[LoadSample]:
        return [
            LoadSample(f"gpu{index}", self._load(index, handle, name), name, uuid)
            for index, handle, name, uuid in self._gpus
        ]

    def told(self) -> Sequence[child.Sample]:
        """The loads, and rarely who holds the memory: that list costs the driver more."""
        now = time.monotonic()
        if now < self._next_memory:
            return self.read()
        self._next_memory = now + MEMORY_SECONDS
        memory = self.memory()
        return self.read() if memory is None else (*self.read(), memory)

    def memory(self) -> DeviceMemory | None:
        """None where one GPU does not tell: a sum without it would be another figure every time that it does."""
        held: dict[str, int | None] = {}
        for index, handle, name, _ in self._gpus:
            if handle is None or (name and "(nvgpu)" in name):
                return None
            processes = self._ask(index, self._nvml.nvmlDeviceGetComputeRunningProcesses, handle)
            if processes is None:
                return None
            for process in processes:
                pid, used = str(process.pid), process.usedGpuMemory
                before = held.get(pid, 0)
                held[pid] = None if used is None or before is None else before + int(used)
        return DeviceMemory(held)

    def _identify(self, index: int) -> tuple[Any, str | None, str | None]:
        handle = self._ask(index, self._nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:  # a GPU that fell off the bus; the others are still worth reading
            return None, None, None
        name = self._ask(index, self._nvml.nvmlDeviceGetName, handle)
        return handle, name, self._ask(index, self._nvml.nvmlDeviceGetUUID, handle)

    def _load(self, index: int, handle: Any, name: str | None) -> float | None:
        # On Jetson Orin NVML answers for "Orin (nvgpu)" but what it says of the integrated GPU means nothing.
        if handle is None or (name and "(nvgpu)" in name):
            return None
        rates = self._ask(index, self._nvml.nvmlDeviceGetUtilizationRates, handle)
        return rates.gpu / 100 if rates is not None and rates.gpu <= 100 else None

    def _ask(self, index: int, function: Callable[[Any], Any], argument: Any) -> Any:
        """The answer, or None where NVML has none; why is said once on standard error."""
        try:
            return function(argument)
        except self._refusals as error:
            complaint = f"watchdogd: gpu{index}: {function.__name__}: {error}"
            if complaint not in self._complaints:
                print(complaint, file=sys.stderr, flush=True)
                self._complaints.add(complaint)
            return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m watchdogd.observe.sources.nvml", description="Print the GPUs' loads."
    )
    child.add_options(parser)
    options = parser.parse_args(arguments)
    return child.run(lambda: Gpus().read if options.once else Gpus().told, options.interval, options.once)


if __name__ == "__main__":
    sys.exit(main())
