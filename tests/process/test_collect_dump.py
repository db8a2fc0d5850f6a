"""A core dump of the GPU: asked of a driver that listens, waited for until it is whole, and read after the kill."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.gpu_core import spinning
from tests.helpers.running import KEPT, Supervised, worker
from tests.helpers.worker_process import LineProcess, wait_until
from tests.simulator.control import SimulatedDevice
from watchdogd.incident import Kernel
from watchdogd.incidents.collectors import DumpTarget, Evidence, Target, gpu_dump, gpu_kernels
from watchdogd.instrument import core_dump

SPINS = """
from watchdogd.worker import cuda
with cuda.Context(wait="blocking") as ctx:
    stream = ctx.stream()
    stream.launch(ctx.module(b"module\\0").kernel("sim_spin"), 1, 1)
    print("launched", flush=True)
    try:
        stream.synchronize()
    except cuda.CudaError as error:
        print(error.code, flush=True)
"""
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
NAMED = Kernel("spin_deep", "(3,1,1)", "(32,1,1)", "/tmp/example/spin.cu:7", 0)


def target(dumps: Path, into: Path, seconds: float = 10.0) -> Target:
    until_ns = time.monotonic_ns() + int(seconds * 1e9)
    return Target("w", (os.getpid(),), str(into), 1, until_ns=until_ns, dump=DumpTarget(str(dumps)))


@contextmanager
def spinning_process(tmp_path: Path, **environment: str) -> Iterator[tuple[LineProcess, Path]]:
    """With the variables of a spawn, and a kernel that never ends; and the folder of its dumps."""
    (tmp_path / "core").write_bytes(spinning())
    folder = tmp_path / "state/dumps/w.1"
    with SimulatedDevice(tmp_path / "device") as device:
        own = {**device.environment("w"), "SIMCUDA_COREDUMP": str(tmp_path / "core"), **environment}
        with LineProcess([sys.executable, "-c", SPINS], core_dump.prepare(str(folder), own, None)) as process:
            assert process.hear() == "launched"
            yield process, folder


def test_the_kernel_that_spins_is_named_with_its_line_and_its_call_returns(tmp_path: Path) -> None:
    into = tmp_path / "incident"
    into.mkdir()
    with spinning_process(tmp_path) as (process, folder):
        found = gpu_dump.COLLECTOR.collect(target(folder, into))
        assert found.outcome == "ok", found.detail
        assert f"pid {process.pid}: {len(spinning())} bytes in " in found.detail
        assert process.hear() == "719"
    read = gpu_kernels.COLLECTOR.collect(target(folder, into))
    assert (read.outcome, read.kernels) == ("ok", (NAMED,))
    assert f"gpu.{process.pid}.nvcudmp" in read.files
    assert (into / f"gpu.{process.pid}.nvcudmp").read_bytes() == spinning()
    assert not (folder / f"core.{process.pid}").exists()


def test_a_dump_that_does_not_come_is_not_waited_for_beyond_the_deadline(tmp_path: Path) -> None:
    with spinning_process(tmp_path, SIMCUDA_COREDUMP=str(tmp_path / "none")) as (_, folder):
        began = time.monotonic()
        found = gpu_dump.collect(target(folder, tmp_path, 0.3))
        assert (found.outcome, found.detail) == ("failed", "1 of 1 dumps were not whole in time")
        assert time.monotonic() - began < 3


def test_a_dump_of_before_is_not_taken_for_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with spinning_process(tmp_path, SIMCUDA_COREDUMP=str(tmp_path / "none")) as (process, folder):
        (folder / f"core.{process.pid}").write_bytes(spinning())
        assert gpu_dump.collect(target(folder, tmp_path, 0.3)).outcome == "failed"


def test_without_the_setting_nothing_is_asked(tmp_path: Path) -> None:
    off = Target("w", (os.getpid(),), str(tmp_path), 1)
    assert gpu_dump.collect(off) == gpu_kernels.collect(off) == Evidence("not asked for", gpu_dump.OFF)


def test_without_a_context_there_is_no_pipe_and_that_is_told(tmp_path: Path) -> None:
    assert gpu_dump.collect(target(tmp_path, tmp_path)) == Evidence("failed", gpu_dump.NO_PIPE.format(tmp_path))
    assert gpu_dump.collect(target(tmp_path / "none", tmp_path)).outcome == "failed"
    assert gpu_kernels.collect(target(tmp_path, tmp_path)) == Evidence("failed", f"no dump in {tmp_path}")


def test_a_pipe_that_nobody_reads_is_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.7")
    began = time.monotonic()
    found = gpu_dump.collect(target(tmp_path, tmp_path))
    assert found.outcome == "failed" and "no driver listens there" in found.detail
    assert time.monotonic() - began < 3


def test_nothing_but_a_pipe_is_written_to(tmp_path: Path) -> None:
    other, place = tmp_path / "other", tmp_path / "dumps"
    place.mkdir()
    other.write_text("of somebody else\n")
    os.mkfifo(tmp_path / "fifo")
    (place / "pipe.1").symlink_to(other)
    (place / "pipe.2").write_text("no pipe\n")
    (place / "pipe.3").symlink_to(tmp_path / "fifo")
    with (tmp_path / "fifo").open("r+b", buffering=0) as fifo:
        os.set_blocking(fifo.fileno(), False)
        found = gpu_dump.collect(target(place, tmp_path))
        assert fifo.read(1) is None
    assert found.outcome == "failed" and "pipe.2 is no pipe" in found.detail
    assert (other.read_text(), (place / "pipe.2").read_text()) == ("of somebody else\n", "no pipe\n")


def test_a_link_in_place_of_a_dump_is_not_followed(tmp_path: Path) -> None:
    secret, place = tmp_path / "secret", tmp_path / "dumps"
    place.mkdir()
    secret.write_bytes(spinning())
    (place / "core.1").symlink_to(secret)
    os.mkfifo(place / "core.2")
    assert gpu_dump.whole(str(secret)) == len(spinning())
    assert gpu_dump.whole(str(place / "core.1")) is gpu_dump.whole(str(place / "core.2")) is None
    found = gpu_kernels.collect(target(place, tmp_path))
    assert (found.outcome, found.files) == ("failed", ())


def test_what_is_no_dump_is_kept_and_told(tmp_path: Path) -> None:
    place = tmp_path / "dumps"
    place.mkdir()
    (place / "core.1").write_bytes(b"nonsense")
    found = gpu_kernels.collect(target(place, tmp_path))
    assert found.outcome == "failed" and "gpu.1.nvcudmp" in found.files and "core.1: it is no" in found.detail


def test_a_dump_that_is_too_large_is_read_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "MOST_BYTES", 1000)
    place = tmp_path / "dumps"
    place.mkdir()
    (place / "core.1").write_bytes(spinning())
    found = gpu_kernels.collect(target(place, tmp_path))
    assert (found.kernels, found.files) == ((NAMED,), ()) and "more than 1000 bytes" in found.detail
    assert (place / "core.1").exists()


# --- what cuda-gdb says ---

# As NVIDIA's manual shows `info cuda kernels` and `info cuda threads`, with a template and with a cluster's size.
SAID = """\
Opening GPU coredump: /var/lib/gpu-watchdogd/incidents/x/gpu.1.nvcudmp
[Current focus set to CUDA kernel 0, grid 2, block (0,0,0), thread (0,0,0), device 0, sm 0, warp 0, lane 0]
#0  0x00007fffc385a5f0 in spin(int volatile*)<<<(1,1,1),(1,1,1)>>> () at /app/spin.cu:5
  Kernel Parent Dev Grid Status   SMs Mask   GridDim  BlockDim Invocation
