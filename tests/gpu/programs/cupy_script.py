"""A CuPy script as somebody wrote it who knows nothing of watchdogd.

python cupy_script.py [--frames N] [--hang-after N]
"""

from __future__ import annotations

import argparse
import signal

import cupy

SPIN = cupy.RawKernel('extern "C" __global__ void spin(volatile int *stop) { while (!*stop) {} }', "spin")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--hang-after", type=int)
    options = parser.parse_args()
    signal.alarm(120)  # however stuck: the machine is borrowed
    stream = cupy.cuda.Stream(non_blocking=True)
    weights = cupy.random.rand(512, 512, dtype=cupy.float32)
    stop = cupy.zeros(1, dtype=cupy.int32)
    cupy.cuda.Device().synchronize()
    for number in range(options.frames):
        with stream:
            if number == options.hang_after:
                SPIN((1,), (1,), (stop,))
            outputs = cupy.tanh(weights @ weights).sum()
        stream.synchronize()
    print(f"{options.frames} frames, {float(outputs):.1f}")


if __name__ == "__main__":
    main()
