#!/usr/bin/env python3
"""A simulated tegrastats: captured lines of real boards with the simulated device's load put in.

Invariant: a line has the tokens that its board prints and no others. A board that prints no load percent (Thor) prints
none here, and a running DLA shows only on boards whose captured lines have a DLA token.

The load is that of the interval since the previous line. What it does can be switched while it runs, through the state
(`SimulatedDevice.set_tegrastats`), which goes before --mode.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TypedDict

if __name__ == "__main__":  # a script's path begins with its own folder, not with the project's
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.simulator.control import DLAS, SimulatedDevice, TegrastatsMode

# Captured as `NVDLA0_FREQ @1600` on R35; nobody has published a line of a running DLA on a later release.
_DLA_RUNNING = "NVDLA{number}_FREQ @1600 "
_DLA_TOKEN = re.compile(r"NVDLA(\d)(?:_FREQ @\d+| off) ?")
_GPU_PERCENT = re.compile(r"(GR3D_FREQ )\d+%")
_TIMESTAMP = re.compile(r"^\d\d-\d\d-\d{4} \d\d:\d\d:\d\d ")

_GARBAGE = (
    "tegrastats: \ufffd\ufffd\x01\x02 cannot read",
    "RAM 70",
    "GR3D_FREQ %@[,] CPU [",
    "",
    "05-09-2026 18:42:08 RAM -1/0MB (lfb x4MB) GR3D_FREQ NaN%",
)


class Board(TypedDict):
    """An entry of boards.json."""

    device: str
    l4t: str
    source: str
    note: str
    lines: list[str]


def boards() -> dict[str, Board]:
    """The boards that can be simulated, by name."""
    loaded: dict[str, Board] = json.loads((Path(__file__).parent / "boards.json").read_text())
    return loaded


def render(captured: str, gpu_percent: int, dla_running: list[bool], wall_time: float) -> str:
    """A captured line with this load, these engines running, and this local time if the board prints one."""

    def dla(match: re.Match[str]) -> str:
        if "_FREQ" in match[0]:  # R35 names only the engines that run
            return "".join(_DLA_RUNNING.format(number=number) for number in range(DLAS) if dla_running[number])
        return _DLA_RUNNING.format(number=match[1]) if dla_running[int(match[1])] else match[0]

    line = _GPU_PERCENT.sub(rf"\g<1>{gpu_percent}%", captured)
    line = _DLA_TOKEN.sub(dla, line)
    stamp = time.strftime("%m-%d-%Y %H:%M:%S ", time.localtime(wall_time))
    return _TIMESTAMP.sub(stamp, line)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tegrastats", description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=int, default=1000, metavar="MS")
    parser.add_argument("--state", default=os.environ.get("SIMCUDA_STATE"), metavar="PATH")
    parser.add_argument("--board", choices=sorted(boards()), default="orin-r36")
    parser.add_argument("--mode", choices=[mode.name.lower() for mode in TegrastatsMode], default="normal")
    parser.add_argument("--percent", type=int, default=0, help="where --mode freeze stands still")
    options = parser.parse_args(arguments)
    if options.state is None:
        parser.error("no device: give --state or SIMCUDA_STATE")
    if options.interval <= 0:
        parser.error("--interval must be above 0")
    return options


class _Printer:
    """Prints line after line; `tick` answers False when it is to die."""

    def __init__(self, device: SimulatedDevice, options: argparse.Namespace) -> None:
        self._device = device
        self._lines = boards()[options.board]["lines"]
        self._mode = TegrastatsMode[options.mode.upper()]
        self._percent = options.percent
        self._count = 0

    def tick(self) -> bool:
        mode, percent = self._device.tegrastats()
        if mode is TegrastatsMode.NORMAL:
            mode, percent = self._mode, self._percent
        gpu_percent = round(self._device.load("gpu0"))
        dla_running = [self._device.load(f"dla{number}") > 0 for number in range(DLAS)]
        if mode is TegrastatsMode.FREEZE:
            gpu_percent = percent
        if mode is TegrastatsMode.GARBAGE:
            print(_GARBAGE[self._count % len(_GARBAGE)], flush=True)
        elif mode in (TegrastatsMode.NORMAL, TegrastatsMode.FREEZE):
            captured = self._lines[self._count % len(self._lines)]
            print(render(captured, gpu_percent, dla_running, time.time()), flush=True)
        self._count += 1
        return mode is not TegrastatsMode.DIE


def main(arguments: list[str] | None = None) -> int:
    """Runs until it is killed, told to die (1) or nobody reads any more (0)."""
    options = _arguments(arguments)
    interval = options.interval / 1000
    with SimulatedDevice(options.state) as device:
        printer = _Printer(device, options)
        next_line = time.monotonic()
        while True:
            next_line += interval
            time.sleep(max(0.0, next_line - time.monotonic()))
            try:
                if not printer.tick():
                    return 1
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to complain of at exit
                return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