*      0      -   0    2 Active 0x00000001   (1,1,1)   (1,1,1) spin(flag=0x7fffb7a00000)
       1      -   1    5 Active 0x00ffffff (240,1,1) (2,1,1) (128,1,1) void ns::gemm<float, (int)4>(float*, f(int))
  BlockIdx ThreadIdx To BlockIdx To ThreadIdx Count                 PC   Filename  Line
Kernel 0
*  (0,0,0)   (0,0,0)     (0,0,0)      (0,0,0)     1 0x00007fffc385a5f0    spin.cu     5
Kernel 1
   (0,0,0)   (0,0,0)   (239,0,0)    (127,0,0) 30720 0x00007fffc385b000        n/a     0
"""


def test_the_debuggers_tables_are_read() -> None:
    assert gpu_kernels.parse(SAID) == [
        Kernel("spin", "(1,1,1)", "(1,1,1)", "spin.cu:5", 0),
        Kernel("void ns::gemm<float, (int)4>", "(240,1,1)", "(128,1,1)", "", 1),
    ]


def test_what_the_debugger_said_of_a_kernel_that_spun_on_a_gpu_is_read() -> None:
    said = (FIXTURES / "cuda-gdb/spin-h200-580.159.04.txt").read_text(encoding="utf-8")
    named = Kernel("spin_deep", "(3,1,1)", "(32,1,1)", "/tmp/example/tests/gpu/spin.cu:8", 0)
    assert gpu_kernels.parse(said) == [named]
    # Its last frame is the inlined call's caller, at another line; the table of threads is what tells.
    no_threads = "\n".join(line for line in said.splitlines() if "0x00007f16737a00d0" not in line)
    assert gpu_kernels.parse(no_threads) == [replace(named, location="")]


@pytest.mark.parametrize("said", ["", "No CUDA kernels.\n", "Kernel 0\n", "*  0 - 0 2 Active\n", "(cuda-gdb) \0\n"])
def test_of_a_debugger_that_says_nothing_no_kernel_is_made_up(said: str) -> None:
    assert gpu_kernels.parse(said) == []


def test_where_the_debugger_knows_no_line_ours_is_taken() -> None:
    ours = [NAMED, Kernel("other", "(9,1,1)", "(1,1,1)", "other.cu:1")]
    theirs = Kernel("spin_deep(int*)", "(3,1,1)", "(32,1,1)")
    assert gpu_kernels.merged(ours, [theirs])[0].location == "/tmp/example/spin.cu:7"
    assert gpu_kernels.merged(ours, []) == ours
    assert gpu_kernels.merged([NAMED, Kernel("x", "(3,1,1)", "(32,1,1)", "x.cu:2")], [theirs])[0].location == ""


@pytest.mark.parametrize(("body", "name"), [("cat $HERE/said", "spin"), ("exec sleep 600", "spin_deep")])
def test_with_a_debugger_its_words_are_kept_and_one_that_hangs_costs_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, name: str
) -> None:
    (tmp_path / "said").write_text(SAID)
    program, place = tmp_path / "bin/cuda-gdb", tmp_path / "dumps"
    for folder in (program.parent, place):
        folder.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@"\n{body}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    (place / "core.1").write_bytes(spinning())
    found = gpu_kernels.collect(target(place, tmp_path, 0.6))
    assert (found.outcome, found.kernels[0].name, found.detail) == ("ok", name, "")
    said = (tmp_path / "gpu.1.txt").read_text()
    assert said.startswith("-nx -batch ") and f"target cudacore {tmp_path}/gpu.1.nvcudmp" in said


# --- at the spawn ---


def test_the_variables_name_a_folder_that_is_there_and_the_workers_own(tmp_path: Path) -> None:
    folder = core_dump.folder(str(tmp_path), "w", 3)
    made = core_dump.prepare(folder, {"A": "1"}, (os.getuid(), os.getgid(), ()))
    assert made == {"A": "1", **core_dump.variables(folder)}
    assert made["CUDA_COREDUMP_PIPE"] == f"{tmp_path}/dumps/w.3/pipe.%p"
    assert "skip_abort" in made["CUDA_COREDUMP_GENERATION_FLAGS"].split(",")
    assert (os.stat(folder).st_mode & 0o777, os.stat(folder).st_uid) == (0o700, os.getuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_the_folder_is_its_users(tmp_path: Path) -> None:
    folder = core_dump.folder(str(tmp_path), "w", 1)
    core_dump.prepare(folder, {}, (1234, 1235, ()))
    assert (os.stat(folder).st_uid, os.stat(folder).st_gid) == (1234, 1235)


@pytest.mark.parametrize("name", core_dump.THEIRS)
def test_an_environment_that_speaks_of_core_dumps_already_stays(tmp_path: Path, name: str) -> None:
    assert core_dump.prepare(core_dump.folder(str(tmp_path), "w", 1), {name: "x"}, None) == {name: "x"}
    assert not (tmp_path / "dumps").exists()


def test_a_folder_that_cannot_be_made_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "dumps").write_text("a file")
    assert core_dump.prepare(core_dump.folder(str(tmp_path), "w", 1), {"A": "1"}, None) == {"A": "1"}
    assert core_dump.prepare(None, {"A": "1"}, None) == {"A": "1"}


def test_of_a_workers_folders_the_last_two_stay_and_anothers_are_not_touched(tmp_path: Path) -> None:
    for name in ("w.1", "w.2", "w.9", "x.1", "w.x.1", "notes"):
        (tmp_path / "dumps" / name).mkdir(parents=True)
    core_dump.prepare(core_dump.folder(str(tmp_path), "w", 3), {}, None)
    assert sorted(os.listdir(tmp_path / "dumps")) == ["notes", "w.2", "w.3", "w.x.1", "x.1"]


@pytest.mark.parametrize(("keys", "there"), [({"gpu_core_dump": True}, True), ({"gpu_core_dump": False}, False)])
def test_a_supervised_worker_has_the_variables_where_the_setting_asks_for_them(
    keys: dict[str, object], there: bool
) -> None:
    full = {"evidence": "full", "evidence_budget": "500ms", **keys}
    with Supervised({"w": worker("serve()", deadlines={"sync": "60s"}, **full)}, incidents=KEPT) as supervised:
        wait_until(lambda: supervised.phase("w") == "running")
        environment = Path(f"/proc/{supervised.worker('w')['pid']}/environ").read_bytes().split(b"\0")
        folder = f"{os.path.realpath(supervised.state)}/dumps/w.1"
        assert (f"CUDA_COREDUMP_FILE={folder}/core.%p".encode() in environment) == there
        assert os.path.isdir(folder) == there
