"""Whose kill must wait: for a likelier culprit, or for the cap; bounded, and never for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.pulses import deadlines, ms
from tests.histories.cast import Cast, Past, Player, Story, calls, started
from watchdogd.act.fleet import CULPRIT_MARGIN_NS, Fleet
from watchdogd.act.process import hold
from watchdogd.model import MILLISECOND, SECOND, Finding, IncidentId, Phase, SupervisorSettings, Verdict, WorkerSettings

SETTINGS = SupervisorSettings(max_kills=2, max_kills_window_ns=10 * SECOND, hold_max_ns=SECOND)


def worker(name: str, accelerator: str, sync: float | None, **fields: object) -> WorkerSettings:
    lengths = deadlines() if sync is None else deadlines(sync=sync)
    settings = WorkerSettings(name, (name,), accelerator=accelerator, coupled_with=("gpu0",), deadlines=lengths)
    return settings._replace(**fields)  # type: ignore[arg-type]  # any of its fields


class Stage:
    """A GPU worker with 50 ms, its call entered at 1000; a DLA worker with 200 ms whose call froze before it."""

    def __init__(self, directory: Path, dla: WorkerSettings | None = None) -> None:
        workers = (dla or worker("dla", "dla0", 200), worker("gpu", "gpu0", 50), worker("far", "gpu7", 50))
        rows = tuple(started("dla", "gpu"))
        self.cast = Cast(Story("", workers, rows, SETTINGS), directory)
        self.players = self.cast.players
        self.fleet = Fleet(list(self.players.values()), SETTINGS)
        for now, name, event, *_ in rows:
            self.cast.play(now, name, event)
        for name, usual, entered in (("dla", 9, 1002), ("gpu", 33, 1000)):
            self.cast.play(20, name, Past("sync", usual))
            self.cast.play(entered, name, calls("sync", entered))

    def finding(self, at_ms: float, verdict: Verdict = Verdict.CALL) -> Finding:
        return Finding(verdict, ms(at_ms), "sync", ms(1000), ms(1050))

    def hold(self, name: str, now_ms: float, finding: Finding | None = None) -> str | None:
        for player in self.players.values():
            player.read()
        return self.fleet.hold(self.players[name], finding or self.finding(1050), ms(now_ms))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.cast.close()


def put(player: Player, **fields: object) -> None:
    player.state = replace(player.state, **fields)  # type: ignore[arg-type]  # any of its fields


def test_a_kill_waits_for_the_one_that_probably_froze_first(stage: Stage) -> None:
    reason = stage.hold("gpu", 1050)
    assert reason is not None and reason.startswith("dla probably froze first (confidence 0.")


def test_the_suspect_itself_does_not_wait(stage: Stage) -> None:
    assert stage.hold("dla", 1202) is None


def test_a_kill_does_not_wait_for_a_suspect_that_nothing_was_done_about_in_time(stage: Stage) -> None:
    due_ms = 1202 + CULPRIT_MARGIN_NS / MILLISECOND
    assert stage.hold("gpu", due_ms - 1) is not None
    assert stage.hold("gpu", due_ms + 1) is None


def test_a_kill_waits_on_while_its_suspect_is_given_time_because_it_starved(stage: Stage) -> None:
    margin_ms = CULPRIT_MARGIN_NS / MILLISECOND
    stage.players["dla"].examination.waiting_ns = ms(1400)
    assert stage.hold("gpu", 1400 + margin_ms - 1) is not None
    assert stage.hold("gpu", 1400 + margin_ms + 1) is None


def test_a_kill_does_not_wait_for_a_suspect_without_a_deadline(tmp_path: Path) -> None:
    made = Stage(tmp_path, worker("dla", "dla0", None))
    assert made.hold("gpu", 1050) is None
    made.cast.close()


def test_a_kill_does_not_wait_for_one_that_is_only_observed(tmp_path: Path) -> None:
    made = Stage(tmp_path, worker("dla", "dla0", 200, observe_only=True))
    assert made.hold("gpu", 1050) is None
    made.cast.close()


def test_a_kill_does_not_wait_for_one_that_is_not_coupled(tmp_path: Path) -> None:
    made = Stage(tmp_path, worker("dla", "dla0", 200, coupled_with=()))
    made.players["gpu"].settings = made.players["gpu"].settings._replace(coupled_with=())
    assert made.hold("gpu", 1050) is None
    made.cast.close()


def test_no_kill_waits_longer_than_the_longest_hold(stage: Stage) -> None:
    patient = stage.finding(1050)
    put(stage.players["dla"], phase=Phase.KILLING, reason="call", incident=IncidentId("i"))
    assert stage.hold("gpu", 2049, patient) == "dla is being killed"
    assert stage.hold("gpu", 2050, patient) is None


def test_one_of_which_evidence_is_taken_is_being_killed(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.COLLECTING, reason="call", incident=IncidentId("i"))
    assert stage.hold("gpu", 1050) == "dla is being killed"


def test_a_kill_does_not_wait_for_one_that_an_operator_ends(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.KILLING, reason="operator", incident=IncidentId("i"))
    assert stage.hold("gpu", 1050) is None


def test_a_kill_does_not_wait_for_one_that_cannot_be_killed(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.UNKILLABLE, reason="call", incident=IncidentId("i"))
    assert stage.hold("gpu", 1050) is None


def test_with_the_culprit_gone_the_time_out_begins_again(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.STARTING)
    stage.players["dla"].gone_ns = ms(1300)
    assert stage.hold("gpu", 1349) == "dla has just been killed"
    assert stage.hold("gpu", 1351) is None


def test_a_pause_before_is_no_part_of_the_time_out_that_begins_again(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.STARTING)
    put(stage.players["gpu"], armed_ns=ms(1250))  # paused and resumed: its 50 ms ended at 1300
    stage.players["dla"].gone_ns = ms(1300)
    resumed = replace(stage.finding(1300), deadline_ns=ms(1300))
    assert stage.hold("gpu", 1349, resumed) == "dla has just been killed"
    assert stage.hold("gpu", 1351, resumed) is None


def test_a_call_entered_after_the_culprit_was_gone_does_not_profit(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.STARTING)
    stage.players["dla"].gone_ns = ms(999)
    assert stage.hold("gpu", 1048) is None


@pytest.mark.parametrize("verdict", [Verdict.STICKY_ERROR, Verdict.STARTUP])
def test_only_a_hang_can_be_another_ones_doing(stage: Stage, verdict: Verdict) -> None:
    assert stage.hold("gpu", 1050, stage.finding(1050, verdict)) is None


def test_the_cap_holds_every_kill_until_one_has_left_the_window(stage: Stage) -> None:
    finding = stage.finding(1202, Verdict.STICKY_ERROR)
    stage.fleet.condemned(stage.players["far"], ms(100))
    assert stage.hold("dla", 1202, finding) is None
    stage.fleet.condemned(stage.players["far"], ms(200))
    reason = stage.hold("dla", 1202, finding)
    assert reason is not None and reason.startswith("2 kills in 10 s")
    assert stage.hold("dla", 10_099, finding) is not None
    assert stage.hold("dla", 10_101, finding) is None


def test_an_end_in_order_is_no_kill_that_others_wait_for(stage: Stage) -> None:
    for at_ms in (100, 200, 300):
        stage.fleet.condemned(stage.players["far"], ms(at_ms), in_order=True)
    assert stage.fleet.kills == ()


def test_a_kill_that_was_not_needed_does_not_count(stage: Stage) -> None:
    finding = stage.finding(1202, Verdict.STICKY_ERROR)
    stage.fleet.condemned(stage.players["far"], ms(100))
    stage.fleet.condemned(stage.players["far"], ms(200))
    stage.fleet.spared()
    assert stage.hold("dla", 1202, finding) is None


def test_a_new_finding_is_kept_until_it_is_taken(stage: Stage) -> None:
    gpu, finding = stage.players["gpu"], stage.finding(1050)
    assert stage.fleet.standing() == []
    stage.fleet.found(gpu, finding)
    assert stage.fleet.standing() == [gpu]
    assert stage.fleet.take(gpu) is finding
    assert (stage.fleet.take(gpu), stage.fleet.standing()) == (None, [])


def test_a_worker_whose_kill_is_held_stays_in_view(stage: Stage) -> None:
    stage.players["gpu"].held = "for a reason"
    assert stage.fleet.standing() == [stage.players["gpu"]]


def test_the_record_names_the_suspect_first_and_how_sure_it_is(stage: Stage) -> None:
    suspects = stage.fleet.suspects(stage.players["gpu"], ms(1050))
    assert [suspect["worker"] for suspect in suspects] == ["dla", "gpu"]
    assert 0.5 < suspects[0]["confidence"] < 1
    assert "confidence" not in suspects[1]


@pytest.mark.parametrize("phase", [Phase.COLLECTING, Phase.KILLING, Phase.UNKILLABLE])
def test_one_that_is_being_killed_is_a_suspect_until_it_is_gone(stage: Stage, phase: Phase) -> None:
    put(stage.players["dla"], phase=phase)
    suspects = stage.fleet.suspects(stage.players["gpu"], ms(1050))
    assert [suspect["worker"] for suspect in suspects] == ["dla", "gpu"]


def test_one_that_is_gone_is_no_suspect(stage: Stage) -> None:
    put(stage.players["dla"], phase=Phase.BACKOFF)
    suspects = stage.fleet.suspects(stage.players["gpu"], ms(1050))
    assert [suspect["worker"] for suspect in suspects] == ["gpu"]


# --- redundancy groups ----------------------------------------------------------------------------------------------


@pytest.fixture
def pair(stage: Stage) -> Stage:
    """``far``, hung, and ``dla`` are of one group; nothing couples them."""
    for name in ("far", "dla"):
        player = stage.players[name]
        player.settings = player.settings._replace(redundancy="front", coupled_with=())
    put(stage.players["far"], phase=Phase.RUNNING)
    return stage


def test_the_kill_of_what_is_left_of_a_group_waits_for_its_peer(pair: Stage) -> None:
    put(pair.players["dla"], phase=Phase.STARTING, wanted=True)
    assert pair.hold("far", 1050) == "dla of its redundancy group is not back yet"
    put(pair.players["dla"], phase=Phase.RUNNING)
    assert pair.hold("far", 1051) is None


def test_it_does_not_wait_longer_than_the_longest_hold(pair: Stage) -> None:
    put(pair.players["dla"], phase=Phase.STARTING, wanted=True)
    finding = pair.finding(1050)
    assert pair.hold("far", 2049, finding) is not None
    assert pair.hold("far", 2050, finding) is None


def test_two_of_a_group_are_not_killed_in_one_tick(pair: Stage) -> None:
    pair.fleet.condemned(pair.players["dla"], ms(1050))
    assert pair.hold("far", 1050) == "dla of its redundancy group is not back yet"
    assert pair.hold("far", 1051) is None  # it was spared


@pytest.mark.parametrize("verdict", [Verdict.STICKY_ERROR, Verdict.STARTUP])
def test_what_cannot_serve_any_more_is_not_kept_for_its_peer(pair: Stage, verdict: Verdict) -> None:
    put(pair.players["dla"], phase=Phase.STARTING, wanted=True)
    assert pair.hold("far", 1050, pair.finding(1050, verdict)) is None


def test_bad_outputs_are_kept_for_its_peer_and_not_for_a_culprit(stage: Stage, pair: Stage) -> None:
    finding = stage.finding(1050, Verdict.SILENT_OUTPUT)
    assert stage.hold("gpu", 1050, finding) is None  # whose hang would wait for the one of the DLA
    put(pair.players["dla"], phase=Phase.STARTING, wanted=True)
    assert pair.hold("far", 2049, finding) == "dla of its redundancy group is not back yet"
    assert pair.hold("far", 2050, finding) is None


def test_a_peer_that_will_not_come_back_delays_no_kill(pair: Stage) -> None:
    put(pair.players["dla"], phase=Phase.QUARANTINED, wanted=True)
    assert pair.hold("far", 1050) is None


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.QUARANTINED, Phase.STARTING])
def test_what_works_is_not_ended_for_a_leak_while_its_peer_does_not_serve(pair: Stage, phase: Phase) -> None:
    far, dla = pair.players["far"], pair.players["dla"]
    assert pair.fleet.spares(far, ms(1050)) == ""
    put(dla, phase=phase)
    assert pair.fleet.spares(far, ms(1050)) == "it leaks, and is replaced once dla of its redundancy group serves"
    put(dla, phase=Phase.RUNNING)
    pair.fleet.found(dla, pair.finding(1050, Verdict.LEAK))
    assert pair.fleet.spares(far, ms(1050))  # nor two of them at once


def test_a_leak_waits_while_so_many_were_killed_and_then_for_nothing(stage: Stage) -> None:
    for at in (100, 200):
        stage.fleet.condemned(stage.players["far"], ms(at))
    assert stage.fleet.spares(stage.players["gpu"], ms(1202)) == "it leaks, and is replaced once max_kills has room"
    assert stage.fleet.spares(stage.players["gpu"], ms(10_101)) == ""
    assert stage.hold("gpu", 1202, stage.finding(1202, Verdict.LEAK)) is None  # else it would hide a hang


# --- nobody there ---------------------------------------------------------------------------------------------------


def test_an_accelerator_is_vacant_when_all_who_could_keep_it_busy_are_gone(stage: Stage) -> None:
    gpu, dla, far = (stage.players[name] for name in ("gpu", "dla", "far"))
    there = hold(os.getpid())
    try:
        gpu.process = dla.process = far.process = there
        assert not stage.fleet.vacant("gpu0")
        gpu.process = far.process = None
        assert not stage.fleet.vacant("gpu0")  # the DLA's worker is coupled with it
        dla.process = None
        assert stage.fleet.vacant("gpu0")
        assert not stage.fleet.vacant("gpu7")  # it has never had a worker
    finally:
        gpu.process = dla.process = far.process = None
        there.close()
