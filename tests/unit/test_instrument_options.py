"""What the shim of a worker is asked to do is in the header of its heartbeat, and part of what was launched."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdogd import abi
from watchdogd.abi_driver import OPTION
from watchdogd.act.launching import fingerprint
from watchdogd.instrument import options
from watchdogd.model import ProgressSource, WorkerSettings
from watchdogd.observe import heartbeat

OWN = WorkerSettings("a", ("a",))
SHIM = OWN._replace(instrument="driver")


def test_a_worker_that_stamps_itself_asks_nothing_of_a_shim() -> None:
    assert options.asked(OWN._replace(check_context=True, sync_mode="spin")) == 0


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (SHIM._replace(progress=ProgressSource("sync")), {"ready_on_sync"}),
        (SHIM._replace(progress=ProgressSource("metrics", ("http://h",))), {"ready_on_sync"}),
        (SHIM._replace(progress=ProgressSource("http", ("http://h",))), set()),  # the probe says when
        (SHIM._replace(progress=ProgressSource("command", ("true",))), set()),
        (SHIM, {"ready_on_sync"}),
        (SHIM._replace(check_context=True), {"ready_on_sync", "check_context"}),
        (SHIM._replace(sync_mode="yield"), {"ready_on_sync", "sync_yield"}),
        (SHIM._replace(sync_mode="spin"), {"ready_on_sync", "sync_spin"}),
        (SHIM._replace(sync_mode="blocking"), {"ready_on_sync", "sync_blocking"}),
    ],
)
def test_each_key_is_a_bit_of_the_word(settings: WorkerSettings, names: set[str]) -> None:
    assert {name for name, bit in OPTION.items() if options.asked(settings) & bit} == names


def test_the_word_is_in_the_header_before_the_worker_starts(tmp_path: Path) -> None:
    path = str(tmp_path / "heartbeat")
    reader = heartbeat.create(path, boot_id=1, incarnation=1, spawned_ns=1, driver=OPTION["check_context"])
    assert reader.word(abi.H["driver"] * abi.WORD) == OPTION["check_context"]


@pytest.mark.parametrize(
    "changed", [SHIM, SHIM._replace(check_context=True), SHIM._replace(sync_mode="spin"), SHIM._replace(nvtx=True)]
)
def test_a_running_worker_cannot_take_on_another_shim(changed: WorkerSettings) -> None:
    others = {OWN, SHIM} - {changed}
    assert fingerprint(changed) not in {fingerprint(other) for other in others}


def test_a_key_of_the_shim_is_nothing_to_a_worker_without_one() -> None:
    assert fingerprint(OWN._replace(check_context=True, nvtx=True)) == fingerprint(OWN)
