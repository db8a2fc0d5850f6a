"""What the GPU tests measured: a table for people, JSON for programs."""

from __future__ import annotations

import json
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


class Results:
    """Rows in the order in which they were added; ``about``: the machine."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "kernel": platform.release(),
            "driver": _driver(),
        }
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, what: str, value: float | None, unit: str) -> None:
        self.rows[what] = {"value": None if value is None else round(value, 4), "unit": unit}

    def add_distribution(self, what: str, durations_ns: list[int]) -> None:
        """Median, p99 and longest in ms, and how many there are."""
        row: dict[str, Any] = {"frames": len(durations_ns)}
        if durations_ns:
            ordered = sorted(durations_ns)
            picked = {"median": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "longest": -1}
            row |= {"unit": "ms", **{name: round(ordered[place] / 1e6, 4) for name, place in picked.items()}}
        self.rows[what] = row

    def markdown(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.about.items() if value is not None)
        lines = [about, "", "| what | measured |", "|---|---|"]
        return "\n".join([*lines, *(f"| {what} | {_cell(row)} |" for what, row in self.rows.items())])

    def write(self, path: str | None) -> None:
        """Prints the table; the JSON goes to ``path``."""
        print(f"\n\n{self.markdown()}\n", file=sys.__stdout__, flush=True)
        if path:
            Path(path).write_text(
                json.dumps({"about": self.about, "rows": self.rows}, indent=2) + "\n", encoding="utf-8"
            )


def _cell(row: dict[str, Any]) -> str:
    if row.get("frames"):
        return "median {median:g}, p99 {p99:g}, longest {longest:g} {unit} ({frames} frames)".format_map(row)
    return "none" if row.get("value") is None else f"{row['value']:g} {row['unit']}".rstrip()


def _driver() -> str | None:
    """The kernel module's own line, e.g. ``NVRM version: NVIDIA UNIX ... 580.65.06 ...``; None without one."""
    try:
        line = Path("/proc/driver/nvidia/version").read_text(encoding="ascii").splitlines()[0]
    except FileNotFoundError:
        return None
    words = [word for word in line.split() if word[0].isdecimal() and word.count(".") >= 1]
    return words[0] if words else line
