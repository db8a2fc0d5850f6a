"""Who uses CUDA past the shim, seen on real processes: by what they have mapped and open, with the likely reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from watchdogd.observe import laneless
from watchdogd.observe.laneless import Asked

MAPS = """
import mmap, sys
kept = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        kept.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
print(flush=True)
sys.stdin.read()
"""
Start = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("shim/libcuda.so.1", "real/libcuda.so.580", "other/libcudart.so.12"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*mapped: str, searched: str | None = None, program: str = sys.executable) -> int:
            environment = {"LD_LIBRARY_PATH": f"{folder}/shim" if searched is None else searched}
            process = stack.enter_context(
                subprocess.Popen(
                    [program, "-c", MAPS, *(f"{folder}/{path}" for path in mapped)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            return process.pid

        yield begin


def look(folder: Path, pid: int, stamped: frozenset[int] = frozenset(), device: str = "/none") -> list[dict[str, Any]]:
    return laneless.look({"a": Asked(pid, f"{folder}/shim", stamped)}, (device,)).get("a", [])


def test_a_driver_in_memory_without_the_shim_is_past_it(folder: Path, start: Start) -> None:
    pid = start("real/libcuda.so.580")
    (found,) = look(folder, pid)
    assert (found["pid"], found["uses"]) == (pid, f"{folder}/real/libcuda.so.580")
    assert found["why"] == "it names the driver's file itself, or finds it by an RPATH"


def test_a_driver_behind_the_shim_is_not(folder: Path, start: Start) -> None:
    assert look(folder, start("shim/libcuda.so.1", "real/libcuda.so.580")) == []


def test_a_process_with_a_lane_is_stamped_however(folder: Path, start: Start) -> None:
    pid = start("real/libcuda.so.580")
    assert look(folder, pid, frozenset((pid,))) == []


def test_a_process_without_cuda_is_not_past_it(folder: Path, start: Start) -> None:
    assert look(folder, start("other/libcudart.so.12")) == []


def test_a_device_that_only_cuda_opens_tells_where_no_library_does(folder: Path, start: Start) -> None:
    pid = start()
    # its standard input and output are pipes; so the interpreter's own file stands for a device
    assert look(folder, pid, device="pipe:")[0]["uses"].startswith("pipe:")
    assert look(folder, pid) == []


def test_a_search_path_of_its_own_is_the_reason(folder: Path, start: Start) -> None:
    (found,) = look(folder, start("real/libcuda.so.580", searched="/elsewhere"))
    assert found["why"] == "it was started with an LD_LIBRARY_PATH without the shim's folder"


@pytest.mark.skipif(os.geteuid() != 0, reason="a process of a setuid program can be looked into by root alone")
def test_a_setuid_program_is_the_reason(folder: Path, start: Start) -> None:
    program = folder / "python"
    shutil.copy(os.path.realpath(sys.executable), program)
    program.chmod(0o4755)
    (found,) = look(folder, start("real/libcuda.so.580", program=str(program)))
    assert found["why"].startswith("it is setuid, setgid or has file capabilities")


def test_a_worker_that_has_ended_is_not_in_the_answer(folder: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert laneless.look({"a": Asked(process.pid, str(folder), frozenset())}) == {}
