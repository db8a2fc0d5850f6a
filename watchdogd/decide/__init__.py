"""Decide: the pure core, from evidence to verdict to orders. No clock, no I/O: `now_ns` is passed in."""
