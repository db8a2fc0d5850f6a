"""A JAX script as somebody wrote it who knows nothing of watchdogd.

python jax_script.py [--frames N] [--hang-after N]
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def infer(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    return jnp.tanh(inputs @ weights).sum()


def _endless(inputs: Any, outputs: Any) -> None:
    """One kernel that never ends: what it adds to is never below 0. (XLA drives a loop of its own from the host.)"""
    outputs[0] = jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0.5 + 1.0, inputs[0])


def spin(inputs: jax.Array) -> jax.Array:
    from jax.experimental import pallas  # noqa: PLC0415 - where it is to hang
    from jax.experimental.pallas import triton  # noqa: PLC0415 - as above

    shape = jax.ShapeDtypeStruct((1,), inputs.dtype)
    result: jax.Array = pallas.pallas_call(_endless, out_shape=shape, compiler_params=triton.CompilerParams())(inputs)
    return result


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
            spin(inputs[0, :1]).block_until_ready()
        outputs = infer(weights, inputs).block_until_ready()
    print(f"{options.frames} frames, {float(outputs):.1f}")


if __name__ == "__main__":
    main()
