"""Prints the load of each GPU that NVML knows, a JSON object a line. A discrete GPU's source, and Thor's.

Invariant: only NVML is called, never CUDA: no context, no GPU memory, no place in the GPU's queues. (NVML itself maps
libcuda and opens /dev/nvidia-uvm: seen with driver 580.159.04. One more reason to keep it out of the supervisor.)
A load that NVML does not have is ``null``. Indices are NVML's, which follow the PCI bus; CUDA's do so with
``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from watchdogd.model import LoadSample
from watchdogd.observe.sources import child


class Gpus:
    """The GPUs found at the start. Raises `child.Unavailable` where there is no NVML, no driver or no GPU."""

    def __init__(self) -> None:
        self._complaints: set[str] = set()
        try:
            self._nvml: ModuleType = importlib.import_module("pynvml")
        except ImportError as error:
            raise child.Unavailable(f"no NVML bindings ({error}): pip install 'watchdogd[nvml]'") from error
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
        except self._nvml.NVMLError as error:
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
    return child.run(lambda: Gpus().read, options.interval, options.once)


if __name__ == "__main__":
    sys.exit(main())
