"""The drawing of a timeline: rows of blocks over one window of time, with the marks across all of them.

Widths are percentages and heights pixels, so that it fits any screen and no text is stretched. Invariant: pure; it has
no style of its own (the page's policy forbids inline styles), and what it shows in colour is also said in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from math import ceil, floor, log10

from watchdogd.incident import Incident, Load, Outcome
from watchdogd.incidents.scene import Block, Group, Mark, Row, Window
from watchdogd.markup import Html, element
from watchdogd.model import SECOND
from watchdogd.span import span

MOST_TEXT = 400  # characters of any one text
MOST_ACCELERATORS = 8
MOST_SAMPLES = 240
MOST_COLLECTORS = 12
MOST_LINES = 200  # of the kernel log
_ROW, _BLOCK, _LOAD, _LABEL = 26, 18, 44, 17  # pixels
_NAMED_FROM = 0.045  # share of the width that a block needs to have its name in it
_NEEDS = 0.31  # share of the width that a mark's label needs on a narrow screen


def clipped(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"


def after(at_ns: int, zero_ns: int) -> str:
    """A time as it counts from the verdict."""
    apart = at_ns - zero_ns
    return "0" if apart == 0 else f"{'+' if apart > 0 else '−'}{span(abs(apart))}"


def chart(incident: Incident, groups: Sequence[Group], marks: Sequence[Mark], window: Window, label: str) -> Html:
    zero_ns = incident.verdict.detected_ns
    shown = [mark for mark in marks if window.has(mark.at_ns)]
    lines = _lines(shown, window)
    rows = [_labels(shown, lines, window, zero_ns)]
    for group in groups:
        rows += _group(group, window, zero_ns)
    for load in incident.loads[:MOST_ACCELERATORS]:
        rows.append(_row(f"load of {load.accelerator}", _load(load, window), _LOAD, "loads"))
    told = [line for line in incident.kernel[-MOST_LINES:] if window.has(line.at_ns)]
    if told:
        pins = [_pin(window.share(line.at_ns), f"{after(line.at_ns, zero_ns)} {line.text}", line.expected)
                for line in told]  # fmt: skip
        rows.append(_row("kernel log", pins, _ROW))
    for outcome in incident.collectors[:MOST_COLLECTORS]:
        if outcome.began_ns is not None and outcome.outcome != "not asked for" and window.has(outcome.began_ns):
            rows.append(_row(f"evidence: {outcome.collector}", [_collector(outcome, window)], _ROW, "evidence"))
    over = element(
        "div",
        element("svg", *_across(shown, lines, window, zero_ns), height="100%", aria_hidden="true"),
        class_="over",
    )
    return element(
        "div", over, *rows, _axis(window, zero_ns), class_="chart", role="group", aria_label=label
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"


def _row(name: str, drawn: Sequence[Html], height: int, class_: str = "") -> Html:
    return element(
        "div",
        element("div", clipped(name), class_="name"),
        element("svg", element("rect", class_="ground", width="100%", height=height), *drawn,
                height=height, role="img", aria_label=clipped(name)),
        class_=f"row {class_}".rstrip(),
    )  # fmt: skip


# --- calls ----------------------------------------------------------------------------------------------------------


def _group(group: Group, window: Window, zero_ns: int) -> Iterator[Html]:
    worker = group.worker
    about = " · ".join(filter(None, (worker.accelerator, worker.phase, f"#{worker.incarnation}")))
    more = f" · {group.left_out} lanes more" if group.left_out else ""
    told = worker.unread or ("" if group.rows else "no call was seen in this time")
    yield element(
        "div",
        element("div", element("b", clipped(worker.name)), element("small", clipped(f" {about}{more}")), class_="name"),
        element("div", clipped(f"! {told}" if worker.unread else told), class_="told"),
        class_="row worker hung" if group.victim else "row worker",
        data_worker=clipped(worker.name),
    )
    for row in group.rows:
        yield _calls(row, window, zero_ns)


def _calls(row: Row, window: Window, zero_ns: int) -> Html:
    return _row(row.name, [_block(block, window, zero_ns) for block in row.blocks], _ROW, "lane")


def _block(block: Block, window: Window, zero_ns: int) -> Html:
    x, end = window.share(block.start_ns), window.share(block.end_ns)
    width = max(end - x, 0.001)
    height = _BLOCK - 4 * block.depth
    took = span(block.end_ns - block.start_ns)
    how = f"{took}, not returned when last seen" if block.open else took
    named = clipped(block.text) if width >= _NAMED_FROM else None
    return element(
        "svg",
        element("title", clipped(f"{block.text}: {after(block.start_ns, zero_ns)}, {how}")),
        element("rect", width="100%", height=height, rx=1.5),
        element("text", named, x=5, y=height - 5) if named and block.depth < 2 else None,
        class_=f"call {block.kind}" + (" open" if block.open else "") + (" overdue" if block.hung else ""),
        x=_percent(x), y=4 + 4 * block.depth, width=_percent(width), height=height,
    )  # fmt: skip


# --- what lies under them -------------------------------------------------------------------------------------------


def _load(load: Load, window: Window) -> list[Html]:
    """Steps from sample to sample; a gap where a sample told none, and nothing after the last."""
    samples = load.samples[-MOST_SAMPLES:]
    if not samples:
        return []
    each_ns = (samples[-1][0] - samples[0][0]) // max(1, len(samples) - 1)
    ends = [*(at_ns for at_ns, _ in samples[1:]), samples[-1][0] + each_ns]
    drawn = []
    for (at_ns, ratio), end_ns in zip(samples, ends, strict=True):
        if ratio is None or end_ns <= window.start_ns or at_ns >= window.end_ns:
            continue
        x, height = window.share(at_ns), min(1.0, max(0.0, ratio)) * (_LOAD - 6)
        drawn.append(
            element("rect", element("title", f"{load.accelerator}: {min(9.99, ratio):.0%}"), class_="load",
                    x=_percent(x), y=_LOAD - height - 1, width=_percent(max(0.0, window.share(end_ns) - x)),
                    height=height + 1)
        )  # fmt: skip
    since_ns = load.frozen_since_ns
    if since_ns is not None and since_ns < window.end_ns:
        x = window.share(since_ns)
        width = max(0.002, window.share(_frozen_until(load, since_ns)) - x)
        drawn.append(element("rect", element("title", "the load is constant"), class_="frozen", x=_percent(x),
                             y=0, width=_percent(width), height=5))  # fmt: skip
    return drawn


def _frozen_until(load: Load, since_ns: int) -> int:
    """The last sample that tells the same as the first since then."""
    since = [sample for sample in load.samples if sample[0] >= since_ns]
    same = takewhile(lambda sample: sample[1] == since[0][1], since)
    return max((at_ns for at_ns, _ in same), default=since_ns)


def _pin(share: float, text: str, expected: bool) -> Html:
    return element(
        "svg",
        element("title", clipped(text)),
        element("path", d="M-5,3 L5,3 L0,13 Z M-.8,10 L.8,10 L.8,24 L-.8,24 Z"),
        class_="pin expected" if expected else "pin",
        x=_percent(share),
        overflow="visible",
    )


def _collector(outcome: Outcome, window: Window) -> Html:
    began_ns = outcome.began_ns or 0
    x = window.share(began_ns)
    end = window.share(began_ns + (outcome.took_ns or 0))
    text = " ".join(filter(None, (outcome.outcome, outcome.detail)))
    right = x > 0.6
    good = "fine" if outcome.outcome == "ok" else "slow"
    return element(
        "g",
        element("title", clipped(f"{outcome.collector}: {text}, {span(outcome.took_ns)}")),
        element("rect", class_=good, x=_percent(x), y=7, width=_percent(max(end - x, 0.002)), height=12, rx=1.5),
        element("text", clipped(f"{outcome.outcome}, {span(outcome.took_ns)}"), x=_percent(x if right else end),
                dx=-5 if right else 5, y=17, text_anchor="end" if right else "start"),
    )  # fmt: skip


# --- marks and time -------------------------------------------------------------------------------------------------


def _lines(marks: Sequence[Mark], window: Window) -> list[int]:
    """Of each mark's label: another where two would lie upon each other on a narrow screen."""
    taken: list[list[tuple[float, float]]] = []
    lines = []
    for mark in marks:
        share = window.share(mark.at_ns)
        reach = (share - _NEEDS, share) if _to_the_left(share) else (share, share + _NEEDS)
        free = (all(reach[1] < start or reach[0] > end for start, end in line) for line in taken)
        line = next((number for number, is_free in enumerate(free) if is_free), len(taken))
        taken += [[]] if line == len(taken) else []
        taken[line].append(reach)
        lines.append(line)
    return lines


