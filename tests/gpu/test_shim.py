"""The driver shim on a GPU: what it costs a call, a start and a real program, and whether it sees every call.

What needs PyTorch, CuPy, JAX, nvcc or CUPTI is run on a real GPU alone, and skipped where one of them is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.gpu.conftest import Machine
from tests.gpu.results import Results
from tests.gpu.shim import calls, switch
from tests.gpu.shim.programs import PTX, SOURCES, built
from tests.helpers.worker_process import ROOT
from watchdogd import abi, abi_driver
from watchdogd.instrument import front, words
from watchdogd.observe import heartbeat, procfs

PROGRAMS = ROOT / "tests/gpu/programs"
CUDA = Path("/usr/local/cuda")  # with CUPTI's header and library
HANGS = 4  # of each program
STARTS = {True: 30, False: 3}  # pairs, on a real machine and a simulated one
IMPORTS = {"torch_server": "torch", "cupy_script": "cupy", "jax_script": "jax"}


@dataclass(frozen=True)
class Shimmed:
    bare: dict[str, str]  # environment
    environment: dict[str, str]  # the same with the shim first, and a heartbeat
    library: str
    driver: str
    heartbeat: Path


@pytest.fixture
def shimmed(machine: Machine, tmp_path: Path) -> Iterator[Shimmed]:
    bare = {**os.environ, "PYTHONPATH": str(ROOT), **machine.environment}
    roots = tmp_path / "roots"
    roots.mkdir()
    shim, environment = front.stand(words.Request((str(roots),)), bare, str(tmp_path), None)
    assert shim.folder and shim.driver, shim.problem
    file = tmp_path / "heartbeat"
    reader = heartbeat.create(str(file), boot_id=procfs.boot_id(), incarnation=1, spawned_ns=1)
    yield Shimmed(bare, {**environment, abi.ENVIRONMENT: str(file)}, f"{shim.folder}/libcuda.so.1", shim.driver, file)
    reader.close()


def needs(*, module: str | None = None, program: str | None = None, file: Path | None = None) -> None:
    missing = [
        name
        for name, is_there in (
            (module, module and importlib.util.find_spec(module)),
            (program, program and shutil.which(program)),
            (file, file and file.exists()),
        )
        if name and not is_there
    ]
    if missing:
        pytest.skip(f"not here: {', '.join(map(str, missing))}")


def test_what_the_shim_costs_a_call(machine: Machine, shimmed: Shimmed, results: Results, tmp_path: Path) -> None:
    kernel = "empty" if machine.real else "sim_sleep_us_1"
    program = built("cost.c", tmp_path)
    command = [str(program), shimmed.library, shimmed.driver, str(PTX), kernel, str(machine.rounds)]
    ran = subprocess.run(
        command, env=shimmed.environment, capture_output=True, text=True, timeout=100, check=True
    ).stdout
    for what, took in json.loads(ran).items():
        results.add(f"{what}, bare", took["bare_ns"] / 1e3, "us")
        results.add(f"{what}, through the shim: more than that", took["more_ns"], "ns")
        results.add(f"{what}, in percent", 100 * took["more_ns"] / took["bare_ns"], "%")
    counted = calls.stamped(shimmed.heartbeat)
    assert counted["sync"] >= machine.rounds * 17 and counted["launch"] >= machine.rounds


def test_what_the_shim_costs_a_start(machine: Machine, shimmed: Shimmed, results: Results, tmp_path: Path) -> None:
    program = built("startup.c", tmp_path)

    def start(environment: dict[str, str]) -> int:
        ran = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60, check=True)
        return int(ran.stdout)

    start(shimmed.environment), start(shimmed.bare)  # what is read from disk the first time
    pairs = []
    for number in range(STARTS[machine.real]):
        order = (shimmed.bare, shimmed.environment) if number % 2 else (shimmed.environment, shimmed.bare)
        took = {id(environment): start(environment) for environment in order}
        pairs.append((took[id(shimmed.bare)], took[id(shimmed.environment)]))
    results.add("load of the driver, cuInit and context, bare", median(bare for bare, _ in pairs) / 1e6, "ms")
    more = median(with_shim - bare for bare, with_shim in pairs) / 1e6
    results.add("load of the driver, cuInit and context, through the shim: more than that", more, "ms")


def program_command(name: str, directory: Path, *arguments: str) -> list[str]:
    """A program as a user has it: a script of a framework, or a C++ program of the CUDA runtime, built by nvcc."""
    if name == "plain":
        needs(program="nvcc")
        program = directory / "plain"
        subprocess.run(["nvcc", "-o", program, ROOT / "examples/cpp/plain.cpp"], check=True, timeout=120)
        return [str(program), *arguments]
    needs(module=IMPORTS[name])
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments]


NAMES = ("torch_server", "cupy_script", "jax_script", "plain")


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("checked", [True, False])  # with check_context launches are stamped as any other call
@pytest.mark.parametrize("machine", ["real"], indirect=True)
@pytest.mark.usefixtures("machine")
def test_every_call_that_cupti_counts_is_stamped(
    checked: bool, name: str, shimmed: Shimmed, results: Results, tmp_path: Path
) -> None:
    needs(file=CUDA / "include/cupti.h")
    command = program_command(name, tmp_path, "--frames", "30")
    library = CUDA / "lib64"
    trace = tmp_path / "libtrace.so"
    subprocess.run(
        ["cc", "-O2", "-shared", "-fPIC", "-o", trace, SOURCES / "trace.c", f"-I{CUDA}/include",
         f"-L{library}", f"-Wl,-rpath,{library}", "-lcupti"], check=True, timeout=60,
    )  # fmt: skip
    file = tmp_path / "checked"
    option = abi_driver.OPTION["check_context"] if checked else 0
    reader = heartbeat.create(str(file), boot_id=procfs.boot_id(), incarnation=1, spawned_ns=1, driver=option)
    environment = {
        **shimmed.environment, abi.ENVIRONMENT: str(file),
        "CUDA_INJECTION64_PATH": str(trace), "TRACE": str(tmp_path / "trace"),
    }  # fmt: skip
    subprocess.run(command, env=environment, timeout=120, check=True, stdout=subprocess.DEVNULL)
    traced = calls.traced(tmp_path.glob("trace.*"))
    expected, found = calls.by_operation(traced), calls.stamped(file)
    region = reader.driver()
    assert region is not None and region.misuses == 0  # no framework changes contexts behind the driver's public calls
    told = {op: (count, found.get(op, 0)) for op, count in sorted(expected.items())}
    blocking = sum(expected.values())
    how = "check_context" if checked else "launches lightly"
    results.add(f"{name}, {how}: driver calls that CUPTI counted and the shim stamps", blocking, "")
    seen = sum(min(count, found.get(op, 0)) for op, count in expected.items())
    results.add(f"{name}, {how}: of these, stamped", 100 * seen / blocking, "%")
    print(name, told, {n: c for n, c in traced.items() if n not in calls.operations()})
    assert all(found.get(op, 0) >= count for op, count in expected.items()), told


def hang(
    command: Sequence[str], environment: dict[str, str], directory: Path, deadline: str
) -> tuple[int, dict[str, Any]]:
    """Exit status of `watchdogd exec`, and the verdict's event."""
    events = directory / "events.jsonl"
    run = [
        sys.executable, "-m", "watchdogd", "exec", "--sync", deadline, "--event", deadline, "--copy", deadline,
        "--progress", "sync", "--stall", deadline, "--startup", "120s", "--json-events", str(events), "--", *command,
    ]  # fmt: skip
    status = subprocess.run(run, env=environment, timeout=140, check=False).returncode
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return status, next(event for event in told if event["kind"] == "verdict")


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("machine", ["real"], indirect=True)
def test_a_program_that_hangs_gets_its_verdict_after_its_deadline(
    machine: Machine, name: str, shimmed: Shimmed, results: Results, tmp_path: Path
) -> None:
    command = program_command(name, tmp_path, "--frames", "100000", "--hang-after", "20")
    late, found = [], set()
    for number in range(HANGS):
        directory = tmp_path / str(number)
        directory.mkdir()
        status, verdict = hang(command, shimmed.bare, directory, machine.deadline)
        assert status == 124
        late.append(verdict["detected_ns"] - verdict["deadline_ns"])
        found.add(verdict["operation"] or f"verdict {verdict['verdict']}")
    what = f"{name} hung {HANGS} times ({', '.join(sorted(found))}): deadline to verdict"
    results.add(f"{what}, median", median(late) / 1e6, "ms")
    results.add(f"{what}, worst", max(late) / 1e6, "ms")
    assert min(late) >= 0 and max(late) < 50_000_000


