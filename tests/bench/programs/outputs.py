"""Cost of one ``OutputCheck`` of 8 MB, prints medians in us as JSON.

More outputs than the caches hold, in turn: each comes from memory, as one does that a device has just written.
Invariant: without a heartbeat it measures nothing and exits with status 1.
"""

import json
import random
import statistics
import struct
import sys
import time

import watchdogd.worker as wd
from watchdogd.worker.output import OutputCheck

SIZE = 8 << 20
OUTPUTS = 12
ROUNDS = int(sys.argv[1])
FORMATS = {"f": "float", "d": "double", "e": "half"}


def noise(letter: str, number: int) -> bytearray:
    draw = random.Random(number)
    part = struct.pack(f"=4096{letter}", *(draw.uniform(-1, 1) for _ in range(4096)))
    return bytearray(part * (SIZE // len(part)))


def median_us(call, outputs: list[bytearray], rounds: int) -> float:  # type: ignore[no-untyped-def]  # an OutputCheck of either kind
    taken = []
    for number in range(rounds):
        output = outputs[number % len(outputs)]
        start = time.perf_counter_ns()
        call(output)
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken) / 1000


def main() -> int:
    worker = wd.attach()
    if not worker.supervised:
        return 1
    worker.ready()
    measured = {}
    for letter, name in FORMATS.items():
        outputs = [noise(letter, number) for number in range(OUTPUTS)]
        measured[name] = median_us(OutputCheck(dtype=letter, bounds=(-1, 1)), outputs, ROUNDS)
    measured["copy"] = median_us(bytes, outputs, ROUNDS // 5)
    zeros = [bytearray(SIZE) for _ in range(OUTPUTS)]
    measured["zeros"] = median_us(OutputCheck(dtype="f"), zeros, ROUNDS // 5)
    checked = {"good": len(FORMATS) * ROUNDS, "zero": ROUNDS // 5}
    print(json.dumps({**measured, "checked": checked, "implementation": worker.implementation}))
    return 0


sys.exit(main())
