"""What the driver shim says of one worker: its driver, contexts, streams, and calls with another context than before.

Invariant: pure; what a worker's process wrote is shown as figures, and so many of them at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from watchdogd.model import SECOND
from watchdogd.observe.driver_region import Context, Driver, Misuse, Stream
from watchdogd.span import span
from watchdogd.view.status import Call, WorkerView, age

MOST_SHOWN = 8  # contexts, and streams
_NAMED = {0: "the default stream", 1: "the legacy stream", 2: "the per-thread stream"}


def lines(worker: WorkerView, now_ns: int) -> Iterator[str]:
    """For ``watchdogd status WORKER``."""
    told, driver = worker.body.get("shim"), worker.driver
    if told is not None and told["driver"] is not None:
        version = "" if driver is None or driver.version is None else f"CUDA {_version(driver.version)}, "
        yield f"driver shim in front of {version}{told['driver']}"
    if driver is None:
        return
    yield f"work: {driver.queued} pieces queued, {driver.completed} waits for it completed"
    for oldest in driver.host_functions[:1]:
        queued = f"a host function queued {span(age(now_ns, oldest.queued_ns))} ago in {_name(oldest.stream)}"
        more = len(driver.host_functions) - 1
        yield f"{queued} of pid {oldest.pid} has not run" + (f", and {more} after it" if more else "")
    if worker.call is not None and worker.call.object is not None:
        yield f"its {worker.call.operation} waits for {_object(worker.call, driver)}"
    alive = [context for context in driver.contexts if context.gone_ns is None]
    yield from (_context(context) for context in alive[:MOST_SHOWN])
    yield from _more(len(alive), "contexts")
    streams = sorted(driver.streams, key=lambda stream: -(stream.completed_ns or 0))
    yield from (_stream(stream, now_ns) for stream in streams[:MOST_SHOWN])
    yield from _more(len(streams), "streams")
    if driver.unkept:
        yield f"{driver.unkept} contexts, streams or host functions more found no entry"
    if driver.ranges_unkept:
        yield f"{driver.ranges_unkept} NVTX ranges had names for which no stage was left"
    if driver.misuse is not None:
        yield _misuse(driver.misuse, driver.misuses, now_ns)


def to_json(worker: WorkerView, as_of_ns: int) -> dict[str, Any] | None:
    """Handles are texts: they do not fit into every reader's numbers."""
    told, driver = worker.body.get("shim"), worker.driver
    if told is None:
        return None
    shim: dict[str, Any] = {**told, "version": None, "queued": None, "completed": None, "misuses": None}
    if driver is None:
        return {**shim, "misuse": None, "contexts": [], "host_functions": [], "streams": []}
    misuse = driver.misuse
    return {
        **shim,
        **{key: getattr(driver, key) for key in ("version", "queued", "completed", "misuses")},
        "misuse": misuse
        and {
            "pid": misuse.pid,
            "tid": misuse.tid,
            "expected": hex(misuse.expected),
            "found": hex(misuse.found),
            "age_seconds": _seconds(misuse.at_ns, as_of_ns),
        },
        "contexts": [
            {"pid": each.pid, "device": each.device, "handle": hex(each.handle)}
            for each in driver.contexts
            if each.gone_ns is None
        ],
        "host_functions": [
            {
                "pid": each.pid,
                "stream": hex(each.stream),
                "age_seconds": _seconds(each.queued_ns, as_of_ns),
            }
            for each in driver.host_functions
        ],
        "streams": [
            {
                "pid": each.pid,
                "handle": hex(each.handle),
                "context": hex(each.context),
                "queued": each.queued,
                "completed": each.completed,
                "age_seconds": _seconds(each.completed_ns, as_of_ns),
            }
            for each in driver.streams
        ],
    }


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _object(call: Call, driver: Driver) -> str:
    if call.operation == "event":
        return f"event {call.object:#x}"
    stream = next((each for each in driver.streams if each.handle == call.object and each.pid == call.pid), None)
    if not call.object:
        return "the default stream, or all of its context"
    counts = "" if stream is None else f" ({stream.queued} pieces queued, {stream.completed} waits completed)"
    return f"{_name(call.object)}{counts}"


def _name(handle: int | None) -> str:
    return _NAMED.get(handle or 0) or f"stream {handle:#x}"


def _context(context: Context) -> str:
    where = "" if context.device is None else f" on device {context.device}"
    return f"context {context.handle:#x}{where} of pid {context.pid}"


def _stream(stream: Stream, now_ns: int) -> str:
    since = "" if stream.completed_ns is None else f", the last {span(age(now_ns, stream.completed_ns))} ago"
    return f"{_name(stream.handle)} of pid {stream.pid}: {stream.queued} queued, {stream.completed} completed{since}"


def _more(count: int, what: str) -> Iterator[str]:
    if count > MOST_SHOWN:
        yield f"and {count - MOST_SHOWN} {what} more: `watchdogd status --json`"


def _misuse(misuse: Misuse, count: int, now_ns: int) -> str:
    found = f"context {misuse.found:#x} was current" if misuse.found else "no context was current"
    times = "one call" if count == 1 else f"{count} calls"
    return (
        f"{times} with another context than the thread had used before, the last {span(age(now_ns, misuse.at_ns))} ago"
        f" by thread {misuse.tid} of pid {misuse.pid}: {found}, {misuse.expected:#x} before"
    )


def _seconds(then_ns: int | None, now_ns: int) -> float | None:
    past = age(now_ns, then_ns)
    return None if past is None else round(past / SECOND, 6)
