"""What takes long gives way to a look that is due: which of what has happened is dealt with, and when."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from watchdogd.act.acting import Happening, Order
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
    """Judging with real workers, decisions and leeway; what is ordered is told, and takes as long as a fork does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = NOW
        self.ordered: list[tuple[str, type]] = []  # and "published" between those that were dealt with one by one
        monkeypatch.setattr(judging, "time", self)
        self.watched = [Watched(WorkerSettings(name, ("program",))) for name in ("a", "b", "c")]
        self.happenings: deque[Happening] = deque()
        actor: Any = types.SimpleNamespace(perform=self._perform, count_incident=lambda *_: None)
        incidents: Any = types.SimpleNamespace(
            perform=lambda *_: None, opened=self._opened, collects=lambda _: False, settled=lambda _: None
        )
        nothing: Any = types.SimpleNamespace(until_ns=None)
        fleet = Fleet(self.watched, SupervisorSettings())
        self.judging = Judging(
            SupervisorSettings(), self.watched, fleet, actor, nothing, None, nothing, incidents, self.happenings,
            lambda: None,
        )  # fmt: skip

    def monotonic_ns(self) -> int:
        return self.now_ns

    def strftime(self, *_: object) -> str:
        return "now"

    def gmtime(self) -> None: ...

    def _perform(self, watched: Watched, order: Order, *_: object) -> None:
        if isinstance(order, Clear | Spawn | Signal):
            self.ordered.append((watched.settings.name, type(order)))
            self.now_ns += FORK_NS if isinstance(order, Clear | Spawn) else 0

    def _opened(self, _openings: Sequence[object]) -> None:
        self.ordered.append(("published", Sequence))

    def is_in(self, number: int, phase: Phase, deadline_ns: int | None = None) -> Watched:
        watched = self.watched[number]
        watched.state = WorkerState(watched.settings.name, phase, NOW, deadline_ns, incarnation=1, wanted=True)
        return watched

    def runs(self, number: int, due_ns: int | None) -> None:
        watched = self.is_in(number, Phase.RUNNING)
        watched.examination.look = Look(NOW + SECOND, due_ns=due_ns)

    def ends(self, number: int) -> None:
        watched = self.is_in(number, Phase.KILLING, NOW + SECOND)
        watched.exit = Exit(signal=9)
        self.happenings.append(Happening(watched, Trigger.EXITED))

    def names(self) -> list[str]:
        return [name for name, _ in self.ordered if name != "published"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_fork_waits_for_a_look_that_is_due(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    bench.ends(1)
    bench.judging.settle(NOW)
    assert not bench.names() and not bench.judging.is_settled
    bench.runs(0, None)
    bench.judging.settle(NOW)
    assert bench.ordered[1:] == [("b", Clear)] and bench.judging.is_settled


def test_where_no_deadline_is_near_it_does_not_wait(bench: Bench) -> None:
    bench.runs(0, NOW + FAR)
    bench.ends(1)
    bench.judging.settle(NOW)
    assert bench.names() == ["b"]


def test_it_waits_for_no_longer_than_its_patience_for_which_it_is_looked_at_again(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    bench.ends(1)
    bench.judging.settle(NOW)
    assert min(bench.judging.next_ns(NOW)) == NOW + PATIENCE_NS
    bench.now_ns += PATIENCE_NS
    bench.judging.settle(bench.now_ns)
    assert bench.names() == ["b"]


def test_several_are_done_one_by_one_and_stop_before_a_deadline(bench: Bench) -> None:
    bench.runs(0, NOW + 2 * FORK_NS)
    bench.ends(1)
    bench.ends(2)
    bench.judging.settle(NOW)
    assert bench.names() == ["b"] and not bench.judging.is_settled


def test_where_nothing_is_in_flight_all_are_done_at_once(bench: Bench) -> None:
    bench.ends(1)
    bench.ends(2)
    bench.judging.settle(NOW)
    assert bench.ordered == [("published", Sequence), ("b", Clear), ("c", Clear)]


def test_a_kill_does_not_wait_with_it_nor_for_it(bench: Bench) -> None:
    bench.ends(1)
    bench.runs(0, NOW + SOON)
    finding = Finding(Verdict.CALL, NOW, operation="sync", entered_ns=NOW - SECOND, deadline_ns=NOW)
    bench.happenings.append(Happening(bench.watched[0], Trigger.VERDICT, finding))
    bench.judging.settle(NOW)
    assert bench.ordered[:2] == [("published", Sequence), ("a", Signal)]


def test_what_happens_to_a_worker_keeps_its_order(bench: Bench) -> None:
    """A stop that was asked for after its end is not dealt with before it."""
    bench.runs(0, NOW + SOON)
    bench.ends(1)
    bench.happenings.append(Happening(bench.watched[1], Trigger.STOP))
    bench.judging.settle(NOW)
    assert bench.watched[1].state.wanted and not bench.names()
    bench.runs(0, None)
    bench.judging.settle(NOW)
    assert not bench.watched[1].state.wanted and bench.names() == ["b"] and bench.judging.is_settled


def test_a_start_that_waits_is_asked_for_once_and_wakes_nobody(bench: Bench) -> None:
    bench.runs(0, NOW + SOON)
    waiting = bench.is_in(1, Phase.BACKOFF, NOW)
    for _ in range(3):
        bench.judging._observe(waiting, 0, NOW)
        bench.judging.settle(NOW)
    assert min(bench.judging.next_ns(NOW)) > NOW
    bench.runs(0, NOW + FAR)
    bench.judging.settle(NOW)
    assert bench.ordered == [("published", Sequence), ("b", Spawn)]
