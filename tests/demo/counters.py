"""Counts that a worker keeps where others can read them, also while it is hung and after it was killed.

A file of 8-byte words, one for each name. Invariant: one writer for each word.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path


class Counters:
    """Opens the file for writing, and makes it if need be: what a predecessor counted goes on."""

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self._words = {name: place for place, name in enumerate(names)}
        with open(path, "a+b") as file:
            file.truncate(8 * len(names))
            self._memory = memoryview(mmap.mmap(file.fileno(), 8 * len(names))).cast("Q")

    def __getitem__(self, name: str) -> int:
        return self._memory[self._words[name]]

    def __setitem__(self, name: str, count: int) -> None:
        self._memory[self._words[name]] = count

    def all(self) -> dict[str, int]:
        return {name: self[name] for name in self._words}
