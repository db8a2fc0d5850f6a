"""What forks gives way to a look that is due, and nothing else does: what has happened is known at once."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from watchdogd.act.acting import Actor, Happening, Order
from watchdogd.act.fleet import Fleet
from watchdogd.act.watched import Watched
from watchdogd.decide.leeway import FIRST_NS, PATIENCE_NS, Piece
from watchdogd.decide.liveness import Look
from watchdogd.decide.orders import Clear, Signal, Spawn, Trigger, WorkerState
from watchdogd.model import MILLISECOND, SECOND, Exit, Finding, Phase, SupervisorSettings, Verdict, WorkerSettings
from watchdogd.supervisor import judging
from watchdogd.supervisor.judging import Judging

NOW = 1000 * SECOND
SOON, FAR = MILLISECOND, 10 * SECOND
FORK_NS = FIRST_NS[Piece.FORK]


class Bench:
    """Judging with real workers, decisions and leeway; what is done is told, and a fork takes its time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = NOW
        self.done: list[tuple[str, str]] = []
        self.nobody: Any = types.SimpleNamespace()
        self.refused: set[str] = set()
        monkeypatch.setattr(judging, "time", self)
        self.watched = [Watched(WorkerSettings(name, ("program",), redundancy="g")) for name in ("a", "b", "c", "d")]
        self.happenings: deque[Happening] = deque()
        actor: Any = types.SimpleNamespace(
            perform=self._perform, begin_sweep=self._begin_sweep, count_incident=lambda *_: None
        )
        incidents: Any = types.SimpleNamespace(
            perform=lambda *_: None, opened=self._opened, collects=lambda _: False, settled=lambda _: None
        )
        nothing: Any = types.SimpleNamespace(until_ns=None, look=lambda _: None, advance=lambda _: False)
        self.fleet = Fleet(self.watched, SupervisorSettings())
        self.judging = Judging(
            SupervisorSettings(), self.watched, self.fleet, actor, nothing, None, nothing, incidents, self.happenings,
            lambda: None,
        )  # fmt: skip

    def monotonic_ns(self) -> int:
        return self.now_ns

    def strftime(self, *_: object) -> str:
        return "now"

    def gmtime(self) -> None: ...

    def _perform(self, watched: Watched, order: Order, _published_ns: int | None, now_ns: int) -> None:
        if isinstance(order, Clear):
            Actor.perform(self.nobody, watched, order, None, now_ns)
        if isinstance(order, Spawn | Signal):
            self.done.append((watched.settings.name, type(order).__name__))
        if isinstance(order, Spawn):
            self.now_ns += FORK_NS
            if watched.settings.name in self.refused:
                watched.exit = Exit(code=126)
                self.happenings.append(Happening(watched, Trigger.EXITED, Finding(Verdict.CRASHED, self.now_ns)))
            watched.examination.look = Look(self.now_ns + SECOND)

    def _begin_sweep(self, watched: Watched, _now_ns: int) -> None:
        self.done.append((watched.settings.name, "sweep"))
        watched.clearing.again_ns = None
        watched.clearing.sweeper = self.nobody
        self.now_ns += FORK_NS

    def _opened(self, openings: Sequence[Any]) -> None:
        self.done += [(watched.settings.name, "opened") for watched, _ in openings]

    def round(self) -> None:
        self.began_ns = self.now_ns
        self.judging.settle(self.began_ns)
        self.judging.end_round()

    def is_in(self, number: int, phase: Phase, deadline_ns: int | None = None) -> Watched:
        watched = self.watched[number]
        watched.state = WorkerState(watched.settings.name, phase, NOW, deadline_ns, incarnation=1, wanted=True)
        return watched

    def runs(self, number: int, due_ns: int | None) -> Watched:
        watched = self.is_in(number, Phase.RUNNING)
        watched.examination.look = Look(NOW + SECOND, due_ns=due_ns)
        return watched

    def ends(self, number: int) -> Watched:
        watched = self.is_in(number, Phase.RUNNING)
        watched.exit = Exit(signal=9)
        finding = Finding(Verdict.CRASHED, self.now_ns)
        self.happenings.append(Happening(watched, Trigger.EXITED, finding))
        return watched

    def wakes_ns(self) -> int:
        """As the tick has it: by the time at which its round began."""
        return max(min(self.judging.next_ns(self.began_ns)), self.now_ns)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_sweep_waits_for_a_look_that_is_due(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    bench.ends(1)
    bench.round()
    assert bench.done == [("b", "opened")] and bench.wakes_ns() == NOW + PATIENCE_NS
    bench.runs(0, None)
    bench.round()
    assert bench.done[1:] == [("b", "sweep")] and bench.wakes_ns() > NOW + PATIENCE_NS


def test_an_end_is_known_at_once_and_holds_the_kill_of_a_peer(bench: Bench) -> None:
    ended, peer = bench.ends(1), bench.runs(0, NOW + SOON)
    bench.round()
    assert ended.state.phase is Phase.KILLING and not ended.clearing.sweeper
    finding = Finding(Verdict.CALL, NOW, operation="sync", entered_ns=NOW - SECOND, deadline_ns=NOW)
    bench.fleet.found(peer, finding)
    bench.judging._reconsider(peer, NOW)
    bench.round()
    assert peer.held is not None and "redundancy" in peer.held and ("a", "Signal") not in bench.done


def test_where_no_deadline_is_near_it_does_not_wait(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    bench.ends(1)
    bench.round()
    assert bench.done == [("b", "opened"), ("b", "sweep")]


def test_it_waits_for_no_longer_than_its_patience(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    bench.ends(1)
    bench.round()
    bench.now_ns = bench.wakes_ns()
    bench.runs(0, bench.now_ns + SOON)
    bench.round()
    assert bench.now_ns == NOW + PATIENCE_NS + FORK_NS and bench.done[1:] == [("b", "sweep")]


def test_between_two_forks_is_a_look_at_once(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    bench.ends(1)
    bench.is_in(2, Phase.BACKOFF, NOW)
    bench.ends(3)
    forks = []
    for _ in range(4):
        bench.round()
        forks.append([what for what in bench.done if what[1] != "opened"])
        assert (bench.wakes_ns() == bench.now_ns) == (len(forks[-1]) < 3)
    assert [len(each) for each in forks] == [1, 2, 3, 3]
    assert forks[-1] == [("b", "sweep"), ("c", "Spawn"), ("d", "sweep")]


def test_where_nobody_could_be_late_for_it_all_are_done_at_once(bench: Bench) -> None:
    """As when all are stopped: none is to be called unkillable for waiting for its turn."""
    for number in range(4):
        bench.ends(number)
    bench.round()
    assert [what for what in bench.done if what[1] == "sweep"] == [(name, "sweep") for name in "abcd"]


def test_a_second_one_that_gives_way_wakes_nobody_sooner(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    bench.ends(1)
    bench.ends(2)
    bench.round()
    bench.runs(0, bench.now_ns + SOON)
    bench.round()
    assert bench.wakes_ns() == bench.now_ns + PATIENCE_NS
    assert [what for what in bench.done if what[1] == "sweep"] == [("b", "sweep")]


def test_a_kill_does_not_wait_with_it_nor_for_it(bench: Bench) -> None:
    bench.ends(1)
    hung = bench.runs(0, NOW + SOON)
    finding = Finding(Verdict.CALL, NOW, operation="sync", entered_ns=NOW - SECOND, deadline_ns=NOW)
    bench.happenings.append(Happening(hung, Trigger.VERDICT, finding))
    bench.round()
    assert bench.done[:3] == [("b", "opened"), ("a", "opened"), ("a", "Signal")]


def test_its_own_deadline_keeps_nobody_who_has_ended_from_being_swept(bench: Bench) -> None:
    hung = bench.is_in(0, Phase.COLLECTING, NOW + SOON)
    hung.exit = Exit(signal=9)
    bench.happenings.append(Happening(hung, Trigger.EXITED))
    bench.round()
    assert bench.done == [("a", "sweep")]


def test_a_start_whose_time_has_come_waits_for_a_look_too_and_wakes_nobody(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    waiting = bench.is_in(1, Phase.BACKOFF, NOW)
    for _ in range(3):
        bench.judging._observe(waiting, 0, NOW)
        bench.round()
    assert bench.done == [] and bench.wakes_ns() == NOW + PATIENCE_NS
    bench.runs(0, NOW + FAR)
    bench.round()
    assert bench.done == [("b", "Spawn")] and waiting.state.incarnation == 2


def is_cleared(bench: Bench, number: int) -> Watched:
    """All of its last incarnation is gone."""
    watched = bench.is_in(number, Phase.KILLING, NOW + SECOND)
    watched.state = replace(watched.state, reason=Verdict.CALL.value)
    bench.happenings.append(Happening(watched, Trigger.CLEARED))
    return watched


def test_a_start_without_delay_follows_at_once_where_there_is_time(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    cleared = is_cleared(bench, 1)
    bench.round()
    assert bench.done == [("b", "Spawn")] and cleared.state.phase is Phase.STARTING


def test_and_else_it_waits_for_a_look_as_well(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    cleared = is_cleared(bench, 1)
    bench.round()
    assert bench.done == [] and cleared.state.phase is Phase.BACKOFF and bench.wakes_ns() == NOW + PATIENCE_NS
    bench.runs(0, None)
    bench.round()
    assert bench.done == [("b", "Spawn")] and len(cleared.state.restarts) == 1


def test_what_is_cleared_and_not_started_takes_nobody_s_turn(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    stopped = is_cleared(bench, 1)
    stopped.state = replace(stopped.state, wanted=False)
    bench.ends(2)
    bench.round()
    assert stopped.state.phase is Phase.STOPPED and bench.done == [("c", "opened"), ("c", "sweep")]


def test_of_several_starts_without_delay_there_is_one_in_a_round(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    for number in (1, 2, 3):
        is_cleared(bench, number)
    for number in (1, 2, 3):
        bench.round()
        assert len(bench.done) == number and (bench.wakes_ns() == bench.now_ns) == (number < 3)


def test_a_start_that_is_refused_is_swept_without_waiting_for_anything_else(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    bench.refused = {"b"}
    bench.is_in(1, Phase.BACKOFF, NOW)
    bench.round()
    assert bench.wakes_ns() == bench.now_ns
    bench.round()
    assert bench.done == [("b", "Spawn"), ("b", "opened"), ("b", "sweep")]


def test_a_sweep_that_had_ended_with_the_worker_s_own_end_asks_for_no_other_one(bench: Bench) -> None:
    """It was told of after the end, in one wake-up; the sweep would be the next incarnation's."""
    ended = bench.is_in(1, Phase.UNKILLABLE)
    bench.happenings.append(Happening(ended, Trigger.EXITED))
    ended.forget_incarnation()  # as the sweep's result does
    bench.happenings.append(Happening(ended, Trigger.CLEARED))
    for _ in range(2):
        bench.round()
    assert bench.done == [("b", "Spawn")] and ended.clearing.again_ns is None


def test_an_operator_who_stops_a_start_that_waits_has_stopped_it(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    waiting = bench.is_in(1, Phase.BACKOFF, NOW)
    bench.round()
    bench.happenings.append(Happening(waiting, Trigger.STOP))
    bench.runs(0, None)
    bench.round()
    assert bench.done == [] and waiting.state.phase is Phase.STOPPED
