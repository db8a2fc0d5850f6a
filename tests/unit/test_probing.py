"""What a probe's end says of the accelerator, and which device is asked."""

from __future__ import annotations

import pytest

from watchdogd.act.probing import judge
from watchdogd.act.runs import Outcome
from watchdogd.worker.probe import device


@pytest.mark.parametrize(
    ("outcome", "usable"),
    [
        (Outcome(0, ""), True),
        (Outcome(70, ""), False),
        (Outcome(1, ""), None),
        (Outcome(None, "", late=True), False),
        (Outcome(2, ""), None),
        (Outcome(127, ""), None),
        (Outcome(None, "killed by signal 11"), None),
        (Outcome(None, "cannot start"), None),
    ],
)
def test_only_its_own_word_and_no_answer_in_time_make_an_accelerator_unusable(
    outcome: Outcome, usable: bool | None
) -> None:
    assert judge(outcome) is usable


@pytest.mark.parametrize(
    ("accelerator", "visible", "ordinal"),
    [("gpu0", None, 0), ("gpu3", None, 3), ("gpu3", "3", 0), ("dla1", None, 0), (None, None, 0)],
)
def test_the_device_that_is_asked(accelerator: str | None, visible: str | None, ordinal: int) -> None:
    given = {"WATCHDOGD_ACCELERATOR": accelerator, "CUDA_VISIBLE_DEVICES": visible}
    assert device({name: value for name, value in given.items() if value is not None}) == ordinal


def test_devices_are_counted_as_our_names_count_them_unless_the_worker_names_its_own() -> None:
    ours = {"WATCHDOGD_ACCELERATOR": "gpu1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    its_own = {"WATCHDOGD_ACCELERATOR": "gpu1", "CUDA_VISIBLE_DEVICES": "1"}
    device(ours)
    device(its_own)
    assert ours["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_DEVICE_ORDER" not in its_own
