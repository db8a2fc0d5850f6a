"""The DLA deadlock: H freezes in a synchronize, the others a few ms later, no call fails. As it was, and by both cures.

In the field it came once in two hours or once in a week, only while H and A ran together in one context. Here the fault
waits for just that, an operation on the DLA that starts while one of the GPU runs in its context, and takes the first.
Invariant: what froze is told by the simulated device; all else is seen as an operator sees it, from outside.
"""

from __future__ import annotations

from pathlib import Path

from tests.demo import story, vehicle
from tests.demo.dla_guarded import apart, processes
from tests.demo.dla_unguarded import unguarded
from tests.demo.story import Say
from tests.simulator.control import SimulatedDevice

HEADING = ["", "froze", "noticed", "killed", "lost by A to E", "lost by H", "all at work again"]


def play(directory: Path, say: Say) -> list[str]:
    lines: list[str] = []
    rows = [HEADING]
    for act in (unguarded, apart, processes):
        here = directory / act.__name__
        here.mkdir()
        vehicle.write_plans(here)
        with SimulatedDevice(here / "device") as device:
            told = act(here, device, say)
        lines += [*told.lines, ""]
        rows += told.rows
    return [*lines, *story.table(rows), "", f"Frames of {vehicle.PERIOD_NS // 1_000_000} ms; times from the freeze."]
