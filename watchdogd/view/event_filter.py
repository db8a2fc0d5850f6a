"""Which events a person asked for: ``watchdogd events --worker --kind --incident --since``.

Invariant: pure but for ``check``; whatever stands in an event, it is wanted or it is not, and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from watchdogd.publish import events


class NothingSuch(Exception):
    """A name that occurs nowhere; the message says which there are."""


@dataclass(frozen=True, slots=True)
class Since:
    """An instant, by both clocks: the wall clock may have been set meanwhile, so it decides for other boots alone."""

    boot_id: str
    monotonic_ns: int
    time: str  # RFC 3339, as in the events

    def wants(self, event: Mapping[str, Any]) -> bool:
        at_ns, told = event.get("monotonic_ns"), event.get("time")
        if event.get("boot_id") == self.boot_id and isinstance(at_ns, int):
            return at_ns >= self.monotonic_ns
        return isinstance(told, str) and told >= self.time


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Empty or None: whatever it is."""

    workers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    incident: str | None = None
    since: Since | None = None

    def wants(self, event: Mapping[str, Any]) -> bool:
        return (
            (not self.workers or event.get("worker") in self.workers)
            and (not self.kinds or event.get("kind") in self.kinds)
            and self.incident in (None, event.get("incident"))
            and (self.since is None or self.since.wants(event))
        )


def check(wanted: EventFilter, path: str, known: Iterable[str]) -> None:
    """Raises NothingSuch for a worker neither ``known`` nor on record, or an incident not on record: a slip of the
    finger must not look like "nothing happened". Reads the record only if it has to. Raises OSError.
    """
    workers = set(known)
    if wanted.incident is None and workers.issuperset(wanted.workers):
        return
    incident_seen = wanted.incident is None
    for event in events.read_file(path):
        incident_seen = incident_seen or event.get("incident") == wanted.incident
        if isinstance(event.get("worker"), str):
            workers.add(event["worker"])
        if incident_seen and workers.issuperset(wanted.workers):
            return
    unknown = next((name for name in wanted.workers if name not in workers), None)
    if unknown is not None and workers:  # with --follow one may wait for the very first start
        raise NothingSuch(f"no worker is called {unknown!r}; there are: {', '.join(sorted(workers))}")
    if incident_seen:
        return
    remedy = "`watchdogd events --kind verdict` shows those that are"
    raise NothingSuch(f"nothing is on record of incident {wanted.incident!r}; {remedy}")
