"""The status page without a browser: what it says, what it escapes, what it costs, and what it remembers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_runtime import ACCELERATOR, MS, SECOND, SOURCE, FakeRuntime
from watchdogd.exporter import drawing
from watchdogd.exporter.collector import Exposition
from watchdogd.exporter.page import HEADERS, StatusPage
from watchdogd.exporter.recent import SAMPLES, Rates, Recent
from watchdogd.exporter.tail import MOST, TAIL_BYTES, Tail
from watchdogd.markup import element, text
from watchdogd.publish import events

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202e\x00\ud800"


class Document(HTMLParser):
    """Every element with its attributes, and the text between them."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def with_(self, **wanted: str) -> list[dict[str, str | None]]:
        found = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        return [given for _, given in self.tags if found.items() <= given.items()]

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    runtime = FakeRuntime(tmp_path)
    runtime.accelerators = [{**ACCELERATOR, "sample_ns": time.monotonic_ns()}]
    runtime.sources = [{**SOURCE, "sample_ns": time.monotonic_ns()}]
    return runtime


class Site:
    def __init__(self, runtime: FakeRuntime) -> None:
        self.page = StatusPage(str(runtime.directory), Exposition(str(runtime.directory)))

    def read(self) -> Document:
        return Document(self.page.page().body)


def record(runtime: FakeRuntime, **fields: Any) -> None:
    """One event more."""
    state = runtime.directory / "state"
    state.mkdir(exist_ok=True)
    event = {"schema": 1, "boot_id": "x", "seq": 1, "time": "2026-11-21T04:07:44.049200Z", "monotonic_ns": 1,
             "kind": "phase", "worker": "model_h", "incarnation": 3, "incident": None, **fields}  # fmt: skip
    with (state / events.FILE_NAME).open("a") as file:
        file.write(json.dumps(event) + "\n")


def banner(document: Document) -> str | None:
    (found,) = document.with_(id="banner")
    return found["class"]


# --- what it says ---------------------------------------------------------------------------------------------------


