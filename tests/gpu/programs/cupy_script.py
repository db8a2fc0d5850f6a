"""A CuPy script: a matrix product and a synchronize, again and again. It knows nothing of watchdogd.

``watchdogd exec --sync 2s -- python3 tests/gpu/programs/cupy_script.py --hang-after 100``. Prints one JSON line.
Invariant: the kernel that hangs reads memory in its loop, so that no compiler may take the loop away.
"""

from __future__ import annotations

import argparse
import json
import time

import cupy

SPIN = 'extern "C" __global__ void spin(const volatile int *stop) { while (*stop == 0) { } }'
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--hang-after", type=int, metavar="N", help="a kernel without end after N steps")
    options = parser.parse_args()
    left = cupy.random.random((options.size, options.size), dtype=cupy.float32)
    right = cupy.random.random((options.size, options.size), dtype=cupy.float32)
    stop = cupy.zeros(1, dtype=cupy.int32)
    spin = cupy.RawKernel(SPIN, "spin")
    stream = cupy.cuda.Stream(non_blocking=True)
    began = 0.0
    with stream:
        for number in range(-WARM_UP, options.steps):
            if number == 0:
                began = time.perf_counter()
            product = left @ right
            if number == options.hang_after:
                spin((1,), (1,), (stop,))
            stream.synchronize()
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": options.steps / seconds, "corner": float(product[0, 0])}), flush=True)


if __name__ == "__main__":
    main()
