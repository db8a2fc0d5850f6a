"""CudaThread on the simulated driver, and what recovers from a lost context."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.cuda_process import Start
from tests.helpers.worker_process import ROOT, wait_until
from tests.simulator.control import SimulatedDevice
from watchdogd import abi

SETUP = """
import asyncio
from watchdogd.worker.cuda_thread import CudaThread
from watchdogd.worker.cuda_recovery import Rebuilt, retried
gpu = CudaThread()
def do(function, *arguments):
    return gpu.submit(function, *arguments).result(10)
def make():
    global stream, kernel, buffer
    stream, buffer = gpu.context.stream(), gpu.context.alloc(64)
    kernel = gpu.context.module(b"").kernel("sim_add_one__50us")
do(make)
def work():
    stream.launch(kernel, 1, 1, (buffer, 1))
    stream.synchronize()
    return tid()
primary = int(driver.cuDevicePrimaryCtxRetain(0)[1])
"""


def test_all_work_is_done_by_one_thread_with_its_context_current(start: Start) -> None:
    worker = start(SETUP)
    tids = worker.run("[do(work), do(work), in_thread(lambda: do(work)), gpu.thread.native_id]")
    assert len(set(tids)) == 1
    assert tids[0] != worker.pid
    assert worker.run("do(current) == gpu.context.handle")


def test_work_of_another_thread_is_refused(start: Start) -> None:
    worker = start(SETUP)
    kind, text = worker.run("caught(work)")
    assert kind == "ContextLost"
    assert f"of thread 'cuda' (tid {worker.run('gpu.thread.native_id')})" in text


def test_asyncio_awaits_it(start: Start) -> None:
    worker = start(
        SETUP + "async def frames():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    return await asyncio.gather(*(loop.run_in_executor(gpu, work) for _ in range(3)))\n"
    )
    assert worker.run("asyncio.run(frames()) == [gpu.thread.native_id] * 3")


def test_an_exception_is_the_callers(start: Start) -> None:
    worker = start(SETUP)
    assert worker.run("caught(lambda: do(lambda: 1 / 0))")[0] == "ZeroDivisionError"
    assert worker.run("do(work) == gpu.thread.native_id")


def test_a_task_that_leaves_another_context_current_fails_and_not_the_next(start: Start) -> None:
    worker = start(SETUP + "def leaves(): driver.cuCtxSetCurrent(primary)")
    kind, text = worker.run("caught(lambda: do(leaves))")
    assert (kind, text.startswith("after leaves: expected context")) == ("ContextLost", True)
    worker.run("do(work)")


def test_a_task_that_hangs_is_a_stamped_call_of_its_thread(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    fault = device.fault("hang")
    worker.run("hung = gpu.submit(work)")
    wait_until(lambda: fault.fired > 0 and worker.operations() == ["other"])
    tid = worker.run("gpu.thread.native_id")
    lane = next(lane for lane, owner in worker.heartbeat.owners().items() if owner[1] == tid)
    wait_until(lambda: worker.heartbeat.lane(lane, "inner") & abi.CODE_MASK == abi.OPERATION["sync"])
    assert worker.run("gpu.running[0]") == "work"
    kind, text = worker.run("caught(lambda: gpu.shutdown(timeout=0.05))")
    assert kind == "TimeoutError"
    assert text.startswith(f"CUDA thread 'cuda' (tid {tid}) has not ended within 0.05 s: work has run for ")


def test_between_tasks_nothing_is_stamped(start: Start) -> None:
    worker = start(SETUP)
    worker.run("do(work)")
    wait_until(lambda: worker.operations() == [])
    assert worker.run("gpu.running") is None


def test_a_shutdown_that_gave_up_cancels_what_waits(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    device.fault("hang")
    worker.run("hung = gpu.submit(work); waiting = gpu.submit(work)")
    assert worker.run("caught(lambda: gpu.shutdown(timeout=0.05))")[0] == "TimeoutError"
    assert worker.run("[hung.cancelled(), waiting.cancelled()]") == [False, True]


HANGS_IN_A_BLOCK = (
    "from concurrent.futures import TimeoutError as ResultTimeout\n"
    "import contextlib, functools, io\n"
    "gpu.shutdown = functools.partial(gpu.shutdown, timeout=0.05)\n"
    "def block(wait):\n"
    "    with contextlib.redirect_stderr(io.StringIO()) as told:\n"
    "        try:\n"
    "            with gpu:\n"
    "                future = gpu.submit(work)\n"
    "                wait(future)\n"
    "        except (ResultTimeout, TimeoutError) as error:\n"
    "            return [str(error), told.getvalue()]\n"
)
REMEDY = "let the worker's deadlines, e.g. `deadlines.sync`, be shorter than the time-out of `result`\n"


def test_the_error_that_ends_a_block_is_not_lost_to_the_thread_that_hangs(
    device: SimulatedDevice, start: Start
) -> None:
    worker = start(SETUP + HANGS_IN_A_BLOCK)
    device.fault("hang")
    error, told = worker.run("block(lambda future: future.result(0.05))")
    assert error == ""  # that of ``result``
    assert told.startswith("watchdogd: CUDA thread 'cuda' (tid ")
    assert " has not ended within 0.05 s: work has run for " in told
    assert told.endswith(REMEDY)


def test_a_block_that_ends_well_raises_that_its_thread_hangs(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP + HANGS_IN_A_BLOCK)
    device.fault("hang")
    error, told = worker.run("block(lambda future: None)")
    assert (error.endswith(REMEDY.strip()), told) == (True, "")


def test_a_shutdown_that_gives_up_is_chained_to_the_error_on_its_way(device: SimulatedDevice, start: Start) -> None:
    worker = start(
        SETUP + "def first():\n"
        "    try:\n"
        "        hung = gpu.submit(work)\n"
        "        raise KeyError('first')\n"
        "    finally:\n"
        "        gpu.shutdown(timeout=0.05)\n"
        "def chained():\n"
        "    try:\n"
        "        first()\n"
        "    except TimeoutError as error:\n"
        "        return [repr(error.__context__), error.__suppress_context__]\n"
    )
    device.fault("hang")
    assert worker.run("chained()") == ["KeyError('first')", False]


def test_an_owner_is_refused_as_the_thread_is_it(start: Start) -> None:
    kind, text = start(SETUP).run("caught(lambda: CudaThread(device=0, owner='thread'))")
    assert (kind, text.partition(":")[0]) == ("ValueError", "owner")


def test_a_process_ends_although_its_cuda_thread_hangs(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    fault = device.fault("hang")
    worker.run("hung = gpu.submit(work)")
    wait_until(lambda: fault.fired > 0)
    worker.send("sys.exit(5)")
    assert worker.process.wait(10) == 5


def test_shutdown_finishes_what_waits_and_closes_the_context(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    worker.run("futures = [gpu.submit(work) for _ in range(5)]; gpu.shutdown()")
    assert worker.run("[future.done() and not future.cancelled() for future in futures]") == [True] * 5
    assert device.processes()[0].memory_bytes == 0
    assert worker.run("caught(lambda: gpu.submit(work))")[0] == "RuntimeError"
    worker.run("gpu.shutdown()")


def test_shutdown_can_drop_what_waits(start: Start) -> None:
    worker = start(SETUP + "gate = threading.Event()")
    worker.run("first = gpu.submit(gate.wait, 10); rest = [gpu.submit(work) for _ in range(3)]")
    wait_until(lambda: worker.run("gpu.running is not None"))
    worker.run("gpu.shutdown(wait=False, cancel_futures=True); gate.set()")
    assert worker.run("[first.result(10), *(future.cancelled() for future in rest)]") == [True] * 4
    worker.run("gpu.shutdown()")


def test_what_waits_is_bounded(start: Start) -> None:
    worker = start(SETUP + "gate = threading.Event(); small = CudaThread(backlog=2, name='small')")
    worker.run("first = small.submit(gate.wait, 10)")
    wait_until(lambda: worker.run("small.running is not None"))
    worker.run("rest = [small.submit(work) for _ in range(2)]")
    kind, text = worker.run("caught(lambda: small.submit(work))")
    assert (kind, ": 2 tasks wait: Event.wait has run for " in text) == ("BacklogFullError", True)
    worker.run("gate.set(); small.shutdown()")


def test_a_context_that_cannot_be_made_is_the_makers_error(start: Start) -> None:
    worker = start(SETUP)
    assert worker.run("caught(lambda: CudaThread(device=7))")[1:3] == ["CUDA_ERROR_INVALID_DEVICE", 101]


def test_a_context_that_is_not_made_in_time_is_not_waited_for(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    device.fault("call_hang", call="ctx_create")
    kind, text = worker.run("caught(lambda: CudaThread(start_timeout=0.05))")
    assert (kind, "has no context after 0.05 s" in text) == ("TimeoutError", True)


def test_the_readmes_example_allocates_nothing_in_its_steps(device: SimulatedDevice) -> None:
    guards = (ROOT / "README.md").read_text().split("### Guards", 1)[1]
    example = guards.split("```python\n", 1)[1].split("```", 1)[0]
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", example + "\nprint(pool.misses, pool.hits, gpu.context.hot_calls)"],
        env={**os.environ, **device.environment("worker"), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("1 3 0\n", "")


# Lost contexts


MODEL = (
    SETUP
    + """
