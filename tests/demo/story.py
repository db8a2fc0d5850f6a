"""What the stories share: waiting with a deadline, lines of time, a table, and the simulated device's load line.

A story is a module with ``play(directory, say)``: ``say`` prints a line at once, the lines returned are the report.
Invariant: a line is said or returned only once what it tells was seen; what is not seen in time is NotObserved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.simulator.control import SimulatedDevice

ROOT = Path(__file__).resolve().parents[2]
MILLISECOND = 1e6
SHOWN = 3
HEADING = "What `watchdogd incidents show` says of it in its first three lines:"
Say = Callable[[str], None]
_Found = TypeVar("_Found")


class Told(NamedTuple):
    """Of one part of a story."""

    lines: list[str]
    rows: list[list[str]]


class NotObserved(Exception):
    """Something that had to happen did not, in time."""


def until(what: str, seconds: float, look: Callable[[], _Found | None]) -> _Found:
    """The first that ``look`` finds; NotObserved after so many seconds."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > give_up:
            raise NotObserved(f"{what} was not observed within {seconds:g} s")
        time.sleep(0.005)
    return found


def observe(seen: object, otherwise: str) -> None:
    if not seen:
        raise NotObserved(otherwise)


def milliseconds(earlier_ns: int, later_ns: int) -> float:
    return (later_ns - earlier_ns) / MILLISECOND


def at(what: str, since_ns: int, instant_ns: int, note: str = "") -> str:
    """A line of time, counted from ``since_ns``."""
    return f"  {what:<30}{milliseconds(since_ns, instant_ns):>10.2f} ms   {note}".rstrip()


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def command(module: str, *arguments: str | Path) -> list[str]:
    """Of a worker, or of any program of ours."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def shown(config: Path, incident: str) -> list[str]:
    """The first lines of ``watchdogd incidents show``, once that one is closed: what hung, the cause, who was first."""
    line = command("watchdogd", "incidents", "show", incident, "-c", config)
    environment = {**os.environ, "COLUMNS": "0"}  # each line whole

    def closed() -> list[str]:
        ran = subprocess.run(
            line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )  # not yet: 2
        return ran.stdout.splitlines()[:SHOWN] if "  closed: " in ran.stdout else []

    return [f"  {told}" for told in until(f"incident {incident}, closed", 20, closed)]


def tegrastats(device: SimulatedDevice) -> list[str]:
    """What prints the load of the simulated device, as on the board."""
    return command("tests.simulator.tegrastats", "--interval", "200", "--state", device.path, "--board", "orin-r36")


def answer(line: Sequence[str], environment: Mapping[str, str], seconds: float) -> Any:
    """What a program that ends by itself prints: one line of JSON. NotObserved if it fails, or takes longer."""
    try:
        ran = subprocess.run(
            line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=True
        )
    except subprocess.TimeoutExpired as late:
        raise NotObserved(f"{line[2]} did not end within {seconds:g} s") from late
    except subprocess.CalledProcessError as failed:
        raise NotObserved(f"{line[2]} ended with {failed.returncode}\n{failed.stderr}") from failed
    return json.loads(ran.stdout)
