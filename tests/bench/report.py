"""Rows of figures and bars, as one table and as JSON.

Invariant: a row without a bar is information and has no verdict.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    bench: str
    what: str
    figure: float
    unit: str
    bar: float | None = None  # at most this much is met
    against: str = ""  # measured in the same run

    @property
    def ratio(self) -> float | None:
        return self.figure / self.bar if self.bar else None

    @property
    def met(self) -> bool | None:
        return None if self.bar is None else self.figure <= self.bar


@dataclass(frozen=True, slots=True)
class Scale:
    """How long to take; ``quick`` shows that a benchmark works, its figures are rough."""

    quick: bool = False

    def pick(self, full: float, quick: float) -> float:
        return quick if self.quick else full


Bench = Callable[[Scale], list[Row]]


def quantile(values: Sequence[float], fraction: float) -> float:
    """Nearest rank, of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def table(rows: Iterable[Row]) -> str:
    lines = [("bench", "what", "figure", "bar", "ratio", "verdict", "measured against")]
    for row in rows:
        bar = "-" if row.bar is None else _number(row.bar)
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        lines.append((row.bench, row.what, f"{_number(row.figure)} {row.unit}", bar, ratio, verdict, row.against))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def as_json(rows: Iterable[Row]) -> str:
    document: dict[str, Any] = {
        "schema": 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_average": list(os.getloadavg()),
        },
        "rows": [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows],
    }
    return json.dumps(document, indent=1) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
