"""An event as a person reads it: one line.

Invariant: pure; no content of an event makes it raise, and nothing in it reaches a terminal that this could obey.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from watchdogd.publish.events import EventKind

_COMMON = {"schema", "boot_id", "seq", "time", "monotonic_ns", "kind", "worker", "incarnation", "incident"}


def describe(event: Mapping[str, Any]) -> str:
    """One readable line. Shows every field that says something, and nothing a terminal could obey."""
    return f"{printable(event.get('time', '?'))} {summary(event)}"


def summary(event: Mapping[str, Any]) -> str:
    """``describe`` without the time, for a log that has its own."""
    rest = {key: value for key, value in event.items() if key not in _COMMON and not _says_nothing(value)}
    kind = _text(event.get("kind"))
    who = _text(event.get("worker") or "-")
    if event.get("incarnation") is not None:
        who += f"#{_text(event['incarnation'])}"
    parts = [who, kind, *_phrase(kind, rest)]
    parts += [f"{key}={_text(value)}" for key, value in rest.items()]
    if event.get("incident"):
        parts.append(f"[{_text(event['incident'])}]")
    return printable(" ".join(parts))


def printable(value: object) -> str:
    """With nothing in it that a terminal could obey, or a log could take for two lines."""
    return "".join(c if c.isprintable() else "?" for c in _text(value))


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value in ("", [])


def _text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, dict) and "worker" in item for item in value):
        return ",".join(_text(item["worker"]) for item in value)
    if isinstance(value, list) and all(isinstance(item, dict) and "collector" in item for item in value):
        return ",".join(f"{_text(item['collector'])}:{_text(item.get('outcome'))}" for item in value)
    if isinstance(value, list) and all(isinstance(item, dict) and "operation" in item for item in value):
        return ",".join(_text(item["operation"]) for item in value)
    if isinstance(value, list) and all(isinstance(item, (str, int)) for item in value):
        return ",".join(map(str, value))
    if isinstance(value, dict) and all(isinstance(item, int) for item in value.values()):
        return ",".join(f"{key}:{item}" for key, item in value.items())
    return str(value) if isinstance(value, (str, int, float)) else "..."  # a nested value may be too deep to print


def _phrase(kind: str, rest: dict[str, Any]) -> Iterator[str]:
    """What a kind says in words; takes the fields it said out of ``rest``."""
    if kind == EventKind.PHASE and "phase" in rest:
        yield f"{_text(rest.pop('previous', '?'))} -> {_text(rest.pop('phase'))}"
    if kind == EventKind.VERDICT:
        yield " ".join(_text(rest.pop(key)) for key in ("verdict", "operation") if key in rest)
        rest.pop("bisected", None)  # ``detail`` says it
        entered_ns, armed_ns = rest.pop("entered_ns", None), rest.pop("armed_ns", None)
        rest["entered_ns"] = armed_ns or entered_ns
        keys = ("entered_ns", "deadline_ns", "detected_ns", "published_ns")
        pairs = pairwise(_instant(rest.pop(key, None)) for key in keys)
        spans = zip(("deadline", "detected +", "published +"), pairs, strict=True)
        yield ", ".join(f"{what} {(end - start) / 1e6:.3f} ms" for what, (start, end) in spans if start and end)
    if kind == EventKind.KERNEL:
        yield " ".join(_text(rest.pop(key)) for key in ("about", "number") if key in rest)
        if rest.pop("expected", False):
            yield "expected after our kill"
    if kind in (EventKind.SUPERVISOR, EventKind.BISECT) and "change" in rest:
        yield _text(rest.pop("change"))
    if kind in (EventKind.ESCALATION, EventKind.EVIDENCE) and "step" in rest:
        yield _text(rest.pop("step"))
    if "reason" in rest:
        yield f"({_text(rest.pop('reason'))})"


def _instant(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0
