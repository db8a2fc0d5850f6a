"""``watchdogd doctor``, from its options to what it prints.

Invariant: as the package's; this process reads a few small files of ``/proc`` and ``/sys``, and waits for its children.
"""

from __future__ import annotations

import json
import os
import time

from watchdogd.doctor import report, runner
from watchdogd.doctor.table import CHECKS
from watchdogd.doctor.words import Machine
from watchdogd.model import Settings


def run(settings: Settings | None, *, as_json: bool, width: int, colour: bool) -> tuple[str, bool]:
    """What to print, and whether the configuration can run (so can none)."""
    began = time.monotonic()
    machine = Machine(os.environ, settings)
    results = runner.examine(machine, CHECKS)
    about = report.identity(machine, f"Linux {os.uname().release}", os.uname().machine)
    if as_json:
        text = json.dumps(report.to_json(machine, about, results, time.monotonic() - began))
    else:
        text = "\n".join(report.table(machine, about, results, width, colour))
    return text, settings is None or report.can_run(results)
