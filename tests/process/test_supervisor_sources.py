"""Load sources under the supervisor, with the simulated tegrastats: fresh, silent, dead, garbled, frozen."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import ROOT, Supervised, wait_until, worker
from tests.simulator.control import SimulatedDevice

INTERVAL = 0.05
HANGS = "serve_until('go')\nwith worker.call('sync'): wait_for('return')\nserve()"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as made:
        yield made


def tegrastats(device: SimulatedDevice) -> dict[str, Any]:
    program = [sys.executable, str(ROOT / "tests/simulator/tegrastats.py"), "--state", str(device.path)]
    return {"command": [*program, "--interval", f"{INTERVAL * 1000:.0f}"], "frozen_after": "400ms"}


def hanging(**keys: Any) -> dict[str, Any]:
    """Hangs when told to, and is only watched, so that the freeze lasts."""
    return worker(HANGS, accelerator="gpu0", deadlines={"sync": "100ms"}, observe_only=True, **keys)


def source(supervised: Supervised) -> dict[str, Any]:
    told: dict[str, Any] = supervised.snapshot()["sources"][0]
    return told


def gpu(supervised: Supervised) -> dict[str, Any]:
    told: dict[str, Any] = next(item for item in supervised.snapshot()["accelerators"] if item["name"] == "gpu0")
    return told


def wait_load(supervised: Supervised, ratio: float) -> None:
    wait_until(lambda: gpu(supervised)["load_ratio"] == ratio, what=supervised.snapshot)


def reader(supervised: Supervised) -> int:
    """Pid of the simulated tegrastats."""
    pid = supervised.process.pid
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        found = [int(word) for word in file.read().split()]
    return next(pid for pid in found if b"tegrastats.py" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_the_load_is_shown_as_its_source_tells_it(device: SimulatedDevice) -> None:
    device.set_load("gpu", 37)
    with Supervised({"a": worker("serve()", accelerator="gpu0")}, tegrastats=tegrastats(device)) as supervised:
        wait_load(supervised, 0.37)
        device.set_load("gpu", 83)
        wait_load(supervised, 0.83)
        assert (gpu(supervised)["source"], source(supervised)["bad_lines"]) == ("tegrastats", 0)
        wait_until(lambda: source(supervised)["up"])
        assert supervised.wait_event("source", up=True)["source"] == "tegrastats"


def test_a_source_that_is_silent_for_three_intervals_is_stale_and_its_load_is_not_repeated_as_fresh(
    device: SimulatedDevice,
) -> None:
    device.set_load("gpu", 37)
    with Supervised({"a": worker("serve()", accelerator="gpu0")}, tegrastats=tegrastats(device)) as supervised:
        wait_until(lambda: source(supervised)["up"])
        device.set_tegrastats("silent")
        wait_until(lambda: not source(supervised)["up"])
        sample_ns = source(supervised)["sample_ns"]
        age = (time.monotonic_ns() - sample_ns) / 1e9
        assert age > 3 * INTERVAL
        supervised.let_pass(0.6)
        assert gpu(supervised)["sample_ns"] == source(supervised)["sample_ns"] == sample_ns
        assert supervised.phase("a") == "running"
        device.set_tegrastats("normal")
        wait_until(lambda: source(supervised)["up"])
        assert [event["up"] for event in supervised.events("source")][-2:] == [False, True]


def test_a_source_that_dies_is_down_at_once_and_started_again(device: SimulatedDevice) -> None:
    with Supervised({"a": worker("serve()", accelerator="gpu0")}, tegrastats=tegrastats(device)) as supervised:
        wait_until(lambda: source(supervised)["up"])
        os.kill(reader(supervised), signal.SIGKILL)
        died = supervised.wait_event("source", up=False)
        assert "signal 9" in died["reason"]
        wait_until(lambda: source(supervised)["restarts"] == 1)
        wait_until(lambda: source(supervised)["up"])


def test_a_source_that_keeps_dying_is_started_less_and_less_often(device: SimulatedDevice) -> None:
    device.set_tegrastats("die")
    with Supervised({"a": worker("serve()", accelerator="gpu0")}, tegrastats=tegrastats(device)) as supervised:
        supervised.wait_event("source", count=4, up=False)
        ends = [event["monotonic_ns"] for event in supervised.events("source", up=False)]
        first, second, third = (later - sooner for sooner, later in pairwise(ends[:4]))
        assert first >= 200_000_000
        assert second >= 400_000_000
        assert third >= 800_000_000
        assert supervised.phase("a") == "running"


def test_garbage_is_counted_and_is_not_a_load(device: SimulatedDevice) -> None:
    device.set_load("gpu", 37)
    with Supervised({"a": worker("serve()", accelerator="gpu0")}, tegrastats=tegrastats(device)) as supervised:
        wait_load(supervised, 0.37)
        device.set_tegrastats("garbage")
        wait_until(lambda: source(supervised)["bad_lines"] >= 4)
        wait_until(lambda: not source(supervised)["up"])
        assert gpu(supervised)["load_ratio"] == 0.37
        device.set_tegrastats("normal")
        wait_until(lambda: source(supervised)["up"])


@pytest.mark.parametrize("percent", [99, 0])
def test_a_constant_load_while_a_call_stands_still_is_frozen_and_kills_nobody(
    device: SimulatedDevice, percent: int
) -> None:
    device.set_load("gpu", percent)
    with Supervised({"a": hanging()}, tegrastats=tegrastats(device)) as supervised:
        supervised.wait_phase("a", "observed")
        wait_load(supervised, percent / 100)
        assert not gpu(supervised)["frozen"]
        supervised.touch("go")
        wait_until(lambda: gpu(supervised)["frozen"])
        assert supervised.events("signal") == []
        supervised.touch("return")
        wait_until(lambda: not gpu(supervised)["frozen"])


def test_a_constant_load_of_a_worker_that_gets_on_is_not_frozen(device: SimulatedDevice) -> None:
    device.set_load("gpu", 99)
    busy = worker(
        "worker.ready()\nwhile True:\n    with worker.call('sync'): time.sleep(0.03)", accelerator="gpu0"
    )  # hardly ever out of a call
    with Supervised({"a": busy}, tegrastats=tegrastats(device)) as supervised:
        wait_load(supervised, 0.99)
        supervised.let_pass(1.1)
        assert not gpu(supervised)["frozen"]


def test_a_constant_load_of_an_idle_worker_is_not_frozen(device: SimulatedDevice) -> None:
    device.set_load("gpu", 0)
    idle = worker("worker.ready(); hang()", accelerator="gpu0")
    with Supervised({"a": idle}, tegrastats=tegrastats(device)) as supervised:
        wait_load(supervised, 0)
        supervised.let_pass(1.1)
        assert not gpu(supervised)["frozen"]


def test_a_load_that_moves_while_a_call_stands_still_is_not_frozen(device: SimulatedDevice) -> None:
    device.set_load("gpu", 10)
    with Supervised({"a": hanging()}, tegrastats=tegrastats(device)) as supervised:
        wait_load(supervised, 0.1)
        supervised.touch("go")
        supervised.wait_event("verdict", "a")
        for percent in range(20, 32):
            device.set_load("gpu", percent)
            wait_load(supervised, percent / 100)
            assert not gpu(supervised)["frozen"]


def test_a_freeze_is_not_known_any_more_when_its_source_falls_silent(device: SimulatedDevice) -> None:
    device.set_load("gpu", 99)
    with Supervised({"a": hanging()}, tegrastats=tegrastats(device)) as supervised:
        wait_load(supervised, 0.99)
        supervised.touch("go")
        wait_until(lambda: gpu(supervised)["frozen"])
        device.set_tegrastats("silent")
        wait_until(lambda: not gpu(supervised)["frozen"])
        assert not source(supervised)["up"]
        assert supervised.view("a")["call"]["age_seconds"] > 0.4  # it stands still as before


def test_a_stopped_source_neither_delays_a_verdict_nor_the_end(device: SimulatedDevice) -> None:
    """It does not answer, as a driver does not when its GPU is sick."""
    killed = worker(HANGS, accelerator="gpu0", deadlines={"sync": "100ms"})
    with Supervised({"a": killed}, tegrastats=tegrastats(device)) as supervised:
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: source(supervised)["up"])
        os.kill(reader(supervised), signal.SIGSTOP)
        wait_until(lambda: not source(supervised)["up"])
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["detected_ns"] - verdict["deadline_ns"] < 500_000_000
        began = time.monotonic()
        supervised.stop()
        assert time.monotonic() - began < 3


# --- the DLA's power state ------------------------------------------------------------------------------------------


def dla_of(folder: Path, state: str) -> dict[str, Any]:
    """The table of its source, on a sysfs of its own."""
    power = folder / "devices/platform/13e00000.host1x/15880000.nvdla0/power"
    power.mkdir(parents=True, exist_ok=True)
    (power / "runtime_status.new").write_text(f"{state}\n")
    (power / "runtime_status.new").rename(power / "runtime_status")
    program = [sys.executable, "-m", "watchdogd.observe.sources.nvdla", "--root", str(folder)]
    return {"command": [*program, "--interval", f"{INTERVAL}"], "interval": f"{INTERVAL * 1000:.0f}ms"}


def dla(supervised: Supervised) -> dict[str, Any]:
    told: dict[str, Any] = next(item for item in supervised.snapshot()["accelerators"] if item["name"] == "dla0")
    return told


def test_a_dla_that_stays_on_under_a_hung_call_is_frozen_and_one_that_is_off_is_not(tmp_path: Path) -> None:
    hangs = worker(HANGS, accelerator="dla0", deadlines={"sync": "100ms"}, observe_only=True)
    nvdla = {**dla_of(tmp_path, "suspended"), "frozen_after": "400ms"}
    with Supervised({"h": hangs}, nvdla=nvdla) as supervised:
        wait_until(lambda: dla(supervised)["power"] == "suspended")
        supervised.touch("go")
        supervised.wait_event("verdict", "h")
        supervised.let_pass(1)
        assert (dla(supervised)["frozen"], dla(supervised)["load_ratio"]) == (False, 0.0)  # waits, but not for the DLA
        dla_of(tmp_path, "active")
        wait_until(lambda: dla(supervised)["frozen"])
        assert (dla(supervised)["power"], dla(supervised)["load_ratio"]) == ("active", None)
        supervised.touch("return")
        wait_until(lambda: not dla(supervised)["frozen"])
        assert supervised.events("signal") == []


def test_a_dla_that_is_on_while_its_worker_gets_on_is_not_frozen(tmp_path: Path) -> None:
    busy = worker("worker.ready()\nwhile True:\n    with worker.call('sync'): time.sleep(0.03)", accelerator="dla0")
    with Supervised({"h": busy}, nvdla={**dla_of(tmp_path, "active"), "frozen_after": "400ms"}) as supervised:
        wait_until(lambda: dla(supervised)["power"] == "active")
        supervised.let_pass(1.1)
        assert not dla(supervised)["frozen"]
