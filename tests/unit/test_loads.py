"""Sources and accelerators: fresh or silent, frozen or not, known or not; and what is told of them."""

from __future__ import annotations

import json

import pytest

from watchdogd.act.children import Child
from watchdogd.act.process import Process
from watchdogd.model import MILLISECOND, SECOND, LoadSample, SourceSettings
from watchdogd.supervisor.loads import REPLACE_NS, Loads, Source

NOW = 300 * SECOND
INTERVAL = 200 * MILLISECOND


class CountingChild(Child):
    """A child that is never started; what would have been killed is counted."""

    def __init__(self) -> None:
        super().__init__("nvml", ("true",), {}, stdin=False, stdout=True)
        self.kills = 0
        self.process: Process | None = None

    def kill(self) -> None:
        self.kills += 1


@pytest.fixture
def child() -> CountingChild:
    return CountingChild()


@pytest.fixture
def source(child: CountingChild) -> Source:
    made = Source(SourceSettings("nvml", ("true",), INTERVAL, frozen_after_ns=2 * SECOND), child)
    made.started(NOW)
    return made


def line(load: float | None = 0.43, accelerator: str = "gpu0") -> bytes:
    return json.dumps({"accelerator": accelerator, "load_ratio": load, "name": "Orin", "uuid": "u7"}).encode() + b"\n"


# --- a source -------------------------------------------------------------------------------------------------------


def test_a_source_is_up_from_its_first_good_line_on(source: Source) -> None:
    assert (source.watch(NOW), source.up) == (False, False)
    assert source.feed(line(), NOW) == [LoadSample("gpu0", 0.43, "Orin", "u7")]
    assert (source.watch(NOW), source.up) == (True, True)


def test_a_source_is_up_for_three_intervals_after_its_last_line(source: Source) -> None:
    source.feed(line(), NOW)
    source.watch(NOW)
    assert (source.watch(NOW + 3 * INTERVAL), source.up) == (False, True)
    assert (source.watch(NOW + 3 * INTERVAL + 1), source.up) == (True, False)


def test_a_line_without_a_load_is_a_sign_of_life(source: Source) -> None:
    assert source.feed(line(None), NOW) == [LoadSample("gpu0", None, "Orin", "u7")]
    assert source.watch(NOW)


def test_a_bad_line_is_counted_and_is_no_sign_of_life(source: Source) -> None:
    assert source.feed(b"{}\nnot json\n" + line(3.0), NOW) == []
    assert not source.watch(NOW)
    told = source.describe()
    assert (told["bad_lines"], told["up"], told["sample_ns"]) == (3, False, None)
    assert "load_ratio" in source.last_bad


def test_a_bad_line_does_not_cost_the_good_ones_around_it(source: Source) -> None:
    assert [sample.load_ratio for sample in source.feed(line(0.1) + b"?\n" + line(0.2), NOW)] == [0.1, 0.2]


def test_half_a_line_of_a_dead_reader_does_not_spoil_the_next_ones(source: Source) -> None:
    source.feed(line()[:9], NOW)
    source.started(NOW + SECOND)
    assert len(source.feed(line(), NOW + SECOND)) == 1


def test_a_reader_that_is_silent_for_long_is_replaced_once_a_period(source: Source, child: CountingChild) -> None:
    for second in range(11):
        source.watch(NOW + second * SECOND)
    assert child.kills == 0
    for millisecond in range(1, 50):
        source.watch(NOW + REPLACE_NS + millisecond * MILLISECOND)
    assert child.kills == 1


def test_a_reader_that_prints_is_not_replaced(source: Source, child: CountingChild) -> None:
    for second in range(60):
        source.feed(line(), NOW + second * SECOND)
        source.watch(NOW + second * SECOND)
    assert child.kills == 0


# --- the accelerators -----------------------------------------------------------------------------------------------


def told(loads: Loads, *configured: str, blocked: dict[str, str] | None = None) -> list[tuple[object, ...]]:
    keys = ("name", "load_ratio", "frozen", "source", "blocked_by")
    return [tuple(item[key] for key in keys) for item in loads.describe(list(configured), blocked or {})]


def hang(loads: Loads, source: Source, seconds: float, load: float | None = 0.99, pending: bool = True) -> int:
    """Samples at the source's interval, with nothing completed. Returns the time of the last one."""
    now_ns = NOW
    for _ in range(round(seconds * SECOND / INTERVAL) + 1):
        now_ns += INTERVAL
        loads.add(source, LoadSample("gpu0", load), pending, 41, now_ns)
    return now_ns


def test_a_load_that_stands_still_under_a_hung_call_is_frozen(source: Source) -> None:
    loads = Loads()
    now_ns = hang(loads, source, 2)
    assert loads.watch([source], now_ns)
    assert loads.frozen("gpu0")
    assert not loads.frozen("dla0")
    assert told(loads) == [("gpu0", 0.99, True, "nvml", None)]


@pytest.mark.parametrize(
    ("seconds", "load", "pending"), [(1.8, 0.99, True), (60, None, True), (60, 0.0, False)],
    ids=["not for long", "no load", "idle"],
)  # fmt: skip
def test_other_loads_are_not(source: Source, seconds: float, load: float | None, pending: bool) -> None:
    loads = Loads()
    now_ns = hang(loads, source, seconds, load, pending)
    assert not loads.watch([source], now_ns)
    assert not loads.frozen("gpu0")


def test_a_freeze_is_seen_however_many_samples_it_takes(child: CountingChild) -> None:
    patient = Source(SourceSettings("nvml", ("true",), INTERVAL, frozen_after_ns=600 * SECOND), child)
    loads = Loads()
    loads.watch([patient], hang(loads, patient, 600))
    assert loads.frozen("gpu0")


def test_a_load_whose_source_falls_silent_is_frozen_no_longer(source: Source) -> None:
    loads = Loads()
    now_ns = hang(loads, source, 2)
    loads.watch([source], now_ns)
    assert loads.watch([source], now_ns + 3 * INTERVAL + 1)
    assert not loads.frozen("gpu0")


def test_an_accelerator_that_no_source_tells_of_is_unknown_and_not_idle(source: Source) -> None:
    loads = Loads()
    loads.add(source, LoadSample("gpu0", 0.0), False, 3, NOW)
    assert told(loads, "dla0", "gpu0", blocked={"dla0": "h"}) == [
        ("gpu0", 0.0, False, "nvml", None),
        ("dla0", None, False, None, "h"),
    ]


def test_what_the_source_knows_of_the_device_is_told(source: Source) -> None:
    loads = Loads()
    loads.add(source, LoadSample("gpu0", 0.2, "Orin", "u7"), False, 3, NOW)
    (item,) = loads.describe([], {})
    assert (item["device"], item["uuid"], item["sample_ns"]) == ("Orin", "u7", NOW)


def test_load_with_nobody_there_is_told_as_a_ghost_until_somebody_is(source: Source) -> None:
    loads, now = Loads(), NOW
    for _ in range(11):
        now += INTERVAL
        loads.add(source, LoadSample("gpu0", 0.99), False, 0, now, vacant=True)
    assert loads.watch([source], now)
    assert loads.describe([], {})[0]["ghost"] is True
    loads.add(source, LoadSample("gpu0", 0.99), False, 0, now, vacant=False)
    assert loads.watch([source], now)
    assert loads.describe([], {})[0]["ghost"] is False
