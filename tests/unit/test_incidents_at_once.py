"""What the supervisor keeps of incidents before it does anything about them, and what no kill waits for."""

from __future__ import annotations

import os
import types
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_runtime import FakeHeartbeat
from watchdogd.act.acting import PhaseChanged
from watchdogd.act.fleet import Fleet
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import CloseIncident, OpenIncident, Trigger
from watchdogd.incidents import spool
from watchdogd.model import SECOND, Finding, IncidentId, Phase, SupervisorSettings, Verdict, WorkerSettings
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.publish.journal import Journal
from watchdogd.publish.throttle import Throttle
from watchdogd.supervisor import incidents
from watchdogd.supervisor.incidents import Incidents


class Kept(types.SimpleNamespace):
    directory: Path
    watched: list[Watched]
    incidents: Incidents

    def open(self, victims: Sequence[Watched]) -> None:
        finding = Finding(Verdict.CALL, 10 * SECOND, operation="sync", entered_ns=9 * SECOND)
        self.incidents.opened([(each, OpenIncident(IncidentId(each.settings.name), finding)) for each in victims])

    def spools(self) -> dict[str, spool.Spool]:
        return {path.stem: spool.read(str(path)) for path in self.directory.iterdir()}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    watched = []
    for number in range(6):
        beat = FakeHeartbeat(tmp_path / f"w{number}", 3, 5 * SECOND)
        beat.header(lanes_used_cas=3)
        beat.enter(0, "sync", 9 * SECOND)
        each = Watched(WorkerSettings(f"w{number}", ("program",), accelerator="gpu0"))
        each.reader = HeartbeatReader(str(beat.path))
        each.pulse = each.reader.read()
        watched.append(each)
        beat.close()
    directory = tmp_path / "incidents"
    directory.mkdir()
    runtime: Any = types.SimpleNamespace(incidents=str(directory), state_directory=str(tmp_path))
    fleet = Fleet(watched, SupervisorSettings())
    made = Incidents(runtime, watched, fleet, Journal(1, 1, Throttle(1 << 20)), 7, deque(), keeps=True)
    yield Kept(directory=directory, watched=watched, incidents=made)
    for each in watched:
        assert each.reader is not None
        each.reader.close()


def test_of_a_few_at_once_all_is_kept_before_anything_is_done(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidents, "ENOUGH_NS", SECOND)
    monkeypatch.setattr(incidents, "CAPTURE_NS", SECOND)
    kept.open(kept.watched[:3])
    assert kept.spools().keys() == {"w0", "w1", "w2"}
    everybody = {each.settings.name for each in kept.watched}
    assert {worker["name"] for worker in kept.spools()["w2"].head["workers"]} == everybody


def test_of_many_at_once_the_first_is_kept_before_and_the_others_once_their_kills_are_done(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "ENOUGH_NS", 0)
    monkeypatch.setattr(incidents, "CAPTURE_NS", SECOND)
    kept.open(kept.watched)
    assert kept.spools().keys() == {"w0"}
    kept.incidents.settled(lambda: False)  # they do not wait for a look either
    spools = kept.spools()
    assert spools.keys() == {each.settings.name for each in kept.watched}
    assert {name for name in spools["w5"].blobs if "pulse" in name} == {"w5/pulse"}
    assert [worker["name"] for worker in spools["w5"].head["workers"]] == ["w5"]
    assert len(spools["w0"].head["workers"]) == 6


def test_the_hung_one_is_in_its_own_incident_however_many_others_there_are(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "CAPTURE_NS", 0)
    kept.open(kept.watched[4:5])
    (found,) = kept.spools().values()
    assert "w4/pulse" in found.blobs
    assert [worker["name"] for worker in found.head["workers"]] == ["w4"]
    assert sorted(found.head["capture"]["left_out"]) == ["w0", "w1", "w2", "w3", "w5"]


def change(watched: Watched, before: Phase, after: Phase, trigger: Trigger) -> PhaseChanged:
    return PhaseChanged(replace(watched.state, phase=before), replace(watched.state, phase=after), trigger)


def test_what_returns_while_evidence_is_taken_is_counted_and_what_returned_while_it_was_held_is_not(kept: Kept) -> None:
    late, held = kept.watched[:2]
    for _ in range(incidents.BURST):
        kept.incidents.perform(late, change(late, Phase.COLLECTING, Phase.RUNNING, Trigger.RETURNED))
        kept.incidents.perform(held, CloseIncident(IncidentId("i"), "returned"))
        kept.incidents.perform(held, change(held, Phase.COLLECTING, Phase.KILLING, Trigger.COLLECTED))
    told = [kept.incidents._hindrance(watched) or "" for watched in (late, held)]
    assert "keeper" in told[0] and "keeper" in told[1]
    kept.incidents.keeping.attach(os.open("/dev/null", os.O_WRONLY))
    kept.incidents.keeping.feed(b'{"tools":{}}\n')
    assert "too many of its calls returned" in (kept.incidents._hindrance(late) or "")
    assert kept.incidents._hindrance(held) is None
