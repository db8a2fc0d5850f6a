"""``examples/cpp/plain.cpp``, which has no word of watchdogd, behind the driver shim: the route through ``libcudart``.

Invariant: the program is the same binary as without the shim; only the configuration of its worker says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import cpp
from tests.helpers.running import Supervised, gone
from tests.simulator.control import SimulatedDevice


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> cpp.Built:
    return cpp.build_examples(tmp_path_factory.mktemp("cpp"))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as opened:
        yield opened


def plain(built: cpp.Built, device: SimulatedDevice, *arguments: str) -> dict[str, Any]:
    return {
        "command": [str(built.programs / "plain"), *arguments],
        "environment": built.environment(device, "plain"),
        "instrument": "driver",
        "deadlines": {"startup": "20s", "sync": "200ms"},
    }


def test_it_is_ready_once_it_has_synchronized_and_nobody_replaces_it(built: cpp.Built, device: SimulatedDevice) -> None:
    with Supervised({"plain": plain(built, device)}) as supervised:
        first = supervised.wait_phase("plain", "running", 1)["pid"]
        supervised.let_pass(1.0)  # 200 frames, five times the deadline
        assert (supervised.worker("plain")["pid"], supervised.events("verdict")) == (first, [])


def test_a_stream_that_it_hangs_itself_is_found_in_its_synchronize(built: cpp.Built, device: SimulatedDevice) -> None:
    with Supervised({"plain": plain(built, device, "--hang-after", "20")}) as supervised:
        first = supervised.wait_phase("plain", "running", 1)["pid"]
        verdict = supervised.wait_event("verdict", "plain")
        assert (verdict["verdict"], verdict["operation"], verdict["pid"]) == ("call", "sync", first)
        assert 0 <= verdict["detected_ns"] - verdict["deadline_ns"] < 500_000_000
        supervised.wait_event("ready", "plain", 2)
        assert gone(first)
