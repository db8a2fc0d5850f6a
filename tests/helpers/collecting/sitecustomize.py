"""On PYTHONPATH of a supervisor: its keeper has the collectors that ``WATCHDOGD_TEST_COLLECTORS`` names (spaces).

Each behaves as its name says. Nothing else that runs with this path is touched.
"""

from __future__ import annotations

import os
import sys

if "watchdogd.incidents.keeper" in sys.orig_argv:
    import tests.helpers.collectors as ours
    from watchdogd.incidents import collectors

    collectors.ALL = tuple(ours.COLLECTORS[name] for name in os.environ.get("WATCHDOGD_TEST_COLLECTORS", "").split())
