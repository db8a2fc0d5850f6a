"""TensorRT on a GPU: what it computes comes out, a frozen engine is found and replaced, and what ``Engine`` adds.

On the simulated driver it is the double of TensorRT, so that the tests stay true; only the real one's figures are kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import Machine
from tests.gpu.results import Results
from tests.gpu.test_gpu import SLOW_SECONDS
from tests.helpers.running import Supervised, gone, wait_until
from tests.helpers.worker_process import ROOT
from tests.simulator.tensorrt_plan import DOUBLE, dynamic, output, plan

PLANS = "WATCHDOGD_GPU_PLANS"  # what ``tests.gpu.plans`` wrote, maybe elsewhere, for a module that cannot build
COMPUTE = """
import json, struct, sys, time
from pathlib import Path
from watchdogd.worker.tensorrt import Engine, PlanError, handover
folder = Path(sys.argv[1])

def caught(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]

def twice(engine, rows):
    numbers = [float(n) for n in range(4 * rows)]
    engine.set_shapes({"x": (rows, 4)})
    return list(engine.infer({"x": struct.pack(f"{4 * rows}f", *numbers)})["y"].cast("f")) == [2 * n for n in numbers]

def took_ms(call):
    begin = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begin) / 1e6

def handed_over(a, b):
    a.set_shapes({"x": (2, 4)}), b.set_shapes({"x": (2, 4)})
    a.infer({"x": struct.pack("8f", *range(8))})
    handover(a.output("y"), b.input("x"))
    return list(b.infer({})["y"].cast("f"))

told = {}
path = folder / "twice.plan"
with Engine(path) as engine, Engine(path) as other:
    told["module"] = str(engine.module)
    told["profile 0"] = [twice(engine, rows) for rows in (1, 2, 4)]
    told["outside"] = caught(lambda: engine.set_shapes({"x": (5, 4)}))[0]
    told["switch ms"] = took_ms(lambda: (engine.use_profile(1), engine.infer({})))
    told["frame ms"] = took_ms(lambda: engine.infer({}))
    told["profile 1"] = [twice(engine, rows) for rows in (4, 8, 16)]
    engine.use_profile(0)
    told["handed over"] = handed_over(engine, other)
told["truncated"] = caught(lambda: Engine(path.read_bytes()[:-100]))
told["damaged"] = caught(lambda: Engine(b"\\0" * 64 + path.read_bytes()[64:]))
told["dla"] = caught(lambda: Engine(path, "dla0"))
print(json.dumps(told))
"""

# Whose inputs come from another stream, late: by the order guard, or with nothing between them.
ORDER = """
import json, struct, sys
from tests.gpu.kernels import Kernels
from watchdogd.worker import cuda
from watchdogd.worker.cuda import OrderError
from watchdogd.worker.tensorrt import Engine

def zeros(order, frames=20):
    with cuda.Context(order=order) as context, Engine(sys.argv[1] + "/twice.plan", context=context) as engine:
        elsewhere, bad = context.stream(), 0
        kernels = Kernels(context, elsewhere, 20_000)
        source = context.alloc_host(32)
        source.view[:] = struct.pack("8f", *range(1, 9))
        x = engine.input("x")
        for _ in range(frames):
            elsewhere.fill(x.buffer, 0)
            elsewhere.synchronize()
            kernels.sleep()
            elsewhere.copy_in(x.buffer, source)
            try:
                bad += not any(engine.infer({})["y"])
            except OrderError:
                bad = "OrderError"
                break
            finally:
                elsewhere.synchronize()
        return bad

print(json.dumps({order: zeros(order) for order in ("off", "insert", "strict")}))
"""

COST = """
import gc, json, signal, sys
from cuda.bindings import driver
from tests.gpu.cost import interleaved
import watchdogd.worker as wd
from watchdogd.worker import cuda
from watchdogd.worker.tensorrt import Engine
signal.alarm(100)
wd.attach()
with cuda.Context(wait="spin") as context, Engine(sys.argv[1], context=context) as engine:
    made, handle = engine._live._made, engine.stream.handle
    stream = driver.CUstream(handle)
    y = engine.output("y")
    def bare():
        with context.current():
            made.execute_async_v3(handle)
            driver.cuMemcpyDtoHAsync(y.host.address, y.buffer.address, y.nbytes, stream)
            driver.cuStreamSynchronize(stream)
    gc.disable()
    print(json.dumps(interleaved({"bare": bare, "infer": lambda: engine.infer({})}, lambda: None, int(sys.argv[2]))))
    del made, bare  # before the engine closes: TensorRT's objects need the context