def _to_the_left(share: float) -> bool:
    return share > 0.5


def _labels(marks: Sequence[Mark], lines: Sequence[int], window: Window, zero_ns: int) -> Html:
    drawn = []
    for mark, line in zip(marks, lines, strict=True):
        share = window.share(mark.at_ns)
        left = _to_the_left(share)
        drawn.append(
            element("text", mark.name, element("tspan", f" {after(mark.at_ns, zero_ns)}", class_="when"),
                    class_=f"mark {mark.tone}", x=_percent(share), dx=-5 if left else 5, y=(line + 1) * _LABEL - 4,
                    text_anchor="end" if left else "start", data_mark=mark.name)
        )  # fmt: skip
    return element(
        "div",
        element("div", "", class_="name"),
        element("svg", *drawn, height=max((0, *lines)) * _LABEL + _LABEL + 2, role="img",
                aria_label="marks, as in the table below"),
        class_="row labels",
    )  # fmt: skip


def _across(marks: Sequence[Mark], lines: Sequence[int], window: Window, zero_ns: int) -> Iterator[Html]:
    for at_ns in _ticks(window, zero_ns):
        x = _percent(window.share(at_ns))
        yield element("line", class_="tick", x1=x, x2=x, y1=0, y2="100%")
    for mark, line in zip(marks, lines, strict=True):
        x = _percent(window.share(mark.at_ns))
        yield element("line", class_=f"mark {mark.tone}", x1=x, x2=x, y1=line * _LABEL + 2, y2="100%")


def _axis(window: Window, zero_ns: int) -> Html:
    texts = []
    for at_ns in _ticks(window, zero_ns):
        share = window.share(at_ns)
        anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
        texts.append(element("text", after(at_ns, zero_ns), x=_percent(share), y=14, text_anchor=anchor))
    return element(
        "div",
        element("div", "since the verdict", class_="name"),
        element("svg", *texts, height=20, role="img", aria_label="time since the verdict"),
        class_="row axis",
    )


def _ticks(window: Window, zero_ns: int) -> list[int]:
    """At most seven, at round distances from the verdict."""
    rough = (window.end_ns - window.start_ns) / 6
    power = 10 ** floor(log10(rough))
    step = next(int(power * times) for times in (1, 2, 5, 10) if power * times >= rough)
    first, last = ceil((window.start_ns - zero_ns) / step), floor((window.end_ns - zero_ns) / step)
    return [zero_ns + number * step for number in range(first, last + 1)]


def window_text(window: Window) -> str:
    return f"{(window.end_ns - window.start_ns) / SECOND:.3g} s"
