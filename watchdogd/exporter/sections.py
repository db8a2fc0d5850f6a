"""What the status page says: the sections of its ``main``.

Invariant: pure but for the time of day at its end; colour never says anything alone; what is unknown is ``-``, never 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from watchdogd import abi
from watchdogd.exporter import drawing, incident_links
from watchdogd.exporter.health import unready
from watchdogd.exporter.incidents import Links
from watchdogd.exporter.recent import SAMPLES, Recent
from watchdogd.exporter.tail import tone
from watchdogd.histogram import Histogram
from watchdogd.markup import Html, element, join
from watchdogd.model import SECOND, Phase
from watchdogd.publish.event_text import describe
from watchdogd.pulse import Pulse
from watchdogd.span import span
from watchdogd.view.notes import notes, said, silence
from watchdogd.view.status import MAY_TAKE_WORK, StatusView, WorkerView, age, calls_in_flight

_GOOD, _ODD, _BAD = "good", "odd", "bad"
_MARK = {_GOOD: "✓", _ODD: "!", _BAD: "✕"}
_GRAVE = {Phase.QUARANTINED, Phase.UNKILLABLE}


@dataclass(frozen=True, slots=True)
class Facts:
    view: StatusView
    pulses: Mapping[str, Pulse | None]  # by worker
    histograms: Mapping[str, Mapping[str, Histogram]]  # by worker, then operation; over all incarnations
    loads: Recent  # by accelerator
    rates: Recent  # steps a second, by worker
    events: Sequence[Mapping[str, Any]]  # newest first
    no_events: str | None  # why they cannot be told
    incidents: Links


def title(facts: Facts) -> str:
    return f"{_MARK[_overall(facts)[0]]} watchdogd"


def main(facts: Facts) -> Html:
    view = facts.view
    return join(
        banner(*_overall(facts)),
        _supervisor(view),
        element("h2", "Workers"),
        element("div", *(_worker(facts, worker) for worker in view.workers), class_="cards"),
        _loads(facts),
        incident_links.section(facts.incidents),
        element("h2", "Last events"),
        _events(facts),
        element("p", f"As of {time.strftime('%Y-%m-%d %H:%M:%S %Z')}", class_="faint num asof"),
    )


def banner(level: str, headline: str, reasons: Sequence[str]) -> Html:
    told = element("ul", *(element("li", reason) for reason in reasons)) if reasons else None
    return element("div", element("p", f"{_MARK[level]} {headline}"), told, class_=f"banner {level}", id="banner")


def _overall(facts: Facts) -> tuple[str, str, list[str]]:
    view = facts.view
    if view.fault:
        return _BAD, f"Supervisor {view.fault}", ["Nothing is watched; what follows is old."]
    reasons = unready(view)
    if reasons:
        return _BAD, "Not as it should be", reasons
    overdue = [f"{worker.name}: a call is overdue" for worker in view.workers if any(_overdue(facts, worker))]
    if overdue:
        return _ODD, "A worker is overdue, and lives", overdue
    resting = [worker.name for worker in view.workers if worker.phase not in MAY_TAKE_WORK]
    if resting:
        return _ODD, f"Every required worker runs; not: {', '.join(resting)}", []
    return _GOOD, f"All {len(view.workers)} workers run" if len(view.workers) != 1 else "The worker runs", []


def _supervisor(view: StatusView) -> Html:
    error = view.published.body.get("events", {}).get("error")
    late = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    facts = {
        "Supervisor": f"pid {view.published.pid}, version {view.supervisor.get('version', '-')}",
        "up": span(age(view.now_ns, view.supervisor.get("started_ns"))),
        "last tick": f"{span(view.last_tick_age_ns)} ago",
        "wakes late by": ", ".join(f"{name} {span(view.lateness_ns(fraction))}" for name, fraction in late),
        "runs as": view.supervisor.get("scheduling"),
        "mode": "observe only: nothing is signalled" if view.supervisor.get("observe_only") else None,
        "events": f"cannot be recorded: {error}" if error else None,
    }
    return element("dl", *(_fact(name, str(value)) for name, value in facts.items() if value), class_="facts")


def _fact(name: str, value: str) -> Html:
    return element("div", element("dt", name), element("dd", value))


def _in_flight(facts: Facts, worker: WorkerView) -> dict[str, int]:
    """Ages in ns by operation, a startup among them; nothing where no process is, or it cannot be read."""
    pulse, spawned_ns, now_ns = facts.pulses.get(worker.name), worker.body["spawned_ns"], facts.view.now_ns
    if not worker.body["pid"] or pulse is None:
        return {}
    ages = {name: max(0, age_ns) for name, age_ns in calls_in_flight(pulse, now_ns).items()}
    if worker.phase is Phase.STARTING and spawned_ns is not None:
        ages["startup"] = max(0, now_ns - spawned_ns)
    return ages


def _overdue(facts: Facts, worker: WorkerView) -> Iterator[bool]:
    deadlines = worker.body["deadlines"]
    return (
        name in deadlines and age_ns > deadlines[name] * SECOND for name, age_ns in _in_flight(facts, worker).items()
    )


# --- workers --------------------------------------------------------------------------------------------------------


def _worker(facts: Facts, worker: WorkerView) -> Html:
    body, now_ns = worker.body, facts.view.now_ns
    told = list(notes(worker, now_ns))
    level = (
        _BAD
        if worker.phase in _GRAVE or any(_overdue(facts, worker))
        else _ODD
        if told or not worker.as_it_should
        else _GOOD
    )
    pill = _BAD if worker.phase in _GRAVE else _GOOD if worker.phase in MAY_TAKE_WORK else _ODD
    restarts = sum(body["restarts"].values())
    who = [
        body["accelerator"],
        f"pid {body['pid']}" if body["pid"] else None,
        f"up {span(age(now_ns, body['spawned_ns']))}" if body["pid"] else None,
        f"{restarts} restart{'' if restarts == 1 else 's'} ({body['budget_left']} left)",
        None if body["required"] else "not required",
    ]
    return element(
        "article",
        element(
            "div",
            element("h3", worker.name, element("small", f" #{body['incarnation']}", title="incarnation")),
            element("span", f"{_MARK[pill]} {worker.phase.value}", class_=f"pill {pill}"),
            class_="top",
        ),
        element("p", " · ".join(filter(None, who)), class_="faint num"),
        _calls(facts, worker),
        _steps(facts, worker),
        *(element("p", note, class_=f"note {level}") for note in told),
        _incident(body["last_incident"], facts.incidents.ids),
        class_=f"card {level}",
        data_worker=worker.name,
        data_phase=worker.phase.value,
    )


def _calls(facts: Facts, worker: WorkerView) -> Html:
    body, ages = worker.body, _in_flight(facts, worker)
    known = facts.histograms.get(worker.name, {})
    names = ("startup", "step", *abi.OPERATIONS[1:])
    rows = [
        _call(name, ages.get(name), known.get(name, Histogram()), body["deadlines"].get(name), body["soft"] or None)
        for name in names
        if name in ages or (name in known and known[name].count)
    ]
    if not rows:
        return element("p", "No call seen yet.", class_="note")
    head = ("", "", "now", "p99", "deadline")
    return element("table", element("tr", *(element("th", name) for name in head)), *rows)


def _call(name: str, age_ns: int | None, known: Histogram, deadline: float | None, soft: float | None) -> Html:
    limit_ns = None if deadline is None else round(deadline * SECOND)
    p99 = known.quantile_ns(0.99)
    now, limit = span(age_ns), "none" if limit_ns is None else span(limit_ns)
    over = age_ns is not None and limit_ns is not None and age_ns > limit_ns

    def share(part_ns: int | None) -> float | None:
        return None if part_ns is None or not limit_ns else part_ns / limit_ns

    label = f"{name}: now {now}, p50 {span(known.quantile_ns(0.5))}, p99 {span(p99)}, deadline {limit}"
    drawn = drawing.bar(share(age_ns), share(p99), soft, label) if limit_ns else None
    overdue = "over" if over else None
    return element(
        "tr",
        element("td", name),
        element("td", drawn, class_="wide"),
        element("td", f"{now} ✕" if over else now, class_=overdue),
        element("td", span(p99)),
        element("td", limit),
        data_operation=name,
    )


def _steps(facts: Facts, worker: WorkerView) -> Html | None:
    rates = facts.rates[worker.name]
    known = [rate for rate in rates if rate is not None]
    if not known or not max(known):
        return None
    text = f"{known[-1]:.0f} steps a second"
    total = "" if worker.steps is None else f", {worker.steps} since it was spawned"
    drawn = drawing.line(rates, _shown(rates), max(known) * 1.1, f"{worker.name}: {text}, lately")
    return element("div", drawn, element("p", text + total, class_="faint num"), class_="steps")


def _incident(incident: Mapping[str, Any] | None, with_timeline: Sequence[str]) -> Html | None:
    if not incident:
        return None
    what = " ".join(filter(None, (incident["verdict"], incident["operation"], incident.get("outcome"))))
    also = ", ".join(map(str, incident.get("also_in_flight") or ()))
    what += f" (with {also} in flight)" if also else ""
    code = element("code", incident["id"])
    return element(
        "p",
        f"Last incident: {what}, {incident['time'][:19].replace('T', ' ')} UTC ",
        incident_links.link(incident["id"], code) if incident["id"] in with_timeline else code,
        class_="note",
        data_incident=incident["id"],
    )


# --- loads and events -----------------------------------------------------------------------------------------------


def _loads(facts: Facts) -> Html | None:
    view = facts.view
    silent = [
        element("p", f"! source {source['name']}: {silence(view, source)}", class_="note")
        for source in view.sources
        if not source["up"]
    ]
    if not view.accelerators and not silent:
        return None
    cards = [_load(facts, accelerator) for accelerator in view.accelerators]
    looks = max((_shown(facts.loads[accelerator["name"]]) for accelerator in view.accelerators), default=SAMPLES)
    return join(element("h2", f"Load, last {looks} s"), element("div", *cards, class_="cards"), *silent)


def _shown(values: Sequence[float | None]) -> int:
    """How many looks a line spans: what there is, but a minute at least, and five once there are so many."""
    return min(SAMPLES, max(60, len(values)))


def _load(facts: Facts, accelerator: Mapping[str, Any]) -> Html:
    name, ratio = str(accelerator["name"]), accelerator["load_ratio"]
    load = "unknown" if ratio is None else f"{ratio:.0%}"
    pills = [
        element("span", f"{_MARK[level]} {text}", class_=f"pill {level}") for text, level in _troubles(accelerator)
    ]
    sample = age(facts.view.now_ns, accelerator["sample_ns"])
    source = f"{accelerator['source']}, {span(sample)} old" if accelerator["source"] else "no load source"
    return element(
        "article",
        element("div", element("h3", name), *pills, element("span", load, class_="big"), class_="top"),
        drawing.line(facts.loads[name], _shown(facts.loads[name]), 1.0, f"{name}: load {load}, lately"),
        element(
            "p", " · ".join(filter(None, (accelerator["device"], accelerator["power"], source))), class_="faint num"
        ),
        *(element("p", f"! {text}", class_="note") for text in said(accelerator["kernel"], facts.view.now_ns)),
        class_="card",
        data_accelerator=name,
    )


def _troubles(accelerator: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if accelerator["blocked_by"]:
        yield f"blocked by {accelerator['blocked_by']}", _BAD
    if accelerator["frozen"]:
        yield "frozen", _ODD


def _events(facts: Facts) -> Html:
    if facts.no_events is not None:
        return element("p", f"The record cannot be read: {facts.no_events}", class_="note")
    if not facts.events:
        return element("p", "None recorded.", class_="note")
    return element("ol", *map(_event, facts.events), class_="card events")


def _event(event: Mapping[str, Any]) -> Html:
    when, _, what = describe(event).partition(" ")
    return element(
        "li",
        element("time", when[11:23] or when, title=when),
        element("span", what),
        class_=tone(event) or None,
        data_kind=str(event["kind"]),
    )
