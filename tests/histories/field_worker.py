"""``field_worker CASE DOES OPTIONS``, the worker of a field case: healthy frames, from a sign on what its report tells.

The sign is the file ``CASE.go``; when a harm of its own begins, that is written to ``CASE.began``. Invariant: a
successor is healthy, unless the options say ``always``.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import threading
import time
from typing import Any, NoReturn

from tests.helpers.workers.prelude import HERE, INCARNATION, LONG_SECONDS, hang, tell, worker
from watchdogd.worker import cuda
from watchdogd.worker.cuda_driver import driver, native
from watchdogd.worker.output import Canary, OutputCheck

COUNT, PERIOD = 256, 0.1
case, does, options = sys.argv[1], sys.argv[2], dict[str, Any](json.loads(sys.argv[3]))


def began() -> None:
    """For the first time; what successors do is what comes of it."""
    if INCARNATION == 1:
        tell(f"{case}.began", time.monotonic_ns())


class Model:
    """A network on one stream: what goes in comes out doubled."""

    def __init__(self, kernel: str = "sim_copy_scale__2000us") -> None:
        self.context = cuda.Context(wait=options.get("wait", "blocking"), owner="thread" if does == "misuse" else None)
        self.stream = self.context.stream()
        self.kernel = self.context.module(b"").kernel(kernel)
        self.given, self.taken = (self.context.alloc_host(4 * COUNT) for _ in range(2))
        self.buffers = [self.context.alloc(4 * COUNT) for _ in range(2)]
        self.synchronizes = True
        self._frames = 0
        self._check = OutputCheck(dtype="f")
        golden = struct.pack(f"{COUNT}f", *(2.0 * (1 + at) for at in range(COUNT)))
        self._canary = Canary(self.infer, 1, golden, dtype="f", every_seconds=0.2)

    def infer(self, number: int) -> memoryview:
        self.given.view[:] = struct.pack(f"{COUNT}f", *(number + at for at in range(COUNT)))
        self.stream.copy_in(self.buffers[0], self.given)
        self.stream.launch(self.kernel, 1, 1, (self.buffers[1], self.buffers[0], COUNT, 2.0))
        self.stream.copy_out(self.taken, self.buffers[1])
        if self.synchronizes:
            self.stream.synchronize()
        return self.taken.view

    def frame(self) -> None:
        self._frames += 1
        try:
            with worker.step():
                try:
                    self.infer(self._frames)
                except cuda.CudaError as error:
                    failed(error)
                self._check(self.taken.view)
            if self._canary.due():
                self._canary.run()
        except cuda.CudaError as error:
            failed(error)
        time.sleep(PERIOD)


def failed(error: cuda.CudaError) -> None:
    """What this program makes of it."""
    then = options.get("on_error")
    if then == "hang in free":
        with worker.call("free"):
            hang()
    elif then == "stall":
        hang()
    elif then != "swallow":
        raise error


def serve(model: Model) -> NoReturn:
    while True:
        model.frame()


# --- what happens ---------------------------------------------------------------------------------------------------


def infer(model: Model) -> None:
    """Goes on: what happens is the device's doing, or the kernel's."""
    time.sleep(options.get("idle", 0.0))
    if options.get("unsynchronized"):
        began()
        model.synchronizes = False


def stall(model: Model) -> None:
    """A step does not end, and no synchronize is in flight."""
    if options.get("beside"):
        threading.Thread(target=_stalled, args=(model,), daemon=True).start()
    else:
        _stalled(model)


def _stalled(model: Model) -> None:
    how, lock = options["how"], threading.Lock()
    with worker.step():
        began()
        if how == "lock":
            with lock:
                lock.acquire(timeout=LONG_SECONDS)
        elif how == "spin":
            while True:
                pass
        elif how == "poll":
            _poll(model)
        else:
            time.sleep(options.get("seconds", LONG_SECONDS))


def _poll(model: Model) -> None:
    """Asks an event for ever, as a program that wants no blocking call."""
    event = model.context.event()
    model.stream.launch(model.context.module(b"").kernel("sim_spin"), 1, 1)
    event.record(model.stream)
    with model.context.current():
        while driver.cuEventQuery(native(event._live))[0] != driver.CUresult.CUDA_SUCCESS:
            time.sleep(0.001)


def long_step(model: Model) -> None:
    """Long, and healthy: in chunks, each with a synchronize that returns."""
    until = time.monotonic() + options["seconds"]
    with worker.step():
        began()
        while time.monotonic() < until:
            model.infer(0)
            time.sleep(0.02)


def deadlock(model: Model) -> None:
    def allocate() -> None:
        while True:
            model.context.alloc_managed(64).free()

    def free() -> None:
        while True:
            model.context.alloc(64).free()

    for target in (allocate, free):
        threading.Thread(target=target, daemon=True).start()


def misuse(model: Model) -> None:
    """Another thread uses the stream; what it raises ends the program."""

    def other() -> None:
        try:
            began()
            model.stream.synchronize()
        except cuda.ContextLost as error:
            raised.append(error)

    raised: list[Exception] = []
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def call_hangs(model: Model) -> None:
    del model
    with worker.step(), worker.call("sync"):
        began()
        hang()


def child_dies(model: Model) -> None:
    """Its scheduler, a child, is gone: the request that waits for its answer will wait for ever."""
    del model
    answers, told = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(1)
    os.waitpid(child, 0)
    with worker.step():
        began()
        os.read(answers, 1)  # this process keeps the other end too, as they do
    os.close(told)


def leaves_child(model: Model) -> None:
    """Ends, and its data loader lives on, with all that it inherited."""
    del model
    if os.fork() == 0:
        ctypes.CDLL(None).sleep(int(LONG_SECONDS))
    began()
    os._exit(1)


def main() -> None:
    if options.get("on_error") == "exit":
        cuda.exit_on_sticky()
    model = Model()
    model.infer(1)  # may load code: before ready
    worker.ready()
    if options.get("dla"):
        threading.Thread(target=lambda: serve(Model("sim_dla0_copy_scale__3000us")), daemon=True).start()
    sign = HERE / f"{case}.go"
    while not sign.exists():
        model.frame()
    if INCARNATION == 1 or options.get("always"):
        globals()[does](model)
    serve(model)


if __name__ == "__main__":
    main()
