"""As ``unsteady.py``, on the simulated driver: ``unsteady_cuda.py THREADS LONGEST HANG_FILE``.

Each thread has a stream of its own; the kernels take the time that is in their name. Invariant: no other kernel than
the spinning one takes longer than LONGEST.
"""

import os
import random
import sys
import threading

import watchdogd.worker as wd
from watchdogd.worker import cuda

THREADS, LONGEST, HANG_FILE = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
STEPS = 45

context = cuda.Context()
module = context.module(b"")
kernels = [module.kernel(f"sim_sleep_us_{int(LONGEST * 1e6 * i / STEPS)}") for i in range(1, STEPS + 1)]
spinning = module.kernel("sim_spin")


def work(may_hang: bool) -> None:
    stream = context.stream()
    while True:
        hangs = may_hang and os.path.exists(HANG_FILE)
        stream.launch(spinning if hangs else random.choice(kernels), grid=1, block=1)
        stream.synchronize()


wd.attach().ready()
for _ in range(1, THREADS):
    threading.Thread(target=work, args=(False,), daemon=True).start()
work(True)
