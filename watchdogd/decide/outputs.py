"""When a run of bad outputs is a verdict.

Invariant: pure; without a rule nobody is condemned for his outputs, and one word is the whole of the evidence.
"""

from __future__ import annotations

from watchdogd import abi, bad_outputs
from watchdogd.model import Finding, OutputSettings, Verdict
from watchdogd.pulse import Pulse


def silent(pulse: Pulse, rule: OutputSettings, now_ns: int, stood: int = 0) -> Finding | None:
    """A run that is as long as the rule says; a rule of 0 is none.

    ``stood``: the word when the looks began, or began again after a pause. A run that has not grown since may be all
    that is left of a process that is gone; the longest that a word can tell would not show it.
    """
    run = bad_outputs.under_way(pulse, now_ns) if rule.bad_in_a_row else None
    if run is None or run.length < rule.bad_in_a_row or (run.word == stood and run.length < abi.MOST_IN_A_ROW):
        return None
    return Finding(
        Verdict.SILENT_OUTPUT,
        detected_ns=now_ns,
        entered_ns=run.begun_ns,
        word=run.word,
        offset=bad_outputs.OFFSET,
        detail=str(run),
    )
