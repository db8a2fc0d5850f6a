"""The ways of getting evidence, in order of worth per millisecond.

Invariant: importing this loads no tool and touches no process.
"""

from __future__ import annotations

from watchdogd.incidents.collectors.interface import Collector, DumpTarget, Evidence, Target

__all__ = ["ALL", "Collector", "DumpTarget", "Evidence", "Target", "tools"]

ALL: tuple[Collector, ...] = ()


def tools() -> dict[str, str | None]:
    """Of each collector None if it can be had here, else what to do about it. Looks at files only, in milliseconds."""
    return {collector.name: collector.available() for collector in ALL}
