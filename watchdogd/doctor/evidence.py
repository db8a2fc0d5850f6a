"""What could be collected of a hang here, for workers with ``evidence = "full"``.

Invariant: files are looked at, no tool is run.
"""

from __future__ import annotations

from watchdogd.doctor.words import Machine, Outcome, degraded, ok
from watchdogd.incidents import collectors


def evidence(_machine: Machine) -> Outcome:
    told = collectors.tools()
    there = [name for name, remedy in told.items() if remedy is None]
    absent = {name: remedy for name, remedy in told.items() if remedy is not None}
    if not absent:
        return ok(", ".join(there))
    found = f"{', '.join(there)}; no {', '.join(absent)}"
    remedy = "; ".join(dict.fromkeys(absent.values()))
    return degraded(found, lost="an incident tells less of where its worker stood", remedy=remedy)
