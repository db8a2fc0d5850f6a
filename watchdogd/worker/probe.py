"""``python -m watchdogd.worker.probe``: is the GPU usable? A fresh context, a fill on the device, and what came of it.

Exit status 0: usable; 70: not usable; any other, 1 of an uncaught exception among them: nothing could be tried, so
nobody knows. It may also never return: that is for whoever started it. The GPU is that of ``WATCHDOGD_ACCELERATOR``; of
a DLA, which has no context of its own, the first.

Invariant: 0 only after the device itself has computed something and it was read back; 70 only after the driver has
refused what it does for a device in order.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import MutableMapping

USABLE, NOT_USABLE, UNKNOWN = 0, 70, 1
WORDS, PATTERN = 1024, 0x5AFE600D
# CUDA_ERROR_OUT_OF_MEMORY, which may be a neighbour's doing; DEVICE_UNAVAILABLE: another has it for itself;
# NO_DEVICE, INVALID_DEVICE: none like it can be seen from here.
NOT_TRIED = (2, 46, 100, 101)


def device(environment: MutableMapping[str, str]) -> int:
    """The ordinal to ask CUDA for; where only some devices are visible, the first of those."""
    number = re.fullmatch(r"gpu([0-9]{1,3})", environment.get("WATCHDOGD_ACCELERATOR", ""))
    if not number or "CUDA_VISIBLE_DEVICES" in environment:
        return 0
    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts; CUDA's own order begins with the fastest
    return int(number.group(1))


def probe(ordinal: int) -> int:
    try:
        from watchdogd.worker import cuda  # noqa: PLC0415 - that it cannot be imported is an answer
        from watchdogd.worker.cuda_driver import check, driver  # noqa: PLC0415 - as above
    except ImportError as error:
        return _say(UNKNOWN, error)
    try:
        with cuda.Context(ordinal) as context:
            stream, buffer, host = context.stream(), context.alloc(4 * WORDS), context.alloc_host(4 * WORDS)
            check(driver.cuMemsetD32Async, buffer.address, PATTERN, WORDS, stream.handle)  # a kernel of the driver's
            stream.copy_out(host, buffer)
            stream.synchronize()
            right = set(host.view.cast("I")) == {PATTERN}
    except cuda.CudaUnavailableError as error:
        return _say(UNKNOWN, error)
    except cuda.CudaError as error:
        return _say(UNKNOWN if error.code in NOT_TRIED else NOT_USABLE, error)
    return USABLE if right else _say(NOT_USABLE, "what the device has written reads differently")


def _say(status: int, why: object) -> int:
    print(f"watchdogd probe: {why}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(probe(device(os.environ)))
