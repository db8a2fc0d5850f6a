"""A PyTorch model server of the size of ResNet-50, random weights, that knows nothing of watchdogd.

``watchdogd exec --sync 2s -- python3 tests/gpu/programs/torch_server.py --hang-after 100``. Prints one JSON line with
its throughput. Invariant: nothing here comes from torchvision or the network: 25.6 million weights, 4.1 GMAC an image.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from typing import Any

import torch
from torch import nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first
EXPANSION = 4
WARM_UP = 20
FOREVER = 2**62  # clock cycles: decades


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):  # type: ignore[misc]
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.body = nn.Sequential(
            *convolution(inputs, width, 1), nn.ReLU(inplace=True),
            *convolution(width, width, 3, stride), nn.ReLU(inplace=True),
            *convolution(width, outputs, 1),
        )  # fmt: skip
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride))

    def forward(self, images: Any) -> Any:
        return torch.relu(self.body(images) + self.shortcut(images))


def resnet() -> nn.Module:
    layers: list[nn.Module] = [*convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in STAGES:
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = width * EXPANSION
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--hang-after", type=int, metavar="N", help="a kernel without end after N requests")
    parser.add_argument("--profile", action="store_true", help="under PyTorch's profiler, which uses CUPTI")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = resnet().eval().cuda()
    request = torch.randn(options.batch, 3, 224, 224).pin_memory()

    def serve(number: int) -> float:
        if number == options.hang_after:
            torch.cuda._sleep(FOREVER)
        scores = model(request.cuda(non_blocking=True))
        torch.cuda.synchronize()
        return float(scores.max().item())

    with torch.inference_mode():
        for _ in range(WARM_UP):
            serve(-1)
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        profiler = torch.profiler.profile(activities=activities) if options.profile else None
        began = time.perf_counter()
        with profiler or contextlib.nullcontext():
            for number in range(options.requests):
                serve(number)
        seconds = time.perf_counter() - began
    told = {"images_per_second": options.requests * options.batch / seconds, "batch": options.batch}
    if profiler is not None:
        told["profiled_kernels"] = sum(
            event.device_type == torch.autograd.DeviceType.CUDA for event in profiler.events()
        )
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
