"""What stamping a synchronize costs, and which GPU and driver this is: one JSON object on standard output.

    python -m tests.gpu.cost [--rounds N]

Invariant: the variants are interleaved call by call, in changing order, so that clocks and neighbours weigh on all
alike; a cost is the median of the differences within a round.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
from collections.abc import Callable, Mapping
from itertools import permutations
from statistics import median
from time import perf_counter_ns

import cuda.bindings
from cuda.bindings import driver

import watchdogd.worker as wd
from tests.gpu.kernels import Kernels, device_name
from watchdogd.worker import cuda as wdcuda


def interleaved(
    variants: Mapping[str, Callable[[], object]], before: Callable[[], object], rounds: int
) -> dict[str, float]:
    """Median ns of the first variant, and of the others' differences to it; ``before`` each call, not timed."""
    orders = list(permutations(variants))
    base, *others = variants
    bases: list[int] = []
    differences: dict[str, list[int]] = {name: [] for name in others}
    for number in range(rounds):
        took = {}
        for name in orders[number % len(orders)]:
            variant = variants[name]
            before()
            begin = perf_counter_ns()
            variant()
            took[name] = perf_counter_ns() - begin
        bases.append(took[base])
        for name in others:
            differences[name].append(took[name] - took[base])
    return {base: median(bases), **{name: median(values) for name, values in differences.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.cost", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20_000)
    options = parser.parse_args()
    signal.alarm(120)
    worker = wd.attach()
    with wdcuda.Context(wait="spin") as ctx:  # a thread that sleeps would time the kernel's scheduler
        stream = ctx.stream()
        kernels = Kernels(ctx, stream, 1)
        kernels.empty()
        stream.synchronize()
        bare = driver.CUstream(stream.handle)

        def unstamped() -> None:
            driver.cuStreamSynchronize(bare)

        def stamped() -> None:
            with worker.call("sync"):
                driver.cuStreamSynchronize(bare)

        variants = {"bare": unstamped, "call": stamped, "stream": stream.synchronize}
        gc.disable()
        report = {
            "device": device_name(),
            "cuda_driver": driver.cuDriverGetVersion()[1],
            "cuda_bindings": cuda.bindings.__version__,
            "guard": worker.implementation,
            "supervised": worker.supervised,
            "idle_ns": interleaved(variants, lambda: None, options.rounds),
            "launched_ns": interleaved(variants, kernels.empty, options.rounds),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
