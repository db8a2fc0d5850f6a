"""A worker at 100 Hz with a 5 ms sync: ``paced.py [EARLIEST LATEST]`` - it hangs in one so many seconds after ready.

Invariant: without the two it never hangs.
"""

import random
import sys
import time

import watchdogd.worker as wd

PERIOD = 0.010
SYNC = 0.005

worker = wd.attach()
worker.ready()
hang_at = time.monotonic() + random.uniform(*map(float, sys.argv[1:3])) if len(sys.argv) > 2 else float("inf")
due = time.monotonic()
while True:
    with worker.step(), worker.call("sync"):
        time.sleep(SYNC if due < hang_at else 1e6)
    due += PERIOD
    time.sleep(max(0.0, due - time.monotonic()))
