"""Prints the load of a Jetson's integrated GPU from the nvgpu driver's ``load`` file, a JSON object a line.

Invariant: nothing else in watchdogd reads that file. Reading it takes the driver's busy lock and may power the GPU on,
so it can block in the kernel exactly when the GPU is sick.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Callable, Sequence

from watchdogd.model import LoadSample
from watchdogd.observe.sources import child

# The device tree's names of the integrated GPU: Xavier, TX2, Orin, Thor, and Orin since R36.
NODE_NAMES = frozenset({"gv11b", "gp10b", "ga10b", "gb10b", "gpu"})
LINKS = ("devices/gpu.0/load", "devices/platform/gpu.0/load")
FULL = 1000  # the file counts in per mille


def find(root: str) -> str:
    """The ``load`` file under a sysfs tree. Raises `child.Unavailable` if there is none (Thor has none)."""
    for device in sorted(glob.glob(f"{glob.escape(root)}/class/devfreq/*/device")):
        load = os.path.join(os.path.realpath(device), "load")
        if _node_name(device) in NODE_NAMES and os.path.isfile(load):
            return load
    for link in LINKS:
        if os.path.isfile(os.path.join(root, link)):
            return os.path.realpath(os.path.join(root, link))
    raise child.Unavailable(
        f"no nvgpu load file under {root}: use tegrastats or NVML (Thor), or set command = [] for the nvgpu source"
    )


def _node_name(device: str) -> str | None:
    try:
        with open(f"{device}/of_node/name", encoding="ascii", errors="replace") as file:
            return file.read().rstrip("\0\n")
    except FileNotFoundError:
        return None


def reader(path: str) -> Callable[[], Sequence[LoadSample]]:
    """Reads that file at each call, by opening it anew: sysfs answers a second read of one opening with nothing."""

    def read() -> Sequence[LoadSample]:
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read().strip()
        except OSError as error:
            raise child.Unavailable(f"{path}: {os.strerror(error.errno or 0)}: see the kernel log for nvgpu") from error
        if not (text.isdecimal() and len(text) <= len(str(FULL)) and int(text) <= FULL):
            raise child.Unavailable(f"{path}: {text[:40]!r} is no load of 0 to {FULL}: give the nvgpu file with --path")
        return [LoadSample("gpu0", int(text) / FULL, os.path.basename(os.path.dirname(path)))]

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m watchdogd.observe.sources.nvgpu", description="Print a Jetson GPU's load."
    )
    child.add_options(parser)
    # The GPU is rail-gated after 500 ms without use, and a read is a use: below the default interval it never would be.
    parser.add_argument("--path", metavar="FILE", help="the load file (default: found under --root)")
    parser.add_argument("--root", default="/sys", metavar="DIR", help="sysfs (default: %(default)s)")
    options = parser.parse_args(arguments)
    return child.run(lambda: reader(options.path or find(options.root)), options.interval, options.once)


if __name__ == "__main__":
    sys.exit(main())
