"""Status as a person reads it at 3 a.m.: what is wrong comes first and says what to do next.

Invariant: pure; equal views give equal text, no line is longer than the width, and no text of a worker, a device or a
kernel reaches the terminal with control characters in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from watchdogd.model import SECOND, Phase
from watchdogd.status import StatusView, WorkerView, age

_RED, _YELLOW, _PLAIN = "\033[1;31m", "\033[33m", ""
_HEAD = ("WORKER", "PHASE", "PID", "INC", "UP", "RESTARTS", "CALL / DEADLINE", "SYNC p50 / p99", "STEPS")
_NEXT = {
    Phase.STOPPED: "stopped; `watchdogd start {name}` starts it",
    Phase.PAUSED: "deadlines are suspended; `watchdogd resume {name}` ends that",
    Phase.QUARANTINED: "restart budget spent; see `watchdogd events`, then `watchdogd reset {name}`",
    Phase.UNKILLABLE: "SIGKILL did not take, its accelerator is blocked; restart the machine once that is safe",
}


def table(view: StatusView, width: int, colour: bool) -> str:
    """The whole status, newline at the end."""
    lines = [*_supervisor(view), ("", _PLAIN), *_workers(view), *_loads(view)]
    return "".join(_line(text, tone if colour else _PLAIN, width) for text, tone in lines)


def _line(text: str, tone: str, width: int) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > width:
        text = text[: width - 1] + "…"
    return f"{tone}{text}\033[0m\n" if tone else f"{text}\n"


def _supervisor(view: StatusView) -> Iterator[tuple[str, str]]:
    if view.fault:
        yield f"supervisor: {view.fault}", _RED
        yield "  what follows is old; see `systemctl status gpu-watchdogd` or run `watchdogd run`", _RED
    late = " ".join(f"{name} {span(view.lateness_ns(q))}" for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)))
    yield (
        f"supervisor  pid {view.published.pid}  up {span(age(view.now_ns, view.supervisor.get('started_ns')))}  "
        f"last tick {span(view.last_tick_age_ns)} ago  late {late}",
        _PLAIN,
    )
    if view.supervisor.get("observe_only"):
        yield "  observe only: verdicts are recorded, nothing is signalled", _YELLOW
    if view.supervisor.get("stopping") and not view.fault:
        yield "  stopping", _YELLOW
    error = view.published.body.get("events", {}).get("error")
    if error:
        yield f"  events cannot be recorded ({error}), {view.published.body['events']['dropped']} lost", _RED


def _workers(view: StatusView) -> Iterator[tuple[str, str]]:
    rows = [_row(worker, view.now_ns) for worker in view.workers]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    yield _cells(_HEAD, widths), _PLAIN
    for worker, row in zip(view.workers, rows, strict=True):
        told = list(notes(worker, view.now_ns))
        tone = _YELLOW if told else _PLAIN
        if not worker.as_it_should:
            tone = _RED
        yield _cells(row, widths), tone
        yield from ((f"  ! {note}", tone) for note in told)
        incident = worker.body["last_incident"]
        if incident:
            what = " ".join(filter(None, (incident["verdict"], incident["operation"])))
            yield f"  last incident: {what} at {incident['time']} [{incident['id']}]", _PLAIN


def _cells(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _row(worker: WorkerView, now_ns: int) -> tuple[str, ...]:
    body, call, sync = worker.body, worker.call, worker.sync
    return (
        worker.name,
        worker.phase.value,
        _known(body["pid"]),
        str(body["incarnation"]),
        span(age(now_ns, body["spawned_ns"])) if body["pid"] else "-",
        f"{sum(body['restarts'].values())} ({body['budget_left']} left)",
        f"{call.operation} {span(call.age_ns)} / {span(call.deadline_ns)}" if call else "-",
        f"{span(sync.quantile_ns(0.5))} / {span(sync.quantile_ns(0.99))}" if sync.count else "-",
        _known(worker.steps),
    )


def notes(worker: WorkerView, now_ns: int) -> Iterator[str]:
    """What a person should know of a worker, and what to do next."""
    body = worker.body
    if worker.phase in _NEXT:
        yield _NEXT[worker.phase].format(name=worker.name)
    if worker.phase is Phase.BACKOFF and body["next_start_ns"] is not None:
        yield f"starts again in {span(max(0, body['next_start_ns'] - now_ns))}"
    if body["held"]:
        yield f"overdue, its kill waits: {body['held']}"
    if worker.heartbeat_error:
        yield f"{worker.heartbeat_error}; its hangs cannot be seen"
    if body["uninstrumented"]:
        yield "none of its calls is stamped: a hang inside one cannot be seen; see the worker API"
    if body["would_have_killed"]:
        yield f"would have been killed {body['would_have_killed']} times, had it not been observed only"
    if body["last_error"]:
        yield f"last CUDA error {body['last_error']}"
    if body["note"]:
        yield str(body["note"])


def _loads(view: StatusView) -> Iterator[tuple[str, str]]:
    if view.accelerators or view.sources:
        yield "", _PLAIN
    for accelerator in view.accelerators:
        ratio = accelerator["load_ratio"]
        text = f"{accelerator['name']}  load {'unknown' if ratio is None else f'{ratio:.0%}'}"
        if accelerator["frozen"]:
            text += "  FROZEN"
        if accelerator["source"] is None:
            text += "  no load source"
        else:
            text += f"  {span(age(view.now_ns, accelerator['sample_ns']))} old  {accelerator['source']}"
        if accelerator["device"]:
            text += f"  {accelerator['device']}"
        if accelerator["blocked_by"]:
            text += f"  BLOCKED by {accelerator['blocked_by']}"
        yield text, _RED if accelerator["blocked_by"] else _YELLOW if accelerator["frozen"] else _PLAIN
    for source in view.sources:
        if not source["up"]:
            yield f"source {source['name']}: {silence(view, source)}", _YELLOW


def silence(view: StatusView, source: dict[str, Any]) -> str:
    """Since when a source that is not up has told nothing, and why."""
    since = span(age(view.now_ns, source["sample_ns"]))
    silent = "has never told anything" if source["sample_ns"] is None else f"silent for {since}"
    return f"{silent}; {source['note']}" if source["note"] else silent


def _known(value: int | None) -> str:
    return "-" if value is None else str(value)


def span(value_ns: int | None) -> str:
    """A duration for people; ``-`` if unknown."""
    if value_ns is None:
        return "-"
    for unit, size_ns, below in (("us", 1_000, 1_000_000), ("ms", 1_000_000, SECOND), ("s", SECOND, 60 * SECOND)):
        if value_ns < below:
            return f"{value_ns / size_ns:.3g} {unit}" if value_ns else "0"
    minutes, rest = divmod(value_ns // SECOND, 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"
