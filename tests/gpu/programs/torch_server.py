"""An inference server in plain PyTorch, as somebody wrote it who knows nothing of watchdogd.

    python torch_server.py [--batch N] [--frames N] [--hang-after N] [--switched]

A network of ResNet-50's size (25.6 million weights, random). A frame: copy in, infer, copy out. The hang is a kernel
that never ends, then the copy out that waits for it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import random
import signal
import time
from statistics import median

import torch
from torch import Tensor, nn

SPIN = r"""
extern "C" __global__ void spin(volatile int *stop) { while (!*stop) {} }
"""


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        is_same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if is_same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(count):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def frame(model: nn.Module, image: Tensor) -> Tensor:
    output: Tensor = model(image.to("cuda", non_blocking=True)).to("cpu")
    return output


def spin_for_ever() -> None:
    kernel = torch.cuda._compile_kernel(SPIN, "spin")
    kernel((1, 1, 1), (1, 1, 1), (torch.zeros(1, dtype=torch.int32, device="cuda"),))


def switched(model: nn.Module, batch: int, seconds: float) -> dict[str, float]:
    """Images a second with the shim off, and the change in % with it on: the median over pairs of two frames each.

    ``low`` and ``high``: of its 95 % confidence interval. Pairs are short, since clocks and neighbours drift.
    """
    is_off = ctypes.c_int.in_dll(ctypes.CDLL("libcuda.so.1"), "shim_is_off")
    image = torch.rand(batch, 3, 224, 224, dtype=torch.half).pin_memory()

    def took(off: int) -> float:
        is_off.value = off
        begin = time.perf_counter()
        for _ in range(2):
            frame(model, image)
        return time.perf_counter() - begin

    for off in (0, 1) * 10:
        took(off)
    pairs = []
    in_order = random.Random(1)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        first = in_order.randrange(2)
        one, other = took(first), took(1 - first)
        pairs.append((one, other) if first else (other, one))
    changes = sorted(100 * (off / on - 1) for off, on in pairs)
    margin = round(0.98 * math.sqrt(len(pairs)))  # of a median, by the ranks around it
    return {
        "off": 2 * batch / median(off for off, _ in pairs),
        "change_percent": median(changes),
        "low": changes[len(pairs) // 2 - margin],
        "high": changes[len(pairs) // 2 + margin],
        "pairs": len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--hang-after", type=int)
    parser.add_argument("--switched", action="store_true", help="with tests/gpu/shim/switch.py: what the shim costs")
    options = parser.parse_args()
    signal.alarm(120)  # however stuck: the machine is borrowed
    torch.manual_seed(1)
    with torch.inference_mode():
        model = resnet50().half().eval().cuda()
        if options.switched:
            print(json.dumps({f"batch {batch}": switched(model, batch, 30.0) for batch in (1, 32)}))
            return
        image = torch.rand(options.batch, 3, 224, 224, dtype=torch.half).pin_memory()
        for number in range(options.frames):
            if number == options.hang_after:
                spin_for_ever()
            frame(model, image)
        print(f"{options.frames} frames")


if __name__ == "__main__":
    main()
