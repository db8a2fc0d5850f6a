"""The document of an incident, piece by piece: what each says is in it, and what is missing leaves the rest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import spools
from tests.helpers.fake_runtime import FakeHeartbeat
from tests.helpers.spools import AT_NS
from watchdogd.incident import Incident, KernelLine, Load, Outcome, Process, Stack, Thread
from watchdogd.incidents import assemble, codec
from watchdogd.incidents.collectors.interface import Evidence
from watchdogd.incidents.spool import BadSpool
from watchdogd.model import MILLISECOND, SECOND
from watchdogd.publish.events import EventKind


@pytest.fixture
def other(tmp_path: Path) -> Iterator[FakeHeartbeat]:
    beat = FakeHeartbeat(tmp_path / "other", 5, AT_NS - 100 * SECOND)
    yield beat
    beat.close()


def begun(**head: Any) -> Incident:
    return assemble.begin(spools.spool(spools.told("model_h"), **head))


def test_a_spool_becomes_a_document_that_says_all_that_it_says() -> None:
    incident = begun(kernel=[{"at_ns": 7, "about": "xid", "text": "NVRM: Xid 13"}], stalled_ns=5 * MILLISECOND)
    assert (incident.id, incident.worker, incident.incarnation) == (spools.ID, "model_h", 3)
    assert (incident.state, incident.opened, incident.boot_id) == (
        "collecting",
        spools.HEAD["opened"],
        spools.HEAD["boot_id"],
    )
    assert (incident.verdict.operation, incident.verdict.tid, incident.verdict.armed_ns) == ("sync", 4713, None)
    samples = ((AT_NS - SECOND, 0.25), (AT_NS - 500 * MILLISECOND, None))
    assert incident.loads == (Load("dla0", samples),)
    assert incident.kernel == (KernelLine(7, "xid", "NVRM: Xid 13"),)
    assert (incident.suspects[0].confidence, incident.stalled_ns) == (0.75, 5 * MILLISECOND)
    assert incident.environment == (("MODEL", "a"),)
    (capture,) = incident.captures
    assert (capture.when, capture.took_ns, capture.left_out) == ("verdict", 1_234_567, ("model_z",))
    assert [worker.name for worker in capture.workers] == ["model_h"]
    assert incident.times.opened_ns == AT_NS
    assert codec.from_json(json.loads(json.dumps(codec.to_json(incident)))) == incident


@pytest.mark.parametrize("spoilt", [{"id": None}, {"verdict": 3}, {"capture": None}, {"workers": [{}]}, {"loads": 1}])
def test_a_spool_that_is_not_one_is_refused_in_words(spoilt: dict[str, Any]) -> None:
    spool = spools.spool(spools.told("model_h"))
    with pytest.raises(BadSpool, match="incident"):
        assemble.begin(spool._replace(head={**spool.head, **spoilt}))


def test_a_further_capture_joins_in_the_order_of_time_and_once() -> None:
    incident = begun()
    ready = spools.spool(spools.told("model_h", incarnation=4), when="ready", at_ns=AT_NS + 9 * SECOND)
    gone = spools.spool(spools.told("model_h", pid=None), when="gone", at_ns=AT_NS + SECOND)
    for spool in (ready, gone, gone):
        incident = assemble.with_capture(incident, spool)
    assert [capture.when for capture in incident.captures] == ["verdict", "gone", "ready"]
    assert [capture.workers[0].incarnation for capture in incident.captures] == [3, 3, 4]
    with pytest.raises(BadSpool):
        assemble.with_capture(incident, ready._replace(head={}))


def test_loads_go_on_with_the_samples_of_a_further_capture_and_no_sample_is_there_twice() -> None:
    first = [[AT_NS - SECOND, 0.25], [AT_NS - 500 * MILLISECOND, None]]
    other = {"accelerator": "gpu0", "samples": [[AT_NS + SECOND, 0.9]]}
    more = {"accelerator": "dla0", "samples": [*first[1:], [AT_NS + SECOND, 0.0]]}
    incident = begun()
    for _ in range(2):
        ready = spools.spool(spools.told("model_h"), when="ready", at_ns=AT_NS + 2 * SECOND, loads=[other, more])
        incident = assemble.with_capture(incident, ready)
    assert incident.loads == (Load("dla0", (*map(tuple, first), (AT_NS + SECOND, 0.0))),)  # type: ignore[arg-type]  # of that length
    with pytest.raises(BadSpool):
        assemble.with_capture(incident, spools.spool(spools.told("model_h"), when="ready", loads=[{}]))


# --- collectors -----------------------------------------------------------------------------------------------------


def test_what_two_collectors_say_of_one_thread_is_one_thread() -> None:
    cheap = Evidence(threads=(Thread(11, 12, state="D", wchan="nvgpu_x"), Thread(11, 13)), processes=(Process(11, 1),))
    later = Evidence(
        threads=(Thread(11, 12, name="main", kernel_stack=("a", "b")),),
        processes=(Process(11, command=("python",)),),
        stacks=(Stack(11, 12, "python", ("f (x.py:3)",)),),
        kernel=(KernelLine(9, "xid", "nine"), KernelLine(7, "xid", "seven")),
    )
    outcomes = [Outcome("proc", "timed out"), Outcome("proc", "ok"), Outcome("py-spy", "missing tool", "pip install")]
    incident = assemble.with_evidence(begun(), [cheap, later, later], outcomes)
    assert incident.threads[0] == Thread(11, 12, name="main", state="D", wchan="nvgpu_x", kernel_stack=("a", "b"))
    assert [thread.tid for thread in incident.threads] == [12, 13]
    assert incident.processes == (Process(11, 1, ("python",)),)
    assert len(incident.stacks) == 1 and [line.at_ns for line in incident.kernel] == [7, 9]
    assert [(one.collector, one.outcome) for one in incident.collectors] == [("proc", "ok"), ("py-spy", "missing tool")]


def test_a_message_that_two_readers_tell_of_is_one_and_the_same_text_again_later_another() -> None:
    incident = begun(kernel=[{"at_ns": 10 * SECOND, "about": "xid", "text": "NVRM: Xid 13", "worker": "w"}])
    read = [KernelLine(at, "xid", "NVRM: Xid 13") for at in (10 * SECOND - 4, 15 * SECOND)]
    incident = assemble.with_evidence(incident, [Evidence(kernel=tuple(read))], [])
    assert [(line.at_ns, line.worker) for line in incident.kernel] == [(10 * SECOND, "w"), (15 * SECOND, None)]


# --- events ---------------------------------------------------------------------------------------------------------


def event(seq: int, kind: str, ms: int, **fields: Any) -> dict[str, Any]:
    at_ns = AT_NS + ms * MILLISECOND
    return {"seq": seq, "kind": kind, "monotonic_ns": at_ns, "worker": "model_h", "incident": spools.ID, **fields}


STORY = [
    event(1, "verdict", 0, verdict="call"),
    event(2, "evidence", 1, evidence_ns=AT_NS + 10**6, committed_ns=AT_NS + 12 * 10**5, moved_ns=AT_NS + 15 * 10**5),
    event(3, "signal", 2, signal="SIGKILL"),
    event(4, "gone", 30, exit="killed by signal 9"),
    event(5, "probe", 40, usable="no"),
    event(6, "probe", 50, usable="yes"),
    event(7, "phase", 60, phase="starting"),
    event(8, "ready", 700, ready_ns=AT_NS + 650 * MILLISECOND),
]


@pytest.mark.parametrize("order", [STORY, STORY[::-1], STORY + STORY[:4]], ids=["as told", "backwards", "some twice"])
def test_events_say_when_what_was_done_in_whatever_order_they_come(order: list[dict[str, Any]]) -> None:
    incident = begun()
    for line in order:
        incident = assemble.with_events(incident, [line])
    times = incident.times
    assert (times.evidence_ns, times.committed_ns, incident.moved_ns) == (
        AT_NS + 10**6,
        AT_NS + 12 * 10**5,
        AT_NS + 15 * 10**5,
    )
    instants = (times.signal_ns, times.gone_ns, times.usable_ns, times.started_ns, times.ready_ns)
    assert instants == tuple(AT_NS + ms * MILLISECOND for ms in (2, 30, 50, 60, 650))
    assert incident.exit == "killed by signal 9"
    assert [line["seq"] for line in incident.events] == list(range(1, 9))


def test_events_of_another_incident_and_odd_ones_say_nothing() -> None:
    foreign = {**event(9, "gone", 5, exit="exited"), "incident": "another"}
    odd = [event(10, "signal", 5) | {"monotonic_ns": "soon"}, event(11, "gone", 6) | {"monotonic_ns": True}]
    incident = assemble.with_events(begun(), [foreign, *odd])
    assert (incident.exit, incident.times.gone_ns, incident.times.signal_ns) == (None, None, None)
    assert len(incident.events) == 2


def test_an_incident_without_end_keeps_the_first_and_the_last_of_its_events() -> None:
    many = [event(seq, EventKind.NEAR_MISS.value, seq) for seq in range(1, 1001)]
    kept = [line["seq"] for line in assemble.with_events(begun(), many).events]
    assert len(kept) == assemble.MOST_EVENTS and (kept[0], kept[-1]) == (1, 1000)


def test_an_incident_that_ended_says_how_and_when() -> None:
    incident = assemble.closed(begun(), "recovered", AT_NS + SECOND)
    assert (incident.state, incident.outcome, incident.times.closed_ns) == ("closed", "recovered", AT_NS + SECOND)


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ({"kind": "ready"}, "recovered"),
        ({"kind": "near_miss"}, "returned"),
        ({"kind": "phase", "phase": "quarantined"}, "quarantined"),
        ({"kind": "gone"}, None),
    ],
)
def test_an_incident_whose_supervisor_ended_says_what_the_events_show(
    last: dict[str, Any], outcome: str | None
) -> None:
    incident = assemble.with_events(begun(), [event(1, "verdict", 0, verdict="call"), event(2, "", 9) | last])
    for _ in range(2):
        incident = assemble.cut_short(incident, "the supervisor ended before it did")
    assert (incident.state, incident.outcome) == ("cut short", outcome)
    assert incident.problems == ("the supervisor ended before it did",)


# --- the other workers ----------------------------------------------------------------------------------------------


def test_others_are_slow_by_what_their_histograms_gained(other: FakeHeartbeat) -> None:
    told = spools.told("model_i", incarnation=5)
    other.record(0, "sync", 3 * MILLISECOND, times=100)
    before = spools.spool(told, blobs=spools.blobs("model_i", other.path))
    other.record(0, "sync", 90 * MILLISECOND, times=7)
    after = spools.spool(told, blobs=spools.blobs("model_i", other.path), when="ready")
    (slow,) = assemble.others("model_h", before, after)
    assert (slow.worker, slow.operation, slow.during_count) == ("model_i", "sync", 7)
    assert slow.before_p99_ns is not None and slow.before_p99_ns < 4 * MILLISECOND
    assert slow.during_p50_ns is not None and 90 * MILLISECOND <= slow.during_p50_ns < 113 * MILLISECOND


def test_nothing_is_said_of_the_victim_of_another_life_or_of_who_was_not_read(other: FakeHeartbeat) -> None:
    other.record(0, "sync", 3 * MILLISECOND)
    blobs = spools.blobs("model_i", other.path)
    lives = [spools.told("model_i", incarnation=life) for life in (5, 6)]
    assert assemble.others("model_i", *itertools.repeat(spools.spool(lives[0], blobs=blobs), 2)) == ()
    assert assemble.others("model_h", *(spools.spool(life, blobs=blobs) for life in lives)) == ()
    assert assemble.others("model_h", spools.spool(lives[0], blobs=blobs), spools.spool(lives[0])) == ()
