"""Events as entries of systemd's journal: their fields, their priority, a ``MESSAGE_ID`` for each kind.

``journalctl MESSAGE_ID=...`` finds a kind, ``journalctl WATCHDOGD_INCIDENT=...`` a story; docs/JOURNAL.md has them all.
The ids are for ever: whoever filters by one must not lose it with an update.

Invariant: a journald that does not answer holds up the caller for ``STUCK_SECONDS`` in each ``PAUSE_NS``, not longer.
(libsystemd's socket blocks, and journald's queue is full a few hundred entries after it stops.)
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from watchdogd.model import SECOND, Phase
from watchdogd.publish.event_text import printable, summary
from watchdogd.publish.events import EventKind

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "watchdogd"
STUCK_SECONDS = 0.05
PAUSE_NS = SECOND

MESSAGE_IDS = {
    EventKind.PHASE: "44a570ad09be4f7bbe0dca49367cb94c",
    EventKind.VERDICT: "f3d1f779a0e343178096bbfce5d424c9",
    EventKind.SIGNAL: "4410af59daca4932a29bbeb1cc61f482",
    EventKind.GONE: "428f41931be9464d9b7a99218d89a391",
    EventKind.READY: "1e55e0dd80b34a8cad6e6a277dd3b05b",
    EventKind.NEAR_MISS: "d8e80e56e325467d9e0490aff99dea34",
    EventKind.SOURCE: "99e06bec0f0941299cac19d8a33b65e5",
    EventKind.KERNEL: "5614ab93ba6f455f9a8d0b03f9934203",
    EventKind.BLOCKED: "2cceba90480e46698f50c39310915c9a",
    EventKind.GROWTH: "458e67b3a0b34ad1a747f8028b63017c",
    EventKind.OPERATOR: "ac2a9957eab144259ee33843537144a9",
    EventKind.SUPERVISOR: "9dca1d398de74883b2b9da13e59330a3",
    EventKind.REFRAINED: "64a6331162034ec48dd868758609c808",
    EventKind.HOOK: "e75e7ca54d3342b4b33ac3f5d222eae6",
    EventKind.ESCALATION: "3753808504e1443a82056d8f3f40d915",
    EventKind.PROBE: "ee33bf4965c64664a8e0b48f413a52fe",
    EventKind.BISECT: "6ad7cc12678448b7bf1cb24f8f4efc43",
    EventKind.EVIDENCE: "a4453674a0e1470bac1b59633845415e",
    EventKind.SUPPRESSED: "fb6a38f9f7d841bf8d086a5dc4a7c15c",
}
FIELDS = ("kind", "seq", "worker", "incarnation", "incident", "verdict", "operation")  # each as WATCHDOGD_...

_CRITICAL, _ERROR, _WARNING, _NOTICE, _INFO = 2, 3, 4, 5, 6  # as syslog counts
_PRIORITIES = {
    EventKind.VERDICT: _ERROR,
    EventKind.SIGNAL: _NOTICE,
    EventKind.NEAR_MISS: _WARNING,
    EventKind.REFRAINED: _NOTICE,
    EventKind.KERNEL: _WARNING,
    EventKind.BLOCKED: _WARNING,
    EventKind.GROWTH: _WARNING,
    EventKind.OPERATOR: _NOTICE,
    EventKind.SUPERVISOR: _NOTICE,
    EventKind.ESCALATION: _ERROR,
    EventKind.HOOK: _NOTICE,
    EventKind.PROBE: _NOTICE,
    EventKind.BISECT: _NOTICE,
    EventKind.SUPPRESSED: _WARNING,
}
_PHASES = {Phase.UNKILLABLE.value: _CRITICAL, Phase.QUARANTINED.value: _ERROR}


def priority(event: Mapping[str, Any]) -> int:
    """2: the machine needs a person; 3: a hang, a crash, a refusal; 4: may become one; 5 and 6: what was done."""
    kind = event.get("kind")
    if event.get("refused"):
        return _ERROR
    nobody_is_signalled = event.get("would_have_killed") or event.get("incident") is None
    if (
        (kind == EventKind.VERDICT and nobody_is_signalled)
        or (kind == EventKind.SOURCE and not event.get("up"))
        or (kind == EventKind.EVIDENCE and event.get("step") == "lost")
        or (kind == EventKind.SUPERVISOR and event.get("change") in ("problem", "reload refused"))
    ):
        return _WARNING
    if kind == EventKind.KERNEL and event.get("expected"):
        return _INFO
    if kind == EventKind.PHASE:
        return _PHASES.get(str(event.get("phase")), _INFO)
    return _PRIORITIES.get(EventKind(kind), _INFO) if kind in MESSAGE_IDS else _NOTICE


def entry(event: Mapping[str, Any]) -> list[str]:
    """``FIELD=value``, as ``sendv`` takes them. What the event does not have has no field."""
    fields = {
        "MESSAGE": summary(event),
        "PRIORITY": priority(event),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "MESSAGE_ID": MESSAGE_IDS.get(event["kind"]),
        **{f"WATCHDOGD_{name.upper()}": event.get(name) for name in FIELDS},
    }
    return [f"{name}={printable(value)}" for name, value in fields.items() if value is not None]


def resolve(log_format: str, environ: Mapping[str, str], descriptor: int = 2) -> str:
    """What ``auto`` means here: ``journal`` where that is what standard error is, else ``text``."""
    if log_format != "auto":
        return log_format
    return "journal" if is_journal(environ, descriptor) and can_send() else "text"


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """systemd's own test: ``JOURNAL_STREAM`` is inherited, so the descriptor must be that stream."""
    try:
        stream = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def can_send() -> bool:
    """Whether systemd-python is installed. Looked for, not imported: the supervisor has no use for it."""
    spec = importlib.util.find_spec("systemd")
    return spec is not None and spec.origin is not None  # not just a directory of that name


class Sender:
    """Sends entries from this process, which lends it SIGALRM. Raises ImportError (no systemd-python)."""

    def __init__(self) -> None:
        from systemd import journal  # noqa: PLC0415 - only where the journal is written

        self._sendv: Callable[..., None] = journal.sendv
        self._again_ns = 0
        signal.signal(signal.SIGALRM, _interrupt)

    def send(self, event: Mapping[str, Any]) -> bool:
        """False if journald did not take it, now or a moment ago."""
        if time.monotonic_ns() < self._again_ns:
            return False
        # Repeated, so that one that comes before the call blocks is not the last.
        signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS, STUCK_SECONDS)
        try:
            self._sendv(*entry(event))
        except OSError:
            self._again_ns = time.monotonic_ns() + PAUSE_NS
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return True


def _interrupt(_number: int, _frame: object) -> None:
    """Nothing but EINTR for the call in progress."""
