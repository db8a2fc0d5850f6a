"""The timeline of an incident in a real browser: what a person sees in either colour scheme, on a screen or a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import Browser
from tests.helpers.incidents import deadlock, hostile
from watchdogd.incident import Incident
from watchdogd.incidents import timeline

PHONE, SCREEN = 400, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


def opened(browser: Browser, path: Path, incident: Incident, width: int = SCREEN, *, dark: bool = False) -> str:
    """Its address."""
    path.write_text(timeline.render(incident), encoding="utf-8", errors="replace")
    browser.look_like(width, 900, dark=dark)
    browser.complaints.clear()
    browser.requested.clear()
    browser.open(path.as_uri())
    return path.as_uri()


def colour(browser: Browser, selector: str, what: str) -> tuple[float, ...]:
    """Red, green and blue as they are drawn."""
    told = browser.run(f"getComputedStyle(document.querySelector({selector!r})).{what}")
    return tuple(float(part) for part in told[told.index("(") + 1 : -1].split(","))[:3]


def luminance(of: tuple[float, ...]) -> float:
    parts = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in of]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_everything_is_seen_on_any_screen_in_either_colours(
    browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    address = opened(browser, tmp_path / "timeline.html", deadlock(), width, dark=dark)
    assert "The DLA stopped first" in browser.text(".banner strong")
    assert browser.run("document.documentElement.scrollWidth") <= width
    outside = "[...document.querySelectorAll('text.mark, .axis text')].filter(text => { const box ="
    outside += f" text.getBoundingClientRect(); return box.left < 0 || box.right > {width}; }}).length"
    assert browser.run(outside) == 0
    assert browser.run("document.querySelector('.call.overdue').getBoundingClientRect().width") > width / 3
    page = colour(browser, "body", "backgroundColor")
    assert (luminance(page) < 0.2) == dark
    card = colour(browser, ".card", "backgroundColor")
    for selector, what in ((".name", "color"), ("text.verdict", "fill"), ("text.limit", "fill"), ("text.good", "fill"),
                           (".axis text", "fill"), ("td", "color"), (".legend", "color")):  # fmt: skip
        assert contrast(colour(browser, selector, what), card) >= 4.5, selector
    assert contrast(colour(browser, ".banner strong", "color"), colour(browser, ".banner", "backgroundColor")) >= 4.5
    assert browser.complaints == []
    assert browser.requested == [address]


@pytest.mark.parametrize("width", [PHONE, SCREEN])
def test_no_label_of_a_mark_lies_upon_another(browser: Browser, tmp_path: Path, width: int) -> None:
    opened(browser, tmp_path / "timeline.html", deadlock(), width)
    boxes: list[dict[str, Any]] = browser.run(
        "[...document.querySelectorAll('.chart')].flatMap((chart, number) => [...chart.querySelectorAll('text.mark')]"
        ".map(text => ({...text.getBoundingClientRect().toJSON(), number})))"
    )
    assert len(boxes) == 17
    for index, one in enumerate(boxes):
        for other in boxes[:index]:
            apart = one["right"] <= other["left"] or other["right"] <= one["left"]
            apart |= one["bottom"] <= other["top"] + 3 or other["bottom"] <= one["top"] + 3  # a line's own leading
            assert apart or one["number"] != other["number"], (one, other)


def test_a_mark_stands_where_its_moment_is_in_every_row(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path / "timeline.html", deadlock())

    def left(selector: str) -> float:
        return float(browser.run(f"document.querySelector({selector!r}).getBoundingClientRect().left"))

    assert left(".chart .call.overdue rect") == pytest.approx(left(".chart line.past"), abs=1.5)
    assert left('.chart [data-mark="verdict"]') <= left(".chart line.verdict")


def test_with_scripts_off_nothing_is_missing(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path / "timeline.html", deadlock())
    with_scripts = browser.run("document.body.innerText")
    browser.look_like(SCREEN, 900, script=False)
    browser.open((tmp_path / "timeline.html").as_uri())
    assert browser.run("document.body.innerText") == with_scripts
    browser.look_like(SCREEN, 900)


def test_hostile_text_runs_nothing_loads_nothing_and_stays_on_a_phones_screen(browser: Browser, tmp_path: Path) -> None:
    address = opened(browser, tmp_path / "timeline.html", hostile(), PHONE)
    assert "<script>alert(1)</script>" in browser.text("h1")
    assert browser.run("document.documentElement.scrollWidth") <= PHONE
    assert browser.run("document.querySelectorAll('script, img, iframe, object').length") == 0
    assert browser.requested == [address]
    # Were it markup after all, the page's policy would still keep it from running and from asking for anything.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.ran=1\" id=evil>x</p>')")
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"/x.png\">')")
    browser.run("document.getElementById('evil').click()")
    assert browser.run("window.ran") is None
    assert len(browser.complaints) == 2 and all("Content Security Policy" in text for text in browser.complaints)
