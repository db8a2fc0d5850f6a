"""The page's drawings: SVG with no style of its own, so that the page's policy can forbid inline styles.

Invariant: pure; any numbers give a drawing inside its box, and what it shows is also said in words.
"""

from __future__ import annotations

from collections.abc import Sequence

from watchdogd.markup import Html, element, join

WIDTH, HEIGHT = 300, 48


def line(values: Sequence[float | None], samples: int, top: float, label: str) -> Html:
    """The last ``samples`` values from 0 to ``top``, the newest at the right; a gap where one is unknown."""
    step = WIDTH / max(1, samples - 1)
    first = samples - len(values)
    runs: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values, first):
        if value is None:
            runs.append([])
        else:
            share = min(1.0, max(0.0, value / top)) if top else 0.0
            runs[-1].append((index * step, HEIGHT - 1 - share * (HEIGHT - 2)))
    return element(
        "svg",
        element("title", label),
        *(join(_area(run), _stroke(run)) for run in runs if run),
        class_="line",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def _stroke(run: list[tuple[float, float]]) -> Html:
    if len(run) == 1:
        run = [run[0], (run[0][0] + 1, run[0][1])]
    return element("polyline", points=_points(run), vector_effect="non-scaling-stroke")


def _area(run: list[tuple[float, float]]) -> Html:
    corners = [(run[0][0], HEIGHT), *run, (run[-1][0], HEIGHT)]
    return element("polygon", points=_points(corners))


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def bar(share: float | None, p99: float | None, soft: float | None, label: str) -> Html:
    """How much of a deadline (1) is used up now, and in the slowest of a hundred; ``soft`` is where it is slow."""
    parts = [element("rect", class_="track", width=100, height=10)]
    if soft is not None:
        parts.append(element("rect", class_="soft", x=soft * 100, width=(1 - soft) * 100, height=10))
    if share is not None:
        level = "over" if share >= 1 else "slow" if soft is not None and share >= soft else "fine"
        parts.append(element("rect", class_=level, width=max(0.0, min(1.0, share)) * 100, height=10))
    if p99 is not None:
        parts.append(element("rect", class_="p99", x=min(99.0, p99 * 100), width=1, height=10))
    return element(
        "svg",
        element("title", label),
        *parts,
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
