"""Growth under the supervisor: who is looked at when, what is told of it, whose leak is a verdict now.

Invariant: it costs the supervisor one fork in ten seconds for 16 workers, whatever they hold; and a worker that works
is not condemned before its end takes nothing from its group: a verdict that waited would hide a hang.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from watchdogd.act.fleet import Fleet
from watchdogd.act.glance import Glance
from watchdogd.act.watched import Watched
from watchdogd.model import SECOND, DeviceMemory, Phase, Usage
from watchdogd.observe import usage
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal

MOST_AT_ONCE = 16  # workers in one look: what comes of it is taken in one tick
FRESH_NS = 30 * SECOND  # for so long it is known what a device's memory is used for
_WORKS = (Phase.RUNNING, Phase.OBSERVED)


class GrowthLooks:
    def __init__(self, watched: Sequence[Watched], journal: Journal, fleet: Fleet) -> None:
        self._watched = watched
        self._journal = journal
        self._fleet = fleet
        self._glance: Glance | None = None
        self._asked: dict[str, tuple[Watched, int]] = {}  # with its incarnation
        self._device = DeviceMemory({})
        self._device_ns = -FRESH_NS  # its arrival

    def look(self, now_ns: int) -> None:
        if self._glance is not None:
            self._take(self._glance, now_ns)
        if self._glance is None:
            self._begin(now_ns)
        for watched in self._watched:
            if not _is_looked_at(watched) and watched.growing.lose():
                watched.changed()
        self._condemn_one(now_ns)

    def device(self, told: DeviceMemory, now_ns: int) -> None:
        """What a source says that processes hold of devices' memory."""
        self._device, self._device_ns = told, now_ns

    def _begin(self, now_ns: int) -> None:
        due = [w for w in self._watched if now_ns >= w.growing.next_ns and _is_looked_at(w)]
        if not due:
            return
        due.sort(key=lambda watched: watched.growing.next_ns)
        self._asked = {w.settings.name: (w, w.state.incarnation) for w in due[:MOST_AT_ONCE]}
        roots = {}
        for name, (watched, _) in self._asked.items():
            watched.growing.asked(now_ns)
            if watched.process is not None:
                roots[name] = watched.process.pid
        try:
            self._glance = Glance(lambda: usage.look(roots), now_ns)
        except OSError:  # no process to be had: looked at again when they are due
            self._learn({}, now_ns)

    def _take(self, glance: Glance, now_ns: int) -> None:
        over, found = glance.result(now_ns)
        if not over:
            return
        self._glance = None
        self._learn(found or {}, now_ns)  # none: it did not return, and what it saw last is not known any more

    def _learn(self, found: Mapping[str, dict[str, Any]], now_ns: int) -> None:
        for name, (watched, incarnation) in self._asked.items():
            if watched.state.incarnation == incarnation and _is_looked_at(watched):
                told = found.get(name)
                self._follow(watched, Usage() if told is None else self._usage(told, now_ns), now_ns)

    def _usage(self, told: dict[str, Any], now_ns: int) -> Usage:
        device_memory = self._device_memory(told.pop("pids"), now_ns)
        return Usage(**told, device_memory=device_memory)

    def _device_memory(self, pids: Sequence[int], now_ns: int) -> int | None:
        """A process that no source tells of may be one that the driver does not show: not known, rather than 0."""
        if now_ns - self._device_ns > FRESH_NS:
            return None
        told = self._device.memory_bytes
        held = [told[str(pid)] for pid in pids if str(pid) in told]
        known = [item for item in held if item is not None]
        return sum(known) if known and len(known) == len(held) else None

    def _follow(self, watched: Watched, used: Usage, now_ns: int) -> None:
        told = watched.growing.take(used, now_ns)
        watched.changed()
        courses = watched.growing.describe() if told else {}
        for resource in told:
            course = courses[resource]
            self._journal.emit_limited(
                EventKind.GROWTH, now_ns, worker=watched.settings.name, incarnation=watched.state.incarnation,
                resource=resource, value=course["now"], baseline=course["most"], times=course["times"],
                reason=course["text"],
            )  # fmt: skip

    def _condemn_one(self, now_ns: int) -> None:
        """One at a time: the next look finds the first one on its way, and its peers wait."""
        for watched in self._watched:
            state, growing = watched.state, watched.growing
            observed = state.phase is Phase.OBSERVED
            if not growing.rule.leak or not _is_looked_at(watched) or growing.is_told:
                continue
            finding = growing.leak(now_ns) if state.finding is None or observed else None
            waits = "" if finding is None or observed else self._fleet.spares(watched, now_ns)
            if finding is not None and not waits:
                growing.is_told = observed
                self._fleet.found(watched, finding)
                return
            if growing.waits != waits:
                growing.waits = waits
                watched.changed()

    def close(self) -> None:
        if self._glance is not None:
            self._glance.abandon()
            self._glance = None


def _is_looked_at(watched: Watched) -> bool:
    """Before it is ready, and while somebody debugs it, it is not at what it does all day."""
    return (
        watched.growing.rule.baseline_ns is not None and watched.state.phase in _WORKS and watched.process is not None
    )
