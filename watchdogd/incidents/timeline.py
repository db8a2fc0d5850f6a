"""``timeline.html`` of an incident: one file that needs nothing else, with no script, for any screen.

Times count from the verdict. Invariant: pure; whatever text an incident holds stays text: it is escaped, and the
page's policy lets a browser load and run nothing but this style.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from watchdogd.incident import Incident
from watchdogd.incidents import scene
from watchdogd.incidents.chart import MOST_LINES, after, chart, clipped, window_text
from watchdogd.markup import Html, asset, element, join, policy_hash
from watchdogd.publish.events import rfc3339
from watchdogd.span import span

FILE_NAME = "timeline.html"
MOST_BYTES = 4 << 20  # that no incident reaches
MOST_ROWS = 60  # of any one table
_TIMES = ("for", "took", "UTC")

_STYLE = asset("watchdogd", "theme.css") + asset("watchdogd.incidents", "timeline.css")
_POLICY = f"default-src 'none'; style-src {policy_hash(_STYLE)}; base-uri 'none'; form-action 'none'"


def render(incident: Incident) -> str:
    marks, window, near = scene.marks(incident), scene.whole(incident), scene.close(incident)
    shown = scene.groups(incident, window)
    from_near = [] if near is None else scene.groups(incident, near)
    charts = []
    if near is not None and any(group.rows for group in from_near):
        label = f"Around the verdict: {window_text(near)}"
        charts += [element("h2", label), _card(chart(incident, from_near, marks, near, label))]
    label = f"{'The whole' if charts else 'Timeline'}: {window_text(window)}"
    charts += [
        element("h2", label),
        _card(chart(incident, shown, marks, window, label), _legend(incident, [*from_near, *shown])),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(_POLICY)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", _title(incident)),
        element("style", Html(_STYLE)),
    )
    body = element(
        "body",
        _hatch(),
        element("header", element("h1", _title(incident)), _found(incident)),
        element("main", _facts(incident), *charts, *_tables(incident, marks)),
        element("footer", element("code", clipped(incident.id)), clipped(f" · watchdogd {incident.version}".rstrip())),
    )
    return join(Html("<!doctype html>"), element("html", head, body, lang="en"))


def _card(*children: Html) -> Html:
    return element("div", *children, class_="card")


# --- above ----------------------------------------------------------------------------------------------------------


def _title(incident: Incident) -> str:
    verdict = incident.verdict
    what = " ".join(filter(None, (verdict.verdict, verdict.operation)))
    return clipped(f"{incident.worker}: {what}{f' in {verdict.stage}' if verdict.stage else ''}")


def _found(incident: Incident) -> Html | None:
    """What it was, as far as that is known."""
    found = incident.diagnosis
    if found is None:
        detail = clipped(incident.verdict.detail)
        return element("div", element("strong", detail), class_="banner") if detail else None
    items = [element("li", clipped(text)) for text in found.facts[:8]]
    repeats = incident.repeats.sentence if incident.repeats is not None else ""
    return element(
        "div",
        element("strong", clipped(found.sentence)),
        element("ul", *items) if items else None,
        element("p", clipped(repeats)) if repeats else None,
        *(element("p", clipped(text), class_="next") for text in found.next_steps[:4]),
        class_="banner",
    )


def _facts(incident: Incident) -> Html:
    verdict = incident.verdict
    entered_ns = verdict.entered_ns
    counts_from = verdict.armed_ns or entered_ns
    limit = None if verdict.deadline_ns is None or counts_from is None else verdict.deadline_ns - counts_from
    first = next(iter(incident.suspects), None)
    likely = "" if first is None or first.confidence is None else f" ({first.confidence:.0%})"
    facts = {
        "opened": incident.opened[:19].replace("T", " ") + " UTC",
        "worker": f"{incident.worker} #{incident.incarnation}",
        "accelerator": incident.accelerator,
        "had been so for": span(verdict.detected_ns - entered_ns) if entered_ns is not None else None,
        "deadline": span(limit) if limit is not None and limit > 0 else None,
        "froze first, likely": None if first is None else f"{first.worker}{likely}",
        "served again after": _recovery(incident),
        "outcome": incident.outcome or incident.state,
        "ended by": incident.exit,
        "the machine stood still for": span(incident.stalled_ns) if incident.stalled_ns else None,
        "signature": incident.signature_words or incident.signature or None,
    }
    return element("dl", *(element("div", element("dt", name), element("dd", clipped(value)))
                           for name, value in facts.items() if value), class_="facts")  # fmt: skip


def _recovery(incident: Incident) -> str | None:
    """As the metrics count it: from the entry of the call, or what is known of it, to the successor's being ready."""
    ready_ns, verdict = incident.times.ready_ns, incident.verdict
    began = verdict.detected_ns if verdict.entered_ns is None else verdict.entered_ns
    return None if ready_ns is None or ready_ns < began else span(ready_ns - began)


