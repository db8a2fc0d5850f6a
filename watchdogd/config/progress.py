"""The keys about a worker's progress: what their values may be, and what they must say together.

Invariant: a source that could never lead to anything it is configured for is refused, with the key to write.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from watchdogd import duration
from watchdogd.config.values import Invalid, Kind, pattern_kind, text_of
from watchdogd.decide.progress import LEAST_SAMPLES
from watchdogd.model import ProgressSource

if TYPE_CHECKING:  # which imports the schema, which imports this module
    from watchdogd.config.scope import Problems, Scope

_URL = re.compile(r"https?://[^\s/?#@]+(?:[/?][!-~]*)?")
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_SERIES = re.compile(rf"[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{{{_LABEL}(?:,{_LABEL})*\}})?")
_REMEDY = 'write "sync", "metrics:http://HOST:PORT/metrics", "http://HOST:PORT/PATH" or "command:PROGRAM ARGUMENTS"'


def _read(value: object) -> ProgressSource:
    text = text_of(value, _REMEDY)
    kind, _, rest = text.partition(":")
    if text == "sync":
        return ProgressSource("sync")
    if kind == "metrics":
        return ProgressSource("metrics", (_url(rest),))
    if kind == "command":
        return ProgressSource("command", _words(rest))
    if kind in ("http", "https"):  # the URL itself, or "http:URL", as the others are written
        return ProgressSource("http", (_url(rest if rest.startswith(("http://", "https://")) else text),))
    raise Invalid(f"{text!r} is none of its values", _REMEDY)


def _url(text: str) -> str:
    if _URL.fullmatch(text) is None:
        raise Invalid(f"{text!r} is not a URL of http or https", _REMEDY)
    return text


def _words(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:  # a quotation that does not end
        raise Invalid(f"{text!r} is no command line: {error}", "quote its arguments as for a shell") from None
    if not words:
        raise Invalid("names no program", _REMEDY)
    return words


PROGRESS = Kind('`"sync"`, `"metrics:URL"`, `"http://..."` or `"command:..."`', _read)
SERIES = pattern_kind("a series", _SERIES, 'write its name, or NAME{LABEL="VALUE"}')


def check(scope: Scope, problems: Problems) -> None:
    cell = scope.get("progress")
    if cell is None:
        return
    source: ProgressSource | None = cell.value
    kind = "" if source is None else source.kind
    instrument = scope.get("instrument")
    if kind == "sync" and instrument and instrument.value != "driver":
        message = 'is "sync", which the driver shim tells, and instrument is not "driver"'
        problems.note(cell.path, message, 'write instrument = "driver"')
    for key in ("progress_counter", "progress_pending"):
        series = scope.get(key)
        if kind == "metrics" and series and series.value is None:
            told = "without it nobody knows what is progress" if key == "progress_counter" else "idle would be a stall"
            problems.note(series.path, f"is missing: {told}", "name a series of its metrics")
        elif kind != "metrics" and series and series.value is not None:
            problems.note(series.path, 'means nothing without progress = "metrics:URL"', "write that, or remove this")
    _check_deadline(scope, kind, problems)


def _check_deadline(scope: Scope, kind: str, problems: Problems) -> None:
    deadline, interval, kills = (
        scope.get(key) for key in ("deadlines.progress", "progress_interval", "progress_kills")
    )
    if deadline and deadline.value is not None and not kind:
        problems.note(deadline.path, "has no source that tells of progress", "write progress, or remove this")
    if kills and kills.value and kind not in ("http", "command"):
        message = "is for a probe: what tells of pending work acts by itself" if kind else "has no probe"
        problems.note(kills.path, message, "remove it, or write a probe as progress")
    elif kills and kills.value and deadline and deadline.value is None:
        problems.note(kills.path, "never does: deadlines.progress is never", "write deadlines.progress")
    if kind in ("", "sync") or not (deadline and interval) or deadline.value is None:
        return
    least = LEAST_SAMPLES * interval.value
    if deadline.value < least:
        told, few = duration.show(deadline.value), duration.show(interval.value)
        problems.note(
            (deadline if deadline.given else interval).path,
            f'progress "{told}" holds less than {LEAST_SAMPLES} of progress_interval "{few}"',
            f'raise deadlines.progress to "{duration.show(least)}" or more, or ask more often',
        )
