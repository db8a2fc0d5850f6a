"""TensorRT engines in a worker: a double of the module on the simulated driver, with real cuda-python between them.

Invariant: what is asserted of the heartbeat is read from its file while the worker hangs.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cuda_process import Start, Worker, device, start
from tests.helpers.worker_process import ROOT, wait_until
from tests.simulator.control import SimulatedDevice
from tests.simulator.tensorrt_plan import DOUBLE, dynamic, output, plan
from watchdogd import abi

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
__all__ = ["device", "start"]

SETUP = f"""
sys.path.insert(0, {DOUBLE!r})
import struct
from pathlib import Path
from watchdogd.worker import tensorrt as wt
def infer(frame={{}}): engine.infer(frame)
"""
NUMBERS = "struct.pack('16f', *range(16))"
DETAIL = [
    {"Name": "input to nvm", "LayerType": "Reformat"},
    {"Name": "{ForeignNode[conv1...conv9]}", "LayerType": "DLA"},
    {"Name": "softmax", "LayerType": "SoftMax"},
    {"Name": "argmax", "LayerType": "TopK"},
]


def engine(
    start: Start, tmp_path: Path, content: bytes | None = None, arguments: str = "", **environment: str
) -> Worker:
    path = tmp_path / "h.plan"
    path.write_bytes(plan() if content is None else content)
    return start(
        f"{SETUP}path = {str(path)!r}\nengine = wt.Engine(path{arguments and ', ' + arguments})", **environment
    )


def fails(start: Start, tmp_path: Path, content: bytes, arguments: str = "", **environment: str) -> list[str]:
    path = tmp_path / "h.plan"
    path.write_bytes(content)
    worker = start(SETUP, **environment)
    answer: list[str] = worker.run(f"caught(lambda: wt.Engine({str(path)!r}{arguments and ', ' + arguments}))")
    assert worker.run("len(cuda._open)") == 0  # no context is left of it
    return answer


def settings(**values: Any) -> dict[str, str]:
    return {"TENSORRT_DOUBLE": json.dumps(values)}


def stage_name(worker: Worker, code: int) -> str:
    well_known = code < abi.FIRST_DYNAMIC_STAGE
    return abi.WELL_KNOWN_STAGES[code] if well_known else worker.heartbeat.stage_name(code)


def stages(worker: Worker) -> list[str]:
    """Of the threads, what their stage word says."""
    words = [worker.heartbeat.lane(lane, "stage") for lane in worker.heartbeat.thread_lanes(worker.pid)]
    return [stage_name(worker, word & abi.CODE_MASK) for word in words if word]


def errors_of(worker: Worker) -> str:
    worker.tell()  # ends it: no JSON
    return worker.errors()


# --- a frame ---


def test_what_is_copied_in_is_computed_with_and_comes_out(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    assert worker.run(f"list(engine.infer({{'x': {NUMBERS}}})['y'].cast('f'))") == [2.0 * n for n in range(16)]
    assert worker.run("[engine.output('y').shape, engine.output('y').dtype, engine.module.name]") == [
        [4, 4],
        "f",
        "tensorrt",
    ]


def test_inputs_left_out_stay_as_they_are(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(f"infer({{'x': {NUMBERS}}})")
    assert worker.run("list(engine.infer({})['y'].cast('f'))") == [2.0 * n for n in range(16)]


def test_an_input_of_another_size_is_refused_and_queues_nothing(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    queued = worker.run("engine.stream._line.queued")
    kind, text = worker.run("caught(lambda: engine.infer({'x': bytes(60)}))")
    assert kind == "ValueError"
    assert text == "60 bytes are no input x (4, 4) of h.plan on gpu0, which takes 64"
    assert worker.run("engine.stream._line.queued") == queued


def test_the_preprocess_hook_writes_the_input_in_the_engines_stream(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(f"""
seen = []
def planes(engine, frame):
    seen.append(frame)
    engine.stream.launch(scale, 1, 16, (engine.input("x").buffer, raw, 16, 10.0), reads=(raw,))
