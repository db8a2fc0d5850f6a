"""Load sources: programs that print accelerators' loads, and the pure code that reads what they print.

Invariant: the supervisor itself touches no GPU, no NVML and no ``load`` file. Those can block in the kernel exactly
when the GPU is sick, so they live in child programs that can be given up.
"""
