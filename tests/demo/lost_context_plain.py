"""The service of the report, unguarded: plain cuda-python, one predictor, used by whichever thread takes a request."""

from __future__ import annotations

import ctypes
from typing import Any

from cuda.bindings import driver

from tests.demo.lost_context_requests import (
    BOXES,
    FACTOR,
    KERNEL,
    LOST_BEFORE,
    REQUESTS_ON_ONE_THREAD,
    changing,
    request,
    tally,
    told,
)
from tests.demo.lost_context_service import Handlers, destroy, must

NBYTES = BOXES * 4


class Predictor:
    """Its context is left current to the thread that makes it, and nobody looks at that again."""

    def __init__(self) -> None:
        must(driver.cuInit(0))
        self.context: Any = must(driver.cuCtxCreate(None, 0, must(driver.cuDeviceGet(0))))
        self.stream = must(driver.cuStreamCreate(int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        self.kernel = must(driver.cuModuleGetFunction(must(driver.cuModuleLoadData(b"")), KERNEL.encode()))
        self.input, self.output = must(driver.cuMemAlloc(NBYTES)), must(driver.cuMemAlloc(NBYTES))
        self.asked, self.answered = (ctypes.c_float * BOXES)(), (ctypes.c_float * BOXES)()
        for host in (self.asked, self.answered):  # page-locked, or the copies would wait
            must(driver.cuMemHostRegister(ctypes.addressof(host), NBYTES, 0))

    def run(self, asked: list[float]) -> list[float]:
        for box, value in enumerate(asked):
            self.asked[box] = value
        must(driver.cuMemcpyHtoDAsync(self.input, ctypes.addressof(self.asked), NBYTES, self.stream))
        arguments = int(self.output), int(self.input), len(asked), FACTOR
        types = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_float
        must(driver.cuLaunchKernel(self.kernel, 1, 1, 1, BOXES, 1, 1, 0, self.stream, (arguments, types), 0))
        must(driver.cuMemcpyDtoHAsync(ctypes.addressof(self.answered), self.output, NBYTES, self.stream))
        must(driver.cuCtxSynchronize())  # for the current context, whichever that is
        return list(self.answered)


def main() -> None:
    handlers = Handlers()
    shared = handlers.do(0, Predictor)  # kept to the end: the device may still write to its memory
    handlers.scatter()
    before = handlers.current()
    mixed = handlers.serve(shared.run)
    after = handlers.current()
    own = handlers.do(0, Predictor)
    reused = tally(REQUESTS_ON_ONE_THREAD, changing, lambda number: handlers.do(0, own.run, changing(number)))

    def after_losses(number: int) -> list[float]:
        if number in LOST_BEFORE:
            destroy(int(own.context))
        return handlers.do(0, own.run, request(number))

    lost = tally(REQUESTS_ON_ONE_THREAD, request, after_losses)
    told(before=before, after=after, mixed=mixed, reused=reused, lost=lost)


if __name__ == "__main__":
    main()
