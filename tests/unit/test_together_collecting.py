"""A worker of which evidence is taken may go on: what others or a new configuration ask of it is asked then."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from watchdogd.act.acting import Happening
from watchdogd.act.together import Together
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import Trigger
from watchdogd.model import Phase, WorkerSettings


def made(follows: tuple[str, int] | None = None) -> tuple[Watched, Together, deque[Happening]]:
    watched = Watched(WorkerSettings("a", ("a",)))
    watched.state = replace(watched.state, phase=Phase.COLLECTING, incarnation=1, spawned_ns=5, follows=follows)
    happenings: deque[Happening] = deque()
    return watched, Together([watched], happenings), happenings


@pytest.mark.parametrize("asked", [Trigger.RESTART, Trigger.RESTART_WITH])
def test_it_is_restarted_once_its_call_has_returned(asked: Trigger) -> None:
    watched, together, happenings = made(("b", 9) if asked is Trigger.RESTART_WITH else None)
    if asked is Trigger.RESTART:
        together.change([watched])
    together.advance(10)
    assert not happenings
    watched.state = replace(watched.state, phase=Phase.RUNNING)
    together.advance(11)
    assert [happening.trigger for happening in happenings] == [asked]


@pytest.mark.parametrize("asked", [Trigger.RESTART, Trigger.RESTART_WITH])
def test_it_is_not_once_it_was_killed_and_started_anew(asked: Trigger) -> None:
    watched, together, happenings = made(("b", 9) if asked is Trigger.RESTART_WITH else None)
    if asked is Trigger.RESTART:
        together.change([watched])
    together.advance(10)
    watched.state = replace(watched.state, phase=Phase.RUNNING, incarnation=2, spawned_ns=20)
    together.advance(21)
    assert not happenings
