"""A worker that is bisected, on the simulated driver: what waits where, and what must not.

Invariant: each test of a wait has one in which there is none, without a bisect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cuda_process import Worker
from tests.helpers.worker_process import LineProcess, run_worker, wait_until
from tests.simulator.control import SimulatedDevice
from tests.simulator.tensorrt_plan import DOUBLE, plan
from watchdogd import abi

ASKED, DONE = abi.BISECT["asked"], abi.BISECT["done"]
SETUP = """
ctx = cuda.Context()
first, second = ctx.stream(), ctx.stream()
kernel, endless = ctx.module(b"").kernel("sim_sleep_us_50"), ctx.module(b"").kernel("sim_spin")
syncs = []
synchronize = driver.cuStreamSynchronize
driver.cuStreamSynchronize = lambda *given: (syncs.append(int(given[0])), synchronize(*given))[1]
driver.cuStreamSynchronize.__name__ = "cuStreamSynchronize"
def waits(call):
    "Of which streams, while it runs."
    syncs.clear()
    call()
    return [{int(first._object or 0): 1, int(second._object or 0): 2}[stream] for stream in syncs]
def launch(stream):
    stream.launch(kernel, 1, 1)
class Own(Exception): pass
"""


@pytest.fixture(params=[True, False], ids=["bisected", "not bisected"])
def bisected(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def begin(device: SimulatedDevice, tmp_path: Path) -> Iterator[Any]:
    """A worker that was asked to synchronize, or not."""
    with ExitStack() as started:

        def of(bisected: bool, setup: str = SETUP, **environment: str) -> Worker:
            word = {"bisect": ASKED} if bisected else {}
            worker = Worker(device, tmp_path / "heartbeat", word, **environment)
            started.enter_context(worker)
            worker.run(setup)
            return worker

        yield of


def stage_of(worker: Worker) -> list[str]:
    words = [worker.heartbeat.lane(lane, "stage") for lane in worker.heartbeat.thread_lanes(worker.pid)]
    return [abi.WELL_KNOWN_STAGES[word & abi.CODE_MASK] for word in words if word]


# --- what waits ---


def test_leaving_a_stage_waits_for_what_was_queued_in_it_and_for_nothing_else(begin: Any, bisected: bool) -> None:
    worker = begin(bisected)
    worker.run("""
def one():
    with worker.stage("preprocess"): launch(first)
def both():
    with worker.stage("preprocess"): launch(second); launch(first); launch(second)
def none():
    with worker.stage("postprocess"): pass
""")
    found = [worker.run(f"waits({call})") for call in ("one", "both", "none")]
    assert found == ([[1], [2, 1], []] if bisected else [[], [], []])


def test_queued_work_that_hangs_is_in_the_stage_that_queued_it(begin: Any, bisected: bool) -> None:
    worker = begin(bisected)
    worker.run("""
def frame():
    with worker.stage("preprocess"): launch(first)
    with worker.stage("plugin"): first.launch(endless, 1, 1)
    with worker.stage("enqueue"): launch(first)
    with worker.stage("sync"): first.synchronize()
""")
    worker.send("frame()")
    stage = "plugin" if bisected else "sync"
    wait_until(lambda: stage_of(worker) == [stage] and worker.operations() == ["sync"])


def test_work_queued_outside_of_a_stage_is_not_laid_at_the_next_ones_door(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
def frame():
    first.launch(endless, 1, 1)
    with worker.stage("plugin"): launch(first)
""")
    worker.send("frame()")
    wait_until(lambda: worker.operations() == ["sync"])
    assert stage_of(worker) == []


