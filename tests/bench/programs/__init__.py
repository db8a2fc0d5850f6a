"""Programs that the benchmarks run in processes of their own.

Invariant: each ends with its parent, or is a worker, whose end is the supervisor's business.
"""
