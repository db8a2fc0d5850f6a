"""The CUDA results after which a context or a process cannot go on, as the worker and its supervisor both read them.

Invariant: numbers and names as in NVIDIA's ``cuda.h``; a code of which that says less than "must be terminated and
relaunched" (710: the context must be destroyed) is not sticky. Not every ``cuda.bindings`` has a name for each.
"""

from __future__ import annotations

STICKY_ERRORS = {
    226: "CUDA_ERROR_CONTAINED",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    702: "CUDA_ERROR_LAUNCH_TIMEOUT",
    714: "CUDA_ERROR_HARDWARE_STACK_ERROR",
    715: "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    716: "CUDA_ERROR_MISALIGNED_ADDRESS",
    717: "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    718: "CUDA_ERROR_INVALID_PC",
    719: "CUDA_ERROR_LAUNCH_FAILED",
    721: "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    810: "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    911: "CUDA_ERROR_EXTERNAL_DEVICE",
}

CONTEXT_ERRORS = {  # with a new context, the process can go on
    201: "CUDA_ERROR_INVALID_CONTEXT",
    709: "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    710: "CUDA_ERROR_ASSERT",
}

STICKY_EXIT = 76  # exit status of a worker that ended itself because of a sticky error; EX_PROTOCOL, else unused here
