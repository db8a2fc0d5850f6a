"""A healthy worker that counts for itself: ``steady.py COUNT`` - 100 steps a second, and their number in a file.

The number is one 8-byte word, written after each step. Invariant: the second word is the longest time between the ends
of two steps, in ns: what its supervisor's fate has done to it.
"""

import mmap
import sys
import time

import watchdogd.worker as wd

worker = wd.attach()
with open(sys.argv[1], "w+b") as file:
    file.truncate(16)
    words = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
worker.ready()
last_ns = time.monotonic_ns()
while True:
    with worker.step(), worker.call("sync"):
        time.sleep(0.005)
    now_ns = time.monotonic_ns()
    words[0] += 1
    words[1] = max(words[1], now_ns - last_ns)
    last_ns = now_ns
    time.sleep(0.005)
