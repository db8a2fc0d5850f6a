"""On PYTHONPATH of a supervisor: its keeper has the collectors that ``WATCHDOGD_TEST_COLLECTORS`` names (spaces).

Each behaves as its name says; "real" are all that there are. ``WATCHDOGD_TEST_KEEPER_SECONDS``: so long the supervisor
waits for a word of its keeper. Nothing else that runs with this path is touched.
"""

from __future__ import annotations

import os
import sys

if "watchdogd.incidents.keeper" in sys.orig_argv:
    import tests.helpers.collectors as ours
    from watchdogd.incidents import collectors

    names = os.environ.get("WATCHDOGD_TEST_COLLECTORS", "").split()
    real = collectors.ALL if "real" in names else ()
    collectors.ALL = (*real, *(ours.COLLECTORS[name] for name in names if name != "real"))

if "WATCHDOGD_TEST_KEEPER_SECONDS" in os.environ and "run" in sys.orig_argv:
    from watchdogd.supervisor import keeping

    keeping.ASK_NS = keeping.STANDS_STILL_NS = int(os.environ["WATCHDOGD_TEST_KEEPER_SECONDS"]) * 1_000_000_000
