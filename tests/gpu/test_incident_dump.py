"""What can be had of a worker whose kernel spins for ever: its stacks, then a core dump of the GPU that names it.

On a real GPU the dump, and what cuda-gdb says of it where that is installed, are left beside the results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import RESULTS, Machine
from tests.gpu.results import Results
from tests.helpers.gpu_core import spinning
from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import LineProcess
from watchdogd import abi
from watchdogd.incidents.collectors import (
    DumpTarget,
    Evidence,
    Target,
    cuda_core,
    elf,
    gpu_dump,
    gpu_kernels,
    mappings,
    proc,
    py_spy,
    stacks,
)  # fmt: skip
from watchdogd.instrument import core_dump

SOURCE = Path(__file__).with_name("spin.cu")
LINES = {f"{line}" for line in (8, 9)}  # of the loop
SPINS = """
import ctypes, signal, sys
import watchdogd.worker
from watchdogd.worker import cuda

signal.alarm(140)
worker = watchdogd.worker.attach()
image, name = open(sys.argv[1], "rb").read(), sys.argv[2]
with cuda.Context(wait=sys.argv[3]) as ctx:
    stream = ctx.stream()
    out = ctx.alloc(4)
    worker.ready()
    stream.launch(ctx.module(image).kernel(name), 3, 32, (ctypes.c_void_p(out.address),) if name == "spin_deep" else ())

    def waits_for_the_gpu():
        try:
            stream.synchronize()
        except cuda.CudaError as error:
            print(error.code, flush=True)

    print("launched", flush=True)
    waits_for_the_gpu()
    sys.stdin.readline()
