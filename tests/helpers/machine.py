"""A machine for ``watchdogd doctor``: a file tree like an AGX Orin's, and programs to put on a PATH.

Invariant: what a test does not put there is not there, whatever machine the test runs on.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.unit.test_nvgpu import devfreq_tree
from watchdogd.doctor.words import Machine
from watchdogd.model import MetricsSettings, Settings, SourceSettings, SupervisorSettings, WorkerSettings

_SAMPLES = Path(__file__).resolve().parents[1] / "fixtures/tegrastats/samples.jsonl"
SAMPLES: list[dict[str, Any]] = [json.loads(line) for line in _SAMPLES.read_text().splitlines()]


class Tree:
    """A file tree and a PATH of its own, both empty at first."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.bin = folder / "bin"
        self.root.mkdir()
        self.bin.mkdir()

    def file(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def program(self, name: str, script: str = "") -> Path:
        file = self.bin / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def orin(self) -> None:
        for core, address in enumerate(("15880000", "158c0000")):
            self.file(f"dev/nvhost-ctrl-nvdla{core}")
            device = f"sys/devices/platform/bus@0/13e00000.host1x/{address}.nvdla{core}"
            self.file(f"{device}/power/runtime_status", ("suspended\n", "active\n")[core])
        self.file(
            "etc/nv_tegra_release", "# R36 (release), REVISION: 4.4, GCID: 41062509, BOARD: generic, EABI: aarch64\n"
        )
        self.file("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
        devfreq_tree(self.root / "sys", "17000000.gpu", b"gpu\0", "371\n")

    def machine(self, settings: Settings | None = None) -> Machine:
        environ = {"PATH": f"{self.bin}", "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
        return Machine(environ, settings, self.root)


def sample(device: str, **expect: Any) -> str:
    """A captured line of that board, of which this was expected to be read."""
    fits = (
        s["line"]
        for s in SAMPLES
        if device in s["device"] and all(s["expect"].get(key) == value for key, value in expect.items())
    )
    return str(next(fits))


def settings(
    *workers: WorkerSettings, sources: tuple[SourceSettings, ...] = (), supervisor: SupervisorSettings | None = None
) -> Settings:
    return Settings(supervisor or SupervisorSettings(), MetricsSettings(), sources, workers, ("vehicle.toml",))


def worker(name: str, **keys: Any) -> WorkerSettings:
    return WorkerSettings(name, ("true",), **keys)
