"""The DLAs' power state as a load source: what is read, what it means, and that only what stands while on is frozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdogd.act.children import Child
from watchdogd.decide import freeze
from watchdogd.model import MILLISECOND, SECOND, LoadSample, SourceSettings
from watchdogd.observe.sources import nvdla
from watchdogd.observe.sources.child import Unavailable
from watchdogd.observe.sources.lines import parse
from watchdogd.supervisor.loads import Loads, Source

NOW = 300 * SECOND
INTERVAL = 500 * MILLISECOND
ORIN = {"15880000.nvdla0": "suspended", "158c0000.nvdla1": "active"}


def device(root: Path, name: str, state: str, parent: str = "devices/platform/13e00000.host1x") -> Path:
    power = root / parent / name / "power"
    power.mkdir(parents=True)
    (power / "runtime_status").write_text(f"{state}\n")
    (power / "control").write_text("auto\n")
    return power


@pytest.mark.parametrize(
    "parent", ["devices/platform/host1x", "devices/platform/bus@0/13e00000.host1x", "devices/platform"]
)
def test_each_dla_s_state_is_told_wherever_the_kernel_puts_it(tmp_path: Path, parent: str) -> None:
    for name, state in ORIN.items():
        device(tmp_path, name, state, parent)
    assert nvdla.reader(nvdla.find(str(tmp_path)))() == [
        LoadSample("dla0", 0.0, "15880000.nvdla0", power="suspended"),
        LoadSample("dla1", None, "158c0000.nvdla1", power="active"),  # on is no load
    ]


def test_without_a_dla_there_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "devices/platform/host1x/15340000.vic/power").mkdir(parents=True)
    with pytest.raises(Unavailable, match="no DLA"):
        nvdla.find(str(tmp_path))


def test_a_dla_that_is_kept_awake_tells_nothing_by_being_awake(tmp_path: Path) -> None:
    (device(tmp_path, "15880000.nvdla0", "active") / "control").write_text("on\n")
    (sample,) = nvdla.reader(nvdla.find(str(tmp_path)))()
    assert (sample.load_ratio, sample.power) == (None, None)


def test_a_kernel_without_control_tells_the_state_all_the_same(tmp_path: Path) -> None:
    (device(tmp_path, "15880000.nvdla0", "active") / "control").unlink()
    (sample,) = nvdla.reader(nvdla.find(str(tmp_path)))()
    assert sample.power == "active"


def test_the_state_comes_through_the_pipe() -> None:
    line = '{"accelerator": "dla0", "load_ratio": null, "name": "15880000.nvdla0", "uuid": null, "power": "active"}'
    assert parse("nvdla", line) == (LoadSample("dla0", None, "15880000.nvdla0", None, "active"),)


def test_what_must_move_is_the_load_or_that_it_is_on() -> None:
    assert freeze.reading(LoadSample("gpu0", 0.42)) == 0.42
    assert freeze.reading(LoadSample("dla0", None, power="active")) == 1.0
    assert freeze.reading(LoadSample("dla0", 0.0, power="suspended")) is None
    assert freeze.reading(LoadSample("dla0", None)) is None


def evidence(power: str, *, pending: bool, completed: tuple[int, ...], vacant: bool = False) -> tuple[bool, bool]:
    """Whether the DLA is frozen, and a ghost's, after one sample for each count of completed calls."""
    child = Child("nvdla", ("true",), {}, stdin=False, stdout=True)
    source = Source(SourceSettings("nvdla", ("true",), INTERVAL, frozen_after_ns=2 * SECOND), child)
    loads, now_ns = Loads(), NOW
    for count in completed:
        now_ns += INTERVAL
        load = 0.0 if power == "suspended" else None
        loads.add(source, LoadSample("dla0", load, power=power), pending, count, now_ns, vacant)
    loads.watch([source], now_ns)
    return loads.frozen("dla0"), loads.haunted


def test_a_dla_that_stays_on_while_nothing_completes_is_frozen() -> None:
    assert evidence("active", pending=True, completed=(7,) * 6) == (True, False)


@pytest.mark.parametrize(
    ("power", "pending", "completed"),
    [
        ("active", True, (7,) * 4),
        ("active", True, (7, 8, 9, 10, 11, 12)),
        ("active", False, (7,) * 60),
        ("suspended", True, (7,) * 60),
        ("suspended", False, (7,) * 60),
    ],
    ids=["not for long", "work completes", "nobody works", "off while its worker waits for the GPU", "idle"],
)
def test_other_dlas_are_not(power: str, pending: bool, completed: tuple[int, ...]) -> None:
    assert evidence(power, pending=pending, completed=completed) == (False, False)


def test_a_dla_that_stays_on_with_nobody_there_is_a_ghost_s() -> None:
    assert evidence("active", pending=False, completed=(7,) * 6, vacant=True) == (False, True)
    assert evidence("suspended", pending=False, completed=(7,) * 6, vacant=True) == (False, False)
