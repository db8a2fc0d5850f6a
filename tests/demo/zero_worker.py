"""A network of half precision whose input is written in another stream: cleared, and decoded into some time later.

Usage: ``python -m tests.demo.zero_worker PLAN count FRAMES`` tries every order and prints what came of it as JSON;
``... PLAN serve LOG`` is a worker that judges its outputs and notes each in LOG. From SIGUSR1 on, that one's inputs are
written by a library that calls the driver itself. Invariant: a network that runs before its input is there gives zeros.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import time
from typing import Any

import watchdogd.worker as wd
from tests.simulator.tensorrt_plan import DOUBLE, output, plan
from watchdogd.worker import cuda
from watchdogd.worker.cuda_driver import driver
from watchdogd.worker.output import OutputCheck
from watchdogd.worker.tensorrt import Engine

COUNT = 1024
NBYTES = 2 * COUNT
NETWORK_US = 1500
DECODE_US = (400, 800, 1200, 1800, 2200, 2600)
LATE_DECODE_US = (400, 2600, 3000, 3400, 3800, 4200)
PAUSE_SECONDS = 0.006  # longer than any of these takes: each frame begins with the last one done
SERVE_PAUSE_SECONDS = 0.02
ORDERS = ("off", "insert", "strict", "event")


def content() -> bytes:
    """Of the plan."""
    tensor = {"shape": [COUNT], "dtype": "HALF"}
    return plan(
        inputs={"x": tensor}, outputs={"y": output(shape=(COUNT,), factor=1.0, dtype="HALF")},
        kernels=[f"network__{NETWORK_US}us"],
    )  # fmt: skip


class Decoder:
    """Writes the input by a stream of its own, through the worker library."""

    def __init__(self, engine: Engine) -> None:
        self._target, self.stream = engine.input("x").buffer, engine.context.stream()
        module = engine.context.module(b"")
        self._kernels = [module.kernel(f"decode__{us}us") for us in DECODE_US]
        self._image = engine.context.alloc_host(NBYTES)

    def write(self, number: int) -> None:
        self._image.view[:] = _image(number)
        self.stream.fill(self._target, 0)
        self.stream.launch(random.choice(self._kernels), 1, 1)
        self.stream.copy_in(self._target, self._image)


class StrangeDecoder:
    """The same by the driver itself, as another library would: nothing of it is known to the guards."""

    def __init__(self, engine: Engine) -> None:
        self._target, self._context = engine.input("x").buffer.address, engine.context
        self._image = engine.context.alloc_host(NBYTES)
        with self._context.current():
            self._stream = _ok(driver.cuStreamCreate(1))
            module = _ok(driver.cuModuleLoadData(b"decoder"))
            names = [f"decode__{us}us".encode() for us in LATE_DECODE_US]
            self._kernels = [_ok(driver.cuModuleGetFunction(module, name)) for name in names]

    def write(self, number: int) -> None:
        self._image.view[:] = _image(number)
        with self._context.current():
            _ok(driver.cuMemsetD8Async(self._target, 0, NBYTES, self._stream))
            _ok(driver.cuLaunchKernel(random.choice(self._kernels), 1, 1, 1, 1, 1, 1, 0, self._stream, 0, 0))
            _ok(driver.cuMemcpyHtoDAsync(self._target, self._image.address, NBYTES, self._stream))


def _ok(answer: tuple[Any, ...]) -> Any:
    if int(answer[0]) != 0:
        raise RuntimeError(answer[0].name)
    return answer[1] if len(answer) > 1 else None


def _image(number: int) -> bytes:
    return struct.pack(f"{COUNT}e", *(1.0 + (number + at) % 1000 for at in range(COUNT)))


def count(path: str, order: str, number_of_frames: int) -> dict[str, Any]:
    """``event``: strict, with an event between the streams as it demands."""
    context = cuda.Context(order="strict" if order == "event" else order)
    with context, Engine(path, context=context) as engine:
        decoder, decoded = Decoder(engine), context.event()
        told: dict[str, Any] = {"order": order, "frames": 0, "zero": 0, "right": 0, "raised": None}
        told["streams"] = [hex(decoder.stream.handle), hex(engine.stream.handle)]
        for number in range(number_of_frames):
            decoder.write(number)
            if order == "event":
                decoded.record(decoder.stream)
                engine.stream.wait(decoded)
            try:
                result = engine.infer({})["y"]
            except cuda.OrderError as error:
                told["raised"] = str(error)
                break
            told["frames"] += 1
            told["zero"] += not any(result)
            told["right"] += result == _image(number)
            time.sleep(PAUSE_SECONDS)
        context.synchronize()
    return told


def serve(path: str, log: str) -> None:
    worker = wd.attach()
    engine = Engine(path)
    check_output = OutputCheck(dtype=engine.output("y").dtype)
    decoder: Decoder | StrangeDecoder = Decoder(engine)
    strange = StrangeDecoder(engine)
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
    worker.ready()
    with open(log, "a", buffering=1) as file:
        number = 0
        while True:
            number += 1
            with worker.step():
                (strange if asked else decoder).write(number)
                result = engine.infer({})["y"]
                ended_ns = time.monotonic_ns()  # before anybody can know what it was
                found = check_output(result)
            file.write(f"{os.getpid()} {ended_ns} {found or 'good'}\n")
            time.sleep(SERVE_PAUSE_SECONDS)


def main(path: str, what: str, argument: str) -> None:
    sys.path.insert(0, DOUBLE)
    if what == "serve":
        serve(path, argument)
    else:
        print(json.dumps([count(path, order, int(argument)) for order in ORDERS]))


if __name__ == "__main__":
    main(*sys.argv[1:])