@pytest.mark.gpu
@pytest.mark.parametrize("machine", ["real"], indirect=True)
def test_a_worker_with_stamps_of_its_own_may_run_behind_the_shim_as_well(
    machine: Machine, shimmed: Shimmed, results: Results, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.gpu.worker", "--hang-after", "20"]
    status, verdict = hang(command, shimmed.bare, tmp_path, machine.deadline)
    assert (status, verdict["operation"]) == (124, "sync")
    late_ns = verdict["detected_ns"] - verdict["deadline_ns"]
    results.add("a worker of watchdogd.worker.cuda behind the shim hung: deadline to verdict", late_ns / 1e6, "ms")


@pytest.mark.gpu
@pytest.mark.parametrize("machine", ["real"], indirect=True)
@pytest.mark.usefixtures("machine")
def test_pytorch_s_profiler_works_behind_the_shim(shimmed: Shimmed, results: Results) -> None:
    needs(module="torch")
    command = [sys.executable, str(PROGRAMS / "torch_profiler.py")]
    ran = subprocess.run(
        command, env=shimmed.environment, capture_output=True, text=True, timeout=100, check=True
    ).stdout
    kernels = int(ran.split()[-1])
    assert kernels >= 10
    results.add("kernels that PyTorch's profiler saw behind the shim (10 products)", kernels, "")


@pytest.mark.gpu
@pytest.mark.parametrize("machine", ["real"], indirect=True)
@pytest.mark.usefixtures("machine")
def test_what_the_shim_costs_an_inference_server(shimmed: Shimmed, results: Results, tmp_path: Path) -> None:
    """In one process, with a switch: two processes of the same text differ by more than the shim costs."""
    command = program_command("torch_server", tmp_path, "--switched")
    (tmp_path / "switched").mkdir()
    request = words.Request((str(tmp_path / "switched"),), str(switch.build(tmp_path)))
    front_of, environment = front.stand(request, shimmed.bare, str(tmp_path), None)
    assert front_of.folder, front_of.problem
    environment = {**environment, abi.ENVIRONMENT: str(shimmed.heartbeat)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout
    for figure, values in json.loads(ran.splitlines()[-1]).items():
        results.add(f"PyTorch, ResNet-50's size, {figure}: images with the shim off", values["off"], "a second")
        between = f"95 % between {values['low']:.2f} and {values['high']:.2f}"
        what = f"PyTorch, {figure}: change with the shim on, median of {values['pairs']} pairs ({between})"
        results.add(what, values["change_percent"], "%")
    assert calls.stamped(shimmed.heartbeat)["launch"] > 1000
