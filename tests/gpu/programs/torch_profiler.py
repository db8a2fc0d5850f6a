"""PyTorch's own profiler on a few products: prints how many kernels it saw on the GPU."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
    matrix = torch.rand(256, 256, device="cuda")
    for _ in range(10):
        matrix = matrix @ matrix
    torch.cuda.synchronize()
print(sum(event.count for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA))