engine = wt.Engine(path, preprocess=planes)
raw, scale = engine.context.alloc(64), engine.context.module(b"").kernel("sim_copy_scale__50us")
host = engine.context.alloc_host(64)
host.view[:] = {NUMBERS}
engine.stream.copy_in(raw, host)
""")
    assert worker.run("list(engine.infer('frame 1')['y'].cast('f'))") == [20.0 * n for n in range(16)]
    assert worker.run("seen") == ["frame 1"]  # the warm-up has no frame to give


def test_the_stages_follow_one_another_and_only_the_last_one_waits(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run("engine._preprocess = lambda engine, frame: frame")
    worker.run(f"infer({{'x': {NUMBERS}}})")
    (lane,) = worker.heartbeat.thread_lanes(worker.pid)
    ring = worker.heartbeat.ring(lane)
    calls = [
        (stage_name(worker, duration & abi.CODE_MASK), abi.OPERATIONS[stamp & abi.CODE_MASK])
        for stamp, duration in ring
    ]
    frame = [call for call in calls if call[1] != "other"][-4:]
    assert frame == [("copy_in", "copy"), ("enqueue", "launch"), ("copy_out", "copy"), ("sync", "sync")]


@pytest.mark.parametrize(
    ("fault", "stage", "operation"),
    [
        ({"kind": "call_hang", "call": "launch"}, "enqueue", "launch"),
        ({"kind": "hang", "scope": "stream"}, "sync", "sync"),
        ({"kind": "call_hang", "call": "copy_async"}, "copy_in", "copy"),
        ({"kind": "call_hang", "call": "copy_async", "after": 1}, "copy_out", "copy"),
    ],
    ids=["enqueue", "sync", "copy_in", "copy_out"],
)
def test_where_a_frame_hangs_is_in_the_heartbeat(
    start: Start, tmp_path: Path, device: SimulatedDevice, fault: dict[str, Any], stage: str, operation: str
) -> None:
    worker = engine(start, tmp_path)
    device.fault(label="worker", **fault)
    worker.send(f"bool(engine.infer({{'x': {NUMBERS}}}))")
    wait_until(lambda: stages(worker) == [stage] and operation in worker.operations())


def test_a_hook_that_hangs_is_in_its_stage(start: Start, tmp_path: Path, device: SimulatedDevice) -> None:
    worker = engine(start, tmp_path)
    worker.run("engine._preprocess = lambda engine, frame: engine.stream.synchronize()")
    device.fault("call_hang", label="worker", call="stream_synchronize")
    worker.send("infer(1)")
    wait_until(lambda: stages(worker) == ["preprocess"] and worker.operations()[-1:] == ["sync"])


def test_a_step_allocates_nothing(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run("worker.ready()")
    worker.run(f"with worker.step(): engine.infer({{'x': {NUMBERS}}})")
    assert worker.run("engine.context.hot_calls") == 0


def test_a_refused_enqueue_tells_in_tensorrts_words_and_a_broken_context_in_cudas(
    start: Start, tmp_path: Path, device: SimulatedDevice
) -> None:
    worker = engine(start, tmp_path)
    worker.run("engine._execution._made._addresses.clear()")
    kind, text = worker.run("caught(infer)")
    assert (kind, text) == (
        "EnqueueError",
        "h.plan on gpu0: IExecutionContext: Error Code 3: API Usage Error (enqueueV3: ['x', 'y'] not set)",
    )
    device.fault("error", label="worker", code=700)
    caught = worker.run(f"caught(lambda: infer({{'x': {NUMBERS}}}))")  # the copy fails, and TensorRT sees it first
    assert caught[:3] == ["StickyCudaError", "CUDA_ERROR_ILLEGAL_ADDRESS", 700]


def test_the_context_of_an_error_names_the_engine(start: Start, tmp_path: Path, device: SimulatedDevice) -> None:
    worker = engine(start, tmp_path)
    worker.run("type(engine.stream).copy_out = lambda *given: None")  # the enqueue is the last that is queued
    device.fault("error", label="worker", code=719)
    assert "last queued: h.plan on gpu0 in CUstream" in worker.run("caught(infer)")[4]


def test_another_thread_may_infer_but_a_pinned_context_is_not_taken(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    assert worker.run("in_thread(lambda: caught(infer))") is None
    worker.run("pinned = cuda.Context(owner='thread'); mine = wt.Engine(path, context=pinned)")
    assert worker.run("in_thread(lambda: caught(lambda: mine.infer({})))")[0] == "ContextLost"
    assert worker.run("caught(lambda: mine.infer({}))") is None


def test_a_plugin_that_leaves_another_context_current_is_found_at_the_enqueue(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run("other = cuda.Context()")
    worker.run("engine._execution._made.execute_async_v3 = lambda stream: driver.cuCtxSetCurrent(other._context)")
    kind, text = worker.run("caught(infer)")
    contexts = worker.run("[engine.context.handle, other.handle]")
    assert kind == "ContextLost"
    assert f"expected context {contexts[0]:#x}, found context {contexts[1]:#x}" in text


# --- starting ---


def test_an_engine_has_run_before_ready(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, plan(kernels=("sim_sleep_us_300",), switch="sim_sleep_us_2000"))
    assert worker.heartbeat.state == "attached"
    assert worker.run("engine.last_run_ns > 0")
    assert worker.run("engine._execution._made._is_new") is False


def test_no_warm_up_if_none_is_wanted(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, arguments="warm_up=0")
    assert worker.run("[engine.last_run_ns, engine._execution._made._is_new]") == [0, True]


def test_importing_needs_no_tensorrt_and_an_engine_says_what_to_install(start: Start, tmp_path: Path) -> None:
    (tmp_path / "h.plan").write_bytes(plan())
    worker = start("from watchdogd.worker import tensorrt as wt")
    assert worker.run("'tensorrt' in sys.modules") is False
    kind, text = worker.run(f"caught(lambda: wt.Engine({str(tmp_path / 'h.plan')!r}))")
    assert kind == "TensorRTUnavailableError"
    assert "tensorrt: No module named 'tensorrt'; tensorrt_lean: No module" in text and "JetPack" in text
    assert text.endswith("else pip install one of tensorrt, tensorrt_lean")
    (tmp_path / "h.plan").write_bytes(plan(tag=b"vtrt"))
    _, text = worker.run(f"caught(lambda: wt.Engine({str(tmp_path / 'h.plan')!r}))")
    assert text.endswith("else pip install tensorrt_rtx")


@pytest.mark.parametrize(
    ("tag", "there", "used"), [(b"ftrt", "tensorrt_lean", "tensorrt_lean"), (b"vtrt", "tensorrt_rtx", None)]
)
def test_the_module_that_is_there_is_used_and_said(
    start: Start, tmp_path: Path, tag: bytes, there: str, used: str | None
) -> None:
    (tmp_path / there).symlink_to(Path(DOUBLE) / "tensorrt", target_is_directory=True)
    (tmp_path / "h.plan").write_bytes(plan(tag=tag))
    worker = start(f"sys.path.insert(0, {str(tmp_path)!r})\nfrom watchdogd.worker import tensorrt as wt")
    caught = worker.run(f"caught(lambda: globals().update(engine=wt.Engine({str(tmp_path / 'h.plan')!r})))")
    if used is None:  # the double takes none of RTX's, but was asked
        assert caught[0] == "PlanError" and "by tensorrt_rtx 10.3.0 on" in caught[1]
    else:
        assert caught is None and worker.run("[engine.module.name, engine.module.version]") == [used, "10.3.0"]
    assert f"watchdogd: inference by {there} 10.3.0\n" in errors_of(worker)


def test_without_a_driver_no_runtime_is_made(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = [{DOUBLE!r}, {str(ROOT)!r}]
from watchdogd.worker import tensorrt_module
module = tensorrt_module.find()
module.trt.Runtime = None  # not to be called
try:
    module.runtime()
except Exception as error:
    print(type(error).__name__)
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # no LD_LIBRARY_PATH
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert ran.stdout in ("CudaUnavailableError\n", "CudaError\n"), ran.stderr  # the latter: a driver without a GPU


def test_a_runtime_that_tensorrt_complained_of_is_not_used(start: Start, tmp_path: Path) -> None:
    kind, text = fails(start, tmp_path, plan(), **settings(unusable=True))
    assert kind == "CudaUnavailableError"
    assert text.startswith("tensorrt 10.3.0 cannot use the driver here: createInferRuntime: Error Code 6")


# --- what does not fit ---


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["h.plan is empty"]),
        (b"\x08\x07onnx" + bytes(40), ["begins with b'\\x08\\x07on', as no plan of TensorRT's does", "magicTagRead"]),
        (
            plan(version="8.6.1.6"),
            ["h.plan was built by TensorRT 8.6.1.6, and does not run by tensorrt 10.3.0 on", "rebuild"],
        ),
        (plan(compute=3), ["was built by TensorRT 10.3.0.26", "compute capability", "incompatible device, compute 3"]),
        (plan(plugins=["libplanes.so"]), ["Cannot find plugin of libplanes.so"]),
        (plan(inputs={"x": {"shape": [4], "location": "HOST"}}), ["x is a shape that is computed with"]),
        (plan(inputs={"x": {"shape": [4], "format": "DLA_LINEAR"}}), ["x is stored as DLA_LINEAR, with padding"]),
        (plan(outputs={"y": {"shape": [-1, 4]}}), ["the shape (-1, 4) of output y depends on the data"]),
        (plan(layers=DETAIL), ["was built for a DLA (1 layers), not for gpu0"]),
    ],
    ids=["empty", "no plan", "version", "platform", "plugin", "shape tensor", "padded", "data-dependent", "for a DLA"],
)
def test_what_does_not_fit_says_what_was_built_for_what(
    start: Start, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    kind, text = fails(start, tmp_path, content)
    assert kind == "PlanError"
    for word in words:
        assert word in text


def test_a_missing_plan_or_accelerator_is_named(start: Start) -> None:
    worker = start(SETUP)
    assert worker.run("caught(lambda: wt.Engine('/nowhere/h.plan'))")[0] == "FileNotFoundError"
    for name in ("npu0", "gpu", "dla"):
        assert name in worker.run(f"caught(lambda: wt.Engine('/nowhere/h.plan', {name!r}))")[1]


def test_a_missing_plugin_library_is_named_and_one_that_is_there_is_loaded_before_the_plan(
    start: Start, tmp_path: Path
) -> None:
    library = tmp_path / "libplanes.so"
    source = tmp_path / "planes.c"
    source.write_text("void *getCreators(int *count) { *count = 0; return 0; }\n")
    kind, text = fails(start, tmp_path, plan(), f"plugins=[{str(library)!r}]")
    assert (kind, f"plugin library {library}:" in text) == ("PluginError", True)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    worker = engine(start, tmp_path, plan(plugins=["libplanes.so"]), f"plugins=[{str(library)!r}]")
    assert worker.run("caught(infer)") is None


def test_a_plugin_library_that_the_registry_refuses_is_named(start: Start, tmp_path: Path) -> None:
    library, source = tmp_path / "libold.so", tmp_path / "old.c"
    source.write_text("int refused; void *getCreators(int *count) { *count = 0; return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    answer = fails(start, tmp_path, plan(), f"plugins=[{str(library)!r}]")
    assert answer == ["PluginError", f"plugin library {library}: TensorRT does not say why"]


# --- the DLA ---


def test_a_dla_engine_runs_on_its_core_and_tells_what_fell_back(
    start: Start, tmp_path: Path, device: SimulatedDevice
) -> None:
    content = plan(layers=DETAIL, kernels=["sim_dla{core}_infer__3000us"])
    worker = engine(start, tmp_path, content, "accelerator='dla1'")
    assert worker.run("engine._runtime.DLA_core") == 1
    worker.run("[engine.infer({}) for _ in range(3)]; worker.ready()")
    (process,) = device.processes()
    assert process.busy_ns["dla1"] > 5e6 > process.busy_ns["dla0"] == 0
    assert worker.run("engine.placement") == [["{ForeignNode[conv1...conv9]}"], ["softmax", "argmax"], ["input to nvm"]]
    told = "1 layers on the DLA, 2 fell back to the GPU: softmax, argmax; 1 reformats on the GPU"
    assert f"watchdogd: h.plan on dla1: {told}\n" in errors_of(worker)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (DETAIL[:2], "1 layers on the DLA, none fell back to the GPU; 1 reformats"),
        (DETAIL[2:], "no layer runs on the DLA: all 2 fell back to the GPU"),
        (["conv1", "softmax"], "which layers fell back to the GPU cannot be told"),
        ([], "which layers fell back to the GPU cannot be told: the plan tells of no layers"),
    ],
    ids=["none", "all", "no detail", "no layers"],
)
def test_no_fallback_total_fallback_and_no_knowledge_are_told_apart(
    start: Start, tmp_path: Path, layers: list[Any], words: str
) -> None:
    worker = engine(start, tmp_path, plan(layers=layers), "accelerator='dla0'")
    assert words in errors_of(worker)


@pytest.mark.parametrize(
    ("given", "accelerator", "words"),
    [
        (
            {"version": "11.4.0"},
            "dla0",
            "dla0: tensorrt 11.4.0 has no DLA; DLA is TensorRT 10's (and older), on Xavier",
        ),
        ({"dla_cores": 0}, "dla0", "dla0: tensorrt 10.3.0 knows of 0 DLA cores here"),
        ({}, "dla2", "dla2: tensorrt 10.3.0 knows of 2 DLA cores here"),
    ],
    ids=["TensorRT 11", "no DLA", "no such core"],
)
def test_a_dla_that_is_not_there_is_an_error(
    start: Start, tmp_path: Path, given: dict[str, Any], accelerator: str, words: str
) -> None:
    kind, text = fails(start, tmp_path, plan(), f"accelerator={accelerator!r}", **settings(**given))
    assert (kind, words in text) == ("PlanError", True), text


IDLE = """
def idle(alive, seconds):
    until, runs = time.monotonic() + seconds, [engine.last_run_ns]
    while (left := until - time.monotonic()) > 0:
        due = alive.due_in()
        if due == 0.0:
            alive.run()
            runs.append(engine.last_run_ns)
        else:
            time.sleep(left if due is None else min(due, left))
    return runs
