"""Prints the power state of each DLA, a JSON object a line. It has no load to tell: only that it is on.

The driver suspends a DLA 500 ms after its last task. So "suspended" is an idle DLA, a load of 0; "active" is no load at
all, but one that stays so while nothing completes is evidence (``decide/freeze.py``). Invariant: nothing is opened but
``power/runtime_status`` and ``power/control``, which neither wake the engine nor need root.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import sys
from collections.abc import Callable, Sequence

from watchdogd.model import LoadSample
from watchdogd.observe.sources import child

# host1x moved below a bus in newer kernels.
_PLACES = ("devices/platform/*.nvdla?", "devices/platform/*/*.nvdla?", "devices/platform/*/*/*.nvdla?")
_DEVICE = re.compile(r".+\.nvdla(\d)")


def find(root: str) -> dict[str, str]:
    """The ``power`` directory of each DLA under a sysfs tree. Raises `child.Unavailable` if there is none."""
    found: dict[str, str] = {}
    for place in _PLACES:
        for device in sorted(glob.glob(f"{glob.escape(root)}/{place}")):
            name = _DEVICE.fullmatch(os.path.basename(device))
            if name and os.path.isfile(f"{device}/power/runtime_status"):
                found.setdefault(f"dla{name[1]}", f"{device}/power")
    if not found:
        raise child.Unavailable(f"no DLA's runtime_status under {root}: set command = [] for the nvdla source")
    return found


def reader(devices: dict[str, str]) -> Callable[[], Sequence[LoadSample]]:
    def read() -> Sequence[LoadSample]:
        return [_sample(name, power) for name, power in sorted(devices.items())]

    return read


def _sample(name: str, power: str) -> LoadSample:
    state = _word(f"{power}/runtime_status")
    if _word(f"{power}/control") == "on":  # kept awake by somebody: active says nothing then
        state = None
    return LoadSample(
        name, 0.0 if state == "suspended" else None, os.path.basename(os.path.dirname(power)), power=state
    )


def _word(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()[:16] or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise child.Unavailable(f"{path}: {os.strerror(error.errno or 0)}: see the kernel log for nvdla") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m watchdogd.observe.sources.nvdla", description="Print the DLAs' power states."
    )
    child.add_options(parser)
    parser.add_argument("--root", default="/sys", metavar="DIR", help="sysfs (default: %(default)s)")
    options = parser.parse_args(arguments)
    return child.run(lambda: reader(find(options.root)), options.interval, options.once)


if __name__ == "__main__":
    sys.exit(main())
