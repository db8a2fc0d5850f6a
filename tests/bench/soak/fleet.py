"""The vehicle's six models as configured: A to E on gpu0, H on dla0 and coupled with it, sources, files they share.

Invariant: the settings are the same for every kind of fault; only what they are about is in ``kinds``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.rig import fifo_permitted
from tests.bench.soak.kinds import BAD_IN_A_ROW, DEADLINES_MS, DLA_MODEL, MODELS, PERIOD_MS, deadline_ms
from tests.bench.soak.orders import Orders
from tests.helpers.running import ROOT
from tests.simulator.control import SimulatedDevice

CALLS = 6  # guarded calls of a frame, see model.Network
MOST_KILLS = 1_000_000  # the soak's own faults are no reason to stop killing


def configuration(device: SimulatedDevice, directory: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The workers' tables, and the others."""
    tegrastats = [sys.executable, str(ROOT / "tests/simulator/tegrastats.py"), "--state", str(device.path)]
    kmsg = directory / "kmsg"
    kmsg.touch()
    tables: dict[str, Any] = {
        "tegrastats": {"command": [*tegrastats, "--interval", "200"], "frozen_after": "1s"},
        "kmsg": {"command": ["tail", "-q", "-s", "0.02", "-n", "0", "-F", str(kmsg)]},
        "supervisor": {
            "max_kills": MOST_KILLS,
            "events_max_bytes": "256MiB",
            "realtime_priority": int(fifo_permitted()),
        },
    }
    return {name: _worker(name, device, directory) for name in MODELS}, tables


def _worker(name: str, device: SimulatedDevice, directory: Path) -> dict[str, Any]:
    on_dla = name == DLA_MODEL
    return {
        "command": [sys.executable, "-m", "tests.bench.soak.model", name, str(directory)],
        "accelerator": "dla0" if on_dla else "gpu0",
        **({"coupled_with": ["gpu0"]} if on_dla else {}),
        "environment": device.environment(name),
        "cuda_visible_devices": "0",
        "deadlines": {key: f"{deadline_ms(name, key)}ms" for key in DEADLINES_MS},
        "outputs": {"bad_in_a_row": BAD_IN_A_ROW},
        "restart": {"backoff": "10ms", "backoff_max": "200ms", "budget": MOST_KILLS},
        "on_supervisor_exit": "keep",
    }


def lay_out(directory: Path, seconds: float) -> Frames:
    """The files that the models find, with room for so long."""
    directory.mkdir(parents=True, exist_ok=True)
    epoch_ns = time.monotonic_ns()
    (directory / "epoch").write_text(str(epoch_ns))
    for name in MODELS:
        (directory / f"{name}.orders").write_bytes(bytes(8))
        (directory / f"{name}.frames").write_bytes(bytes(int(seconds * 1000 / PERIOD_MS[name]) + 1))
    return Frames(directory, epoch_ns)


def orders(directory: Path) -> dict[str, Orders]:
    return {name: Orders(directory / f"{name}.orders") for name in MODELS}


class Frames:
    """Which frames were done; frame n of a model was due n periods after the epoch."""

    def __init__(self, directory: Path, epoch_ns: int) -> None:
        self._directory = directory
        self._epoch_ns = epoch_ns

    def number_at(self, model: str, at_ns: int) -> int:
        """Of the last frame that was due by then."""
        return (at_ns - self._epoch_ns) // (PERIOD_MS[model] * 1_000_000)

    def are_done(self, model: str, count: int, now_ns: int) -> bool:
        """The newest that had time to be: all but the one that is under way."""
        newest = self.number_at(model, now_ns) - 1
        done = self.bytes(model)[max(0, newest - count + 1) : newest + 1]
        return len(done) == count and all(done)

    def bytes(self, model: str) -> bytes:
        return (self._directory / f"{model}.frames").read_bytes()

    def lost(self, model: str, since_ns: int, until_ns: int) -> tuple[int, int]:
        """Of the frames due between: not done, all."""
        due = self.bytes(model)[self.number_at(model, since_ns) + 1 : self.number_at(model, until_ns) + 1]
        return due.count(0), len(due)
