"""What a start asks for, and what it tells, of the shim in front of a worker's driver.

Invariant: costs nothing to import: a supervisor without such a worker loads nothing else of this package but options.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_NATIVE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native")
SHIM = os.path.join(_NATIVE, "libcuda_shim.so")
NVTX = os.path.join(_NATIVE, "libwatchdogd_nvtx.so")


class Shim(NamedTuple):
    """What stands in front of a worker's driver, or why nothing does."""

    folder: str | None = None
    driver: str | None = None
    problem: str | None = None


class Request(NamedTuple):
    roots: tuple[str, ...]  # directories that are ours alone, in which the folder may be made
    shim: str = SHIM
    nvtx: str | None = None  # the library that tells the shim of NVTX ranges; None = it is not to be told