"""


def compiled(folder: Path) -> Path:
    """With line information, for this GPU: by nvcc, or by NVRTC."""
    if shutil.which("nvcc"):
        subprocess.run(
            ["nvcc", "-cubin", "-arch=native", "-lineinfo", "-o", folder / "spin.cubin", SOURCE],
            check=True,
            timeout=120,
        )
        return folder / "spin.cubin"
    nvrtc: Any = pytest.importorskip("cuda.bindings.nvrtc")
    from cuda.bindings import driver  # noqa: PLC0415 - which is a real one here

    driver.cuInit(0)
    attribute = driver.CUdevice_attribute
    major, minor = (
        driver.cuDeviceGetAttribute(item, 0)[1]
        for item in (attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                     attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
    )  # fmt: skip
    options = [f"--gpu-architecture=sm_{major}{minor}".encode(), b"-lineinfo"]
    error, program = nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), str(SOURCE).encode(), 0, [], [])
    assert int(error) == 0
    assert int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]) == 0
    cubin = b" " * int(nvrtc.nvrtcGetCUBINSize(program)[1])
    assert int(nvrtc.nvrtcGetCUBIN(program, cubin)[0]) == 0
    (folder / "spin.cubin").write_bytes(cubin)
    return folder / "spin.cubin"


def timed(results: Results, what: str, collect: Callable[[Target], Evidence], target: Target) -> Evidence:
    began = time.monotonic()
    found = collect(target._replace(until_ns=time.monotonic_ns() + 60_000_000_000))
    results.add(f"{what}: {found.outcome}", (time.monotonic() - began) * 1e3, "ms")
    print(f"\n{what}: {found.outcome} {found.detail}", file=sys.__stdout__)
    return found


def described(core: bytes) -> str:
    """For whoever has to find out why a dump of another driver was not understood."""
    every = elf.sections(elf.of(core))
    counts: dict[int, list[int]] = {}
    for section in every:
        counts.setdefault(section.kind & 0xFF if section.kind >> 31 else -section.kind, []).append(section.entry_size)
    images = [elf.Image(elf.content(core, each)) for each in every if each.kind == cuda_core._RELOCATED_IMAGE]
    lines = [f"{kind}: {len(sizes)} sections, rows of {sorted(set(sizes))}" for kind, sizes in sorted(counts.items())]
    lines += [f"{[(hex(each.start), hex(each.end), each.name) for each in image._functions]}" for image in images]
    lines += [f"{[(hex(line.address), line.file, line.line) for line in image._read_lines()][:20]}" for image in images]
    places = cuda_core._places(core, every)
    lines.append(f"{ {grid: [(hex(at), n) for at, n in found.most_common(5)] for grid, found in places.items()} }")
    return "\n".join(lines)


def keep(request: pytest.FixtureRequest, machine: Machine, folder: Path, *names: str) -> None:
    place = request.config.getoption("--results", None) or os.environ.get(RESULTS)
    if place and machine.real:
        for name in names:
            shutil.copy(folder / name, Path(place).parent / f"incident-{name.replace(':', '-')}")


@pytest.mark.parametrize("wait", ["blocking", "spin"])
def test_a_kernel_that_spins_is_named_with_its_line(
    machine: Machine, results: Results, tmp_path: Path, request: pytest.FixtureRequest, wait: str
) -> None:
    into, folder = tmp_path / "incident", tmp_path / "state/dumps/w.1"
    into.mkdir()
    (tmp_path / "core").write_bytes(spinning())
    name = "spin_deep" if machine.real else "sim_spin"
    image = compiled(tmp_path) if machine.real else tmp_path / "core"
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    own = {**machine.environment, "SIMCUDA_COREDUMP": str(tmp_path / "core"), abi.ENVIRONMENT: str(heartbeat.path)}
    environment = core_dump.prepare(str(folder), own, None)
    with LineProcess([sys.executable, "-c", SPINS, str(image), name, wait], environment) as process:
        assert process.hear() == "launched"
        time.sleep(0.5)  # until the kernel is on the GPU and the thread in the synchronize
        target = Target("w", (process.pid,), str(into), 1, dump=DumpTarget(str(folder)))

        told = timed(results, f"{wait}: /proc", proc.collect, target)
        main = next(thread for thread in told.threads if thread.tid == process.pid)
        print(main, *told.processes, sep="\n", file=sys.__stdout__)
        mapped = timed(results, f"{wait}: mappings", mappings.collect, target).processes[0].mapped
        assert any("libcuda.so" in path for path in mapped)
        if machine.real:
            assert any(path.startswith("/dev/nvidia") for path in told.processes[0].devices)
        for again in range(3 if machine.real else 1):
            python = timed(results, f"{wait}: Python stacks, {again}", stacks.COLLECTOR.collect, target)
            (stack,) = (stack for stack in python.stacks if stack.tid == process.pid)
            assert "waits_for_the_gpu" in " ".join(stack.frames)
        if py_spy._available() is None:
            timed(results, f"{wait}: py-spy", py_spy.COLLECTOR.collect, target)
            print(timed(results, f"{wait}: native stacks", py_spy.NATIVE.collect, target).stacks, file=sys.__stdout__)

        before = time.monotonic()
        dumped = timed(results, f"{wait}: core dump asked for and whole", gpu_dump.collect, target)
        assert dumped.outcome == "ok", dumped.detail
        assert process.hear() == "719"  # and not before: nothing else has made the call return
        results.add(f"{wait}: core dump asked for, hung call returned", (time.monotonic() - before) * 1e3, "ms")

    (core,) = folder.glob("core.*")
    results.add(f"{wait}: core dump", core.stat().st_size, "bytes")
    content = core.read_bytes()
    read = timed(results, f"{wait}: kernels read", gpu_kernels.collect, target)
    keep(request, machine, into, *read.files)
    began = time.monotonic()
    (ours,) = cuda_core.kernels(content)
    results.add(f"{wait}: kernels read without the debugger", (time.monotonic() - began) * 1e3, "ms")
    print(ours, *read.kernels, sep="\n", file=sys.__stdout__)
    assert (ours.name, ours.grid, ours.block) == ("spin_deep", "(3,1,1)", "(32,1,1)"), described(content)
    file, _, line = ours.location.rpartition(":")
    assert file.endswith("/spin.cu") and line in (LINES if machine.real else {"7"}), described(content)
    (theirs,) = read.kernels
    assert (theirs.name.partition("(")[0], theirs.grid, theirs.block) == ("spin_deep", "(3,1,1)", "(32,1,1)")
    assert theirs.location.rpartition(":")[2] == line or (machine.real and theirs.location.rpartition(":")[2] in LINES)