def test_a_stage_in_a_stage_waits_for_its_own_and_so_does_the_outer_one(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
def nested():
    with worker.stage("enqueue"):
        launch(first)
        with worker.stage("plugin"): launch(second)
        launch(first)
""")
    assert worker.run("waits(nested)") == [1, 2, 1]


@pytest.mark.parametrize(
    "use", ["first.wait(event)", "with first.ordered() as handle: pass", "first.fill(buffer, 0)"], ids=str
)
def test_everything_that_queues_counts(begin: Any, use: str) -> None:
    worker = begin(True)
    worker.run(f"""
event, buffer = ctx.event(), ctx.alloc(64)
event.record(second)
def queues():
    with worker.stage("enqueue"):
        {use}
""")
    assert worker.run("waits(queues)") == [1]


def test_what_another_thread_has_queued_is_not_waited_for(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
def other():
    with worker.stage("plugin"): in_thread(lambda: launch(second))
""")
    assert worker.run("waits(other)") == []


def test_an_error_of_queued_work_is_raised_in_the_stage_that_queued_it(
    begin: Any, device: SimulatedDevice, bisected: bool
) -> None:
    worker = begin(bisected)
    worker.run("""
done = []
def frame():
    with worker.stage("plugin"): launch(first)
    done.append("plugin")
    first.synchronize()
""")
    device.fault("error", label="worker", code=700)
    kind, name, *_ = worker.run("caught(frame)")
    assert (kind, name) == ("StickyCudaError", "CUDA_ERROR_ILLEGAL_ADDRESS")
    assert worker.run("done") == ([] if bisected else ["plugin"])


def test_outputs_are_unchanged(begin: Any, bisected: bool) -> None:
    worker = begin(bisected)
    worker.run("""
scale = ctx.module(b"").kernel("sim_copy_scale__50us")
frames, target, host = ctx.alloc(64), ctx.alloc(64), ctx.alloc_host(64)
def frame():
    host.view.cast("f")[:] = memoryview(bytes(64)).cast("f")
    host.view.cast("f")[3] = 1.5
    with worker.stage("copy_in"): first.copy_in(frames, host)
    with worker.stage("enqueue"): second.launch(scale, 1, 16, (target, frames, 16, 2.0), reads=(frames,))
    with worker.stage("copy_out"): first.copy_out(host, target)
    with worker.stage("sync"): first.synchronize()
    return list(host.view.cast("f"))
""")
    assert worker.run("frame()") == [0.0] * 3 + [3.0] + [0.0] * 12


# --- what must not ---


def test_an_exception_leaves_a_stage_at_once_and_what_was_queued_is_waited_for_before_the_next(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
def fails():
    with worker.stage("plugin"):
        launch(first)
        raise Own("its own")
def next_one():
    with worker.stage("enqueue"): seen.extend(syncs)
seen = []
""")
    assert worker.run("waits(lambda: caught(fails))") == []
    assert worker.run("caught(fails)") == ["Own", "its own"]
    assert worker.run("waits(next_one)") == [1]
    assert worker.run("len(seen)") == 1


def test_a_stream_that_records_a_graph_is_left_alone_until_it_has(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
RELAXED = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
def records():
    with ctx.current(), worker.stage("enqueue"):
        results.append(driver.cuStreamBeginCapture(first.handle, RELAXED)[0].name)
        with worker.stage("plugin"):
            launch(second)
            launch(first)
            if spoils: caught(first.synchronize)
    with ctx.current(): results.append(driver.cuStreamEndCapture(first.handle)[0].name)
def ends():
    with worker.stage("enqueue"): pass
results, spoils = [], False
""")
    assert worker.run("waits(records)") == []  # nor is the stream beside it: a capture may forbid that to its thread
    assert worker.run("waits(ends)") == [2, 1]
    assert worker.run("results") == ["CUDA_SUCCESS"] * 2
    worker.run("spoils = True")
    worker.run("records()")  # that it would have been spoilt by a wait
    assert worker.run("results[-1]") == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"


def test_a_host_function_waits_for_nothing(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
def in_host_function():
    with worker.stage("postprocess"): pass
def frame():
    with worker.stage("plugin"): second.host_function(in_host_function)
""")
    assert worker.run("caught(frame)") is None


def test_a_context_that_is_pinned_is_waited_for_where_it_is_current(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
pinned = cuda.Context(owner="thread")
first = pinned.stream()
kernel = pinned.module(b"").kernel("sim_sleep_us_50")
def away():
    with worker.stage("plugin"):
        launch(first)
        driver.cuCtxPushCurrent(driver.CUcontext(ctx.handle))
    driver.cuCtxPopCurrent()
def back():
    with worker.stage("enqueue"): pass
""")
    assert worker.run("waits(away)") == []
    assert worker.run("waits(back)") == [1]


