"""What the checks of a worker say in its heartbeat: the longest run of bad outputs under way, and counts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import run_worker
from watchdogd import abi

pytestmark = pytest.mark.parametrize("implementation", ["native", "python"])

CHECKS = """
from watchdogd.worker.output import Canary, OutputCheck
import struct
GOOD, ZERO = struct.pack("4f", 1, 2, 3, 4), bytes(16)
a, b = OutputCheck(dtype="f", stale=False), OutputCheck(dtype="f", stale=False)
def give(check, *outputs):
    for output in outputs: check(output)
while True:
    exec(hear()); say()
"""
COUNTS = {"native": 0, "python": abi.OUTPUT_COUNTS}


@pytest.fixture
def heartbeat(tmp_path: Path) -> HeartbeatFile:
    return HeartbeatFile(tmp_path / "heartbeat")


def length(heartbeat: HeartbeatFile) -> int:
    return heartbeat.header("bad_outputs") >> abi.RUN_LENGTH_SHIFT & abi.MOST_IN_A_ROW


def counts(heartbeat: HeartbeatFile, implementation: str) -> dict[str, int]:
    words = heartbeat.words(abi.OUTPUT_COUNTS_OFFSET, 2 * abi.OUTPUT_COUNTS)
    return {kind: words[COUNTS[implementation] + code] for kind, code in abi.OUTPUT.items() if any(words)}


def test_a_run_says_since_when_how_long_and_of_what_kind(heartbeat: HeartbeatFile, implementation: str) -> None:
    with run_worker(CHECKS, implementation, heartbeat.path) as worker:
        worker.ask("give(a, GOOD)")
        assert heartbeat.header("bad_outputs") == 0
        before_ns = time.monotonic_ns()
        worker.ask("give(a, ZERO)")
        first = heartbeat.header("bad_outputs")
        assert before_ns & ~abi.ERROR_MASK <= first & ~abi.ERROR_MASK <= time.monotonic_ns()
        worker.ask("give(a, ZERO, struct.pack('f', float('nan')))")
        assert heartbeat.header("bad_outputs") == abi.run_of_bad(first, 3, "nan")
        worker.ask("give(a, GOOD)")
        assert heartbeat.header("bad_outputs") == 0
        worker.ask("give(a, b'')")  # says nothing
        expected = {**dict.fromkeys(abi.OUTPUTS, 0), "good": 2, "zero": 2, "nan": 1}
        assert counts(heartbeat, implementation) == expected


def test_a_run_is_counted_as_far_as_its_word_goes(heartbeat: HeartbeatFile, implementation: str) -> None:
    with run_worker(CHECKS, implementation, heartbeat.path) as worker:
        worker.ask("give(a, *[ZERO] * 300)")
        word = heartbeat.header("bad_outputs")
        assert (length(heartbeat), word & abi.CODE_MASK) == (255, abi.OUTPUT["zero"])
        worker.ask("give(a, ZERO)")
        assert heartbeat.header("bad_outputs") == word


def test_the_good_outputs_of_one_check_do_not_hide_the_bad_ones_of_another(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    with run_worker(CHECKS, implementation, heartbeat.path) as worker:
        worker.ask("give(a, ZERO, ZERO)")
        worker.ask("give(b, GOOD, ZERO, GOOD)")
        assert length(heartbeat) == 2
        worker.ask("give(b, ZERO, ZERO, ZERO)")
        assert length(heartbeat) == 3  # the longest
        worker.ask("give(a, ZERO)")
        assert length(heartbeat) == 3
        worker.ask("give(b, GOOD)")
        worker.ask("give(a, ZERO)")
        assert length(heartbeat) == 4  # it shows itself again
        worker.ask("give(a, GOOD)")
        assert length(heartbeat) == 0


def test_what_a_killed_process_left_is_overtaken_by_a_longer_run(heartbeat: HeartbeatFile, implementation: str) -> None:
    with run_worker(CHECKS, implementation, heartbeat.path) as worker:
        worker.ask("give(a, ZERO, ZERO)")
    with run_worker(CHECKS, implementation, heartbeat.path) as worker:
        worker.ask("give(a, ZERO, GOOD)")
        assert length(heartbeat) == 2
        worker.ask("give(a, ZERO, ZERO, ZERO)")
        assert length(heartbeat) == 3
        worker.ask("give(a, GOOD)")
        assert length(heartbeat) == 0


def test_a_canary_that_fails_is_a_bad_output_and_a_step_in_a_stage_of_its_own(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    source = """
seen = []
def infer(given):
    seen.append(True)
    if len(seen) == 2: say(); hear()
    return GOOD if len(seen) != 2 else ZERO
canary = Canary(infer, None, GOOD, dtype="f", every_seconds=3600)
assert canary.due() and canary.run() and not canary.due()
canary.run(); say(); hear()
canary.run(); say(); hear()
"""
    with run_worker(CHECKS.partition("while")[0] + source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert heartbeat.lane(heartbeat.process_lane(worker.pid), "step") != 0
        (lane,) = heartbeat.thread_lanes(worker.pid)
        assert heartbeat.stage_name(heartbeat.lane(lane, "stage") & abi.CODE_MASK) == "canary"
        worker.ask("")
        assert heartbeat.header("bad_outputs") & abi.CODE_MASK == abi.OUTPUT["canary"]
        worker.ask("")
        assert heartbeat.header("bad_outputs") == 0
        assert counts(heartbeat, implementation)["canary"] == 1
        assert heartbeat.total("steps_done") == 3
