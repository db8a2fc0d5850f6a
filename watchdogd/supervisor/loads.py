"""Load samples per accelerator: the last one, whether its source is fresh, whether it is frozen.

Invariant: a source that is silent is silent, not zero; nothing here can condemn a worker.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from watchdogd.act.children import Child
from watchdogd.decide import freeze, ghost
from watchdogd.model import SECOND, DeviceMemory, LoadSample, SourceSettings
from watchdogd.observe.sources import lines

STALE_INTERVALS = 3
SAMPLES = 120  # remembered of each accelerator and source: a minute of them, for an incident
REPLACE_NS = 10 * SECOND  # a source silent for longer is killed and started again


class Source:
    """One load reader and what it says of itself."""

    def __init__(self, settings: SourceSettings, child: Child) -> None:
        self.settings = settings
        self.child = child
        self.buffer = lines.LineBuffer()
        self.bad_lines = 0
        self.last_bad = ""
        self.sample_ns: int | None = None
        self.up = False
        self.device_memory: DeviceMemory | None = None  # as the lines told that were fed last
        self._quiet_since_ns = 0

    @property
    def stale_after_ns(self) -> int:
        return STALE_INTERVALS * self.settings.interval_ns

    def feed(self, data: bytes, now_ns: int) -> list[LoadSample]:
        """Samples in what the child printed, stamped by the caller with their arrival."""
        samples: list[LoadSample] = []
        self.device_memory = None
        for line in self.buffer.feed(data):
            try:
                memory = lines.device_memory(line)
                if memory is None:
                    samples += lines.parse(self.settings.name, line)
                else:
                    self.device_memory = memory
            except lines.BadLine as error:
                self.bad_lines += 1
                self.last_bad = str(error)
                continue
            self.sample_ns = now_ns  # a good line without a load is a sign of life too
        return samples

    def started(self, now_ns: int) -> None:
        self.buffer = lines.LineBuffer()
        self._quiet_since_ns = now_ns

    def watch(self, now_ns: int) -> bool:
        """Update ``up``; whether it changed. A child silent for long is killed, to be started again."""
        up = self.sample_ns is not None and now_ns - self.sample_ns <= self.stale_after_ns
        changed, self.up = up != self.up, up
        quiet_since = max(self._quiet_since_ns, self.sample_ns or 0)
        if now_ns - quiet_since > max(REPLACE_NS, 10 * self.settings.interval_ns):
            self._quiet_since_ns = now_ns
            self.child.kill()
        return changed

    def describe(self) -> dict[str, Any]:
        note = self.child.note or (f"last bad line: {self.last_bad}" if self.last_bad and not self.up else "")
        return {
            "name": self.settings.name,
            "load": True,
            "up": self.up,
            "sample_ns": self.sample_ns,
            "restarts": max(0, self.child.starts - 1),
            "bad_lines": self.bad_lines,
            "note": note,
        }


class Loads:
    """The accelerators, as the sources tell."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], freeze.LoadPoint] = {}
        self._last: dict[tuple[str, str], LoadSample] = {}
        self._history: dict[tuple[str, str], deque[tuple[int, float | None]]] = {}
        self._frozen: dict[tuple[str, str], bool] = {}
        self._ghosts: dict[tuple[str, str], ghost.GhostPoint] = {}
        self._haunted: dict[tuple[str, str], bool] = {}

    def add(
        self, source: Source, sample: LoadSample, pending: bool, completed: int, now_ns: int, vacant: bool = False
    ) -> None:
        """``pending``, ``completed``: calls in flight and completed by the accelerator's workers at this moment.
        ``vacant``: it has had a worker, and none is there."""
        key = (sample.accelerator, source.settings.name)
        reading = freeze.reading(sample)
        self._ghosts[key] = ghost.next_point(self._ghosts.get(key), reading, vacant, source.stale_after_ns, now_ns)
        self._points[key] = freeze.next_point(
            self._points.get(key), reading, pending, completed, source.stale_after_ns, now_ns
        )
        self._last[key] = sample
        self._history.setdefault(key, deque(maxlen=SAMPLES)).append((now_ns, sample.load_ratio))

    def watch(self, sources: list[Source], now_ns: int) -> bool:
        """Update what is frozen; whether anything changed."""
        by_name = {source.settings.name: source for source in sources}
        changed = False
        for key, point in self._points.items():
            source = by_name[key[1]]
            frozen = freeze.is_frozen(point, source.settings.frozen_after_ns, source.stale_after_ns, now_ns)
            haunted = ghost.is_ghost(self._ghosts[key], source.settings.frozen_after_ns, source.stale_after_ns, now_ns)
            changed = changed or (frozen, haunted) != (self._frozen.get(key, False), self._haunted.get(key, False))
            self._frozen[key], self._haunted[key] = frozen, haunted
        return changed

    @property
    def haunted(self) -> bool:
        """Whether any accelerator is busy with nobody there."""
        return any(self._haunted.values())

    def frozen(self, accelerator: str) -> bool:
        return any(frozen for key, frozen in self._frozen.items() if key[0] == accelerator)

    def history(self) -> list[dict[str, Any]]:
        """The last samples of each accelerator by each source that knows its load, as ``incident.Load``."""
        return [
            {
                "accelerator": key[0],
                "samples": list(samples),
                "frozen_since_ns": self._points[key].since_ns if self._frozen.get(key, False) else None,
            }
            for key, samples in sorted(self._history.items())
            if any(ratio is not None for _, ratio in samples)
        ]

    def describe(self, accelerators: list[str], blocked: dict[str, str]) -> list[dict[str, Any]]:
        """One object per accelerator and source; configured accelerators no source tells of have no source."""
        told = [self._object(accelerator, source, blocked) for accelerator, source in sorted(self._last)]
        known = {item["name"] for item in told}
        missing = [name for name in accelerators if name not in known]
        return told + [
            {
                "name": name, "load_ratio": None, "power": None, "frozen": False, "ghost": False, "source": None,
                "sample_ns": None, "device": None, "uuid": None, "blocked_by": blocked.get(name),
            }
            for name in missing
        ]  # fmt: skip

    def _object(self, accelerator: str, source: str, blocked: dict[str, str]) -> dict[str, Any]:
        key = (accelerator, source)
        sample = self._last[key]
        return {
            "name": accelerator,
            "load_ratio": sample.load_ratio,
            "power": sample.power,
            "frozen": self._frozen.get(key, False),
            "ghost": self._haunted.get(key, False),
            "source": source,
            "sample_ns": self._points[key].arrived_ns,
            "device": sample.name,
            "uuid": sample.uuid,
            "blocked_by": blocked.get(accelerator),
        }
