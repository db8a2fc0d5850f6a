"""What was a moment ago: the last values of a few figures, one a look, for the lines that the page draws.

Invariant: bounded by ``SAMPLES`` and by the names that are there now; a value that was unknown is None.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

SAMPLES = 300  # looks: five minutes


class Recent:
    def __init__(self) -> None:
        self._series: dict[str, deque[float | None]] = {}
        self._looks = 0

    def add(self, values: Mapping[str, float | None]) -> None:
        """One look; a name that is not in it is forgotten."""
        for name in self._series.keys() - values.keys():
            del self._series[name]
        for name, value in values.items():
            self._series.setdefault(name, deque(maxlen=SAMPLES)).append(value)

    def __getitem__(self, name: str) -> Sequence[float | None]:
        """Oldest first."""
        return self._series.get(name, ())


class Rates:
    """Counters' growth a second between two looks."""

    def __init__(self) -> None:
        self.recent = Recent()
        self._before: dict[str, tuple[int, int]] = {}

    def add(self, counters: Mapping[str, int], now_ns: int) -> None:
        self.recent.add({name: self._rate(name, value, now_ns) for name, value in counters.items()})
        self._before = {name: (value, now_ns) for name, value in counters.items()}

    def _rate(self, name: str, value: int, now_ns: int) -> float | None:
        before, then_ns = self._before.get(name, (value, now_ns))
        return None if now_ns == then_ns else max(0, value - before) * 1e9 / (now_ns - then_ns)
