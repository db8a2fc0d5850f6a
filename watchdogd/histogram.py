"""Histograms in the heartbeat's buckets: sums, quantiles, and coarser buckets for Prometheus.

Invariant: pure arithmetic; a quantile of nothing is ``None``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from watchdogd import abi

EMPTY_COUNTS = (0,) * abi.BUCKETS
EDGES_NS = tuple(edge for edge in map(abi.bucket_upper_ns, range(abi.BUCKETS)) if edge is not None)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per ``abi`` bucket and the sum of all durations in ns."""

    total_ns: int = 0
    counts: Sequence[int] = EMPTY_COUNTS

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile_ns(self, fraction: float) -> int | None:
        """Upper bound in ns of the bucket that holds the quantile; None if nothing was counted.

        Buckets are a quarter of an octave, so the answer is at most 25 % above the true value.
        """
        total = self.count
        if total == 0:
            return None
        rank = fraction * total
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return abi.bucket_upper_ns(index) or 1 << abi.HISTOGRAM_LAST_OCTAVE
        return 1 << abi.HISTOGRAM_LAST_OCTAVE

    def cumulative(self, bounds_ns: Iterable[int]) -> list[int]:
        """How many durations were below each bound; a bucket counts once it ends by the bound."""
        running = list(accumulate(self.counts, initial=0))
        return [running[bisect_right(EDGES_NS, bound)] for bound in bounds_ns]


def add(first: Histogram, second: Histogram) -> Histogram:
    return Histogram(
        first.total_ns + second.total_ns, [a + b for a, b in zip(first.counts, second.counts, strict=True)]
    )
