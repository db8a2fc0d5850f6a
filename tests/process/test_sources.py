"""The load readers as the programs that they are: pipes, ends of pipes, missing drivers."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_nvgpu import devfreq_tree
from watchdogd.observe.sources.lines import device_memory, parse

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures"
SAMPLES: list[dict[str, Any]] = [
    json.loads(line) for line in (FIXTURES / "tegrastats/samples.jsonl").read_text().splitlines()
]
# A reader must not need this to be heard at once.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
TIMEOUT = 20  # seconds; everything here takes a fraction of one
LONG = "3600"  # an --interval that no test waits for: what ends before it has been told to

TEGRASTATS, NVML, NVGPU = (
    [sys.executable, "-m", f"watchdogd.observe.sources.{name}"] for name in ("tegrastats", "nvml", "nvgpu")
)


def run(command: list[str], text: bytes = b"", environment: Mapping[str, str] = ENVIRONMENT) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    ran = subprocess.run(
        command, input=text, capture_output=True, timeout=TIMEOUT, check=False, cwd=ROOT, env=environment
    )
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


@contextmanager
def piped(command: list[str], environment: Mapping[str, str] = ENVIRONMENT) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], TIMEOUT)
    assert readable, "nothing was printed"
    return process.stdout.readline()


# --- tegrastats ------------------------------------------------------------------------------------------------------


def test_every_sample_is_answered_in_its_place() -> None:
    text = "".join(sample["line"] + "\n" for sample in SAMPLES).encode()
    status, out, err = run(TEGRASTATS, text)
    answers = [json.loads(line) for line in out.splitlines()]
    assert (status, err, len(answers)) == (0, "", len(SAMPLES))
    for sample, answer in zip(SAMPLES, answers, strict=True):
        assert {key: answer[key] for key in sample["expect"]} == sample["expect"]


def test_garbage_is_an_error_and_does_not_stop_the_stream() -> None:
    garbage = [b"not tegrastats", b"", b"\xff\xfe\x00\x80", b"\x00" * 100, b"x" * 1_000_000, b"RAM 7", b"[" * 100_000]
    good = SAMPLES[0]["line"].encode()
    status, out, err = run(TEGRASTATS, b"\n".join([good, *garbage, good]) + b"\n")
    first, *errors, last = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert first == last
    assert first["ram_total_mb"] == SAMPLES[0]["expect"]["ram_total_mb"]
    assert [list(error) for error in errors] == [["error"]] * len(garbage)
    assert len(out) < 10_000  # an error shows the beginning of its line only


def test_a_last_line_without_its_end_is_answered() -> None:
    status, out, _ = run(TEGRASTATS, SAMPLES[1]["line"].encode())
    assert (status, json.loads(out)["timestamp"]) == (0, SAMPLES[1]["expect"]["timestamp"])


def test_windows_line_ends_are_no_part_of_the_line() -> None:
    _, out, _ = run(TEGRASTATS, b"what\r\n")
    assert json.loads(out)["error"].endswith("'what'")


def test_nothing_in_is_nothing_out() -> None:
    assert run(TEGRASTATS) == (0, "", "")


def test_each_line_is_answered_at_once() -> None:
    with piped(TEGRASTATS) as process:
        assert process.stdin is not None
        for sample in SAMPLES[:3]:
            process.stdin.write(sample["line"].encode() + b"\n")
            process.stdin.flush()
            assert json.loads(next_line(process))["timestamp"] == sample["expect"]["timestamp"]


def test_the_end_of_its_reader_is_no_error_of_the_parser() -> None:
    with piped(TEGRASTATS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(SAMPLES[0]["line"].encode() + b"\n")
        process.stdin.flush()  # left open: it is the closed output that ends the program
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == b""


# --- nvgpu -----------------------------------------------------------------------------------------------------------


def test_nvgpu_prints_samples_until_its_reader_is_gone(tmp_path: Path) -> None:
    load = devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", "371\n")
    with piped([*NVGPU, "--root", str(tmp_path), "--interval", "0.01"]) as process:
        (sample,) = parse("nvgpu", next_line(process).decode())
        assert (sample.accelerator, sample.load_ratio, sample.name) == ("gpu0", 0.371, "17000000.gpu")
        load.write_text("582\n")
        while sample.load_ratio != 0.582:
            (sample,) = parse("nvgpu", next_line(process).decode())
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == b""


def test_a_closed_pipe_ends_nvgpu_before_its_next_sample(tmp_path: Path) -> None:
    devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", "371\n")
    with piped([*NVGPU, "--root", str(tmp_path), "--interval", LONG]) as process:
        next_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(TIMEOUT) == 0


def test_an_orphan_ends_though_its_output_is_still_open(tmp_path: Path) -> None:
    devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", "371\n")
    command = [*NVGPU, "--root", str(tmp_path), "--interval", "0.05"]
    # A parent that starts the reader, waits for its first sample and dies.
    parent = (
        "import os, subprocess, sys, time\n"
        f"output = {str(tmp_path / 'output')!r}\n"
        f"reader = subprocess.Popen({command!r}, stdout=open(output, 'wb'))\n"
        f"end = time.monotonic() + {TIMEOUT}\n"
        "while not os.path.getsize(output) and time.monotonic() < end: time.sleep(0.01)\n"
        "print(reader.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with piped([sys.executable, "-c", parent]) as process:
        orphan = os.pidfd_open(int(next_line(process)))
        try:
            assert select.select([orphan], [], [], 0.2)[0] == []  # while its parent lives, so does it
            process.kill()
            assert select.select([orphan], [], [], TIMEOUT)[0] == [orphan]
        finally:
            os.close(orphan)


def test_nvgpu_once_prints_one_sample(tmp_path: Path) -> None:
    load = devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", "1000\n")
    status, out, err = run([*NVGPU, "--path", str(load), "--interval", LONG, "--once"])
    assert (status, len(out.splitlines()), err) == (0, 1, "")
    assert parse("nvgpu", out)[0].load_ratio == 1.0


def test_nvgpu_without_a_load_file_says_what_to_do(tmp_path: Path) -> None:
    status, out, err = run([*NVGPU, "--root", str(tmp_path), "--interval", LONG])
    assert (status, out, len(err.splitlines())) == (69, "", 1)
    assert "use tegrastats or NVML" in err


def test_a_load_file_that_goes_away_ends_nvgpu(tmp_path: Path) -> None:
    load = devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", "371\n")
    with piped([*NVGPU, "--root", str(tmp_path), "--interval", "0.01"]) as process:
        next_line(process)
        load.unlink()
        _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 69
        assert b"No such file" in err


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "soon"])
def test_an_impossible_interval_is_a_usage_error(interval: str) -> None:
    status, _, err = run([*NVGPU, "--interval", interval])
    assert status == 2
    assert "--interval" in err


# --- nvml ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def nvml_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libnvidia-ml.so.1 that has the GPUs which NVML_STAND_IN describes."""
    return compiled(tmp_path_factory.mktemp("nvml"))


