"""A worker of many threads whose syncs take 0 to so many seconds: ``unsteady.py THREADS LONGEST HANG_FILE``.

Once HANG_FILE exists, the first thread hangs in its next sync. Invariant: no other call is to take longer than LONGEST.
"""

import os
import random
import sys
import threading
import time

import watchdogd.worker as wd

THREADS, LONGEST, HANG_FILE = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
worker = wd.attach()


def work(may_hang: bool) -> None:
    while True:
        hangs = may_hang and os.path.exists(HANG_FILE)
        with worker.call("sync"):
            time.sleep(1e6 if hangs else random.uniform(0, LONGEST))


worker.ready()
for _ in range(1, THREADS):
    threading.Thread(target=work, args=(False,), daemon=True).start()
work(True)
