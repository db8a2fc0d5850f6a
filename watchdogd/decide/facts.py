"""The word that a finding rests on: whether it still says the same, and what the finding is known by.

Invariant: pure. What is stamped anew with no change of meaning is the same fact; what cannot be read confirms nothing.
"""

from __future__ import annotations

from watchdogd import abi
from watchdogd.model import Finding, Verdict

Fact = tuple[int, int]  # (offset, word) of the heartbeat

# What of the word is the fact, where not all of it is. A CUDA error is stamped anew by every call that fails, a run of
# bad outputs by every one more: the one is its code, the other its begin.
_MEANT = {Verdict.STICKY_ERROR: abi.ERROR_MASK, Verdict.SILENT_OUTPUT: ~abi.ERROR_MASK}


def fact(finding: Finding) -> Fact | None:
    """What a finding is known by; None for one that rests on no word."""
    if finding.offset is None or finding.word is None:
        return None
    return finding.offset, finding.word & _MEANT.get(finding.verdict, -1)


def stands(finding: Finding, word: int | None) -> bool:
    """Whether ``word``, read anew where the finding's is, says the same. None: it could not be read."""
    if finding.offset is None:
        return True
    if finding.verdict is Verdict.STARTUP:  # attaching meanwhile is not being ready
        return word is not None and word & abi.CODE_MASK != abi.STATE["ready"]
    meant = _MEANT.get(finding.verdict, -1)
    return word is not None and word & meant == (finding.word or 0) & meant
