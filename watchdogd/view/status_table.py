"""Status as a person reads it at 3 a.m.: what is wrong comes first and says what to do next.

Invariant: pure; equal views give equal text. Nothing is cut: what a line has no room for goes on in the next, and a
single word that is longer than the terminal (an id, to be copied) is left to it whole. No text of a worker, a device or
a kernel reaches the terminal with control characters in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from watchdogd.model import SECOND, Phase
from watchdogd.span import span
from watchdogd.view import escalation, progress, shim
from watchdogd.view.notes import in_d_state, notes, said, silence
from watchdogd.view.status import MAY_TAKE_WORK, StatusView, Trouble, WorkerView, age

if TYPE_CHECKING:
    from watchdogd.view.status_detail import Detail

_RED, _YELLOW, _PLAIN = "\033[1;31m", "\033[33m", ""
_HEAD = ("WORKER", "PHASE", "PID", "INC", "UP", "RESTARTS", "CALL / DEADLINE", "SYNC p50 / p99", "STEPS")
_FIRST_TO_YIELD = ("STEPS", "SYNC p50 / p99", "INC", "UP", "RESTARTS", "PID")  # to a line below the row
_COMMAND = re.compile(r"`watchdogd [a-z-]+(?![a-z-]| -c )")
_ALREADY_JUDGED = {Phase.TERMINATING, Phase.COLLECTING, Phase.KILLING, Phase.UNKILLABLE}


def table(view: StatusView, width: int, colour: bool, detail: Detail | None = None, config: str | None = None) -> str:
    """The whole status, newline at the end. ``detail``: of the only worker; ``config``: the one that was named."""
    lines = [*_supervisor(view), ("", _PLAIN), *_workers(view, width, detail), *_loads(view)]
    return "".join(_line(_to_type(text, config), tone if colour else _PLAIN, width) for text, tone in lines)


def _to_type(text: str, config: str | None) -> str:
    """Each command in it with the configuration that it needs."""
    return text if config is None else _COMMAND.sub(lambda found: f"{found[0]} -c {shlex.quote(config)}", text)


def _line(text: str, tone: str, width: int) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) > width:
        text = "\n".join(_wrapped(text, width))
    return f"{tone}{text}\033[0m\n" if tone else f"{text}\n"


def _wrapped(text: str, width: int) -> list[str]:
    """Broken between fields (two spaces) where there are any, else between words; what follows is indented."""
    indent = " " * (len(text) - len(text.lstrip()))
    joint = "  " if "  " in text.strip() else " "
    first, *rest = filter(None, text.split(joint))
    lines = [f"{indent}{first.strip()}"]
    for piece in rest:
        if len(lines[-1]) + len(joint) + len(piece) <= width:
            lines[-1] += joint + piece
        else:
            lines.append(f"{indent}    {piece.strip()}")
    return lines


def _supervisor(view: StatusView) -> Iterator[tuple[str, str]]:
    if view.fault:
        yield f"supervisor: {view.fault}", _RED
        yield from ((f"  {advice}", _RED) for advice in _advice(view))
    late = " ".join(f"{name} {span(view.lateness_ns(q))}" for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)))
    up = f"{'was up' if view.ended else 'up'} {span(age(view.as_of_ns, view.supervisor.get('started_ns')))}"
    last_tick = f"last tick {span(view.last_tick_age_ns)} ago"
    yield f"supervisor  pid {view.published.pid}  {up}  {last_tick}  late {late}", _PLAIN
    scheduling = str(view.supervisor.get("scheduling", ""))
    if scheduling not in ("", "normal") and not scheduling.startswith("fifo"):
        yield f"  scheduling: {scheduling}", _YELLOW
    if view.supervisor.get("observe_only"):
        yield "  observe only: verdicts are recorded, nothing is signalled", _YELLOW
    if view.supervisor.get("stopping") and not view.ended:
        yield "  stopping", _YELLOW
    for line, is_now in escalation.lines(view.supervisor.get("escalation"), view.as_of_ns, view.ended):
        yield line, _RED if is_now else _YELLOW
    error = view.published.body.get("events", {}).get("error")
    if error:
        yield f"  events cannot be recorded ({error}), {view.published.body['events']['dropped']} lost", _RED
    incidents = view.published.body.get("incidents")
    if incidents is not None and incidents["error"]:
        yield f"  incidents: {incidents['error']}", _YELLOW


def _advice(view: StatusView) -> Iterator[str]:
    if view.trouble is Trouble.STUCK:
        yield "no deadline is enforced until it ticks again; only calls below are up to date"
        yield "`systemctl restart gpu-watchdogd` replaces it; see `journalctl -u gpu-watchdogd`"
    else:
        yield "nobody watches; the rows are the last known ones, as they were at that tick"
        if view.is_service:
            yield "see `systemctl status gpu-watchdogd` (status 78: `watchdogd check-config` says why), then"
            yield "`systemctl start gpu-watchdogd`"
        else:
            run = " ".join(("watchdogd run", *(f"-c {file}" for file in view.supervisor.get("config", ())[:1])))
            yield f"`{run}` starts it"


def _workers(view: StatusView, width: int, detail: Detail | None) -> Iterator[tuple[str, str]]:
    rows = [_row(worker, view.as_of_ns) for worker in view.workers]
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    columns = _that_fit(widths, width)
    yield _cells(_HEAD, widths, columns), _PLAIN
    for worker, row in zip(view.workers, rows, strict=True):
        # What could be done about a worker needs a supervisor to do it.
        told = [] if view.ended else list(notes(worker, view.now_ns))
        tone = _YELLOW if told else _PLAIN
        if not worker.as_it_should:
            tone = _RED
        yield _cells(row, widths, columns), tone
        below = [f"{_HEAD[i]} {row[i]}" for i in range(len(_HEAD)) if i not in columns and row[i] != "-"]
        if below:
            yield "  " + "  ".join(below), _PLAIN
        yield from ((f"  ! {note}", tone) for note in told)
        incident = worker.body["last_incident"]
        if incident:
            what = " ".join(filter(None, (incident["verdict"], incident["operation"])))
            also = ", ".join(map(str, incident.get("also_in_flight") or ()))
            what += f" (with {also} in flight)" if also else ""
            stage = incident.get("stage")
            if incident.get("bisected"):
                what += f" in {f'stage {stage}' if stage else 'no stage'}, synchronized after each stage,"
            elif stage not in (None, incident["operation"]):
                what += f" in stage {stage}"
            yield f"  last incident: {what} at {incident['time']} [{incident['id']}]", _PLAIN
        if detail is not None:
            if worker.last_step_ns is not None:
                yield f"  last step ended {span(age(view.as_of_ns, worker.last_step_ns))} ago", _PLAIN
            yield from ((f"  {text}", _PLAIN) for text in shim.lines(worker, view.as_of_ns))
            gets_on = progress.line(worker, view.as_of_ns)
            if gets_on is not None:
                yield f"  {gets_on}", _PLAIN
            yield from ((f"  {text}", _PLAIN) for text in _held(worker))
            dropped, back = (worker.body.get(f"steps_{then}", 0) for then in ("dropped", "redelivered"))
            if dropped or back:
                yield f"  steps in flight at its ends: {dropped} dropped, {back} given back to a successor", _PLAIN
            yield from ((f"  {text}", _PLAIN) for text in _detailed(detail, incident))
            if incident is not None and view.published.body.get("incidents") is not None:
                yield f"  what it was: `watchdogd incidents show {incident['id']}`", _PLAIN


def _held(worker: WorkerView) -> Iterator[str]:
    for course in worker.growth.values():
        yield course["text"] + ("" if course["measured"] else " (not over yet)")


def _that_fit(widths: list[int], width: int) -> list[int]:
    columns = list(range(len(widths)))
    for name in _FIRST_TO_YIELD:
        if sum(widths[column] + 2 for column in columns) - 2 <= width:
            break
        columns.remove(_HEAD.index(name))
    return columns


def _cells(cells: tuple[str, ...], widths: list[int], columns: list[int]) -> str:
    return "  ".join(cells[column].ljust(widths[column]) for column in columns).rstrip()


def _row(worker: WorkerView, now_ns: int) -> tuple[str, ...]:
    body, sync = worker.body, worker.sync
    return (
        worker.name,
        worker.phase.value,
        _known(body["pid"]),
        str(body["incarnation"]),
        span(age(now_ns, body["spawned_ns"])) if body["pid"] else "-",
        f"{sum(body['restarts'].values())} ({body['budget_left']} left)",
        _in_flight(worker, now_ns),
        f"{span(sync.quantile_ns(0.5))} / {span(sync.quantile_ns(0.99))}" if sync.count else "-",
        _known(worker.steps),
    )


def _in_flight(worker: WorkerView, now_ns: int) -> str:
    """What is timed, and its deadline if that is armed."""
    call = worker.call
    if worker.phase is Phase.STARTING:  # whatever it calls, only its startup can be overdue
        startup = worker.body["deadlines"].get("startup")
        deadline_ns = None if startup is None else round(startup * SECOND)
        return f"startup {span(age(now_ns, worker.body['phase_since_ns']))} / {span(deadline_ns)}"
    if call is None:
        return "-"
    armed = worker.phase in MAY_TAKE_WORK or worker.phase in _ALREADY_JUDGED
    return f"{call.operation} {span(call.age_ns)} / {span(call.deadline_ns if armed else None)}"


def _detailed(detail: Detail, incident: dict[str, Any] | None) -> Iterator[str]:
    if detail.unreadable is not None:
        yield f"cannot read {detail.unreadable}; use sudo, or join the group that may"
    if incident is not None:
        if detail.ending is not None:
            yield f"its process: {detail.ending}"
        yield f"its story: `watchdogd events --incident {incident['id']}`"
    if detail.output is not None:
        yield f"its output: {detail.output}"


def _loads(view: StatusView) -> Iterator[tuple[str, str]]:
    if view.accelerators or view.sources:
        yield "", _PLAIN
    for accelerator in view.accelerators:
        ratio = accelerator["load_ratio"]
        text = f"{accelerator['name']}  load {'unknown' if ratio is None else f'{ratio:.0%}'}"
        if accelerator["power"]:
            text += f"  {accelerator['power']}"
        if accelerator["frozen"]:
            text += "  FROZEN"
        if accelerator["ghost"]:
            text += "  GHOST LOAD (busy, and none of its workers is there)"
        if accelerator["source"] is None:
            text += "  no load source"
        else:
            text += f"  {span(view.since(accelerator['sample_ns']))} old  {accelerator['source']}"
        if accelerator["device"]:
            text += f"  {accelerator['device']}"
        if accelerator["blocked_by"]:
            text += f"  BLOCKED by {accelerator['blocked_by']}"
        odd = accelerator["frozen"] or accelerator["ghost"]
        yield text, _RED if accelerator["blocked_by"] else _YELLOW if odd else _PLAIN
        if not view.ended:
            yield from ((f"  ! {text}", _YELLOW) for text in said(accelerator["kernel"], view.now_ns))
    yield from _holders(view)
    for source in view.sources:
        if not source["up"]:
            yield f"source {source['name']}: {silence(view, source)}", _YELLOW


def _holders(view: StatusView) -> Iterator[tuple[str, str]]:
    for holder in () if view.ended else view.holders:
        whose = f"of {holder['worker']}" if holder["worker"] else "no worker's"
        devices = ", ".join(holder["devices"])
        yield f"held by pid {holder['pid']} {holder['name']} ({whose})  {devices}", _YELLOW
        yield from ((f"  ! {in_d_state(thread, view.now_ns)}", _YELLOW) for thread in holder["blocked"])


def _known(value: int | None) -> str:
    return "-" if value is None else str(value)
