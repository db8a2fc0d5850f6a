"""So many at once of each worker, then one each so often: what a worker that goes on may cost.

Invariant: pure; a worker of which nothing is known has all of it.
"""

from __future__ import annotations


class Credit:
    def __init__(self, burst: int, every_ns: int) -> None:
        self._burst = float(burst)
        self._every_ns = every_ns
        self._levels: dict[str, tuple[float, int]] = {}  # by worker, and when that was

    def left(self, worker: str, now_ns: int) -> float:
        level, since_ns = self._levels.get(worker, (self._burst, now_ns))
        return min(self._burst, level + max(0, now_ns - since_ns) / self._every_ns)

    def take(self, worker: str, now_ns: int) -> bool:
        """Whether there was one left, which is taken then."""
        level = self.left(worker, now_ns)
        self._levels[worker] = (level - (level >= 1), now_ns)
        return level >= 1
