"""What ``watchdogd doctor`` says: who is in need of what, in 80 columns and as JSON."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.machine import settings, worker
from watchdogd.doctor import report
from watchdogd.doctor.runner import Result
from watchdogd.doctor.table import CHECKS, TOTAL_SECONDS
from watchdogd.doctor.words import Check, Machine, Outcome, State, missing, ok
from watchdogd.model import Settings, SourceSettings, SupervisorSettings

ABOUT = {"model": "NVIDIA Jetson AGX Orin", "kernel": "Linux 5.15.148-tegra", "architecture": "aarch64"}
LONG = "a text that goes on and on, with commas, until it is far too long for any terminal of eighty columns " * 3
BY_NAME = {check.name: check for check in CHECKS}
NVML = SourceSettings("nvml", ("python3", "-m", "watchdogd.observe.sources.nvml"))


def result(outcome: Outcome, *needed_by: str, name: str = "dla") -> Result:
    return Result(BY_NAME[name], outcome, needed_by, 0.0123)


def outcome(state: State) -> Outcome:
    return Outcome(state, "found this", "", "") if state is State.OK else Outcome(state, "found this", "lost", "do")


def needed(name: str, of: Settings) -> list[str]:
    return list(BY_NAME[name].needed(of))


@pytest.mark.parametrize("state", [State.MISSING, State.UNKNOWN])
def test_what_is_needed_and_not_known_to_be_there_prevents_a_start(state: State) -> None:
    assert not report.can_run([result(ok("x")), result(outcome(state), "model_h")])


@pytest.mark.parametrize("state", list(State))
def test_what_nobody_needs_prevents_nothing(state: State) -> None:
    assert report.can_run([result(outcome(state))])


@pytest.mark.parametrize("state", [State.OK, State.DEGRADED])
def test_what_is_needed_and_there_in_part_prevents_nothing(state: State) -> None:
    assert report.can_run([result(outcome(state), "model_h")])


def lines(*results: Result, of: Settings | None = None, width: int = 80, colour: bool = False) -> list[str]:
    return list(report.table(Machine({}, of), ABOUT, results, width, colour))


def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost() -> None:
    told = lines(result(missing(LONG, lost=LONG, remedy=LONG), "model_h"), of=settings(worker("model_h")))
    assert max(map(len, told)) <= 80
    assert " ".join(" ".join(told).split()).count(" ".join(LONG.split())) >= 2  # each of them in one piece


def test_the_last_line_says_what_a_configuration_lacks() -> None:
    lacking = result(missing("no /dev/x", lost="l", remedy="r"), "a", "b", "c", "d", "e")
    told = lines(lacking, of=settings(worker("a")))
    assert told[-1] == "vehicle.toml cannot run here, for want of: DLA. Also nothing is missing."
    assert any("(needed by a, b, c and 2 more)" in line for line in told)


def test_the_last_line_says_that_a_configuration_can_run() -> None:
    there, lacking = result(ok("x"), "a"), result(missing("y", lost="l", remedy="r"), name="bus")
    assert lines(there, of=settings(worker("a")))[-1] == "vehicle.toml can run here; nothing is missing."
    told = " ".join(lines(there, lacking, of=settings(worker("a")))[-2:])
    assert told.endswith("vehicle.toml can run here. Also not all there, though not needed: D-Bus.")


def test_without_a_configuration_nothing_is_needed() -> None:
    assert (
        lines(result(ok("x")))[-1] == "No configuration was given (-c FILE), so nothing is needed. Nothing is missing."
    )


def test_what_the_machine_calls_itself_cannot_reach_the_terminal() -> None:
    evil = missing("\x1b[2Jdevice", lost="\x9b31m", remedy="\r\nx")
    assert all(line.isprintable() for line in lines(result(evil)))


def test_colour_is_for_what_matters_and_only_where_it_is_wanted() -> None:
    bad = result(missing("x", lost="l", remedy="r"), "a")
    assert any("\033[1;31mmissing" in line for line in lines(bad, of=settings(), colour=True))
    assert not any("\033" in line for line in lines(bad, of=settings()))


def test_json_has_every_check_with_every_key() -> None:
    results = [result(ok("x")), result(missing("y", lost="l", remedy="r"), "model_h", name="bus")]
    told = report.to_json(Machine({}, settings()), ABOUT, results, 0.25)
    assert {key: told[key] for key in ("schema", "machine", "config", "can_run", "seconds")} == {
        "schema": 1, "machine": ABOUT, "config": ["vehicle.toml"], "can_run": False, "seconds": 0.25,
    }  # fmt: skip
    expected: list[dict[str, Any]] = [
        {"name": "dla", "group": "Accelerators", "title": "DLA", "state": "ok", "found": "x", "lost": None,
         "remedy": None, "needed_by": [], "seconds": 0.012},
        {"name": "bus", "group": "System", "title": "D-Bus", "state": "missing", "found": "y", "lost": "l",
         "remedy": "r", "needed_by": ["model_h"], "seconds": 0.012},
    ]  # fmt: skip
    assert told["checks"] == expected
    without = report.to_json(Machine({}), ABOUT, results, 0.25)
    assert (without["config"], without["can_run"]) == (None, None)


# --- who needs what -------------------------------------------------------------------------------------------------


def test_a_worker_on_an_accelerator_needs_the_driver_and_one_on_none_does_not() -> None:
    both = settings(worker("a", accelerator="gpu0"), worker("h", accelerator="dla1"), worker("c"))
    assert needed("cuda_driver", both) == ["a", "h"]
    assert needed("dla", both) == ["h"]


def test_a_source_that_is_on_is_needed_unless_its_reader_is_somebody_s_own() -> None:
    own = SourceSettings("nvml", ("my-reader",))
    assert needed("nvml", settings(sources=(NVML,))) == ["[nvml]"]
    assert needed("nvml", settings(sources=(own,))) == []
    assert needed("tegrastats", settings(sources=(NVML,))) == []


def test_real_time_is_needed_by_a_worker_that_asks_for_it_and_only_wished_for_by_the_supervisor() -> None:
    assert needed("realtime", settings(worker("a", scheduling="fifo:10"), worker("b", scheduling="idle"))) == ["a"]
    assert needed("realtime", settings(worker("a"))) == []


def test_the_journal_is_needed_by_who_names_it() -> None:
    named = settings(worker("a", output="journal"), supervisor=SupervisorSettings(log_format="journal"))
    assert needed("journal", named) == ["log_format", "a"]
    assert needed("journal", settings(worker("a"))) == []


def test_every_check_has_a_name_of_its_own_and_ends_in_time() -> None:
    assert len(BY_NAME) == len(CHECKS)
    assert all(check.seconds < TOTAL_SECONDS < 3 for check in CHECKS)
    assert [check.group for check in CHECKS] == sorted((c.group for c in CHECKS), key=[c.group for c in CHECKS].index)


def test_a_check_that_does_not_answer_still_says_what_to_do() -> None:
    assert all(all(check.silence) for check in (*CHECKS, Check("x", "g", "t", lambda _machine: ok("x"))))
