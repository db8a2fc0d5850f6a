"""The escalation for people and programs: how far it is, why, since when, and what comes next.

Invariant: pure. Nothing is known of it (none configured, or a board from before there was one): ``None``, and no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from watchdogd.model import SECOND
from watchdogd.span import span

# By stage, what follows it: (a word for programs, words for people, with the time that is left).
_NEXT = {
    "waiting": ("ask", "asks once min_interval is over, in {left}"),
    "asking": ("action", "{left} left to consent, then {action}"),
    "awaiting": ("action", "{left} left for {file}, then {action}"),
    "backoff": ("ask", "no consent or no success, asks again in {left}"),
    "noting": ("action", "{action} comes next"),
    "acting": (None, "{action} is under way"),
    "done": (None, "nothing more is done"),
}
_REFUSED = "it had its escalation, or has come again within min_interval"


def to_json(told: Mapping[str, Any] | None, now_ns: int) -> dict[str, Any] | None:
    """``told``: as in ``snapshot.py``. ``next_in_seconds``: until the stage's time is over, at the latest."""
    if not told:
        return None
    step, _ = _NEXT.get(told["stage"], (None, ""))
    return {
        **{key: told[key] for key in ("stage", "action", "dry_run", "causes", "ways_out", "refused", "last")},
        "age_seconds": round(max(0, now_ns - told["since_ns"]) / SECOND, 6),
        "next": step,
        "next_in_seconds": None if told["deadline_ns"] is None else round(_left_ns(told, now_ns) / SECOND, 6),
    }


def lines(told: Mapping[str, Any] | None, now_ns: int, ended: bool) -> Iterator[tuple[str, bool]]:
    """Each with whether it is about what is under way now. ``ended``: the supervisor has."""
    if not told:
        return
    action = told["action"] + (", dry run" if told["dry_run"] else "")
    if told["causes"] and not ended:
        _, what = _NEXT.get(told["stage"], (None, ""))
        follows = what.format(left=span(_left_ns(told, now_ns)), action=told["action"], file=told["consent_file"])
        since = span(max(0, now_ns - told["since_ns"]))
        why = "; ".join((*told["causes"], *(f"`{way}` ends its cause" for way in told["ways_out"])))
        yield f"  escalation ({action}): {told['stage']} for {since}, {follows}: {why}; see `watchdogd events`", True
    for cause in () if ended else told["refused"]:
        yield f"  escalation ({action}): refused, nothing will be done: {cause}; {_REFUSED}", True
    if told["last"]:
        yield f"  last escalation: {told['last']}", False


def _left_ns(told: Mapping[str, Any], now_ns: int) -> int:
    return max(0, (told["deadline_ns"] or now_ns) - now_ns)
