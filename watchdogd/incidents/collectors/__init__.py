"""The ways of getting evidence, in order of worth per millisecond.

Invariant: importing this loads no tool and touches no process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from watchdogd.incidents.collectors import gpu_dump, gpu_kernels, kernel_log, mappings, proc, py_spy, stacks
from watchdogd.incidents.collectors.interface import Collector, DumpTarget, Evidence, Target

__all__ = ["ALL", "Collector", "DumpTarget", "Evidence", "Target", "tools"]

ALL: tuple[Collector, ...] = (
    proc.COLLECTOR,
    kernel_log.COLLECTOR,
    mappings.COLLECTOR,
    stacks.COLLECTOR,
    py_spy.COLLECTOR,
    py_spy.NATIVE,
    stacks.LATE,
    gpu_dump.COLLECTOR,
    gpu_kernels.COLLECTOR,
    kernel_log.AFTER,
)
# Without these a collector gets less.
PARTS: Mapping[str, Callable[[], str | None]] = {
    "kernel stacks": proc.stacks_available,
    "cuda-gdb": gpu_kernels.debugger_available,
}


def tools() -> dict[str, str | None]:
    """Of each collector, and each part, None if it can be had here, else what to do about it. Runs nothing."""
    found = {collector.name: collector.available() for collector in ALL}
    return found | {name: available() for name, available in PARTS.items()}