class Model:
    made = 0
    def __init__(self):
        Model.made += 1
        self.context = gpu.context if Model.made == 1 else gpu.renew()
        self.stream, self.left = self.context.stream(), []
    def infer(self, frame):
        self.left.append(frame)
        self.stream.synchronize()
        return list(self.left)
model = do(Rebuilt, Model)
def infer(frame):
    return model.run(lambda made: made.infer(frame))
def destroy():
    driver.cuCtxDestroy(gpu.context._context)  # by another library, behind our back
"""
)


def test_a_lost_context_is_rebuilt_at_once_and_no_state_leaks(start: Start) -> None:
    worker = start(MODEL)
    assert worker.run("do(infer, 1)") == [1]
    assert worker.run("caught(lambda: do(destroy))")[0] != ""
    assert worker.run("do(infer, 2)") == [2]
    assert worker.run("model.rebuilds") == 1
    assert 0 < worker.run("model.seconds") < 0.5
    assert worker.run("do(infer, 3)") == [2, 3]


def test_a_context_that_stands_is_not_rebuilt(start: Start) -> None:
    worker = start(MODEL)
    assert worker.run("[do(infer, 1), caught(lambda: do(model.run, lambda made: 1 / 0))[0], do(infer, 2)]") == [
        [1],
        "ZeroDivisionError",
        [1, 2],
    ]
    assert worker.run("model.rebuilds") == 0


def test_a_request_is_queued_again_50_ms_after_its_context_was_lost(start: Start) -> None:
    worker = start(
        MODEL + "tried = []\n"
        "def comes_back():\n"
        "    tried.append(time.monotonic())\n"
        "    if len(tried) == 1: driver.cuCtxSetCurrent(primary); stream.synchronize()\n"
        "    return len(tried)\n"
    )
    assert worker.run("retried(gpu, comes_back, timeout=5)") == 2
    assert 0.05 <= worker.run("tried[1] - tried[0]") < 0.5


def test_a_request_is_not_queued_for_ever(start: Start) -> None:
    worker = start(
        MODEL + "tried = []\ndef never():\n    tried.append(1); driver.cuCtxSetCurrent(primary); stream.synchronize()\n"
    )
    assert worker.run("caught(lambda: retried(gpu, never, timeout=0.12))")[0] == "ContextLost"
    assert 1 <= worker.run("len(tried)") <= 3


def test_other_errors_are_not_retried(start: Start) -> None:
    worker = start(MODEL + "tried = []\ndef fails(): tried.append(1); return 1 / 0")
    assert worker.run("caught(lambda: retried(gpu, fails, timeout=5))")[0] == "ZeroDivisionError"
    assert worker.run("len(tried)") == 1


@pytest.mark.parametrize("outcome", ["hangs", "raises"])
def test_a_request_that_takes_too_long_is_given_up(device: SimulatedDevice, start: Start, outcome: str) -> None:
    worker = start(MODEL + "def raises(): raise TimeoutError('its own')")
    if outcome == "hangs":
        device.fault("hang")
        kind, text = worker.run("caught(lambda: retried(gpu, work, timeout=0.05))")
        assert (kind, text) == ("TimeoutError", "the request has not ended after 0.05 s")
    else:
        assert worker.run("caught(lambda: retried(gpu, raises, timeout=5))") == ["TimeoutError", "its own"]


# Tasks that break it


def test_a_task_that_closes_the_context_fails_and_a_later_one_can_renew_it(start: Start) -> None:
    worker = start(SETUP)
    assert worker.run("caught(lambda: do(gpu.context.close))") == ["ValueError", "the Context is closed"]
    assert worker.run("do(lambda: gpu.renew() is gpu.context)")
    assert worker.run("do(current) == gpu.context.handle")


def test_a_context_that_cannot_be_renewed_is_the_tasks_error_and_may_be_tried_again(start: Start) -> None:
    worker = start(SETUP + "make_one, gpu._make = gpu._make, lambda: 1 / 0")
    assert worker.run("caught(lambda: do(gpu.renew))")[0] == "ZeroDivisionError"
    worker.run("gpu._make = make_one; do(gpu.renew)")
    assert worker.run("do(current) == gpu.context.handle")


def test_those_who_wait_for_a_dropped_task_hear_of_it(start: Start) -> None:
    worker = start(SETUP + "from concurrent.futures import wait; gate = threading.Event()")
    worker.run("first = gpu.submit(gate.wait, 10); dropped = gpu.submit(work)")
    wait_until(lambda: worker.run("gpu.running is not None"))
    worker.run("gpu.shutdown(wait=False, cancel_futures=True); ended = wait([dropped], 5); gate.set()")
    assert worker.run("[len(ended.done), len(ended.not_done)]") == [1, 0]


def test_a_build_that_failed_is_tried_again_by_the_next_request(start: Start) -> None:
    worker = start(
        SETUP + "closed, builds = [], iter([1, None, 3])\n"
        "def build():\n"
        "    made = next(builds)\n"
        "    if made is None: raise cuda.CudaError('CUDA_ERROR_OUT_OF_MEMORY', 2, 'cuCtxCreate')\n"
        "    return made\n"
        "model = Rebuilt(build, closed.append)\n"
        "def use(made):\n"
        "    if made == 1: raise cuda.ContextFailedError('CUDA_ERROR_ASSERT', 710, 'cuMemFree')\n"
        "    return made\n"
    )
    assert worker.run("caught(lambda: model.run(use))")[1] == "CUDA_ERROR_OUT_OF_MEMORY"
    assert worker.run("[model.run(use), model.rebuilds, closed]") == [3, 1, [1]]


def test_a_forked_child_does_not_wait_for_the_thread_that_it_does_not_have(start: Start) -> None:
    worker = start(SETUP)
    worker.run("child = os.fork()\nif child == 0: os._exit(caught(lambda: gpu.shutdown(timeout=30)) is not None)")
    assert worker.run("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])") == 0
    assert worker.run("do(work) == gpu.thread.native_id")
