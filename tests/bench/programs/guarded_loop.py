"""Cost of ``with worker.call("sync"): pass`` beyond its loop: prints medians in ns as JSON.

Batches alternate with empty loops. Invariant: without a heartbeat it measures nothing and exits with status 1.
"""

import json
import statistics
import sys
import time

import watchdogd.worker as wd

BATCHES = 401
CALLS = 1000


def main() -> int:
    worker = wd.attach()
    if not worker.supervised:
        return 1
    worker.ready()
    clock, rounds = time.perf_counter_ns, range(CALLS)
    empty, differences = [], []
    for _ in range(BATCHES):
        start = clock()
        for _ in rounds:
            pass
        middle = clock()
        for _ in rounds:
            with worker.call("sync"):
                pass
        end = clock()
        empty.append((middle - start) / CALLS)
        differences.append((end - middle) / CALLS - empty[-1])
    measured = {"guard_ns": statistics.median(differences), "loop_ns": statistics.median(empty)}
    print(json.dumps(measured | {"calls": BATCHES * CALLS, "implementation": worker.implementation}))
    return 0


sys.exit(main())
