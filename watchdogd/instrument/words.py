"""What a start asks for, and what it tells, of the shim in front of a worker's driver.

Invariant: costs nothing to import: a supervisor without such a worker loads nothing else of this package but options.
"""

from __future__ import annotations

import os
from typing import NamedTuple

SHIM = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native", "libcuda_shim.so")


class Shim(NamedTuple):
    """What stands in front of a worker's driver, or why nothing does."""

    folder: str | None = None
    driver: str | None = None
    problem: str | None = None


class Request(NamedTuple):
    roots: tuple[str, ...]  # directories that are ours alone, in which the folder may be made
    shim: str = SHIM