"""


def test_an_idle_dla_worker_runs_often_enough_that_the_dla_is_not_suspended(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, plan(layers=DETAIL), "accelerator='dla0'")
    worker.run(IDLE)
    done = worker.heartbeat.total("steps_done")
    runs = worker.run("idle(wt.KeepAlive(engine), 1.2)")
    assert len(runs) >= 3
    assert all(later - earlier < 500e6 for earlier, later in itertools.pairwise(runs))
    assert worker.heartbeat.total("steps_done") - done == len(runs) - 1  # each is a step, with its deadlines


def test_keep_alive_can_be_switched_off_and_is_off_on_a_gpu(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(IDLE)
    assert worker.run("[wt.KeepAlive(engine).due_in(), len(idle(wt.KeepAlive(engine), 0.3))]") == [None, 1]
    worker.run("alive = wt.KeepAlive(engine, lambda: engine.again() and 'canary', every_seconds=0.01, enabled=True)")
    wait_until(lambda: worker.run("alive.due()") is True)
    assert worker.run("[alive.run(), alive.due_in() <= 0.01]") == ["canary", True]
    worker.run("alive.enabled = False")
    assert worker.run("[alive.due_in(), alive.due()]") == [None, False]
    assert worker.run("caught(lambda: wt.KeepAlive(engine, every_seconds=0.5))")[0] == "ValueError"


# --- shapes and profiles ---

PROFILES = plan(
    inputs={"x": dynamic((1, 2, 4), (4, 8, 16))}, outputs={"y": output(shape=(-1, 4))}, profiles=2,
    switch="sim_sleep_us_20000",
)  # fmt: skip


def test_every_profile_is_warm_before_the_first_frame_and_has_memory_for_its_largest_shape(
    start: Start, tmp_path: Path
) -> None:
    worker = engine(start, tmp_path, PROFILES)
    assert worker.run("[engine.profile, engine.input('x').shape, engine.input('x').buffer.nbytes]") == [0, [2, 4], 256]
    rows = struct.pack("12f", *range(12))
    worker.run("engine.set_shapes({'x': (3, 4)})")
    assert worker.run(f"list(engine.infer({{'x': {rows!r}}})['y'].cast('f'))") == [2.0 * n for n in range(12)]
    worker.run("engine.use_profile(1, {'x': (16, 4)})")
    assert worker.run("len(engine.infer({'x': bytes(256)})['y'])") == 256
    assert worker.run("engine.context.hot_calls") == 0


def test_a_shape_outside_the_profile_is_refused_and_changes_nothing(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, PROFILES)
    for call in ("set_shapes({'x': (5, 4)})", "set_shapes({'x': (2,)})", "set_shapes({'z': (2, 4)})", "use_profile(2)"):
        assert worker.run(f"caught(lambda: engine.{call})")[0] == "ValueError"
    assert (
        "(5, 4) is no shape of x in profile 0: (1, 4) to (4, 4)"
        in worker.run("caught(lambda: engine.set_shapes({'x': (5, 4)}))")[1]
    )
    assert worker.run("[engine.profile, engine.input('x').shape, len(engine.infer({})['y'])]") == [0, [2, 4], 32]


def step_code(worker: Worker) -> int:
    return worker.heartbeat.lane(worker.heartbeat.process_lane(worker.pid), "step") & abi.CODE_MASK


@pytest.mark.parametrize("switch", ["inside", "before"])
def test_a_step_with_a_profile_switch_is_a_first_step_and_the_next_one_is_not(
    start: Start, tmp_path: Path, switch: str
) -> None:
    worker = engine(start, tmp_path, PROFILES)
    worker.run("with worker.step(): engine.infer({})")
    worker.run("worker.ready(); step = worker.begin_step(); engine.infer({})")
    assert step_code(worker) == abi.STEP_LATER
    worker.run("worker.end_step(step)")
    turns = ["engine.use_profile(1)", "step = worker.begin_step()"]
    for line in turns if switch == "before" else reversed(turns):
        worker.run(line)
    assert step_code(worker) == abi.STEP_FIRST
    worker.run("infer()")
    assert step_code(worker) == abi.STEP_FIRST
    worker.run("worker.end_step(step); step = worker.begin_step(); engine.infer({})")
    assert step_code(worker) == abi.STEP_LATER


def test_a_switch_is_a_first_step_although_another_step_was_done_since(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, PROFILES)
    worker.run("worker.ready(); engine.use_profile(1)")
    worker.run("with worker.step(): pass")
    worker.run("step = worker.begin_step()")
    assert step_code(worker) == abi.STEP_LATER
    worker.run("infer()")
    assert step_code(worker) == abi.STEP_FIRST


# --- several engines ---

TWO = f"""
first, second = wt.Engine(path, 'dla0'), wt.Engine(path)
def both():
    first.infer({{'x': {NUMBERS}}})
    wt.handover(first.output('y'), second.input('x'))
    return list(second.infer({{}})['y'].cast('f'))
