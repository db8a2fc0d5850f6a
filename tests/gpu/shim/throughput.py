"""A program's throughput with the shim and without: processes in turn, and the median of the pairs' differences.

Invariant: the two of a pair run right after each other, in changing order; a pair counts as a whole or not at all.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from statistics import median


def measure(
    command: Sequence[str], bare: Mapping[str, str], shimmed: Mapping[str, str], pairs: int, limit_seconds: float
) -> dict[str, dict[str, float]]:
    """The program prints a JSON object of figures as its last line. Per figure: median without, change in %, pairs."""
    found: dict[str, list[tuple[float, float]]] = {}
    for number in range(pairs):
        ran: dict[bool, dict[str, float]] = {}
        for is_shimmed in (number % 2 == 0, number % 2 == 1):
            environment = dict(shimmed if is_shimmed else bare)
            output = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=limit_seconds, check=True
            ).stdout
            ran[is_shimmed] = json.loads(output.splitlines()[-1])
        for name, value in ran[False].items():
            found.setdefault(name, []).append((value, ran[True][name]))
    return {
        name: {
            "bare": median(without for without, _ in values),
            "change_percent": median(100 * (with_ - without) / without for without, with_ in values),
            "pairs": len(values),
        }
        for name, values in found.items()
    }
