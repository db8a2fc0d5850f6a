"""The incidents that are kept, one a line, the newest last.

Invariant: pure; what a filter names that occurs nowhere is told, so that a slip of the finger does not look like
"nothing happened".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from watchdogd.incident import Incident
from watchdogd.publish.event_text import printable
from watchdogd.span import span
from watchdogd.view.incident_show import clock, lasted_ns, what

HEAD = ("OPENED", "WORKER", "WHAT", "CAUSE", "OUTCOME", "TOOK", "SIGNATURE", "ID")


class NothingSuch(Exception):
    """The message says what there is."""


class Ambiguous(Exception):
    """Some of what it may be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Empty or None: whatever it is."""

    workers: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    signature: str = ""  # or its beginning
    since_unix_ns: int | None = None

    def wants(self, incident: Incident) -> bool:
        return (
            (not self.workers or incident.worker in self.workers)
            and (not self.verdicts or incident.verdict.verdict in self.verdicts)
            and incident.signature.startswith(self.signature)
            and (self.since_unix_ns is None or incident.opened_unix_ns >= self.since_unix_ns)
        )


def check(wanted: Wanted, incidents: Iterable[Incident], workers: Iterable[str]) -> None:
    """``workers``: that are known besides. Raises NothingSuch."""
    known, signatures = set(workers), set()
    for incident in incidents:
        known.add(incident.worker)
        signatures.add(incident.signature)
    unknown = next((name for name in wanted.workers if name not in known), None)
    if unknown is not None and known:
        raise NothingSuch(f"no worker is called {unknown!r}; there are: {', '.join(sorted(known))}")
    if wanted.signature and not any(one.startswith(wanted.signature) for one in signatures):
        raise NothingSuch(
            f"no incident that is kept has signature {wanted.signature!r}; `watchdogd incidents` has them"
        )


def find(name: str, incidents: Sequence[Incident]) -> Incident:
    """By its id, by a beginning or an end of it that no other has, or ``last``. Raises NothingSuch, Ambiguous."""
    if not incidents:
        raise NothingSuch("no incident is kept")
    if name == "last":
        return incidents[-1]
    found = [one for one in incidents if one.id == name] or [
        one for one in incidents if one.id.startswith(name) or one.id.endswith(name)
    ]
    if not found:
        raise NothingSuch(f"no incident {name!r} is kept; `watchdogd incidents` lists those that are")
    if len(found) > 1:
        raise Ambiguous(f"{name!r} may be {', '.join(one.id for one in found[-3:])}{' ...' * (len(found) > 3)}")
    return found[0]


def table(incidents: Sequence[Incident]) -> str:
    rows = [HEAD, *map(_row, incidents)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _row(incident: Incident) -> tuple[str, ...]:
    cause = incident.diagnosis.cause if incident.diagnosis else "-"
    times = f" x{incident.repeats.count}" if incident.repeats and incident.repeats.count > 1 else ""
    ended = incident.outcome or incident.state
    cells = (
        clock(incident, incident.verdict.detected_ns)[:19] + "Z", incident.worker, what(incident), cause, ended,
        span(lasted_ns(incident)), f"{incident.signature or '-'}{times}", incident.id,
    )  # fmt: skip
    return tuple(map(printable, cells))
