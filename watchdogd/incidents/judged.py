"""What is said of an incident once its evidence is there: what it was, what makes it the same as others, how often.

Invariant: pure; judging again replaces what was said before, and what is kept of a worker is redacted first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from watchdogd.decide.diagnosis import diagnose
from watchdogd.decide.repeats import repeats
from watchdogd.decide.signature import signature
from watchdogd.incident import Incident
from watchdogd.incidents.redact import Redaction


def judged(incident: Incident, redaction: Redaction, earlier: Sequence[Incident] | None = None) -> Incident:
    """``earlier``: of all signatures; None: nobody counts yet."""
    incident = redaction.incident(incident)
    digest, words = signature(incident)
    incident = replace(incident, signature=digest, signature_words=words, diagnosis=diagnose(incident))
    return incident if earlier is None else replace(incident, repeats=repeats(incident, earlier))
