"""For the adoption bench: ``fickle.py NAME TRUTH UNTIL [TIMES]`` - at random it hangs, crashes, is slow, or goes on.

What it is about to do is a line of TRUTH first: ``{"worker", "pid", "does", "at_ns"}``. After UNTIL (CLOCK_MONOTONIC
seconds) it only goes on. Invariant: no sync that it returns from was asked to take longer than SLOW seconds.
"""

import json
import os
import random
import signal
import sys
import time

import watchdogd.worker as wd

SYNC, SLOW, PERIOD = 0.005, 0.085, 0.010  # with a deadline of 100 ms
ODDS = {
    "hang": 0.001,
    "hang_step": 0.0005,
    "crash": 0.0005,
    "exit": 0.0003,
    "slow": 0.02,
}  # of a step; 100 steps a second

name, truth, until = sys.argv[1], sys.argv[2], float(sys.argv[3])
times = float(sys.argv[4]) if len(sys.argv) > 4 else 1.0  # as often
worker = wd.attach()


def tell(does: str) -> None:
    line = json.dumps({"worker": name, "pid": os.getpid(), "does": does, "at_ns": time.monotonic_ns()}) + "\n"
    file = os.open(truth, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


def choose() -> str:
    odds = [times * chance for chance in ODDS.values()]
    does = random.choices([*ODDS, "go on"], [*odds, 1 - sum(odds)])[0]
    if time.monotonic() >= until:
        return "go on"
    if does not in ("go on", "slow"):
        tell(does)
    return does


worker.ready()
while True:
    does = choose()
    if does == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if does == "exit":
        sys.exit(0)
    with worker.step():
        if does == "hang_step":
            time.sleep(1e6)
        with worker.call("sync"):
            time.sleep({"hang": 1e6, "slow": SLOW}.get(does, SYNC))
    time.sleep(PERIOD - SYNC)
