"""A process that uses ``watchdogd.worker.cuda`` on the simulated driver: real cuda-python, and its heartbeat read here.

It evaluates what it is sent, so that a call that hangs hangs there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import LineProcess
from tests.simulator.control import SimulatedDevice
from watchdogd import abi

PRELUDE = r"""
import ctypes, json, os, sys, threading, time
import watchdogd.worker
from cuda.bindings import driver
from watchdogd.worker import cuda

worker = watchdogd.worker.attach()

def caught(call):
    try:
        call()
    except cuda.CudaError as error:
        return [type(error).__name__, error.name, error.code, error.call, str(error)]
    except Exception as error:
        return [type(error).__name__, str(error)]

def in_thread(call):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join()
    return answers[0]

def tid():
    return threading.get_native_id()

def current():
    return int(driver.cuCtxGetCurrent()[1])

def step_for_ever():
    while True:
        with worker.step():
            time.sleep(0.001)

def busy_seconds(wait, how):
    ctx = cuda.Context(wait=wait)
    stream, event = ctx.stream(), ctx.event()
    kernel = ctx.module(b"").kernel("sim_sleep_us_100000")
    stream.launch(kernel, 1, 1)
    event.record(stream)
    begin = time.thread_time()
    {"stream": stream, "event": event, "context": ctx}[how].synchronize()
    return time.thread_time() - begin

print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    source = json.loads(line)
    try:
        value = eval(source)
    except SyntaxError:
        exec(source)
        value = None
    print(json.dumps(value), flush=True)
"""

SETUP = """
ctx = cuda.Context()
stream, event, buffer, host = ctx.stream(), ctx.event(), ctx.alloc(64), ctx.alloc_host(64)
kernel = ctx.module(b"").kernel("sim_add_one__50us")
"""


class Worker(LineProcess):
    """A process that uses watchdogd.worker.cuda on the simulated driver, and its heartbeat."""

    def __init__(
        self, device: SimulatedDevice, path: Path, header: Mapping[str, int] | None = None, **environment: str
    ) -> None:
        self.heartbeat = HeartbeatFile(path, **(header or {}))
        environment = {abi.ENVIRONMENT: str(path), **device.environment("worker"), **environment}
        super().__init__([sys.executable, "-c", PRELUDE], environment)
        assert self.answer() == "ready"

    def send(self, source: str) -> None:
        self.tell(json.dumps(source))

    def answer(self) -> Any:
        return json.loads(self.hear())

    def run(self, source: str) -> Any:
        self.send(source)
        return self.answer()

    def operations(self) -> list[str]:
        """What the outermost guards say."""
        words = [self.heartbeat.lane(lane, "outer") for lane in self.heartbeat.owners()]
        return [abi.OPERATIONS[word & abi.CODE_MASK] for word in words if word]

    def last_error(self) -> int:
        return self.heartbeat.header("last_error") & abi.ERROR_MASK


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as opened:
        yield opened


Start = Callable[..., Worker]


@pytest.fixture
def start(device: SimulatedDevice, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as started:

        def begin(setup: str = SETUP, **environment: str) -> Worker:
            worker = Worker(device, tmp_path / "heartbeat", None, **environment)
            started.enter_context(worker)
            worker.run(setup)
            return worker

        yield begin
