"""On PYTHONPATH of a supervisor: its keeper has the collectors that ``WATCHDOGD_TEST_COLLECTORS`` names (spaces).

Each behaves as its name says; "real" are all that there are. Nothing else that runs with this path is touched.
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
