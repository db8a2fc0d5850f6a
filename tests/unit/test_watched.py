"""What one worker's shell believes of its heartbeat between two looks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pulses import SPAWNED, deadlines, ms
from tests.histories.cast import Cast, Past, Player, Story, started
from watchdogd import abi
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import OpenIncident
from watchdogd.model import (
    MILLISECOND,
    SECOND,
    Finding,
    IncidentId,
    OutputSettings,
    Phase,
    RestartSettings,
    Verdict,
    WorkerSettings,
)


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    settings = WorkerSettings(
        "h", ("h",), deadlines=deadlines(startup=1000, sync=200), restart=RestartSettings(budget=3)
    )
    cast = Cast(Story("", (settings,), ()), tmp_path)
    for now_ms, name, event, *_ in started("h"):
        cast.play(now_ms, name, event)
    yield cast.players["h"]
    cast.close()


def sticky(code: int) -> Finding:
    return Finding(
        Verdict.STICKY_ERROR, ms(20), word=(ms(20) & ~abi.ERROR_MASK) | code, offset=abi.H["last_error"] * abi.WORD
    )


def test_a_sticky_error_that_every_call_stamps_anew_still_stands(player: Player) -> None:
    player.store(abi.H["last_error"] * abi.WORD, (ms(900) & ~abi.ERROR_MASK) | 719)
    assert player.still(sticky(719))


def test_another_error_is_another_fact(player: Player) -> None:
    player.store(abi.H["last_error"] * abi.WORD, (ms(900) & ~abi.ERROR_MASK) | 2)
    assert not player.still(sticky(719))


def test_a_heartbeat_cut_short_confirms_nothing(player: Player) -> None:
    state = Finding(Verdict.STARTUP, ms(20), word=SPAWNED, offset=abi.H["state"] * abi.WORD)
    player.store(abi.H["state"] * abi.WORD, abi.stamp(SPAWNED, abi.STATE["attached"]))
    assert player.still(state)
    assert player.reader is not None
    os.truncate(player.reader.path, 8)
    assert not player.still(state)
    assert not player.still(sticky(719))


def slow_call(player: Player) -> None:
    player.store(abi.HOT_OFFSET, abi.stamp(ms(1000), abi.OPERATION["sync"]))
    player.read()
    player.examine(ms(1150))
    assert player.examination.soft_exceeded == 1


def test_a_slow_call_that_a_resume_gave_its_time_again_has_not_returned(player: Player) -> None:
    slow_call(player)
    put(player, armed_ns=ms(1160))
    player.read()
    assert player.examine(ms(1170)) == []


@pytest.mark.parametrize(("stalled_ms", "is_verdict"), [(999, True), (1100, False)], ids=["before it", "within it"])
def test_only_a_standstill_that_ended_after_a_call_began_is_credited_to_it(
    player: Player, stalled_ms: float, is_verdict: bool
) -> None:
    player.examination.stalled(100 * MILLISECOND, 20 * MILLISECOND, ms(stalled_ms))
    slow_call(player)
    player.examine(ms(1200))
    assert (player.verdict(0, 20 * MILLISECOND, ms(1200)) is not None) == is_verdict


def test_a_slow_call_whose_word_is_gone_has_returned(player: Player) -> None:
    slow_call(player)
    player.store(abi.HOT_OFFSET, 0)
    player.read()
    assert [pending.operation for pending in player.examine(ms(1170))] == ["sync"]


def test_an_impossible_word_is_published_once(player: Player) -> None:
    player.store(abi.HOT_OFFSET, abi.stamp(SPAWNED - 10**6, abi.OPERATION["sync"]))
    player.read()
    player.examine(ms(30))
    assert player.heartbeat_error is not None
    player.fragment()
    player.read()
    player.examine(ms(31))
    assert not player.is_changed


def told(player: Player) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(player.fragment())
    return value


def put(player: Player, **fields: object) -> None:
    player.state = replace(player.state, **fields)  # type: ignore[arg-type]  # any of its fields
    player.changed()


# --- what quarantine looks like -------------------------------------------------------------------------------------


def test_in_quarantine_no_restart_is_left_though_the_window_has_passed(player: Player) -> None:
    put(player, phase=Phase.QUARANTINED, quarantined=True, restarts=(ms(10),))
    player.count_budget(ms(10) + 3600 * SECOND)
    assert told(player)["budget_left"] == 0


def test_after_a_reset_the_whole_budget_is_left(player: Player) -> None:
    put(player, phase=Phase.QUARANTINED, quarantined=True)
    player.count_budget(ms(10))
    put(player, phase=Phase.STARTING, quarantined=False)
    player.count_budget(ms(11))
    assert told(player)["budget_left"] == 3


def test_a_worker_stopped_in_quarantine_says_what_starts_it_again(player: Player) -> None:
    put(player, phase=Phase.STOPPED, quarantined=True)
    assert "watchdogd reset h" in told(player)["note"]
    put(player, quarantined=False)
    assert told(player)["note"] == ""


# --- a startup that cannot be seen ----------------------------------------------------------------------------------


def starting_unreadable(player: Player) -> None:
    put(player, phase=Phase.STARTING, ready_ns=None, armed_ns=None)
    assert player.reader is not None
    os.truncate(player.reader.path, 8)
    player.read()


def test_a_startup_deadline_that_cannot_be_judged_is_shown_and_condemns_nobody(player: Player) -> None:
    starting_unreadable(player)
    player.examine(ms(1000))
    assert "whether it is ready cannot be read" in told(player)["note"]
    assert player.verdict(0, 20 * MILLISECOND, ms(1000)) is None


def test_before_its_startup_deadline_there_is_nothing_to_show(player: Player) -> None:
    starting_unreadable(player)
    player.examine(ms(999))
    assert told(player)["note"] == ""


def test_a_worker_past_its_startup_deadline_with_a_heartbeat_is_a_verdict(player: Player) -> None:
    put(player, phase=Phase.STARTING, ready_ns=None, armed_ns=None)
    player.store(abi.H["state"] * abi.WORD, abi.stamp(SPAWNED, abi.STATE["attached"]))
    player.read()
    player.examine(ms(1000))
    found = player.verdict(0, 20 * MILLISECOND, ms(1000))
    assert found is not None and found.verdict is Verdict.STARTUP
    assert told(player)["note"] == ""


# --- bad outputs ----------------------------------------------------------------------------------------------------


def silent(player: Player, now_ms: float, length: int, watched: Watched | None = None) -> Finding | None:
    player.store(abi.H["bad_outputs"] * abi.WORD, abi.run_of_bad(ms(100), length, "zero"))
    by = watched or player
    by.read()
    by.examine(ms(now_ms))
    return by.verdict(0, 20 * MILLISECOND, ms(now_ms))


def test_a_run_that_was_left_during_a_pause_condemns_nobody_and_one_that_goes_on_does(player: Player) -> None:
    player.settings = player.settings._replace(outputs=OutputSettings(bad_in_a_row=5))
    put(player, phase=Phase.PAUSED)
    player.store(abi.H["bad_outputs"] * abi.WORD, abi.run_of_bad(ms(100), 7, "zero"))
    player.read()
    put(player, phase=Phase.RUNNING)
    assert silent(player, 310, 7) is None
    found = silent(player, 320, 8)
    assert found is not None and found.verdict is Verdict.SILENT_OUTPUT


def test_a_run_that_a_supervisor_finds_when_it_comes_condemns_nobody_before_it_grows(player: Player) -> None:
    successor = Watched(player.settings._replace(outputs=OutputSettings(bad_in_a_row=5)))
    successor.reader, successor.state = player.reader, player.state
    assert silent(player, 310, 7, successor) is None
    assert silent(player, 320, 8, successor) is not None


def test_of_facts_that_were_told_only_the_last_of_each_word_is_kept(player: Player) -> None:
    put(player, phase=Phase.OBSERVED)
    for number in range(20):
        finding = Finding(
            Verdict.SILENT_OUTPUT, ms(20), word=abi.run_of_bad(ms(number), 5, "zero"), offset=abi.H["bad_outputs"] * 8
        )
        player.opened(OpenIncident(IncidentId(str(number)), finding, would_kill=True), "")
    player.opened(OpenIncident(IncidentId("call"), sticky(719), would_kill=True), "")
    assert sorted(player.examination.reported.values()) == ["19", "call"]


@pytest.mark.parametrize(
    ("operation", "code", "is_first", "outside"),
    [
        ("step", abi.STEP_FIRST, True, False),
        ("step", abi.STEP_LATER, False, True),
        ("sync", abi.OPERATION["sync"], True, False),
        ("sync", abi.OPERATION["sync"], False, True),
    ],
    ids=["a first step", "a later one", "a call of a first step", "a call of a later one"],
)
def test_what_is_done_for_the_first_time_is_not_measured_by_what_was_done_before(
    tmp_path: Path, operation: str, code: int, is_first: bool, outside: bool
) -> None:
    limits = deadlines(startup=1000, first_step=5000, step=1000, sync=2000)
    cast = Cast(Story("", (WorkerSettings("h", ("h",), deadlines=limits),), tuple(started("h"))), tmp_path)
    for now_ms, name, event, *_ in started("h"):
        cast.play(now_ms, name, event)
    player = cast.players["h"]
    for done in ("step", "sync"):
        cast.play(20, "h", Past(done, 9))
    step = abi.STEP_FIRST if is_first else abi.STEP_LATER
    player.store(abi.HOT_OFFSET + abi.L["step"] * abi.WORD, abi.stamp(ms(1000), step))
    if operation == "sync":
        player.store(abi.HOT_OFFSET, abi.stamp(ms(1000), code))
    player.read()
    stuck = player.stuck(ms(1900))
    cast.close()
    assert stuck is not None
    assert (stuck.operation, stuck.outside) == (operation, outside)
