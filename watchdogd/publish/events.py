"""The event record: what one line of ``STATE/events.jsonl`` is, and how it is read.

One JSON object a line. Every event has ``schema``, ``boot_id``, ``seq``, ``time`` (RFC 3339, for people),
``monotonic_ns``, ``kind``, ``worker``, ``incarnation`` and ``incident`` (the last three may be null), then the fields
of its kind:

==========  ===========================================================================================================
phase       ``previous``, ``phase``, ``reason``; with ``unkillable``: ``blocked``, as in a verdict
verdict     ``verdict``, ``operation``, ``entered_ns``, ``armed_ns`` (the deadline counts from then, if that was later:
            a resume), ``deadline_ns``, ``detected_ns``, ``published_ns`` (the rest of the vehicle could know from then
            on), ``detail``, ``bisected`` (it synchronizes after each stage: ``stage`` is where it hung),
            ``also_in_flight`` (the other calls of a worker that hangs, each with ``operation``, ``stage``,
            ``entered_ns``, ``pid``, ``tid``);
            ``kernel`` (what the kernel said meanwhile of the worker or its accelerator), ``blocked``
            (its threads in D state, and where in the kernel)
signal      ``signal``, ``pid``, ``reason``
gone        ``pid``, ``exit``; ``in_flight`` (steps begun and not ended), ``requests`` (the oldest of them),
            ``to_redeliver`` (how many its successor starts with), ``dropped``, ``unkept`` (too many at a time)
ready       ``pid``
near_miss   ``operation`` (``outputs``: a verdict stood on a run of bad ones), ``reason``
evidence    of an incident, by ``step``: ``memory`` (``seconds`` that it took, ``left_out``: workers), ``begin``
            (``evidence_ns``: collectors began, ``until_ns``), ``collected`` (``collectors``: of each its ``outcome``
            and ``seconds``), ``commit`` (``committed_ns``: from then on its kill was), ``moved`` (``moved_ns``: its
            call returned all the same), ``skipped`` (``reason``: nothing was collected before its kill), ``lost``
            (``reason``)
refrained   ``reason``: what is not done to a worker that is only observed, besides a kill
hook        ``hook`` (``on_verdict``, ``export_hook``), ``reason`` (how it ended), ``seconds``; of ``on_verdict`` also
            ``status`` or null, ``veto``, ``told_ns`` (when it was started)
probe       ``accelerator``, ``usable`` (``yes`` ``no`` ``unknown``), ``status`` or null, ``reason`` (how it ended),
            ``seconds``
escalation  ``step`` (``cause`` ``refused`` ``waits`` ``ask`` ``await`` ``no consent`` ``consent`` ``action`` ``done``
            ``failed`` ``withdrawn``; at a start ``earlier`` ``forgotten``), ``cause``, ``action`` (as configured),
            ``attempt``, ``dry_run``, ``reason``
source      ``source``, ``up``, ``reason``
kernel      a message of the kernel: ``about`` (as ``model.KernelKind``), ``number`` (of an Xid, an error notifier),
            ``accelerator``, ``device``, ``pid``, ``name``, ``channel``, ``expected`` (it follows from our own kill),
            ``reason`` (its text)
blocked     a thread in D state, look after look: ``pid``, ``tid``, ``name``, ``place`` (in the kernel), ``devices``
bisect      ``change`` (``on`` or ``off``: from its next start on), ``reason``; by an operator it is ``operator``
growth      a worker holds more than its limit: ``resource`` (as in ``model.Usage``), ``value``, ``baseline`` (the most
            of its first hour), ``times`` (that this incarnation was told of for it), ``reason`` (in words)
operator    ``command``, ``uid``, ``pid``
supervisor  ``change`` (``started``, ``adopted``, ``reloading``, ``reload refused``, ``problem``, ``stopping``,
            ``ended``), ``pid``; ``version``, ``config``, ``metrics``, ``scheduling`` at its start, else ``reason``
suppressed  ``count``, ``kinds``: events that a storm had too many of to be recorded (``throttle.py``), since the last
            such line; or, in a log alone, the ``reason`` why it lacks events that the record has
==========  ===========================================================================================================

``seq`` grows over restarts of the supervisor; two events are ordered by it. A monotonic time means something only
together with ``boot_id``. ``events.jsonl.1`` is the newest of the rotated files.

Invariant: no file content makes a reader here raise or stop; a line that is no event is skipped and told to ``on_bad``.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, BinaryIO

SCHEMA = 1
FILE_NAME = "events.jsonl"
MOST_ROTATED = 32  # rotated files looked for; the recorder keeps fewer
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TAIL_BYTES = 256 * 1024


class EventKind(str, Enum):
    PHASE = "phase"
    VERDICT = "verdict"
    SIGNAL = "signal"
    GONE = "gone"
    READY = "ready"
    NEAR_MISS = "near_miss"
    EVIDENCE = "evidence"  # what is taken of an incident, and what becomes of that
    REFRAINED = "refrained"  # from what is not done to a worker that is only observed
    HOOK = "hook"  # what a program of the integrator answered
    PROBE = "probe"  # whether an accelerator is usable again
    ESCALATION = "escalation"  # each step before it is taken
    SOURCE = "source"
    KERNEL = "kernel"  # what the kernel log says of an accelerator
    BLOCKED = "blocked"  # D state
    BISECT = "bisect"  # turned on or off with no operator's word
    GROWTH = "growth"  # of what a worker holds
    OPERATOR = "operator"
    SUPERVISOR = "supervisor"  # its own start and end
    SUPPRESSED = "suppressed"


def boot_id_text(boot_id: int) -> str:
    """The kernel's own form of a boot id, as in ``/proc/sys/kernel/random/boot_id``."""
    digits = f"{boot_id:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def rfc3339(wall_ns: int) -> str:
    """UTC with microseconds."""
    return (_EPOCH + timedelta(microseconds=wall_ns // 1000)).isoformat(timespec="microseconds")[:26] + "Z"


def encode(
    kind: EventKind,
    *,
    boot_id: int,
    seq: int,
    wall_ns: int,
    monotonic_ns: int,
    worker: str | None,
    incarnation: int | None,
    incident: str | None,
    **fields: object,
) -> bytes:
    """One line, newline included."""
    event = {
        "schema": SCHEMA,
        "boot_id": boot_id_text(boot_id),
        "seq": seq,
        "time": rfc3339(wall_ns),
        "monotonic_ns": monotonic_ns,
        "kind": kind.value,
        "worker": worker,
        "incarnation": incarnation,
        "incident": incident,
        **fields,
    }
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


# --- reading --------------------------------------------------------------------------------------------------------


def _ignore(_line: bytes) -> None:
    pass


def decode(line: bytes) -> dict[str, Any] | None:
    """The event in a line; None if there is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("seq"), int) or not isinstance(event.get("kind"), str):
        return None
    return event


def read_file(path: str, on_bad: Callable[[bytes], None] = _ignore) -> Iterator[dict[str, Any]]:
    """Every event that is kept, oldest first, rotated files included.

    A torn last line may be one that is just being written, so it is not told to ``on_bad``. Raises OSError where a
    file cannot be opened (other than because it is missing).
    """
    with ExitStack() as stack:
        files = [stack.enter_context(file) for file in _open_newest_first(path)]
        for file in reversed(files):
            for line in file:
                yield from _events(line, on_bad if line.endswith(b"\n") else _ignore)


def follow(
    path: str, *, deadline_ns: int | None = None, poll_seconds: float = 0.2, on_bad: Callable[[bytes], None] = _ignore
) -> Iterator[dict[str, Any]]:
    """``read_file``, then each new event as it is written, until ``deadline_ns`` (CLOCK_MONOTONIC; None = for ever).

    Survives rotation, and a file that does not exist yet.
    """
    with ExitStack() as stack:
        waiting: deque[BinaryIO] = deque()
        current: BinaryIO | None = None
        partial = b""
        while True:
            done = deadline_ns is not None and time.monotonic_ns() >= deadline_ns
            # Asked for before the last read of the current file: what is renamed is complete, so nothing is lost.
            waiting.extend(stack.enter_context(file) for file in _newer_than(path, current))
            while True:
                for line in current or ():
                    partial += line
                    if partial.endswith(b"\n"):
                        yield from _events(partial, on_bad)
                        partial = b""
                if not waiting:
                    break
                if current is not None:
                    current.close()
                if partial:
                    on_bad(partial)
                current, partial = waiting.popleft(), b""
            if done:
                return
            time.sleep(poll_seconds)


def last_seq(state_dir: str, file: str = FILE_NAME) -> int:
    """The highest ``seq`` near the end of the record; 0 where there is none."""
    seqs = ([event["seq"] for event in tail] for tail in tails(os.path.join(state_dir, file)))
    return next((max(found) for found in seqs if found), 0)


def tails(path: str) -> Iterator[list[dict[str, Any]]]:
    """The last events of each file, oldest first; the newest file first. Reads a bounded part. Raises OSError."""
    for file in _open_newest_first(path):
        with file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            yield [event for line in file for event in _events(line, _ignore)]


def _events(line: bytes, on_bad: Callable[[bytes], None]) -> Iterator[dict[str, Any]]:
    if not line.strip():
        return
    event = decode(line)
    if event is None:
        on_bad(line)
    else:
        yield event


def _open_newest_first(path: str) -> Iterator[BinaryIO]:
    """The record's files. Newest first, so that a rotation meanwhile shows one twice (left out), never not at all."""
    seen = set()
    for name in (path, *(f"{path}.{index}" for index in range(1, MOST_ROTATED + 1))):
        try:
            file = open(name, "rb")  # noqa: SIM115 - the caller keeps it
        except FileNotFoundError:
            continue  # a recorder killed while it rotated leaves a gap
        if _identity(file) in seen:
            file.close()
        else:
            seen.add(_identity(file))
            yield file


def _newer_than(path: str, current: BinaryIO | None) -> list[BinaryIO]:
    """The files written since ``current``, oldest first; all of them where it is None or gone."""
    newer: list[BinaryIO] = []
    for file in _open_newest_first(path):
        if current is not None and _identity(file) == _identity(current):
            file.close()
            break
        newer.append(file)
    return newer[::-1]


def _identity(file: BinaryIO) -> tuple[int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino
