"""The GPU, the DLA, and the programs that tell their load.

Invariant: CUDA is initialized, never given a context; nothing here stops a tegrastats that it did not start.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from importlib import metadata

from watchdogd.act.spawning import Launch, launch
from watchdogd.cuda_bindings import holds_gil
from watchdogd.doctor.words import Machine, Outcome, degraded, missing, ok, unknown
from watchdogd.model import LoadSample
from watchdogd.observe.sources import nvdla, nvgpu, tegrastats
from watchdogd.observe.sources.child import Unavailable
from watchdogd.observe.sources.lines import LineBuffer

NO_DRIVER = "install NVIDIA's driver (on Jetson: JetPack); start a container with docker run --gpus all, on Jetson"
NO_DRIVER += " --runtime nvidia"
NO_WORK = "no worker can use a GPU or a DLA"
NO_LOAD = "verdicts are reached all the same, but no load is shown beside them"
TEGRASTATS = ("tegrastats", "--interval", "200")
TEGRASTATS_SECONDS = 1.7
_NODE = re.compile(r"nvhost-(?:ctrl-)?nvdla(\d+)")  # R35 and later have the "ctrl" ones alone
_L4T = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")


def driver(machine: Machine) -> Outcome:
    """libcuda, initialized: its version, and the devices it counts."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        found = "no libcuda.so.1" if "No such file" in str(error) else f"libcuda.so.1 cannot be loaded: {error}"
        return missing(found, lost=NO_WORK, remedy=NO_DRIVER)
    release, version, count = _release(machine), ctypes.c_int(), ctypes.c_int()
    code = cuda.cuInit(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    number = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    if code == 0:
        code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        remedy = (
            "see the kernel log (dmesg) for NVRM or nvgpu; check that this user may open /dev/nvidia* or /dev/nvhost*"
        )
        return missing(f"{number}{release}, but cuInit fails: {_error(cuda, code)}", lost=NO_WORK, remedy=remedy)
    found = f"{number}{release}, {_counted([_name(cuda, index) for index in range(count.value)])}"
    absent = [name for name in machine.on_gpu() if int(name[3:]) >= count.value]
    if absent:
        remedy = "name the accelerators that are there (nvidia-smi -L lists them from gpu0 on)"
        return missing(f"{found}; no {', '.join(absent)}", lost=f"workers on {', '.join(absent)}", remedy=remedy)
    return ok(found)


def _release(machine: Machine) -> str:
    jetson = _L4T.search(machine.text("etc/nv_tegra_release") or "")
    if jetson:
        return f", L4T R{jetson[1]}.{jetson[2]}"
    kernel = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", machine.text("proc/driver/nvidia/version") or "")
    return f", driver {kernel[0]}" if kernel else ""


def _name(cuda: ctypes.CDLL, index: int) -> str:
    name = ctypes.create_string_buffer(128)
    return name.value.decode("utf-8", "replace") if cuda.cuDeviceGetName(name, len(name), index) == 0 else "nameless"


def _error(cuda: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    known = cuda.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value
    return f"{name.value.decode('ascii', 'replace')} ({code})" if known and name.value else f"error {code}"


def _counted(names: Sequence[str]) -> str:
    """ "2 x NVIDIA H200"."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "no device"


def bindings(_machine: Machine) -> Outcome:
    """Of this Python; read from its metadata, so that nothing is loaded."""
    install = "with the worker's interpreter: python3 -m pip install 'cuda-bindings>=12.9.1' (CUDA 12: '>=12.9.1,<13')"
    try:
        version = metadata.version("cuda-bindings")
    except metadata.PackageNotFoundError:
        lost = "watchdogd.worker.cuda under this Python; a worker may run under another, or be written in C"
        return missing(f"not installed for {sys.executable}", lost=lost, remedy=install)
    if holds_gil(version):
        lost = "it keeps the GIL in driver calls: a hung call stops every thread of its process"
        return degraded(f"{version}, older than 12.9.1", lost=lost, remedy=install)
    return ok(f"{version}, releases the GIL in driver calls")


def dla(machine: Machine) -> Outcome:
    nodes = [_NODE.fullmatch(path.name) for path in machine.root.glob("dev/nvhost-*nvdla*")]
    cores = sorted({f"dla{int(node[1])}" for node in nodes if node})
    remedy = "a DLA is on Orin and Xavier alone; in a container pass --runtime nvidia"
    if not cores:
        lost = "no worker can use a DLA"
        return missing("no /dev/nvhost-ctrl-nvdla*", lost=lost, remedy=remedy)
    found = ", ".join(" ".join(filter(None, (core, _power(machine, core)))) for core in cores)
    absent = [name for name in machine.on_dla() if name not in cores]
    if absent:
        lost = f"workers on {', '.join(absent)}"
        return missing(f"{found}; no {', '.join(absent)}", lost=lost, remedy=remedy)
    return ok(found)


def _power(machine: Machine, core: str) -> str | None:
    """``active`` or ``suspended``; reading that wakes nothing."""
    try:
        power = nvdla.find(str(machine.root / "sys")).get(core)
    except Unavailable:
        return None
    return None if power is None else machine.text(os.path.relpath(f"{power}/runtime_status", machine.root))


def tegrastats_load(machine: Machine) -> Outcome:
    """Whether it prints a line that we read, with a load of the GPU and of each DLA."""
    sources = machine.settings.sources if machine.settings else ()
    command = next((source.command for source in sources if source.name == "tegrastats"), TEGRASTATS)
    program = shutil.which(command[0], path=machine.environ.get("PATH", os.defpath))
    if program is None:
        remedy = "it comes with JetPack; a discrete GPU and Thor have NVML in its place"
        return missing(f"no {command[0]} on PATH", lost=NO_LOAD, remedy=remedy)
    line, ending = _first_line([program, *_quick(command[1:])], machine)
    if line is None:
        by_hand = f"run `{' '.join(command)}` by hand"
        if ending is None:
            lost = f"{NO_LOAD}; it reads what a sick GPU does not answer"
            return unknown(f"{program} printed nothing in {TEGRASTATS_SECONDS:g} s", lost=lost, remedy=by_hand)
        return missing(f"{program} {ending}, and printed no line that we read", lost=NO_LOAD, remedy=by_hand)
    gpu, *cores = tegrastats.loads(line)
    found = f"{program}: {', '.join(map(_shown, (gpu, *cores)))}"
    if gpu.load_ratio is None:
        remedy = "run as root; Thor's tegrastats has none even then: use NVML"
        return degraded(f"{program} prints no load of the GPU", lost=NO_LOAD, remedy=remedy)
    # Engines are for root alone; among them R34 and R35 name a DLA only while it runs.
    if not cores and not line.engines and any(machine.root.glob("dev/nvhost-*nvdla*")):
        lost = "whether a DLA idles or runs is not known"
        return degraded(f"{found}, no DLA", lost=lost, remedy="run as root: tegrastats names a DLA to nobody else")
    return ok(found)


def _shown(sample: LoadSample) -> str:
    load = "no load" if sample.load_ratio is None else f"{sample.load_ratio:.0%}"
    return f"{sample.accelerator} {load}"


def _quick(arguments: Sequence[str]) -> list[str]:
    """The same with a short interval: nobody waits for one of minutes."""
    words = list(arguments)
    for index, word in enumerate(words):
        if word == "--interval" and index + 1 < len(words):
            words[index + 1] = TEGRASTATS[2]
        elif word.startswith("--interval="):
            words[index] = f"--interval={TEGRASTATS[2]}"
    return words


def _first_line(command: list[str], machine: Machine) -> tuple[tegrastats.Tegrastats | None, str | None]:
    """The first line that can be read; else how it ended, None if it goes on."""
    output, write_end = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    process = launch(Launch(tuple(command), machine.environ, stdout=write_end, stderr=null))  # it dies with us
    os.close(write_end)
    buffer, give_up = LineBuffer(), time.monotonic() + TEGRASTATS_SECONDS
    try:
        while (rest := give_up - time.monotonic()) > 0 and select.select([output], [], [], rest)[0]:
            data = os.read(output, 65536)
            if not data:
                select.select([process.pidfd], [], [], max(0.0, give_up - time.monotonic()))
                return None, str(process.exit_status() or "closed its output")
            for line in buffer.feed(data):
                try:
                    return tegrastats.parse_line(line), None
                except tegrastats.NotTegrastats:
                    continue
        return None, None
    finally:
        process.signal(signal.SIGKILL)
        os.close(output)
        os.close(null)


def nvml(_machine: Machine) -> Outcome:
    from watchdogd.observe.sources.nvml import Gpus  # noqa: PLC0415 - it loads the driver's library: in this child alone

    try:
        samples = Gpus().read()
    except Unavailable as error:
        found, remedy = _parts(error)
        return missing(found, lost=NO_LOAD, remedy=remedy)
    found = _counted([sample.name or "nameless" for sample in samples])
    if all(sample.load_ratio is None for sample in samples):
        lost = f"{NO_LOAD}, unless tegrastats or the nvgpu load file tells one"
        remedy = "nothing is wrong: NVML knows no load of Orin's GPU, tegrastats does"
        return degraded(f"{found}, no load", lost=lost, remedy=remedy)
    return ok(f"{found}: {', '.join(map(_shown, samples))}")


def nvgpu_load(machine: Machine) -> Outcome:
    try:
        path = nvgpu.find(str(machine.root / "sys"))
        (sample,) = nvgpu.reader(path)()
    except Unavailable as error:
        found, remedy = _parts(error)
        return missing(found, lost=f"{NO_LOAD}, unless tegrastats or NVML tells one", remedy=remedy)
    return ok(f"{_shown(sample)} ({path})")


def _parts(error: Unavailable) -> tuple[str, str]:
    """What is wrong, and what to do but for switching the source off: here none may be on."""
    found, _, remedy = str(error).rpartition(": ")
    return found, remedy.partition(", or set command")[0]