@pytest.mark.parametrize("close", ["second.close()", "in_thread(second.close)", "ctx.close()"])
def test_a_stream_that_is_closed_is_not_waited_for(begin: Any, close: str) -> None:
    worker = begin(True)
    worker.run(f"""
def closes():
    with worker.stage("plugin"):
        launch(second)
        {close}
""")
    assert worker.run("waits(closes)") == []


def test_a_child_waits_for_nothing_of_its_parents(begin: Any) -> None:
    worker = begin(True)
    worker.run("""
def forks():
    with worker.stage("plugin"):
        launch(first)
        child = os.fork()
        if child == 0:
            with worker.stage("enqueue"): os._exit(7 if syncs else 0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
statuses = []
""")
    assert worker.run("waits(forks)") == [1]
    assert worker.run("statuses") == [0]


# --- who says so ---


@pytest.mark.parametrize("implementation", ["native", "python"])
def test_a_worker_says_that_it_synchronizes_only_where_it_does(begin: Any, bisected: bool, implementation: str) -> None:
    worker = begin(bisected, "", WATCHDOGD_PURE_PYTHON="1" if implementation == "python" else "0")
    assert worker.heartbeat.header("bisect") == (ASKED if bisected else 0)
    worker.run("ctx = cuda.Context()")
    assert worker.heartbeat.header("bisect") == (DONE if bisected else 0)


@pytest.mark.parametrize("implementation", ["native", "python"])
def test_a_worker_that_asks_is_taken_to_synchronize(begin: Any, bisected: bool, implementation: str) -> None:
    worker = begin(bisected, "", WATCHDOGD_PURE_PYTHON="1" if implementation == "python" else "0")
    assert worker.run("[worker.is_bisecting, worker.implementation]") == [bisected, implementation]
    assert worker.heartbeat.header("bisect") == (DONE if bisected else 0)


def test_nobody_else_pays_for_it(begin: Any, bisected: bool) -> None:
    worker = begin(bisected)
    bound = "[worker.stage is watchdogd._native.stage, type(ctx.stream()) is cuda.Stream]"
    assert worker.run(bound) == [not bisected, not bisected]
    assert worker.run("'watchdogd.worker.bisecting' in sys.modules") == bisected


def test_started_by_hand_nobody_is_bisected() -> None:
    process: LineProcess
    with run_worker("say(worker.is_bisecting, worker.stage is wd._implementation.stage)", "native", None) as process:
        assert process.hear() == "False True"


# --- TensorRT ---

ENGINE = """
sys.path.insert(0, {double!r})
from watchdogd.worker.tensorrt import Engine
def hook(engine, frame):
    engine.stream.fill(engine.input("x").buffer, 0)
    return frame
engine = Engine({path!r}, preprocess=hook)
"""


@pytest.mark.parametrize(("after", "stage"), [(0, "preprocess"), (1, "copy_in"), (2, "enqueue"), (4, "copy_out")])
def test_an_engine_hangs_in_the_stage_that_queued_what_hangs(
    begin: Any, device: SimulatedDevice, tmp_path: Path, bisected: bool, after: int, stage: str
) -> None:
    path = tmp_path / "h.plan"
    path.write_bytes(plan())
    worker = begin(bisected, ENGINE.format(double=DOUBLE, path=str(path)))
    ones = "memoryview(bytes(range(64)))"
    outputs = worker.run(f"engine.infer({{'x': {ones}}})['y'].hex()")
    assert outputs == worker.run(f"engine.infer({{'x': {ones}}})['y'].hex()") != bytes(64).hex()
    device.fault("hang", label="worker", scope="stream", after=after)
    worker.send(f"bool(engine.infer({{'x': {ones}}}))")
    wait_until(lambda: stage_of(worker) == [stage if bisected else "sync"] and worker.operations() == ["sync"])
