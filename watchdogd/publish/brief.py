"""What `exec` says of its program on standard error: what a person must know, one line each, and nothing else.

Invariant: pure; no content of an event makes it raise, and an event that changes nothing for that person says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from watchdogd.publish.event_text import printable
from watchdogd.publish.events import EventKind

_OWN_ENDS = ("exited", "crashed")  # the exit status says it, and if there was nothing to execute, the detail
_PLAIN = ("exited", "killed")


def line(event: Mapping[str, Any]) -> str | None:
    """Without a line end; None = nothing to say."""
    told = _TOLD.get(str(event.get("kind")), _nothing)(event)
    return None if told is None else f"watchdogd: {printable(told)}"


def _nothing(_event: Mapping[str, Any]) -> str | None:
    return None


def _verdict(event: Mapping[str, Any]) -> str | None:
    if event.get("verdict") in _OWN_ENDS:
        return "; ".join(said for said in str(event.get("detail")).split("; ") if not said.startswith(_PLAIN)) or None
    what = " ".join(str(event[key]) for key in ("verdict", "operation", "stage") if event.get(key))
    told = "; ".join(_particulars(event))
    return f"verdict {what}{': ' if told else ''}{told}"


def _particulars(event: Mapping[str, Any]) -> Iterator[str]:
    entered_ns, armed_ns, deadline_ns, detected_ns = (
        _integer(event.get(key)) for key in ("entered_ns", "armed_ns", "deadline_ns", "detected_ns")
    )
    pid, tid = event.get("pid"), event.get("tid")
    where = f"pid {pid}{f' thread {tid}' if tid not in (None, pid) else ''}" if pid else ""
    if entered_ns is not None and detected_ns is not None:
        where += f" since {_clock(event, detected_ns - entered_ns)} ({_seconds(detected_ns - entered_ns)})"
    if where:
        yield where.strip()
    if entered_ns is not None and deadline_ns is not None and event.get("verdict") != "stall":
        # (a stall's instant is when its evidence could be known, which is later than what was configured)
        yield f"deadline {_seconds(deadline_ns - max(entered_ns, armed_ns or 0))}"
    if event.get("detail"):
        yield str(event["detail"])
    if event.get("would_have_killed"):
        yield "only observed, not ended"
    elif event.get("held"):
        yield f"its end waits: {event['held']}"
    elif event.get("incident") is None and entered_ns is None:
        yield "only told, nobody is ended for it"


def _clock(event: Mapping[str, Any], ago_ns: int) -> str:
    """Of the day, as people here read it."""
    try:
        then = datetime.fromisoformat(str(event.get("time")).replace("Z", "+00:00")) - timedelta(
            microseconds=ago_ns / 1e3
        )
        return then.astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError):
        return "?"


def _seconds(length_ns: int) -> str:
    return f"{length_ns / 1e9:.3f} s"


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else None


def _phase(event: Mapping[str, Any]) -> str | None:
    if event.get("phase") == "unkillable":
        blocked = event.get("blocked")
        return f"SIGKILL did not end it{f': {blocked}' if blocked else ''}"
    if event.get("phase") == "starting" and event.get("incarnation") != 1:
        return f"started again, incarnation {event.get('incarnation')}"
    return None


def _gone(event: Mapping[str, Any]) -> str | None:
    left = event.get("descendants_killed")
    return f"processes of it that were left and have been ended: {left}" if left else None


def _problem(event: Mapping[str, Any]) -> str | None:
    return f"{event.get('reason')}" if event.get("change") == "problem" else None


def _down(event: Mapping[str, Any]) -> str | None:
    return f"{event.get('source')}: {event.get('reason')}" if event.get("up") is False else None


_TOLD = {
    EventKind.VERDICT.value: _verdict,
    EventKind.PHASE.value: _phase,
    EventKind.GONE.value: _gone,
    EventKind.SUPERVISOR.value: _problem,
    EventKind.SOURCE.value: _down,
}
