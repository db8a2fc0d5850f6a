"""The escalation for people and programs: how far it is, why, since when, and what comes next.

Invariant: pure. Nothing is known of it (none configured, or a board from before there was one): ``None``, and no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from watchdogd.model import SECOND
from watchdogd.view.span import span

# By stage, what follows it: (a word for programs, words for people, with the time that is left).
_NEXT = {
    "waiting": ("ask", "asks in {left}"),
    "asking": ("action", "waits {left} more for consent, then {action}"),
    "awaiting": ("action", "waits {left} more for consent, then {action}"),
    "backoff": ("ask", "asks again in {left}"),
    "noting": ("action", "{action} comes next"),
    "acting": (None, "{action} is under way"),
    "done": (None, "nothing more is done"),
}


def to_json(told: Mapping[str, Any] | None, now_ns: int) -> dict[str, Any] | None:
    """``told``: as in ``snapshot.py``. ``next_in_seconds``: until the stage's time is over, at the latest."""
    if not told:
        return None
    step, _ = _NEXT.get(told["stage"], (None, ""))
    return {
        **{key: told[key] for key in ("stage", "action", "dry_run", "causes", "last")},
        "age_seconds": round(max(0, now_ns - told["since_ns"]) / SECOND, 6),
        "next": step,
        "next_in_seconds": None if told["deadline_ns"] is None else round(_left_ns(told, now_ns) / SECOND, 6),
    }


def lines(told: Mapping[str, Any] | None, now_ns: int, ended: bool) -> Iterator[tuple[str, bool]]:
    """Each with whether it is about what is under way now. ``ended``: the supervisor has."""
    if not told:
        return
    if told["causes"] and not ended:
        action = told["action"] + (", dry run" if told["dry_run"] else "")
        _, what = _NEXT.get(told["stage"], (None, ""))
        follows = what.format(left=span(_left_ns(told, now_ns)), action=told["action"])
        since = span(max(0, now_ns - told["since_ns"]))
        causes = "; ".join(told["causes"])
        yield f"  escalation ({action}): {told['stage']} for {since}, {follows}: {causes}; see `watchdogd events`", True
    if told["last"]:
        last = told["last"]
        yield f"  last escalation: {last['action']} at {last['time']}: {last['reason']}", False


def _left_ns(told: Mapping[str, Any], now_ns: int) -> int:
    return max(0, (told["deadline_ns"] or now_ns) - now_ns)
