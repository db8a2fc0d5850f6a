"""Which bounds a Prometheus histogram gets.

Invariant: every bound is an edge of a heartbeat's own buckets, so that coarser counts are exact sums of finer ones;
with ``+Inf`` there are at most 14.
"""

from __future__ import annotations

from functools import lru_cache

from watchdogd.histogram import EDGES_NS

WITHOUT_DEADLINE_NS = tuple(1 << octave for octave in range(13, 38, 2))  # 8 us to 137 s, by factors of four
LATENESS_NS = tuple(1 << octave for octave in range(14, 27))  # 16 us to 67 ms, by factors of two
# Quarter octaves from the deadline: dense below it, where a deadline is tightened with evidence.
_AROUND = (-32, -24, -16, -12, -8, -6, -4, -3, -2, -1, 0, 1, 4)


@lru_cache(maxsize=1 << 10)
def around(deadline_ns: int) -> tuple[int, ...]:
    """Bounds from 1/256 of the first edge at or above a deadline to twice that edge."""
    at = next((index for index, edge in enumerate(EDGES_NS) if edge >= deadline_ns), len(EDGES_NS) - 1)
    at = min(max(at, -_AROUND[0]), len(EDGES_NS) - 1 - _AROUND[-1])
    return tuple(EDGES_NS[at + quarters] for quarters in _AROUND)
