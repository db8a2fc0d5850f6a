"""What the conductor and the models tell each other through files: an order in one word, and lines of JSON.

Invariant: a line is one write at the end of its file, so that nobody's is torn.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

from tests.bench.soak.kinds import ACTS


class Orders:
    """One word: number of the fault, incarnation that is meant, number of the act + 1; 0 = none."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._word = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    def give(self, fault: int, incarnation: int, act: str) -> None:
        self._word[0] = fault << 32 | (incarnation & 0xFF_FFFF) << 8 | ACTS.index(act) + 1

    def take(self, incarnation: int, starting: bool) -> tuple[int, str] | None:
        """``starting``: whether what is meant for a start is wanted, or all else."""
        word = self._word[0]
        if word == 0 or word >> 8 & 0xFF_FFFF != incarnation:
            return None
        act = ACTS[(word & 0xFF) - 1]
        if (act == "startup") != starting:
            return None
        self._word[0] = 0
        return word >> 32, act


def append(path: Path, **what: Any) -> None:
    """One line, in one write."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, (json.dumps(what) + "\n").encode())
    os.close(file)


def lines(path: Path) -> list[dict[str, Any]]:
    """As ``append`` wrote them."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
