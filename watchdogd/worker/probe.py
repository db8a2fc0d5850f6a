"""``python -m watchdogd.worker.probe``: is the GPU usable? A fresh context, a fill on the device, and what came of it.

Exit status 0: usable; 1: not usable; 2: nothing could be tried, so nobody knows. It may also never return: that is for
whoever started it. The GPU is that of ``WATCHDOGD_ACCELERATOR``; of a DLA, which has no context of its own, the first.

Invariant: 0 only after the device itself has computed something and it was read back.
"""

from __future__ import annotations

import os
import re
import sys

USABLE, NOT_USABLE, UNKNOWN = 0, 1, 2
WORDS, PATTERN = 1024, 0x5AFE600D
INVALID_DEVICE = 101  # CUDA_ERROR_INVALID_DEVICE: asked for the wrong one


def device(accelerator: str, visible: str | None) -> int:
    """The ordinal to ask CUDA for; where only some devices are visible, the first of those."""
    number = re.fullmatch(r"gpu([0-9]{1,3})", accelerator)
    return int(number.group(1)) if number and visible is None else 0


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
        return _say(UNKNOWN if error.code == INVALID_DEVICE else NOT_USABLE, error)
    return USABLE if right else _say(NOT_USABLE, "what the device has written reads differently")


def _say(status: int, why: object) -> int:
    print(f"watchdogd probe: {why}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(probe(device(os.environ.get("WATCHDOGD_ACCELERATOR", ""), os.environ.get("CUDA_VISIBLE_DEVICES"))))
