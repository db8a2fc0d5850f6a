"""How often it happened before, and what all those times have in common."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.any_incident import incidents
from watchdogd.decide.repeats import Summary, repeats, summary
from watchdogd.incident import Incident
from watchdogd.incidents.codec import from_json
from watchdogd.model import SECOND

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
DAY = 86400 * SECOND
NOW = 1_795_132_800 * SECOND


def this(name: str = "h200-spinning-kernel", **changes: object) -> Incident:
    incident = from_json(json.loads(EVIDENCE.joinpath(f"{name}.json").read_text()))
    return replace(incident, id="now", opened="now", opened_unix_ns=NOW, **changes)  # type: ignore[arg-type]  # any of its fields


THIS = summary(this())


def before(days: float, **changes: object) -> Summary:
    at = NOW - int(days * DAY)
    return replace(THIS, id=f"{days}", opened=f"{days} days ago", opened_unix_ns=at, **changes)  # type: ignore[arg-type]  # any of its fields


def other(days: float, **changes: object) -> Summary:
    return before(days, **{"signature": "another", "stage": None, "worker": "model_c", **changes})


def test_what_never_was_before_is_the_first_time() -> None:
    assert repeats(this(), []).sentence == "first time"
    assert repeats(this(), [other(1)]).count == 1


def test_the_third_time_tells_since_when_and_in_which_stage() -> None:
    found = repeats(this(), [before(2), before(5.4), other(1)])
    assert (found.count, found.first) == (3, "5.4 days ago")
    assert found.sentence == "third time in 6 days, always stage plugin"


def test_twice_is_not_always() -> None:
    assert repeats(this(), [before(2), other(1)]).sentence == "second time in 2 days"


def test_itself_and_what_came_later_are_not_before() -> None:
    later = before(-1)
    assert repeats(this(), [THIS, later, before(1), before(1)]).count == 2


def test_a_worker_that_was_active_each_time_is_told_if_it_was_seen_idle() -> None:
    same = [before(1, active=frozenset({"model_b"})), before(2, active=frozenset({"model_b", "model_c"}))]
    incident = this("h200-spinning-kernel-neighbour-after", signature=THIS.signature)
    assert summary(incident).active == {"model_b"}
    idle = other(3, stage="plugin", idle=frozenset({"model_b"}))
    assert (
        repeats(incident, [*same, idle]).sentence
        == "third time in 2 days, always worker model_a, always with model_b active"
    )
    never_idle = other(3, stage="plugin", active=frozenset({"model_b"}))
    assert "model_b" not in repeats(incident, [*same, never_idle]).sentence
    assert "model_b" not in repeats(incident, same).sentence


def test_a_worker_that_was_active_but_once_not_is_not_told() -> None:
    same = [before(1, active=frozenset({"model_b"})), before(2)]
    incident = this("h200-spinning-kernel-neighbour-after", signature=THIS.signature)
    assert "with" not in repeats(incident, [*same, other(3, idle=frozenset({"model_b"}))]).sentence


def test_a_stage_that_differed_once_is_not_told() -> None:
    assert "stage" not in repeats(this(), [before(1), before(2, stage="sync"), other(3)]).sentence


def test_what_every_other_incident_has_too_is_not_told() -> None:
    assert "stage" not in repeats(this(), [before(1), before(2), other(3, stage="plugin")]).sentence


def test_of_one_worker_alone_it_is_not_told_that_it_is_always_that_one() -> None:
    assert "worker" not in repeats(this(), [before(1), before(2)]).sentence
    among = frozenset({"model_b"})
    assert "always worker model_a" in repeats(this(), [before(1, idle=among), before(2)]).sentence


def test_an_accelerator_is_told_where_workers_differ_and_there_is_another_one() -> None:
    two = frozenset({"gpu0", "dla0"})
    same = [before(1, worker="model_b", accelerators=two), before(2)]
    assert "always on gpu0" in repeats(this(), same).sentence
    assert "gpu0" not in repeats(this(), [before(1, worker="model_b"), before(2)]).sentence
    assert (
        "gpu0"
        not in repeats(this(), [before(1, worker="model_b", accelerator="dla0", accelerators=two), before(2)]).sentence
    )


def test_soon_after_ready_each_time_is_told_and_once_long_after_is_not() -> None:
    young = this()
    ready = young.verdict.detected_ns - 9 * SECOND
    worker = replace(young.captures[0].workers[0], ready_ns=ready)
    young = replace(young, captures=(replace(young.captures[0], workers=(worker,)),))
    same = [before(1, up_ns=11 * SECOND), before(2, up_ns=2 * SECOND)]
    assert "always within 11 s of ready" in repeats(young, same).sentence
    assert "ready" not in repeats(young, [*same, before(3, up_ns=3600 * SECOND)]).sentence
    assert "ready" not in repeats(young, [*same, before(3, up_ns=None)]).sentence


def test_many_times_are_counted_in_words_that_people_use() -> None:
    assert repeats(this(), [before(n / 100) for n in range(10)]).sentence.startswith("11th time in 3 hours")
    assert repeats(this(), [before(n / 1000) for n in range(21)]).sentence.startswith("22nd time in 29 minutes")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(incidents(), st.lists(incidents(), max_size=2))
def test_no_documents_are_too_strange(incident: Incident, earlier: list[Incident]) -> None:
    found = repeats(incident, earlier)
    assert 1 <= found.count <= len(earlier) + 1 and found.sentence
