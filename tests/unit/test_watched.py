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
from tests.histories.cast import Cast, Player, Story, started
from watchdogd import abi
from watchdogd.model import MILLISECOND, SECOND, Finding, Phase, RestartSettings, Verdict, WorkerSettings


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