# --- the legend -----------------------------------------------------------------------------------------------------


def _hatch() -> Html:
    """What fills the call that hung, so that it is told from the others without its colour, too."""
    pattern = element(
        "pattern",
        element("rect", class_="hang-1", width=10, height=10),
        element("path", class_="hang-2", d="M-2,12 L12,-2 M-2,2 L2,-2 M8,12 L12,8"),
        id="hang", width=10, height=10, patternUnits="userSpaceOnUse",
    )  # fmt: skip
    return element("svg", element("defs", pattern), class_="defs", aria_hidden="true")


def _legend(incident: Incident, shown: Sequence[scene.Group]) -> Html:
    kinds = scene.operations(shown)
    blocks = [block for group in shown for row in group.rows for block in row.blocks]
    swatches = [("overdue", "the call of the verdict")] if any(block.hung for block in blocks) else []
    swatches += [(kind, kind) for kind in kinds if kind != scene.SEVERAL]
    if scene.SEVERAL in kinds:
        swatches.append((scene.SEVERAL, "several kinds, too short to be told apart"))
    if any(block.open for block in blocks):
        swatches.append(("call open", "had not returned when it was last seen"))
    if incident.loads:
        swatches.append(("load", "load"))
    if any(load.frozen_since_ns is not None for load in incident.loads):
        swatches.append(("frozen", "load constant"))
    return element("ul", *(_swatch(name, text) for name, text in swatches), class_="legend")


def _swatch(name: str, text: str) -> Html:
    drawn = element("svg", element("rect", x=1, y=1, width=20, height=11, rx=2), class_=f"swatch {name}",
                    viewBox="0 0 22 13", aria_hidden="true")  # fmt: skip
    return element("li", drawn, text)


# --- the same in words ----------------------------------------------------------------------------------------------


def _tables(incident: Incident, marks: Iterable[scene.Mark]) -> Iterator[Html]:
    zero_ns = incident.verdict.detected_ns
    base_ns = incident.times.opened_ns or zero_ns

    def wall(at_ns: int) -> str:
        try:
            return rfc3339(incident.opened_unix_ns + at_ns - base_ns)[11:23]
        except (OverflowError, ValueError):  # no year has that time
            return "-"

    yield element("h2", "In the order of time")
    yield _table(
        ("since the verdict", "UTC", "", ""),
        ((after(mark.at_ns, zero_ns), wall(mark.at_ns), mark.name, mark.text) for mark in marks),
    )
    flying = [
        (worker.name, call, lane)
        for capture in incident.captures[:1]
        for worker in capture.workers
        for lane in worker.lanes
        for call in lane.in_flight
    ]
    if flying:
        flying.sort(key=lambda item: item[1].entered_ns)
        at_ns = incident.captures[0].at_ns
        yield element("h2", "In flight at the verdict, the oldest first")
        yield _table(
            ("began", "for", "worker", "operation", "stage", "thread"),
            (
                (after(call.entered_ns, zero_ns), span(max(0, at_ns - call.entered_ns)), worker, call.operation,
                 call.stage or "-", f"{lane.tid or lane.pid}{' (is gone)' if lane.orphaned else ''}")
                for worker, call, lane in flying
            ),
        )  # fmt: skip
    if incident.kernel:
        yield element("h2", "Kernel log")
        yield _table(
            ("since the verdict", "about", "message", ""),
            (
                (after(line.at_ns, zero_ns), f"{line.about} {line.number}" if line.number is not None else line.about,
                 line.text, "expected after the kill" if line.expected else line.worker or line.accelerator or "")
                for line in incident.kernel[-MOST_LINES:]
            ),
        )  # fmt: skip
    if incident.collectors:
        yield element("h2", "Evidence")
        yield _table(
            ("began", "took", "collector", "outcome"),
            (
                (after(item.began_ns, zero_ns) if item.began_ns is not None else "-", span(item.took_ns),
                 item.collector, f"{item.outcome} {item.detail}".rstrip())
                for item in incident.collectors
            ),
        )  # fmt: skip


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Html:
    """Of at most ``MOST_ROWS``; the first column is a time."""

    def cells(tag: str, texts: tuple[str, ...]) -> list[Html]:
        return [
            element(tag, clipped(text), class_="when" if place == 0 or name in _TIMES else None)
            for place, (name, text) in enumerate(zip(head, texts, strict=True))
        ]

    lines = list(rows)
    told = [element("tr", *cells("td", row)) for row in lines[:MOST_ROWS]]
    more = element("p", f"and {len(lines) - MOST_ROWS} more", class_="faint") if len(lines) > MOST_ROWS else None
    table = element("table", element("thead", element("tr", *cells("th", head))), element("tbody", *told))
    return element("div", element("div", table, class_="scroll"), more, class_="card")
