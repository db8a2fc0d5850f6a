"""The ways of getting evidence, in order of worth per millisecond.

Invariant: importing this loads no tool and touches no process.
"""

from __future__ import annotations

from watchdogd.incidents.collectors import kernel_log, mappings, proc, py_spy, stacks
from watchdogd.incidents.collectors.interface import Collector, DumpTarget, Evidence, Target

__all__ = ["ALL", "Collector", "DumpTarget", "Evidence", "Target", "tools"]

ALL: tuple[Collector, ...] = (
    proc.COLLECTOR,
    kernel_log.COLLECTOR,
    mappings.COLLECTOR,
    stacks.COLLECTOR,
    py_spy.COLLECTOR,
    py_spy.NATIVE,
)


def tools() -> dict[str, str | None]:
    """Of each collector None if it can be had here, else what to do about it. Looks at files only, in milliseconds."""
    return {collector.name: collector.available() for collector in ALL}
