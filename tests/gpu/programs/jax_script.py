"""A JAX script: a compiled step and ``block_until_ready``, again and again. It knows nothing of watchdogd.

``watchdogd exec --sync 2s -- python3 tests/gpu/programs/jax_script.py --hang-after 100``. Prints one JSON line.

Two ways to hang. ``kernel``: one kernel (Pallas) that loops for ever; nothing completes any more. ``loop``: a
``while_loop`` of XLA without end, which XLA may drive from the host, with a copy of its condition that completes in
each turn: then no blocking call is ever late, and only a probe from outside tells. Invariant: both loops depend on an
argument, so that neither is taken away when it is compiled.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas

WARM_UP = 20


def product(left: Any, right: Any) -> Any:
    return jnp.tanh(left @ right).sum()


def endless(start: Any) -> Any:
    return jax.lax.while_loop(lambda turn: turn >= 0, lambda turn: (turn + 1) % 7, start)


def endless_kernel(start: Any) -> Any:
    def kernel(begin: Any, end: Any) -> None:
        def turn(number: Any) -> Any:
            end[0] = number  # a store that is seen: a loop without any may be taken away
            return (number + 1) % 7

        jax.lax.while_loop(lambda number: number >= 0, turn, begin[0])

    return pallas.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((1,), jnp.int32))(start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--hang-after", type=int, metavar="N", help="hang after N steps")
    parser.add_argument("--hang", choices=["kernel", "loop"], default="kernel", help="in what")
    options = parser.parse_args()
    left, right = (jax.random.normal(jax.random.key(seed), (options.size, options.size)) for seed in (0, 1))
    step = jax.jit(product)
    began, total = 0.0, jnp.zeros(())
    for number in range(-WARM_UP, options.steps):
        if number == 0:
            began = time.perf_counter()
        total = step(left, right).block_until_ready()
        if number == options.hang_after:
            start = jnp.zeros(1, jnp.int32)
            hanging = jax.jit(endless_kernel)(start) if options.hang == "kernel" else jax.jit(endless)(start[0])
            hanging.block_until_ready()
    seconds = time.perf_counter() - began
    print(json.dumps({"steps_per_second": options.steps / seconds, "total": float(total)}), flush=True)


if __name__ == "__main__":
    main()
