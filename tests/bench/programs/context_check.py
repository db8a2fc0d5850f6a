"""Cost of ``context.check()`` and ``with context.expected: pass`` beyond their loop: prints medians in ns as JSON.

Batches alternate with empty loops. Invariant: a check that did not pass would end it.
"""

import json
import statistics
import sys
import time

import watchdogd.worker as wd
from watchdogd.worker import cuda

BATCHES = 201
CALLS = 1000


def main() -> int:
    clock, rounds = time.perf_counter_ns, range(CALLS)
    checks, blocks = [], []
    with cuda.Context(owner="thread") as context:
        for _ in range(BATCHES):
            start = clock()
            for _ in rounds:
                pass
            empty = clock()
            for _ in rounds:
                context.check()
            checked = clock()
            for _ in rounds:
                with context.expected:
                    pass
            end = clock()
            checks.append((checked - empty - (empty - start)) / CALLS)
            blocks.append((end - checked - (empty - start)) / CALLS)
    measured = {"check_ns": statistics.median(checks), "block_ns": statistics.median(blocks)}
    print(json.dumps(measured | {"implementation": wd.IMPLEMENTATION}))
    return 0


sys.exit(main())
