"""What a person should know of a worker, a device or a source beyond its figures, in words.

Invariant: pure; each note says what is wrong or unseen, and what to do next where somebody can do something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from watchdogd.model import SECOND, Phase
from watchdogd.span import span
from watchdogd.view import progress
from watchdogd.view.status import AS_IT_SHOULD, StatusView, WorkerView, age

UNCHECKED_AFTER_STEPS = 10
_RECENT_NS = 600 * SECOND  # for so long what the kernel said is news
_NEXT = {
    Phase.STOPPED: "stopped; `watchdogd start {name}` starts it",
    Phase.PAUSED: "deadlines are suspended; `watchdogd resume {name}` ends that",
    Phase.QUARANTINED: "out of restarts: `watchdogd status {name}`, then `watchdogd reset {name}`",
    Phase.UNKILLABLE: "SIGKILL did not take, its accelerator is blocked; restart the machine once that is safe",
}


def notes(worker: WorkerView, now_ns: int) -> Iterator[str]:
    """What a person should know of a worker, and what to do next."""
    body = worker.body
    if worker.phase in _NEXT:
        yield _NEXT[worker.phase].format(name=worker.name)
    if worker.phase is Phase.BACKOFF:
        yield _backoff(worker, now_ns)
    if body["held"]:
        yield f"a verdict stands, its kill waits: {body['held']}"
    if worker.heartbeat_error:
        yield f"{worker.heartbeat_error}; its hangs cannot be seen"
    yield from _unstamped(worker)
    if worker.laneless:
        yield f"{worker.laneless} threads of it found no lane: a hang inside a call of theirs cannot be seen"
    if worker.is_first_again and "step" in body["deadlines"] and "first_step" not in body["deadlines"]:
        yield "its step is a first one, says the worker: never overdue, since deadlines.first_step is not set"
    yield from progress.notes(worker, now_ns)
    yield from _outputs(worker, now_ns)
    yield from _bisect(worker)
    if body["would_have_killed"]:
        yield f"would have been killed {body['would_have_killed']} times, had it not been observed only"
    if body["last_error"]:
        yield f"last CUDA error {body['last_error']}"
    if body["note"]:
        yield str(body["note"])
    yield from (f"holds more and more: {course['text']}" for course in worker.growth.values() if course["stands"])
    yield from (in_d_state(thread, now_ns) for thread in body["blocked"])
    yield from said(body["kernel"], now_ns)


def _unstamped(worker: WorkerView) -> Iterator[str]:
    shim = worker.body.get("shim")  # a supervisor of before tells none
    if shim is not None and shim["why"]:
        yield f"uninstrumented, a hang inside a call of it may not be seen: {shim['why']}"
    elif worker.body["uninstrumented"]:
        yield "none of its calls is stamped: a hang inside one cannot be seen; see the worker API"
    elif shim is not None and not shim["loaded"] and worker.driver is None and worker.phase in AS_IT_SHOULD:
        yield "no CUDA seen yet: no process of it has loaded the driver"


def said(message: Mapping[str, Any] | None, now_ns: int) -> Iterator[str]:
    """What the kernel said lately. It is no verdict: that is for the worker's own stamps to tell."""
    if message is not None and not message["expected"] and now_ns - message["at_ns"] < _RECENT_NS:
        number = "" if message["number"] is None else f" {message['number']}"
        what = f"{message['about'].replace('_', ' ')}{number}"
        yield f"kernel, {span(age(now_ns, message['at_ns']))} ago: {what}: {message['text']}"


def in_d_state(thread: Mapping[str, Any], now_ns: int) -> str:
    place = f" at {thread['place']}" if thread["place"] else ""
    since = span(age(now_ns, thread["since_ns"]))
    return f"thread {thread['tid']} of pid {thread['pid']} in D state for {since}{place}"


def _backoff(worker: WorkerView, now_ns: int) -> str:
    next_ns = worker.body["next_start_ns"]
    if next_ns is None:
        return "its accelerator is probed"
    then = span(max(0, next_ns - now_ns))
    if worker.body.get("unusable"):
        return f"its accelerator is probed again in {then}; `watchdogd start {worker.name}` starts it without"
    return f"starts again in {then}"


def _outputs(worker: WorkerView, now_ns: int) -> Iterator[str]:
    rule = worker.body.get("bad_in_a_row", 0)  # a supervisor of before tells none
    if worker.bad is not None:
        then = f"{rule} lead to a verdict" if rule else "not replaced for that: outputs.bad_in_a_row is not set"
        yield f"{worker.bad}, for {span(age(now_ns, worker.bad.begun_ns))}; {then}"
    elif rule and (worker.steps or 0) >= UNCHECKED_AFTER_STEPS and not any(worker.looked_at.values()):
        yield "none of its outputs is looked at: bad ones cannot be seen; see OutputCheck in the worker API"


def _bisect(worker: WorkerView) -> Iterator[str]:
    by = worker.body.get("bisect", {}).get("next")  # a supervisor of before tells none
    until = {None: "until its next start", "operator": f"until `watchdogd bisect {worker.name} off` and its next start"}
    lasts = until.get(by, "until its next hang")
    if worker.bisect == "asked" and (worker.steps or 0) >= UNCHECKED_AFTER_STEPS:
        yield f"bisected {lasts}, but nothing in it synchronizes after a stage; see the worker API"
    elif worker.bisect != "off":
        yield f"bisected {lasts}: it synchronizes after each stage, and is slower for that"
    elif by is not None:
        why = "" if by == "operator" else f", by {by}"
        now = "" if worker.body["pid"] is None else f"; at once: `watchdogd restart {worker.name}`"
        yield f"bisected from its next start on{why}{now}"


def silence(view: StatusView, source: dict[str, Any]) -> str:
    """Since when a source that is not up has told nothing, and why."""
    since = span(view.since(source["sample_ns"]))
    silent = "has never told anything" if source["sample_ns"] is None else f"silent for {since}"
    return f"{silent}; {source['note']}" if source["note"] else silent
