"""Benchmarks of the promises that are numbers: ``python -m tests.bench``.

Invariant: a figure that is judged comes with what it was measured against in the same run; nothing here asserts.
"""
