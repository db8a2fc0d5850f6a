"""Two workers of one group: whose peer serves, and whose comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from watchdogd.decide.orders import WorkerState
from watchdogd.decide.redundancy import Member, absent, remedy, returning, serves
from watchdogd.model import Finding, Phase, Verdict, WorkerSettings

HANG = Finding(Verdict.CALL, 7)


def member(name: str, phase: Phase = Phase.RUNNING, group: str | None = "front", **fields: object) -> Member:
    state = WorkerState(name, phase, wanted=phase not in (Phase.STOPPED, Phase.QUARANTINED))
    return WorkerSettings(name, (name,), redundancy=group), replace(state, **fields)  # type: ignore[arg-type]  # any of its fields


A = member("a")


@pytest.mark.parametrize("phase", Phase)
def test_who_serves(phase: Phase) -> None:
    assert serves(member("b", phase)[1]) == (phase in (Phase.RUNNING, Phase.OBSERVED))


def test_who_has_a_verdict_does_not_serve() -> None:
    assert not serves(member("b", finding=HANG)[1])


@pytest.mark.parametrize("phase", Phase)
def test_a_peer_that_does_not_serve_is_absent(phase: Phase) -> None:
    other = member("b", phase)
    assert absent(A[0], [A, other], ()) == (None if serves(other[1]) else "b")


@pytest.mark.parametrize("phase", Phase)
def test_a_peer_that_will_serve_again_is_returning(phase: Phase) -> None:
    expected = phase in (Phase.STARTING, Phase.TERMINATING, Phase.COLLECTING, Phase.KILLING, Phase.BACKOFF)
    assert returning(A[0], [A, member("b", phase)], ()) == ("b" if expected else None)


def test_a_peer_that_is_being_stopped_is_absent_and_not_returning() -> None:
    other = member("b", Phase.TERMINATING, wanted=False)
    assert (absent(A[0], [A, other], ()), returning(A[0], [A, other], ())) == ("b", None)


def test_a_peer_whose_end_is_on_its_way_counts_already() -> None:
    other = member("b")
    assert (absent(A[0], [A, other], ["b"]), returning(A[0], [A, other], ["b"])) == ("b", "b")


@pytest.mark.parametrize("group", ["rear", None])
def test_who_is_of_another_group_is_no_peer(group: str | None) -> None:
    other = member("b", Phase.STARTING, group)
    assert (absent(A[0], [A, other], ["b"]), returning(A[0], [A, other], ["b"])) == (None, None)


def test_workers_of_no_group_are_no_peers_of_each_other() -> None:
    alone = member("a", group=None)
    assert absent(alone[0], [alone, member("b", Phase.STARTING, None)], ()) is None


def test_nobody_is_his_own_peer() -> None:
    starting = member("a", Phase.STARTING)
    assert (absent(starting[0], [starting], ["a"]), returning(starting[0], [starting], ["a"])) == (None, None)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.STOPPED, "watchdogd start b"),
        (Phase.PAUSED, "watchdogd resume b"),
        (Phase.UNKILLABLE, "restart the machine once that is safe"),
        (Phase.BACKOFF, "wait for b"),
        (Phase.RUNNING, "wait for b"),
    ],
)
def test_the_way_to_have_a_peer_serve_again(phase: Phase, expected: str) -> None:
    assert remedy(member("b", phase)[1]) == expected


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.QUARANTINED])
def test_a_peer_in_quarantine_is_reset(phase: Phase) -> None:
    assert remedy(member("b", phase, quarantined=True)[1]) == "watchdogd reset b"


def test_a_peer_whose_start_waits_needs_nobody() -> None:
    assert remedy(member("b", Phase.STOPPED, wanted=True)[1]) == "wait for b"
