"""``examples/cpp``, built as its reader would, and the CUDA runtime that it is built with and run on.

Invariant: it is compiled and linked with NVIDIA's own headers and library (the wheels of the ``dev`` extra), and run
on the double of that library (``tests/simulator/cudart_double``): the real one accepts no driver but NVIDIA's.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simulator.control import SimulatedDevice

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "cpp"
DOUBLE = ROOT / "tests" / "simulator" / "cudart_double" / "cudart.c"
WHEEL = "nvidia-cuda-runtime"


@dataclass(frozen=True)
class Built:
    programs: Path
    runtime: Path  # the folder of the double

    def environment(self, device: SimulatedDevice, label: str) -> dict[str, str]:
        of_device = device.environment(label)
        return {**of_device, "LD_LIBRARY_PATH": f"{self.runtime}:{of_device['LD_LIBRARY_PATH']}"}


def told(command: list[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """What it prints; its errors are the test's."""
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **(environment or {})}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def toolkit(directory: Path) -> Path:
    """A folder with the layout of a CUDA toolkit, of links to what the wheels brought."""
    try:
        home = Path(str(importlib.metadata.distribution(WHEEL).locate_file("nvidia/cu13")))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{WHEEL} is not installed")
    (directory / "lib64").mkdir(parents=True)
    (directory / "include").symlink_to(home / "include")
    (directory / "lib64" / "libcudart.so").symlink_to(home / "lib" / "libcudart.so.13")
    version = importlib.metadata.version(WHEEL)
    (directory / "version.json").write_text(f'{{"cuda": {{"version": "{version}"}}}}\n')  # as CMake asks for it
    return directory


def runtime_double(toolkit: Path, directory: Path) -> Path:
    """The folder of the double, for LD_LIBRARY_PATH."""
    directory.mkdir()
    node = directory / "version"
    node.write_text("libcudart.so.13 { global: cuda*; local: *; };\n")
    told([
        "gcc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror",
        f"-I{toolkit / 'include'}", "-Wl,-soname,libcudart.so.13", f"-Wl,--version-script={node}",
        "-o", directory / "libcudart.so.13", DOUBLE, "-ldl",
    ])  # fmt: skip
    return directory


def cmake(source: Path, build: Path, **settings: Path | str) -> Path:
    """Configured and built; the folder with its programs."""
    need("cmake", "g++")
    # Programs as they are installed, without a path to the libraries they were linked with: LD_LIBRARY_PATH says.
    given: dict[str, Path | str] = {"CMAKE_SKIP_RPATH": "ON", "CMAKE_BUILD_TYPE": "Release"}
    given["CMAKE_CXX_FLAGS"] = "-Wall -Wextra -Werror"
    told(["cmake", "-S", source, "-B", build, *(f"-D{name}={value}" for name, value in (given | settings).items())])
    told(["cmake", "--build", build])
    return build


def pip_says(option: str) -> str:
    """Where an installation by pip has what C programs need."""
    return told([sys.executable, "-m", "watchdogd.native", option]).rstrip("\n")


def build_examples(directory: Path) -> Built:
    cuda = toolkit(directory / "cuda")
    programs = cmake(EXAMPLES, directory / "build", CUDAToolkit_ROOT=cuda, watchdogd_DIR=pip_says("--cmakedir"))
    return Built(programs, runtime_double(cuda, directory / "runtime"))
