"""C and C++ programs built with what is installed for them, and the examples of ``examples/cpp`` at work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import cpp
from tests.helpers.running import ROOT, Supervised, wait_until
from tests.simulator.control import SimulatedDevice

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONSUMER = ROOT / "tests" / "native" / "consumer"
DEADLINES = {"startup": "20s", "sync": "200ms", "step": "1s"}


# --- the header is found ----------------------------------------------------------------------------------------------


def test_cmake_finds_the_package_of_a_pip_installation(tmp_path: Path) -> None:
    built = cpp.cmake(CONSUMER, tmp_path / "build", watchdogd_DIR=cpp.pip_says("--cmakedir"))
    for program in ("of_c", "of_cxx"):
        assert cpp.told([built / program]) == "0.1.0 1\n"  # stamps in private memory: nobody watches


def test_cmake_refuses_a_version_that_is_not_there(tmp_path: Path) -> None:
    cpp.need("cmake", "g++")
    asked = ["-DWANTED=99", f"-Dwatchdogd_DIR={cpp.pip_says('--cmakedir')}"]
    command = ["cmake", "-S", str(CONSUMER), "-B", str(tmp_path / "build"), *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "0.1.0" in done.stderr and "99" in done.stderr


def test_pkg_config_gives_the_flags_of_a_pip_installation(tmp_path: Path) -> None:
    cpp.need("pkg-config", "gcc")
    there = {"PKG_CONFIG_PATH": cpp.pip_says("--pkgconfigdir")}
    flags = cpp.told(["pkg-config", "--cflags", "--libs", "watchdogd"], there).split()
    cpp.told(["gcc", "-std=c11", "-Wall", "-Werror", *flags, "-o", tmp_path / "program", CONSUMER / "program.c"])
    assert cpp.told([tmp_path / "program"]).endswith(" 1\n")


def test_the_compiler_alone_is_told_the_way_too(tmp_path: Path) -> None:
    cpp.need("gcc")
    flags = [cpp.pip_says("--includes"), "-D_GNU_SOURCE", "-pthread"]
    cpp.told(["gcc", "-std=c11", *flags, "-o", tmp_path / "program", CONSUMER / "program.c"])


def test_all_say_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    native = ROOT / "watchdogd" / "native"
    assert f"\nVersion: {version}\n" in (native / "pkgconfig/watchdogd.pc").read_text()
    assert f'PACKAGE_VERSION "{version}"' in (native / "cmake/watchdogd-config-version.cmake").read_text()


# --- the examples -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> cpp.Built:
    return cpp.build_examples(tmp_path_factory.mktemp("cpp"))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as opened:
        yield opened


def example(built: cpp.Built, device: SimulatedDevice, *arguments: str) -> dict[str, Any]:
    command = [str(built.programs / "worker"), *arguments]
    return {"command": command, "environment": built.environment(device, "cpp"), "deadlines": DEADLINES}


def test_the_example_is_ready_and_does_its_steps_and_nobody_replaces_it(
    built: cpp.Built, device: SimulatedDevice
) -> None:
    with Supervised({"cpp": example(built, device)}) as supervised:
        first = supervised.wait_phase("cpp", "running", 1)["pid"]
        wait_until(lambda: supervised.view("cpp")["steps"] > 60, what=lambda: supervised.view("cpp"))
        assert supervised.worker("cpp")["pid"] == first
        assert supervised.events("verdict") == []


def test_the_example_on_a_hung_stream_is_replaced_within_its_deadline(
    built: cpp.Built, device: SimulatedDevice
) -> None:
    with Supervised({"cpp": example(built, device)}) as supervised:
        supervised.wait_phase("cpp", "running", 1)
        device.fault("hang", label="cpp", scope="stream")
        verdict = supervised.wait_event("verdict", "cpp")
        assert (verdict["verdict"], verdict["operation"]) == ("call", "sync")
        assert 0 <= verdict["detected_ns"] - verdict["deadline_ns"] < 500_000_000
        supervised.wait_phase("cpp", "running", 2)


def test_an_error_of_the_device_is_in_the_record_of_its_crash(built: cpp.Built, device: SimulatedDevice) -> None:
    with Supervised({"cpp": example(built, device)}) as supervised:
        supervised.wait_phase("cpp", "running", 1)
        device.fault("error", label="cpp", code=700, times=1)
        supervised.wait_phase("cpp", "running", 2)
        verdict = supervised.wait_event("verdict", "cpp")
        assert verdict["verdict"] == "sticky_error"
        assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in verdict["detail"]


def test_the_example_runs_by_hand_and_ends(built: cpp.Built, device: SimulatedDevice) -> None:
    assert cpp.told([built.programs / "worker", "20"], built.environment(device, "cpp")) == ""


def test_without_a_word_of_ours_it_does_the_same_work(built: cpp.Built, device: SimulatedDevice) -> None:
    cpp.told([built.programs / "plain", "--frames", "20"], built.environment(device, "plain"))
    assert "watchdogd_" not in (cpp.EXAMPLES / "plain.cpp").read_text()


def test_it_hangs_when_told_to(built: cpp.Built, device: SimulatedDevice) -> None:
    command = [str(built.programs / "plain"), "--frames", "20", "--hang-after", "2"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, env=built.environment(device, "plain"), timeout=2, check=False)