"""


def test_two_engines_in_two_contexts_hand_over_on_the_device(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(TWO)
    assert worker.run("first.context.handle != second.context.handle")
    assert worker.run("both()") == [4.0 * n for n in range(16)]
    assert worker.run("current()") == 0


def test_a_hand_over_never_makes_one_context_wait_for_the_others_work(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(TWO + "waits = []\nwait = driver.cuStreamWaitEvent\n"
               "driver.cuStreamWaitEvent = lambda *given: (waits.append(1), wait(*given))[1]")  # fmt: skip
    worker.run("[both() for _ in range(3)]; worker.ready()")
    worker.run("late = first.context.module(b'').kernel('sim_add_one__30000us'); both()")
    worker.run("first.stream.launch(late, 1, 16, (first.output('y').buffer, 16))")  # still runs when it is handed over
    worker.run("wt.handover(first.output('y'), second.input('x'))")
    assert worker.run("list(second.infer({})['y'].cast('f'))") == [4.0 * n + 2 for n in range(16)]
    assert worker.run("waits") == []


def test_a_frozen_context_does_not_hold_the_other_engine(start: Start, tmp_path: Path, device: SimulatedDevice) -> None:
    worker = engine(start, tmp_path)
    worker.run(TWO)
    fault = device.fault("hang", label="worker", scope="context")
    worker.run("thread = threading.Thread(target=first.infer, args=({},), daemon=True); thread.start()")
    wait_until(lambda: fault.fired > 0 and "sync" in stages(worker))  # else it may yet meet the other one
    assert worker.run(f"list(second.infer({{'x': {NUMBERS}}})['y'].cast('f'))") == [2.0 * n for n in range(16)]
    assert worker.run("thread.is_alive()")


def test_a_hand_over_that_hangs_is_in_its_stage(start: Start, tmp_path: Path, device: SimulatedDevice) -> None:
    worker = engine(start, tmp_path)
    worker.run(TWO + f"first.infer({{'x': {NUMBERS}}})")
    device.fault("hang", label="worker", scope="context")
    worker.send("wt.handover(first.output('y'), second.input('x'))")
    wait_until(lambda: stages(worker) == ["handover"] and worker.operations() == ["sync"])


def test_tensors_that_are_not_alike_are_not_handed_over(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    (tmp_path / "other.plan").write_bytes(plan(inputs={"x": {"shape": [4, 4], "dtype": "INT32"}}))
    worker.run(f"other = wt.Engine({str(tmp_path / 'other.plan')!r})")
    kind, text = worker.run("caught(lambda: wt.handover(engine.output('y'), other.input('x')))")
    assert kind == "ValueError"
    left = "output y (4, 4) of h.plan on gpu0 (64 bytes of f)"
    assert text == f"{left} does not go into input x (4, 4) of other.plan on gpu0 (64 bytes of i)"


def test_nothing_is_handed_over_to_an_output(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    kind, text = worker.run("caught(lambda: wt.handover(engine.output('y'), engine.output('y')))")
    assert (kind, text.partition(":")[0]) == ("ValueError", "output y (4, 4) of h.plan on gpu0 is no input")


def test_engines_may_share_a_context_and_one_that_is_closed_frees_what_it_had(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run("shared = cuda.Context(); one = wt.Engine(path, context=shared); two = wt.Engine(path, context=shared)")
    worker.run("one.close(); one.close()")
    assert worker.run("caught(lambda: two.infer({}))") is None
    assert worker.run("caught(lambda: one.infer({}))") == ["ValueError", "h.plan on gpu0 is closed"]
    assert worker.run("shared.handle") and worker.run("len(shared._pinned)") == 2  # the other one's
    worker.run("engine.close()")
    assert worker.run("caught(lambda: engine.context.handle)") == ["ValueError", "the Context is closed"]
    for call in ("infer", "engine.again", "lambda: engine.set_shapes({})", "lambda: engine.use_profile(0)"):
        assert worker.run(f"caught({call})") == ["ValueError", "h.plan on gpu0 is closed"]


# Misuse, and what follows a failure


BOTH = plan({"x": {"shape": [4, 4]}, "z": {"shape": [4, 4]}}, {"y": output()})
CLOSE = "caught(engine.close)"


@pytest.mark.parametrize("shared", [False, True])
def test_an_engine_of_a_failed_context_is_closed_all_the_same(
    device: SimulatedDevice, start: Start, tmp_path: Path, shared: bool
) -> None:
    worker = engine(start, tmp_path, arguments="context=cuda.Context()" if shared else "")
    device.fault("error", code=710, times=1)
    assert worker.run(f"caught(lambda: infer({{'x': {NUMBERS}}}))")[:2] == ["ContextFailedError", "CUDA_ERROR_ASSERT"]
    assert worker.run(CLOSE)[:2] == ["ContextFailedError", "CUDA_ERROR_ASSERT"]
    assert worker.run(f"[engine.stream._object is None, len(cuda._open), {CLOSE}]") == [True, int(shared), None]


def test_a_second_thread_is_told_who_is_inside(device: SimulatedDevice, start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    fault = device.fault("hang", scope="stream")
    worker.run("first = threading.Thread(target=infer, name='first', daemon=True); first.start()")
    wait_until(lambda: fault.fired > 0)
    for call in ("infer", "engine.again", "engine.close", "lambda: engine.set_shapes({})"):
        kind, text = worker.run(f"caught({call})")
        assert (kind, "thread 'MainThread'" in text, "busy for thread 'first'" in text) == (
            "EngineBusyError",
            True,
            True,
        )
    fault.clear()
    assert worker.run("first.join(10); infer()") is None


def test_an_engine_of_one_thread_is_no_others(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, arguments="owner='thread'")
    for call in ("infer", "engine.close"):
        kind, text = worker.run(f"in_thread(lambda: caught({call}))")
        assert (kind, "of thread 'MainThread'" in text) == ("ContextLost", True)
    worker.run("infer(); engine.close()")
    assert worker.run("len(cuda._open)") == 0


@pytest.mark.parametrize(
    "call", ["infer({})", "again()", "set_shapes({})", "use_profile(0)"], ids=lambda call: call.partition("(")[0]
)
def test_what_another_thread_called_is_named(start: Start, tmp_path: Path, call: str) -> None:
    worker = engine(start, tmp_path, arguments="owner='thread'")
    kind, text = worker.run(f"in_thread(lambda: caught(lambda: engine.{call}))")
    name = call.partition("(")[0]
    assert (kind, text.partition(":")[0]) == ("ContextLost", f"Engine.{name} of h.plan on gpu0")


def test_a_frame_that_is_no_mapping_is_refused_with_the_name_that_it_should_have(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(f"import array\nX = array.array('f', {NUMBERS})")
    kind, text = worker.run("caught(lambda: infer(X))")
    assert (kind, text) == ("TypeError", "h.plan on gpu0 takes its inputs by name, as {'x': ...}, and got array")
    worker.run("infer({'x': X}); infer(None)")


@pytest.mark.parametrize(
    "wrong", ["array.array('d', range(8))", "memoryview(X).cast('f', (2, 8))", "array.array('i', X)"]
)
def test_an_input_of_the_right_size_and_another_meaning_is_refused(start: Start, tmp_path: Path, wrong: str) -> None:
    worker = engine(start, tmp_path)
    worker.run(f"import array; X = {NUMBERS}")
    kind, text = worker.run(f"caught(lambda: infer({{'x': {wrong}}}))")
    assert (kind, "input x (4, 4) of h.plan on gpu0" in text) == ("ValueError", True)


RIGHT = (
    "X", "array.array('f', X)", "(ctypes.c_float * 16)(*range(16))", "memoryview(X).cast('f', (1, 4, 4))",
    "memoryview(array.array('f', (number // 2 for number in range(32))))[::2]",
)  # fmt: skip


@pytest.mark.parametrize("right", RIGHT)
def test_an_input_may_be_any_buffer_of_its_elements(start: Start, tmp_path: Path, right: str) -> None:
    worker = engine(start, tmp_path)
    worker.run(f"import array; X = {NUMBERS}")
    assert worker.run(f"engine.infer({{'x': {right}}})['y'].cast('f').tolist()") == [2.0 * n for n in range(16)]


def test_an_input_that_does_not_fit_leaves_none_in_flight(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, BOTH)
    worker.run("small = engine.context.alloc_host(4)")
    kind, text = worker.run(f"caught(lambda: infer({{'x': {NUMBERS}, 'z': small}}))")
    assert (kind, "4 bytes are no input z" in text) == ("ValueError", True)
    assert worker.run("engine.stream._line.is_busy()") is False


def test_the_frame_after_one_that_failed_waits_for_what_that_left_in_flight(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, arguments="preprocess=lambda engine, frame: hook(frame)")
    worker.run(
        "slow = engine.context.module(b'').kernel('sim_sleep_us_50000'); busy = []\n"
        "def hook(frame):\n"
        "    busy.append(engine.stream._line.is_busy())\n"
        "    engine.stream.launch(slow, 1, 1)\n"
        "    if frame == 'bad': raise KeyError(frame)\n"
    )
    assert worker.run("caught(lambda: infer('bad'))")[0] == "KeyError"
    worker.run("infer('good')")
    assert worker.run("busy") == [False, False]


def test_a_profile_that_tensorrt_refuses_has_changed_nothing(start: Start, tmp_path: Path) -> None:
    shapes = dynamic((1, 2, 4), (5, 6, 8))
    worker = engine(start, tmp_path, plan({"x": shapes}, {"y": output(shape=(-1, 4))}, profiles=2))
    worker.run(
        "class Refuses:\n"
        "    def __init__(self, made): self.made = made\n"
        "    def __getattr__(self, name): return getattr(self.made, name)\n"
        "    def set_input_shape(self, name, shape): return shape[0] < 5 and self.made.set_input_shape(name, shape)\n"
        "engine._execution._made = Refuses(engine._execution._made)\n"
    )
    assert worker.run("caught(lambda: engine.use_profile(1))")[0] == "ValueError"
    assert worker.run("[engine.profile, engine.input('x').shape, len(engine.infer({'x': bytes(32)})['y'])]") == [
        0,
        [2, 4],
        32,
    ]


def test_poison_looks_at_what_the_shape_of_the_moment_takes(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, plan({"x": dynamic((1, 2, 4))}, {"y": output(shape=(-1, 4))}))
    worker.run(
        "from watchdogd.worker.cuda_poison import Poison; poison = Poison(y=engine.output('y'))\n"
        "engine.set_shapes({'x': (1, 4)}); poison.fill(engine.stream); engine.infer({'x': bytes(16)}); poison.check()"
    )
    worker.run("poison.fill(engine.stream); engine.stream.synchronize()")
    assert worker.run("caught(poison.check)") == ["UnwrittenError", "y: elements 0 to 3 of 4 were never written"]


def test_the_logger_raises_nothing_into_tensorrt(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run("reader, writer = os.pipe(); os.close(reader); kept = os.dup(2); os.dup2(writer, 2)")
    severity = "engine.module.trt.ILogger.Severity.ERROR"
    assert worker.run(f"caught(lambda: engine.module.logger.log({severity}, 'no use'))") is None
    worker.run("os.dup2(kept, 2)")
    assert worker.run("engine.module.messages.errors()") == "no use"


def test_a_preprocess_hook_that_leaves_another_context_current_is_told(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, arguments="preprocess=lambda engine, frame: frame and push()")
    worker.run("other = cuda.Context()\ndef push(): driver.cuCtxPushCurrent(other._context)")
    kind, text = worker.run("caught(lambda: infer(1))")
    assert (kind, text.startswith("after the block, which has changed the current context")) == ("ContextLost", True)
    worker.run("infer(None)")


def test_an_engine_may_be_closed_after_a_context_that_it_shared(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path, arguments="context=cuda.Context()")
    worker.run("engine.context.close(); engine.close(); engine.close()")
    assert worker.run("engine._runtime is None")


def test_an_output_is_handed_over_to_an_engine_of_another_thread_by_that(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(
        "from watchdogd.worker.cuda_thread import CudaThread\n"
        "threads = [CudaThread(name=name) for name in 'ha']\n"
        "h, a = (gpu.submit(wt.Engine, path, context=gpu.context).result(10) for gpu in threads)\n"
        f"threads[0].submit(h.infer, {{'x': {NUMBERS}}}).result(10)\n"
        "def hands_over(gpu): return gpu.submit(wt.handover, h.output('y'), a.input('x')).result(10)\n"
    )
    assert worker.run("caught(lambda: hands_over(threads[0]))")[0] == "ContextLost"
    worker.run("hands_over(threads[1])")
    assert worker.run("threads[1].submit(a.again).result(10)['y'].cast('f').tolist()[:3]") == [0.0, 4.0, 8.0]


def test_an_output_that_is_not_there_yet_is_waited_for_before_it_is_handed_over(start: Start, tmp_path: Path) -> None:
    worker = engine(start, tmp_path)
    worker.run(
        f"a = wt.Engine(path); engine.infer({{'x': {NUMBERS}}})\n"
        "engine.stream.launch(engine.context.module(b'').kernel('sim_sleep_us_50000'), 1, 1)\n"
        "begun = time.monotonic(); wt.handover(engine.output('y'), a.input('x')); took = time.monotonic() - begun"
    )
    assert worker.run("took") > 0.04