"""


@pytest.fixture
def plans(machine: Machine, tmp_path: Path) -> Path:
    """A folder with ``twice.plan`` and ``network.plan``."""
    if not machine.real:
        machine.environment.update({"PYTHONPATH": f"{ROOT}:{DOUBLE}", "TENSORRT_DOUBLE": json.dumps({"dla_cores": 0})})
        rows = dynamic((1, 2, 4), (4, 8, 16))
        twice = plan(inputs={"x": rows}, outputs={"y": output(shape=(-1, 4))}, profiles=2)
        (tmp_path / "twice.plan").write_bytes(twice)
        (tmp_path / "network.plan").write_bytes(plan())
        return tmp_path
    if os.environ.get(PLANS):
        return Path(os.environ[PLANS])
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip(f"the module tensorrt is not installed here, and ${PLANS} names no folder with plans")
    subprocess.run([sys.executable, "-m", "tests.gpu.plans", str(tmp_path)], check=True, timeout=140, cwd=ROOT)
    return tmp_path


def told_by(program: str, machine: Machine, *arguments: str) -> Any:
    environment = {"PYTHONPATH": str(ROOT), **os.environ, **machine.environment}
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT,
        env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_what_it_computes_comes_out_of_every_profile_and_what_it_refuses_is_told(
    machine: Machine, plans: Path, results: Results
) -> None:
    told = told_by(COMPUTE, machine, str(plans))
    results.about["tensorrt"] = told["module"]
    results.add("TensorRT: profile switch and first inference", told["switch ms"], "ms")
    results.add("TensorRT: an inference after it", told["frame ms"], "ms")
    assert told["profile 0"] == told["profile 1"] == [True, True, True]
    assert told["outside"] == "ValueError"
    assert told["handed over"] == [4.0 * n for n in range(8)]
    for broken in ("truncated", "damaged"):
        kind, text = told[broken]
        assert kind == "PlanError"
        print(f"{broken}: {text}", file=sys.stderr)
    assert told["dla"][0] == "PlanError"
    assert "DLA" in told["dla"][1]


def test_inputs_from_another_stream_are_waited_for_or_refused(machine: Machine, plans: Path, results: Results) -> None:
    told = told_by(ORDER, machine, str(plans))
    results.add("TensorRT: outputs all zero of 20, input from another stream, no order", told["off"], "")
    assert told["off"] > 0
    assert told["insert"] == 0
    assert told["strict"] == "OrderError"


def test_what_an_engine_adds(machine: Machine, plans: Path, results: Results) -> None:
    told = told_by(COST, machine, str(plans / "network.plan"), "2000" if machine.real else "50")
    results.add("TensorRT: enqueue, copy out and synchronize of eight convolutions, bare", told["bare"] / 1e3, "us")
    results.add("TensorRT: the same by Engine.infer: more than that", told["infer"] / 1e3, "us")


def test_a_hung_engine_is_replaced_and_its_neighbour_goes_on(
    machine: Machine, plans: Path, results: Results, tmp_path: Path
) -> None:
    hang = tmp_path / "hang"

    def engine(name: str, sync: str, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.gpu.engine_worker", str(plans / "network.plan"), str(tmp_path / name)]
        deadlines = {"startup": "60s", "sync": sync, "launch": sync}
        return {"command": [*command, *arguments], "accelerator": "gpu0", "deadlines": deadlines}

    workers = {"h": engine("h", machine.deadline, "--hang-when", str(hang)), "a": engine("a", "20s")}
    with Supervised(workers, environment=machine.environment, supervisor={"kill_grace": "30s"}) as supervised:
        wait_until(lambda: all(supervised.phase(name) == "running" for name in workers), SLOW_SECONDS, supervised.log)
        victim, neighbour = (supervised.worker(name)["pid"] for name in ("h", "a"))
        wait_until(lambda: (tmp_path / "a").stat().st_size > machine.frames, SLOW_SECONDS, supervised.log)
        hang.touch()
        verdict = supervised.wait_event("verdict", "h")
        wait_until(lambda: supervised.phase("h") == "running", SLOW_SECONDS, supervised.log)
        ended, ready = (
            supervised.wait_event("gone", "h", incarnation=1),
            supervised.wait_event("ready", "h", incarnation=2),
        )
        frames = (tmp_path / "a").stat().st_size
        wait_until(lambda: (tmp_path / "a").stat().st_size > frames + machine.frames, SLOW_SECONDS, supervised.log)
        assert (verdict["verdict"], verdict["operation"], verdict["stage"]) == ("call", "sync", "sync")
        assert gone(victim)
        assert supervised.worker("a")["pid"] == neighbour
        assert supervised.events("verdict", "a") == []
    deadline_ns = verdict["deadline_ns"]
    results.add("TensorRT: deadline of a hung inference to verdict", (verdict["detected_ns"] - deadline_ns) / 1e6, "ms")
    results.add("TensorRT: verdict to gone", (ended["monotonic_ns"] - verdict["detected_ns"]) / 1e6, "ms")
    results.add("TensorRT: gone to successor ready", (ready["ready_ns"] - ended["monotonic_ns"]) / 1e6, "ms")
