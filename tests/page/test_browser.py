"""The status page in a real browser, of a live supervisor: what a person sees, how soon, and what is asked for."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.browser import Browser
from tests.helpers.fake_runtime import FakeRuntime
from tests.helpers.running import KEPT, ROOT, Supervised, wait_until, worker
from tests.page.test_page import EVIL
from tests.process.test_exporter import Exporter
from tests.simulator.control import SimulatedDevice

HANGS = """
worker.ready()
while True:
    with worker.step(), worker.call('sync'):
        if (HERE / {file!r}).exists() and INCARNATION == 1: hang()
        time.sleep(0.01)
"""
DEADLINES = {"startup": "20s", "step": "500ms", "sync": "100ms"}


@dataclass(frozen=True)
class Vehicle:
    supervised: Supervised
    browser: Browser
    address: str


def waits_for(file: str, **keys: Any) -> dict[str, Any]:
    return worker(HANGS.format(file=file), deadlines=DEADLINES, accelerator="gpu0", **keys)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


@pytest.fixture
def vehicle(tmp_path: Path, browser: Browser) -> Iterator[Vehicle]:
    browser.complaints.clear()
    browser.requested.clear()
    with SimulatedDevice(tmp_path / "device") as device:
        device.set_load("gpu", 37)
        reader = [sys.executable, str(ROOT / "tests/simulator/tegrastats.py"), "--state", str(device.path)]
        workers = {"detector": waits_for("never"), "tracker": waits_for("hang", observe_only=True),
                   "segmenter": waits_for("die")}  # fmt: skip
        with Supervised(
            workers,
            metrics={"listen": "127.0.0.1:0"},
            incidents=KEPT,
            tegrastats={"command": [*reader, "--interval", "100"]},
        ) as supervised:
            supervised.wait_phase("segmenter", "running")
            supervised.wait_phase("tracker", "observed")
            address = supervised.runtime / "exporter.address"
            wait_until(address.exists, what=supervised.log)
            browser.look_like(1180, 900)
            yield Vehicle(supervised, browser, f"http://{address.read_text().strip()}/")
            browser.ask("Page.navigate", url="about:blank")


def card(name: str, rest: str = "") -> str:
    return f'[data-worker="{name}"]{rest}'


def test_a_person_sees_the_workers_their_calls_the_load_and_a_hang_within_two_seconds(vehicle: Vehicle) -> None:
    supervised, browser = vehicle.supervised, vehicle.browser
    browser.open(vehicle.address)
    assert browser.run("[...document.querySelectorAll('[data-worker]')].map(card => card.dataset.worker)") == [
        "detector", "tracker", "segmenter",
    ]  # fmt: skip
    browser.wait(lambda: "37%" in browser.text('[data-accelerator="gpu0"]'))
    browser.wait(lambda: "100 ms" in browser.text(card("detector", ' [data-operation="sync"]')))
    browser.wait(lambda: "steps a second" in browser.text(card("detector")))
    browser.wait(lambda: "All 3 workers run" in browser.text("#banner"))

    supervised.touch("die")
    hung = time.monotonic()
    supervised.wait_event("verdict", "segmenter")
    browser.wait(lambda: browser.run("!!document.querySelector('[data-kind=verdict]')"), 2.0)
    browser.wait(lambda: browser.text(card("segmenter", " [data-incident]")), 2.0)
    assert time.monotonic() - hung < 4.0

    supervised.touch("hang")
    supervised.wait_event("verdict", "tracker")
    browser.wait(lambda: browser.run(f"!!document.querySelector('{card('tracker', ' .bar .over')}')"), 2.0)
    assert "tracker: a call is overdue" in browser.text("#banner")

    assert browser.complaints == []
    assert {address.partition("?")[0] for address in browser.requested} == {vehicle.address}


def test_an_incident_leads_from_the_page_to_its_timeline(vehicle: Vehicle) -> None:
    supervised, browser = vehicle.supervised, vehicle.browser
    supervised.touch("die")
    verdict = supervised.wait_event("verdict", "segmenter")
    browser.open(vehicle.address)
    link = card("segmenter", " [data-incident] a")
    browser.wait(lambda: browser.run(f"!!document.querySelector('{link}')"), what=supervised.log)  # once it is closed
    browser.run(f"document.querySelector('{link}').click()")
    browser.wait(lambda: verdict["incident"] in browser.run("location.pathname") and browser.text("h1"))
    assert browser.text("h1") == "segmenter: call sync"
    assert browser.run("document.querySelector('.call.overdue').getBoundingClientRect().width") > 100
    for name in ("detector", "tracker"):
        assert browser.text(f'.chart .worker[data-worker="{name}"]').startswith(name)
    loads = browser.run("[...document.querySelectorAll('.chart .load title')].map(title => title.textContent)")
    assert "gpu0: 37%" in loads
    assert browser.complaints == []


def test_a_supervisor_that_stands_still_and_an_exporter_that_is_gone_are_told(vehicle: Vehicle) -> None:
    supervised, browser = vehicle.supervised, vehicle.browser
    browser.open(vehicle.address)
    exporter = next(
        child for child in psutil.Process(supervised.process.pid).children() if "watchdogd.exporter" in child.cmdline()
    )
    supervised.process.send_signal(signal.SIGSTOP)
    try:
        browser.wait(lambda: "Supervisor STUCK" in browser.text("#banner"), 6.0)
        assert browser.run("document.querySelector('main').className") == "old"
        assert not browser.run("document.getElementById('lost').checkVisibility()")
        exporter.send_signal(signal.SIGKILL)  # which a supervisor that stands still does not start again
        browser.wait(lambda: "has not answered" in browser.text("#lost"))
    finally:
        supervised.process.send_signal(signal.SIGCONT)


def test_with_scripts_off_the_page_is_whole_and_is_loaded_again_by_itself(vehicle: Vehicle) -> None:
    browser = vehicle.browser
    browser.look_like(390, 844, dark=True, script=False)
    try:
        browser.open(vehicle.address)
        assert "running" in browser.text(card("detector"))
        assert browser.run("document.documentElement.scrollWidth") <= 390  # nothing lies outside a phone's screen
        loads = len(browser.requested)
        browser.wait(lambda: browser.run("1") and len(browser.requested) > loads, 8.0)
    finally:
        browser.look_like(1180, 900)


def test_text_of_a_worker_stays_text(browser: Browser, tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path)
    runtime.incarnation("model_h", 3, note=EVIL)
    runtime.publish()
    exporter = Exporter(tmp_path)
    try:
        browser.complaints.clear()
        browser.requested.clear()
        address = f"http://127.0.0.1:{exporter.address[1]}/"
        browser.open(address)
        assert "<script>alert(1)</script>" in browser.text(card("model_h"))
        # Were it markup after all, the page's policy would still keep it from running.
        browser.run("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.ran=1\" id=evil>x</p>')")
        browser.run("document.getElementById('evil').click()")
        assert browser.run("window.ran") is None
        assert all("Content Security Policy" in complaint for complaint in browser.complaints)
        assert len(browser.complaints) == 1
        browser.wait(lambda: browser.run("1") and len(browser.requested) > 2)
        assert set(browser.requested) == {address}
    finally:
        browser.ask("Page.navigate", url="about:blank")
        exporter.end()


def test_an_exporter_whose_page_is_open_stays_small_and_nearly_idle(browser: Browser, tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path)
    for number in range(8):
        runtime.incarnation(f"model_{number}", 3).record(0, "sync", 3_000_000, 100)
    runtime.publish()
    exporter = Exporter(tmp_path)
    try:
        browser.open(f"http://127.0.0.1:{exporter.address[1]}/")
        exporter.ask("/metrics")
        began, before = time.monotonic(), sum(exporter.usage().cpu_times()[:2])
        browser.wait(lambda: time.monotonic() - began > 3)
        spent = sum(exporter.usage().cpu_times()[:2]) - before
        assert spent / (time.monotonic() - began) < 0.05
        assert exporter.usage().memory_info().rss <= 60 << 20
        assert exporter.usage().num_threads() == 1
    finally:
        browser.ask("Page.navigate", url="about:blank")
        exporter.end()
