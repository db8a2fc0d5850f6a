"""How much may be put on record: a bound in bytes a second, of each worker and of all together.

Both bounds come from the size of the record's files, so that a storm does not wash the story of its beginning
away within minutes: at the full rate of all, one file lasts ``FILE_SECONDS`` (34 minutes) and the five that are kept
reach back two hours. With the default of 8 MiB that is 4 KiB/s, 338 MiB a day to the disk at the very worst.

Invariant: what decides about a worker (``weighty``) has the second half of its burst to itself: near misses and
sources, at any rate, leave room for a verdict. Pure: ``now_ns`` is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from watchdogd.model import SECOND

FILE_SECONDS = 2048
BURSTS_PER_FILE = 16  # of all together: 512 KiB by default, some 1500 events
LEAST_RATE, LEAST_BURST = 512, 64 * 1024  # bytes; a file of 4 KiB must not mean a record of nothing
SHARE = 4  # of one worker: a quarter of what all have


@dataclass(slots=True)
class _Bucket:
    rate: int  # bytes a second
    burst: int
    level: float  # bytes that may be taken now
    since_ns: int

    def room(self, now_ns: int, weighty: bool) -> float:
        self.level = min(self.burst, self.level + self.rate * max(0, now_ns - self.since_ns) / SECOND)
        self.since_ns = max(self.since_ns, now_ns)
        return self.level if weighty else self.level - self.burst / 2


class Throttle:
    def __init__(self, file_bytes: int) -> None:
        self._rate = max(LEAST_RATE, file_bytes // FILE_SECONDS)
        self._burst = max(LEAST_BURST, file_bytes // BURSTS_PER_FILE)
        self._buckets: dict[str | None, _Bucket] = {}  # by worker; None: the supervisor's own
        self._all = _Bucket(self._rate, self._burst, self._burst, 0)

    def admits(self, worker: str | None, size: int, now_ns: int, *, weighty: bool) -> bool:
        """Whether ``size`` bytes more may be recorded now; they then count as recorded."""
        own = self._buckets.get(worker)
        if own is None:
            burst = self._burst // SHARE
            own = self._buckets[worker] = _Bucket(self._rate // SHARE, burst, burst, now_ns)
        if min(own.room(now_ns, weighty), self._all.room(now_ns, weighty)) < size:
            return False
        own.level -= size
        self._all.level -= size
        return True
