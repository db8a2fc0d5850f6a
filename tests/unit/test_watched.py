"""What one worker's shell believes of its heartbeat between two looks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.pulses import SPAWNED, ms
from tests.histories.cast import Cast, Player, Story, started
from watchdogd import abi
from watchdogd.model import Finding, Verdict, WorkerSettings


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    cast = Cast(Story("", (WorkerSettings("h", ("h",)),), ()), tmp_path)
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


def test_an_impossible_word_is_published_once(player: Player) -> None:
    player.store(abi.HOT_OFFSET, abi.stamp(SPAWNED - 10**6, abi.OPERATION["sync"]))
    player.read()
    player.examine(ms(30))
    assert player.heartbeat_error is not None
    player.fragment()
    player.read()
    player.examine(ms(31))
    assert not player.is_changed
