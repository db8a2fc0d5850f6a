"""What the recorder says besides the file: each event again, for a terminal, a log shipper or systemd's journal.

Invariant: a reader that is slow, stuck or gone misses events and is told how many; it never stops the recorder.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from contextlib import suppress

Say = Callable[[bytes], bool]


class Echo:
    """Tells lines by ``say``, which returns False if nobody took one."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._missed = 0

    def __call__(self, line: bytes) -> None:
        if self._missed and not self._say(_told_of_missed(self._missed, line)):
            self._missed += 1
            return
        self._missed = 0 if self._say(line) else 1


def echo(form: str) -> Callable[[bytes], None]:
    """``form``: text, json, journal, brief or none. Raises ImportError: journal without systemd-python."""
    if form == "none":
        return _nothing
    if form == "journal":
        return Echo(_to_journald())
    return Echo(_on_stderr({"text": _as_text, "brief": _as_brief}.get(form, bytes)))


def _nothing(_line: bytes) -> None:
    pass


def _told_of_missed(count: int, before: bytes) -> bytes:
    """An event for the log alone, with the time and number of the one that follows it."""
    from watchdogd.publish import events  # noqa: PLC0415 - a third of the recorder's memory, for people only

    event = events.decode(before) or {"seq": 0}
    told = {"kind": events.EventKind.SUPPRESSED.value, "count": count, "reason": "this log was stuck"}
    kept = ("schema", "boot_id", "seq", "time", "monotonic_ns")
    return json.dumps({key: event[key] for key in kept if key in event} | told).encode() + b"\n"


def _as_text(line: bytes) -> bytes:
    from watchdogd.publish import event_text, events  # noqa: PLC0415 - for people only; a third of the memory

    event = events.decode(line)
    return b"" if event is None else event_text.describe(event).encode() + b"\n"


def _as_brief(line: bytes) -> bytes:
    from watchdogd.publish import brief, events  # noqa: PLC0415 - for people only; a third of the memory

    event = events.decode(line)
    told = None if event is None else brief.line(event)
    return b"" if told is None else told.encode() + b"\n"


def _on_stderr(form: Callable[[bytes], bytes]) -> Say:
    ready = select.poll()
    ready.register(2, select.POLLOUT)

    def say(line: bytes) -> bool:
        if not ready.poll(0):
            return False
        with suppress(OSError):  # nobody listens, nor will; the file has it
            os.write(2, form(line))
        return True

    return say


def _to_journald() -> Say:
    from watchdogd.publish import events, journald  # noqa: PLC0415 - only where the journal is written

    sender = journald.Sender()

    def say(line: bytes) -> bool:
        event = events.decode(line)
        return event is None or sender.send(event)

    return say