def compiled(folder: Path, *options: str) -> Path:
    compiler = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *options]
    subprocess.run(
        [*compiler, "-o", folder / "libnvidia-ml.so.1", FIXTURES / "nvml/stand_in.c"], check=True, timeout=TIMEOUT
    )
    return folder


def with_gpus(library: Path, gpus: str, processes: str = "") -> dict[str, str]:
    told = {"NVML_STAND_IN": gpus, "NVML_STAND_IN_PROCESSES": processes}
    return {**ENVIRONMENT, "LD_LIBRARY_PATH": str(library), **told}


def run_nvml(library: Path, gpus: str) -> tuple[int, str, str]:
    return run([*NVML, "--once"], environment=with_gpus(library, gpus))


def ratios(out: str) -> dict[str, float | None]:
    return {sample.accelerator: sample.load_ratio for line in out.splitlines() for sample in parse("nvml", line)}


def test_each_gpu_has_its_own_line_in_nvml_s_order(nvml_stand_in: Path) -> None:
    status, out, err = run_nvml(nvml_stand_in, "0 0 37 NVIDIA H200\n0 0 0 NVIDIA Thor\n0 0 100 NVIDIA L4")
    assert (status, err, list(ratios(out).items())) == (0, "", [("gpu0", 0.37), ("gpu1", 0.0), ("gpu2", 1.0)])
    (sample,) = parse("nvml", out.splitlines()[1])
    assert (sample.name, sample.uuid) == ("NVIDIA Thor", "GPU-stand-in-1")


