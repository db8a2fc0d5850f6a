"""A program of cuda-python that knows nothing of us: waits for a kernel ten times, then for one that never ends."""

from __future__ import annotations

import sys
from typing import Any

from cuda.bindings import driver


def ok(result: Any) -> Any:
    if int(result[0]):
        sys.exit(str(result[0]))
    return result[1] if len(result) == 2 else None


ok(driver.cuInit(0))
ok(driver.cuCtxSetCurrent(ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))))
stream, module = ok(driver.cuStreamCreate(0)), ok(driver.cuModuleLoadData(b""))
for name in (*[b"sim_sleep_us_500"] * 10, b"sim_spin"):
    function = ok(driver.cuModuleGetFunction(module, name))
    ok(driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, 0, 0))
    ok(driver.cuStreamSynchronize(stream))
