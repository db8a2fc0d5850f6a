"""A JAX script as somebody wrote it who knows nothing of watchdogd.

python jax_script.py [--frames N] [--hang-after N]
"""

from __future__ import annotations

import argparse
import signal

import jax
import jax.numpy as jnp


@jax.jit
def infer(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    return jnp.tanh(inputs @ weights).sum()


@jax.jit
def spin(inputs: jax.Array) -> jax.Array:
    """Never ends: what it adds to is never below 0."""
    return jax.lax.while_loop(lambda x: x[0] >= 0, lambda x: x * 0.5 + 1.0, inputs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--hang-after", type=int)
    options = parser.parse_args()
    signal.alarm(120)  # however stuck: the machine is borrowed
    weights = jnp.ones((512, 512)) / 512
    inputs = jnp.ones((64, 512))
    for number in range(options.frames):
        if number == options.hang_after:
            spin(inputs[0]).block_until_ready()
        outputs = infer(weights, inputs).block_until_ready()
    print(f"{options.frames} frames, {float(outputs):.1f}")


if __name__ == "__main__":
    main()