def test_what_nvml_says_of_orin_s_own_gpu_is_not_believed(nvml_stand_in: Path) -> None:
    status, out, err = run_nvml(nvml_stand_in, "0 0 37 Orin (nvgpu)")
    assert (status, ratios(out), err) == (0, {"gpu0": None}, "")


def test_a_load_that_nvml_does_not_support_is_null(nvml_stand_in: Path) -> None:
    status, out, err = run_nvml(nvml_stand_in, "0 3 37 NVIDIA GeForce GT 710")
    assert (status, ratios(out)) == (0, {"gpu0": None})
    assert "gpu0: nvmlDeviceGetUtilizationRates: Not Supported" in err


def test_a_load_above_full_is_not_believed(nvml_stand_in: Path) -> None:
    assert ratios(run_nvml(nvml_stand_in, "0 0 101 NVIDIA H200")[1]) == {"gpu0": None}


def test_a_lost_gpu_does_not_hide_the_others(nvml_stand_in: Path) -> None:
    status, out, err = run_nvml(nvml_stand_in, "15 0 37 NVIDIA H200\n0 0 42 NVIDIA H200\n0 15 58 NVIDIA H200")
    assert (status, ratios(out)) == (0, {"gpu0": None, "gpu1": 0.42, "gpu2": None})
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["gpu0", "gpu2"]


def test_a_complaint_is_made_once(nvml_stand_in: Path) -> None:
    environment = with_gpus(nvml_stand_in, "0 3 37 NVIDIA GeForce GT 710")
    with piped([*NVML, "--interval", "0.01"], environment) as process:
        for _ in range(3):
            next_line(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(TIMEOUT) == 0
        assert len(process.stderr.read().splitlines()) == 1


def memory_of(library: Path, gpus: str, processes: str) -> tuple[list[Mapping[str, int | None]], int]:
    """What it tells of devices' memory, and how often it told loads, in three readings."""
    readings = 3 * len(gpus.splitlines())
    loads, told = 0, []
    with piped([*NVML, "--interval", "0.01"], with_gpus(library, gpus, processes)) as process:
        while loads < readings:
            line = next_line(process).decode()
            memory = device_memory(line)
            if memory is None:
                loads += len(parse("nvml", line))
            else:
                told.append(memory.memory_bytes)
    return told, loads


H200 = "0 0 37 NVIDIA H200"


def test_nvml_tells_what_each_process_holds_of_all_gpus_and_rarely(nvml_stand_in: Path) -> None:
    told, loads = memory_of(nvml_stand_in, f"{H200}\n{H200}", "0 7 1000\n1 7 234\n1 8 -1\n0 9 5")
    assert (told, loads) == ([{"7": 1234, "8": None, "9": 5}], 6)


@pytest.mark.parametrize("other", ["0 0 37 Orin (nvgpu)", "15 0 37 NVIDIA H200"], ids=["integrated", "lost"])
def test_beside_a_gpu_that_does_not_tell_no_sum_is_told(nvml_stand_in: Path, other: str) -> None:
    assert memory_of(nvml_stand_in, f"{H200}\n{other}", "0 7 1000") == ([], 6)
    assert memory_of(nvml_stand_in, H200, "") == ([{}], 3)


def test_a_driver_that_is_too_old_to_tell_still_tells_the_load(tmp_path: Path) -> None:
    old = compiled(tmp_path, "-DOLD_DRIVER")
    assert memory_of(old, H200, "0 7 1000") == ([], 3)


def test_nvml_without_a_gpu_says_what_to_do(nvml_stand_in: Path) -> None:
    status, out, err = run_nvml(nvml_stand_in, "")
    assert (status, out, len(err.splitlines())) == (69, "", 1)
    assert "no GPU" in err


def test_nvml_without_a_driver_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")  # hides the driver of a machine that has one
    status, out, err = run_nvml(tmp_path, "")
    assert (status, out, len(err.splitlines())) == (69, "", 1)
    assert "load the NVIDIA driver" in err


def test_nvml_without_its_bindings_says_what_to_install() -> None:
    # -S: without site-packages, so without pynvml wherever it is installed
    status, out, err = run([sys.executable, "-S", "-m", "watchdogd.observe.sources.nvml", "--once"])
    assert (status, out, len(err.splitlines())) == (69, "", 1)
    assert "pip install 'watchdogd[nvml]'" in err