def test_a_worker_is_shown_with_its_phase_its_calls_and_their_deadlines(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("model_h", 3)
    beat.record(0, "sync", 3 * MS, 100)
    beat.enter(0, "sync", time.monotonic_ns() - 50 * MS)
    runtime.publish()
    document = Site(runtime).read()
    (card,) = document.with_(data_worker="model_h")
    assert card["data-phase"] == "running"
    assert document.with_(data_operation="sync")
    (bar,) = (given for given in document.with_(class_="bar") if str(given["aria-label"]).startswith("sync"))
    assert re.fullmatch(
        r"sync: now \d\d\.?\d* ms, p50 3\.\d+ ms, p99 3\.\d+ ms, deadline 200 ms", bar["aria-label"] or ""
    )
    assert banner(document) == "banner good"


@pytest.mark.parametrize(
    ("age_ms", "level", "says"), [(150, "slow", "good"), (250, "over", "odd"), (50, "fine", "good")]
)
def test_a_call_is_drawn_by_how_much_of_its_deadline_is_used_up(
    runtime: FakeRuntime, age_ms: int, level: str, says: str
) -> None:
    runtime.incarnation("model_h", 3).enter(0, "sync", time.monotonic_ns() - age_ms * MS)
    runtime.publish()
    document = Site(runtime).read()
    drawn = {given["class"] for tag, given in document.tags if tag == "rect"} - {"track", "soft", "p99"}
    assert (drawn, banner(document)) == ({level}, f"banner {says}")


def test_a_quarantined_worker_is_told_first_with_what_to_do(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3, phase="quarantined")
    runtime.publish()
    document = Site(runtime).read()
    assert banner(document) == "banner bad"
    assert "worker model_h: quarantined" in document.text
    assert "watchdogd reset model_h" in document.text


def test_a_dead_supervisor_is_told_first_and_the_rest_is_marked_as_old(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        runtime = FakeRuntime(tmp_path, pid=supervisor.pid)
        runtime.incarnation("model_h", 3)
        runtime.publish()
        assert [given.get("class") for tag, given in Site(runtime).read().tags if tag == "main"] == [None]
        supervisor.kill()
    document = Site(runtime).read()
    assert banner(document) == "banner bad"
    assert re.search(rf"Supervisor NOT RUNNING - pid {supervisor.pid} is gone, last tick .*", document.text)
    assert "what follows is old" in document.text
    assert [given.get("class") for tag, given in document.tags if tag == "main"] == ["old"]


def test_without_a_board_the_page_says_so(tmp_path: Path) -> None:
    page = StatusPage(str(tmp_path), Exposition(str(tmp_path))).page()
    assert page.status == 503
    assert "No supervisor has run here" in Document(page.body).text


def test_the_load_of_a_silent_source_is_a_gap_and_not_its_last_value(runtime: FakeRuntime) -> None:
    runtime.publish()
    site = Site(runtime)
    for up in (True, False, True):
        runtime.sources[0]["up"] = up
        runtime.publish()
        site.page.look()
    lines = [given for tag, given in site.read().tags if tag == "polyline"]
    assert len(lines) == 2  # interrupted


# --- what it escapes ------------------------------------------------------------------------------------------------


def test_no_text_from_outside_becomes_markup(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3, phase="quarantined")
    runtime.workers["model_h"] |= dict.fromkeys(("name", "note", "held", "accelerator", "heartbeat_error"), EVIL)
    runtime.workers["model_h"] |= {"last_error": EVIL, "deadlines": {"sync": 0.2, EVIL: 1.0}}
    incident = dict.fromkeys(("id", "verdict", "operation", "time", "outcome"), EVIL)
    runtime.workers["model_h"]["last_incident"] = {**incident, "also_in_flight": [EVIL]}
    runtime.accelerators[0] |= {"name": EVIL, "device": EVIL, "source": EVIL, "blocked_by": EVIL}
    runtime.sources[0] |= {"name": EVIL, "note": EVIL, "up": False}
    runtime.supervisor |= {"version": EVIL, "scheduling": EVIL}
    runtime.events["error"] = EVIL
    runtime.publish()
    record(runtime, kind=EVIL, worker=EVIL, reason=EVIL, time=EVIL, incident=EVIL)
    document = Site(runtime).read()
    assert {tag for tag, _ in document.tags} == {
        "html", "head", "meta", "title", "link", "style", "noscript", "body", "header", "h1", "span", "p", "main",
        "div", "ul", "li", "dl", "dt", "dd", "h2", "article", "h3", "small", "svg", "ol", "time", "code", "footer",
        "a", "script",
    }  # fmt: skip
    assert sum(tag == "script" for tag, _ in document.tags) == 1
    assert not any(name.startswith("on") for _, given in document.tags for name in given)
    assert document.text.count("<img src=x onerror=alert(1)>") > 10
    assert not set("\u202e\x00") & set(document.text)


def test_what_is_not_markup_is_escaped_wherever_it_is_put() -> None:
    made = element("p", "<b>&\"'", element("i", "x"), title='"><b>', hidden=True, lang=None)
    assert made == '<p title="&quot;&gt;&lt;b&gt;" hidden>&lt;b&gt;&amp;&quot;&#x27;<i>x</i></p>'
    assert text("a\nb\u2028\u202e") == "a?b??"


def test_the_browser_may_load_and_run_nothing_but_what_is_in_the_page(runtime: FakeRuntime) -> None:
    runtime.publish()
    page = StatusPage(str(runtime.directory), Exposition(str(runtime.directory))).page()
    policy = page.headers["Content-Security-Policy"]
    assert page.headers == HEADERS and policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert not [given for _, given in Document(page.body).tags if "style" in given]
    assert b"http://" not in page.body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in page.body


# --- what it remembers, and what it costs ---------------------------------------------------------------------------


def test_the_last_values_are_kept_and_no_more() -> None:
    recent = Recent()
    for value in range(SAMPLES + 20):
        recent.add({"gpu0": value, "dla0": None})
    assert list(recent["gpu0"]) == list(range(20, SAMPLES + 20))
    recent.add({"gpu0": 1.0})
    assert (len(recent["dla0"]), len(recent["gpu0"])) == (0, SAMPLES)


def test_a_rate_is_per_second_and_unknown_at_first() -> None:
    rates = Rates()
    for steps, at_s in ((100, 10), (130, 11), (190, 13), (5, 14)):
        rates.add({"a": steps}, at_s * SECOND)
    assert list(rates.recent["a"]) == [None, 30.0, 30.0, 0.0]


def test_a_line_stays_in_its_box_whatever_it_shows() -> None:
    drawn = drawing.line([None, -1.0, 0.5, None, 7.0, float("1e300")], 6, 1.0, "x")
    points = [
        tuple(map(float, pair.split(","))) for found in re.findall(r'points="([^"]*)"', drawn) for pair in found.split()
    ]
    assert len(points) > 6
    assert all(0 <= x <= drawing.WIDTH + 1 and 0 <= y <= drawing.HEIGHT for x, y in points)
    bars = drawing.bar(float("1e300"), 1e9, 0.5, "x") + drawing.bar(-1.0, None, None, "x")
    assert all(0 <= float(width) <= 100 for width in re.findall(r'width="([^"]*)"', bars))


def test_the_tail_of_a_long_record_is_read_and_no_more(runtime: FakeRuntime) -> None:
    for seq in range(2000):
        record(runtime, seq=seq)
    state = runtime.directory / "state"
    assert (state / events.FILE_NAME).stat().st_size > 4 * TAIL_BYTES
    tail = Tail()
    found = tail.read(str(state))
    assert [event["seq"] for event in found] == list(range(1999, 1999 - MOST, -1))
    assert tail.read(str(state)) is found  # nothing was written since
    record(runtime, seq=2000)
    with (state / events.FILE_NAME).open("a") as file:
        file.write('{"kind": "phase", "seq": 2001')  # being written
    assert tail.read(str(state))[0]["seq"] == 2000


def test_what_lies_where_the_record_should_be_delays_nobody(runtime: FakeRuntime, tmp_path: Path) -> None:
    assert Tail().read(str(tmp_path / "nowhere")) == []
    os.mkfifo(tmp_path / events.FILE_NAME)
    assert Tail().read(str(tmp_path)) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / events.FILE_NAME).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        Tail().read(str(tmp_path / "other"))
    runtime.supervisor["state_dir"] = str(tmp_path / "other")
    runtime.publish()
    assert "The record cannot be read" in Site(runtime).read().text


def test_a_page_takes_milliseconds(runtime: FakeRuntime) -> None:
    for number in range(8):
        beat = runtime.incarnation(f"model_{number}", 3)
        for operation in ("sync", "copy", "alloc"):
            beat.record(0, operation, 3 * MS, 100)
        record(runtime, worker=f"model_{number}")
    runtime.publish()
    site = Site(runtime)
    for _ in range(SAMPLES):
        site.page.look()
    took = []
    for _ in range(10):
        began = time.thread_time()
        page = site.page.page()
        took.append(time.thread_time() - began)
    assert min(took) < 0.02  # the exporter answers others meanwhile, at most four such pages a second
    assert len(page.body) < 128 * 1024
