"""When a run of bad outputs is a verdict.

Invariant: pure; without a rule nobody is condemned for his outputs, and one word is the whole of the evidence.
"""

from __future__ import annotations

from watchdogd import bad_outputs
from watchdogd.model import Finding, OutputSettings, Verdict
from watchdogd.pulse import Pulse


def silent(pulse: Pulse, rule: OutputSettings, now_ns: int) -> Finding | None:
    """A run that is as long as the rule says; a rule of 0 is none."""
    run = bad_outputs.under_way(pulse, now_ns) if rule.bad_in_a_row else None
    if run is None or run.length < rule.bad_in_a_row:
        return None
    return Finding(
        Verdict.SILENT_OUTPUT,
        detected_ns=now_ns,
        entered_ns=run.begun_ns,
        word=run.word,
        offset=bad_outputs.OFFSET,
        detail=str(run),
    )
