"""``python -m tests.gpu.plans FOLDER [--compatible]``: plans for the GPU at hand, built by the TensorRT at hand.

``--compatible``: for later versions of the runtime too, ``tensorrt_lean`` among them.
``twice.plan`` computes y = 2x for rows of 4, in two profiles; ``network.plan`` is eight convolutions in half precision.
Invariant: what ``twice.plan`` computes is exact, so that a test can compare every element.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy  # type: ignore[import-not-found, unused-ignore]  # by which TensorRT takes weights
import tensorrt as trt  # type: ignore[import-not-found, unused-ignore]  # only where there is a GPU

PROFILES = (((1, 4), (2, 4), (4, 4)), ((4, 4), (8, 4), (16, 4)))
CHANNELS, LAYERS = 64, 8


class Plan:
    """A network that is being defined, and the memory of its weights for as long."""

    def __init__(self, compatible: bool) -> None:
        self.builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # in 8 it has to be asked for
        self.network = self.builder.create_network(0 if explicit is None else 1 << int(explicit))
        self.config = self.builder.create_builder_config()
        self.config.set_tactic_sources(0)  # of other libraries: none is needed
        if compatible:  # without the lean runtime in it, which there is
            self.config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            self.config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        self._kept: list[Any] = []

    def weights(self, values: list[float]) -> Any:
        self._kept.append(numpy.array(values, dtype=numpy.float32))
        return trt.Weights(self._kept[-1])

    def write(self, output: Any, path: Path) -> None:
        output.name = "y"
        self.network.mark_output(output)
        content = self.builder.build_serialized_network(self.network, self.config)
        if content is None:
            raise SystemExit(f"TensorRT {trt.__version__} did not build {path.name}")
        path.write_bytes(content)


def twice(path: Path, compatible: bool) -> None:
    plan = Plan(compatible)
    x = plan.network.add_input("x", trt.float32, (-1, 4))
    two = plan.network.add_constant((1, 1), plan.weights([2.0])).get_output(0)
    for shapes in PROFILES:
        profile = plan.builder.create_optimization_profile()
        profile.set_shape("x", *shapes)
        plan.config.add_optimization_profile(profile)
    plan.write(plan.network.add_elementwise(x, two, trt.ElementWiseOperation.PROD).get_output(0), path)


def network(path: Path, compatible: bool) -> None:
    plan = Plan(compatible)
    plan.config.set_flag(trt.BuilderFlag.FP16)
    draw = random.Random(1)
    tensor = plan.network.add_input("x", trt.float32, (1, 3, 224, 224))
    channels = 3
    for _ in range(LAYERS):
        kernel = plan.weights([draw.choice((-1, 1)) * draw.uniform(0.01, 0.1) for _ in range(CHANNELS * channels * 9)])
        bias = plan.weights([0.1] * CHANNELS)
        layer = plan.network.add_convolution_nd(tensor, CHANNELS, (3, 3), kernel, bias)
        layer.padding_nd = (1, 1)
        tensor = plan.network.add_activation(layer.get_output(0), trt.ActivationType.RELU).get_output(0)
        channels = CHANNELS
    plan.write(tensor, path)


if __name__ == "__main__":
    folder, is_compatible = Path(sys.argv[1]), "--compatible" in sys.argv
    twice(folder / "twice.plan", is_compatible)
    network(folder / "network.plan", is_compatible)
    print(trt.__version__)
