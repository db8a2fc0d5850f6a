"""A model of the vehicle: ``python -m tests.bench.soak.model NAME DIRECTORY [ACCELERATOR]``. Frames at its rate.

What it is to do to itself stands in ``NAME.orders`` (``Orders``); before it does that, it writes so to ``truth``.
``NAME.frames`` has a byte for each frame that was ever due, 1 once it was done. Invariant: a frame belongs to the
instant it was due at; one that could not begin before the next was due is lost, and stays 0.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import watchdogd.worker as wd
from tests.bench.soak.kinds import DLA_MODEL, KERNEL_US, PERIOD_MS
from tests.bench.soak.orders import Orders, append
from watchdogd import abi
from watchdogd.worker import cuda
from watchdogd.worker.cuda_driver import driver
from watchdogd.worker.cuda_recovery import Rebuilt
from watchdogd.worker.output import OutputCheck

COUNT = 1024  # numbers of an output
FOR_EVER = 1e6


class Network:
    """On a context and a stream of its own: what goes in comes out doubled."""

    def __init__(self, name: str) -> None:
        self.context = cuda.Context(owner="thread")
        self.stream = self.context.stream()
        engine = "dla0_" if name == DLA_MODEL else ""
        self.kernel = self.context.module(b"").kernel(f"sim_{engine}copy_scale__{KERNEL_US[name]}us")
        self.given, self.taken = (self.context.alloc_host(4 * COUNT) for _ in range(2))
        self.buffers = [self.context.alloc(4 * COUNT) for _ in range(2)]
        self._numbers = self.given.view.cast("f")
        for at in range(COUNT):
            self._numbers[at] = at + 1

    def infer(self, number: int) -> memoryview:
        self._numbers[0] = number
        self.stream.copy_in(self.buffers[0], self.given)
        self.stream.launch(self.kernel, 1, 1, (self.buffers[1], self.buffers[0], COUNT, 2.0))
        self.stream.copy_out(self.taken, self.buffers[1])
        self.stream.synchronize()
        self.context.alloc(64).free()
        return self.taken.view

    def close(self) -> None:
        self.context.close()


class Model:
    def __init__(self, name: str, directory: Path) -> None:
        self.worker = wd.attach()
        self.incarnation = int(os.environ[abi.ENVIRONMENT].rsplit(".", 1)[1])
        self._name, self._directory = name, directory
        self._epoch_ns = int((directory / "epoch").read_text())
        self._period_ns = PERIOD_MS[name] * 1_000_000
        self._orders = Orders(directory / f"{name}.orders")
        with (directory / f"{name}.frames").open("r+b") as file:
            self._frames = mmap.mmap(file.fileno(), 0)
        self._spoil: str | None = None
        self.obey(starting=True)
        self.network: Rebuilt[Network] = Rebuilt(lambda: Network(name), Network.close)
        self._check = OutputCheck(dtype="f")

    def obey(self, *, starting: bool = False) -> None:
        """Do what it is told to, if anything."""
        order = self._orders.take(self.incarnation, starting)
        if order is None:
            return
        fault, act = order
        append(self._directory / "truth", id=fault, began_ns=time.monotonic_ns())
        getattr(self, f"_{act}")()

    def recovered(self) -> None:
        """An event as those of the supervisor: what it cannot know."""
        what = {"kind": "recovered", "worker": self._name, "incarnation": self.incarnation}
        append(self._directory / "told", **what, monotonic_ns=time.monotonic_ns())

    def serve(self) -> NoReturn:
        self.network.run(lambda network: network.infer(0))  # may load code: before ready
        self.worker.ready()
        while True:
            number = (time.monotonic_ns() - self._epoch_ns) // self._period_ns + 1
            time.sleep(max(0.0, (self._epoch_ns + number * self._period_ns - time.monotonic_ns()) / 1e9))
            self._frame(number)
            if number < len(self._frames):
                self._frames[number] = 1

    def _frame(self, number: int) -> None:
        rebuilds = self.network.rebuilds
        with self.worker.step():
            self.obey()
            output = self.network.run(lambda network: network.infer(number))
            self._spoiled(output)
            self._check(output)
        if self.network.rebuilds > rebuilds:
            self.recovered()

    def _spoiled(self, output: memoryview) -> None:
        if self._spoil == "stale":
            output[:4] = bytes(4)  # what makes each output another one
        elif self._spoil is not None:
            output[:] = struct.pack("f", float(self._spoil)) * COUNT

    # --- acts ---

    def _startup(self) -> None:
        time.sleep(FOR_EVER)

    def _first_step(self) -> None:
        time.sleep(FOR_EVER)

    def _lock(self) -> None:
        lock = threading.Lock()
        with lock:
            lock.acquire(timeout=FOR_EVER)

    def _loop(self) -> None:
        while True:
            pass

    def _deadlock(self) -> None:
        context = cuda.Context()

        def frees() -> NoReturn:
            while True:
                context.alloc(64).free()

        threading.Thread(target=frees, daemon=True).start()
        while True:
            context.alloc_managed(64)

    def _out_of_memory(self) -> None:
        try:
            self.network.run(lambda network: network.context.alloc(1 << 50))
        except cuda.CudaError as error:
            if isinstance(error, cuda.StickyCudaError):
                raise
            self.recovered()

    def _lost_context(self) -> None:
        """Another library leaves another context behind."""
        driver.cuCtxSetCurrent(None)

    def _nan(self) -> None:
        self._spoil = "nan"

    def _constant(self) -> None:
        self._spoil = "3.5"

    def _stale(self) -> None:
        self._spoil = "stale"

    def _crash(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def _exit_0(self) -> None:
        os._exit(0)

    def _exit_1(self) -> None:
        os._exit(1)


if __name__ == "__main__":
    cuda.exit_on_sticky()
    Model(sys.argv[1], Path(sys.argv[2])).serve()
