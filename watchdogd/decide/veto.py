"""Whether a kill waits for the word of the ``on_verdict`` hook.

Invariant: pure; a kill waits for the hook's answer no longer than ``on_verdict_deadline``, for a veto no longer than
``veto_max``, both from the verdict on, and never where ``veto`` is not true.
"""

from __future__ import annotations

from watchdogd.model import HooksSettings

VETO_STATUS = 75  # EX_TEMPFAIL of sysexits.h: not now


def hold(settings: HooksSettings, detected_ns: int, vetoed: bool | None, now_ns: int) -> str | None:
    """Why the kill waits now; None = it does not. ``vetoed``: the hook's answer; None = none yet."""
    if not settings.veto or not settings.on_verdict or vetoed is False:
        return None
    waited_ns = now_ns - detected_ns
    if vetoed:
        return "vetoed by the on_verdict hook" if waited_ns < settings.veto_max_ns else None
    return "the on_verdict hook is asked" if waited_ns < settings.on_verdict_deadline_ns else None
