"""What was found, for a person and for a program.

As JSON::

    {"schema": 1, "version", "machine": {"model" or null, "kernel", "architecture"}, "config": [FILE, ...] or null,
     "can_run": bool or null (no configuration was given), "seconds",
     "checks": [{"name", "group", "title", "state": "ok" "degraded" "missing" "unknown", "found",
                 "lost" and "remedy": text, or null where it is ok, "needed_by": [TEXT, ...], "seconds"}]}

Names and states never change within a schema; checks may be added. Invariant: pure; no text of the machine reaches a
terminal with control characters in it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from watchdogd import __version__
from watchdogd.doctor.runner import Result
from watchdogd.doctor.words import Machine, State
from watchdogd.publish.event_text import printable

SCHEMA = 1
_TONES = {State.DEGRADED: "\033[33m", State.MISSING: "", State.UNKNOWN: "\033[33m"}
_RED, _OFF = "\033[1;31m", "\033[0m"
_STATE_WIDTH, _TITLE_WIDTH = 10, 17
_INDENT = 2 + _STATE_WIDTH + _TITLE_WIDTH
_MOST_NAMED = 3


def identity(machine: Machine, kernel: str, architecture: str) -> dict[str, str | None]:
    return {
        "model": machine.text("proc/device-tree/model") or machine.text("sys/class/dmi/id/product_name") or None,
        "kernel": kernel,
        "architecture": architecture,
    }


def can_run(results: Sequence[Result]) -> bool:
    return not any(result.prevents for result in results)


def to_json(machine: Machine, about: Mapping[str, Any], results: Sequence[Result], seconds: float) -> dict[str, Any]:
    settings = machine.settings
    return {
        "schema": SCHEMA,
        "version": __version__,
        "machine": about,
        "config": list(settings.files) if settings else None,
        "can_run": can_run(results) if settings else None,
        "seconds": round(seconds, 3),
        "checks": [
            {
                "name": result.check.name,
                "group": result.check.group,
                "title": result.check.title,
                "state": result.outcome.state.value,
                "found": result.outcome.found,
                "lost": result.outcome.lost or None,
                "remedy": result.outcome.remedy or None,
                "needed_by": list(result.needed_by),
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }


def table(
    machine: Machine, about: Mapping[str, Any], results: Sequence[Result], width: int, colour: bool
) -> Iterator[str]:
    """Its lines, without their ends."""
    yield "  ".join(filter(None, (f"watchdogd {__version__}", about["model"], about["kernel"], about["architecture"])))
    group = ""
    for result in results:
        if result.check.group != group:
            group = result.check.group
            yield from ("", group)
        yield from _rows(result, width, colour)
    yield ""
    yield from textwrap.wrap(_verdict(machine, results), width)


def _rows(result: Result, width: int, colour: bool) -> Iterator[str]:
    outcome, rest = result.outcome, width - _INDENT
    found = outcome.found + (f" (needed by {_named(result.needed_by)})" if result.prevents else "")
    first, *more = textwrap.wrap(printable(found), rest, break_on_hyphens=False) or [""]
    tone = (_RED if result.prevents else _TONES.get(outcome.state, "")) if colour else ""
    state = f"{outcome.state.value:{_STATE_WIDTH}}"
    yield f"  {f'{tone}{state}{_OFF}' if tone else state}{result.check.title:{_TITLE_WIDTH}}{first}"
    yield from (" " * _INDENT + line for line in more)
    for what, text in (("lost", outcome.lost), ("do", outcome.remedy)):
        if text:
            label = " " * (2 + _STATE_WIDTH) + f"{what + ':':6}"
            yield from textwrap.wrap(
                printable(text), width, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False
            )


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _verdict(machine: Machine, results: Sequence[Result]) -> str:
    lacking = [result.check.title for result in results if result.prevents]
    others = [r.check.title for r in results if r.outcome.state is not State.OK and not r.prevents]
    rest = f"not all there, though not needed: {', '.join(others)}" if others else "nothing is missing"
    if machine.settings is None:
        return f"No configuration was given (-c FILE), so nothing is needed. {rest[0].upper()}{rest[1:]}."
    config = machine.settings.files[0]
    if lacking:
        return f"{config} cannot run here, for want of: {', '.join(lacking)}. Also {rest}."
    return f"{config} can run here. Also {rest}." if others else f"{config} can run here; {rest}."
