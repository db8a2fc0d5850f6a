"""What is counted over a worker's lives; above all, which times to recovery are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from watchdogd.decide.orders import NOT_RECOVERED, CloseIncident, OpenIncident
from watchdogd.model import SECOND, Finding, IncidentId, Verdict
from watchdogd.publish import snapshot
from watchdogd.publish.tally import Tally

ONE, TWO = IncidentId("one"), IncidentId("two")
HANG = Finding(Verdict.CALL, 5 * SECOND, "sync", 4 * SECOND, 5 * SECOND)


def hung(**fields: Any) -> Tally:
    tally = Tally()
    tally.opened(OpenIncident(ONE, HANG, **fields), "then")
    return tally


def recoveries(tally: Tally) -> tuple[int, int]:
    told = tally.describe()["recovery"]
    return sum(told["counts"]), told["total_ns"]


def test_a_recovery_is_the_time_from_the_hung_calls_entry_to_ready() -> None:
    tally = hung()
    assert tally.recovered(7 * SECOND) == 3 * SECOND
    assert recoveries(tally) == (1, 3 * SECOND)
    counts = tally.describe()["recovery"]["counts"]
    assert counts.index(1) == snapshot.RECOVERY_BOUNDS_NS.index(5 * SECOND)


@pytest.mark.parametrize("outcome", sorted(NOT_RECOVERED))
def test_a_start_after_an_incident_that_ended_otherwise_is_no_recovery(outcome: str) -> None:
    """In quarantine until Monday, then reset: those days are no time to recovery."""
    tally = hung()
    tally.closed(CloseIncident(ONE, outcome))
    assert (tally.recovered(7 * SECOND), recoveries(tally)) == (None, (0, 0))


def test_a_successor_that_hangs_too_recovers_from_its_own_hang() -> None:
    tally = hung()
    again = Finding(Verdict.CALL, 9 * SECOND, "sync", 8 * SECOND, 9 * SECOND)
    tally.opened(OpenIncident(TWO, again), "later")  # counted before the orders are carried out, in this order
    tally.closed(CloseIncident(ONE, "hung again"))
    assert tally.recovered(10 * SECOND) == 2 * SECOND


def test_steps_in_flight_at_ends_are_counted_on_by_the_next_supervisor() -> None:
    tally, successor, later = Tally(), Tally(), Tally()
    tally.dropped(3)
    tally.redelivered(2)
    told = tally.describe()
    successor.recall(told)
    successor.dropped(4)
    counted = successor.describe()
    assert (counted["steps_dropped"], counted["steps_redelivered"]) == (7, 2)
    later.recall({key: value for key, value in told.items() if not key.startswith("steps_")})  # one of before
    assert later.describe()["steps_dropped"] == 0


def test_a_recovery_is_counted_once() -> None:
    tally = hung()
    tally.recovered(7 * SECOND)
    assert (tally.recovered(9 * SECOND), recoveries(tally)) == (None, (1, 3 * SECOND))


def test_what_was_only_observed_is_nothing_to_recover_from() -> None:
    tally = hung(would_kill=True)
    assert tally.recovered(7 * SECOND) is None
    told = tally.describe()
    assert (told["would_have_killed"], told["hangs"]["sync"]) == (1, 1)


def test_the_last_incident_tells_what_was_in_flight_besides_and_nothing_where_nothing_was() -> None:
    tally = hung()
    assert "also_in_flight" not in tally.describe()["last_incident"]
    tally.opened(OpenIncident(TWO, HANG), "now", ["free"])
    assert tally.describe()["last_incident"]["also_in_flight"] == ["free"]


@pytest.mark.parametrize(
    ("stage", "bisected", "told"),
    [
        (None, False, {}),
        ("plugin", False, {"stage": "plugin"}),
        ("plugin", True, {"stage": "plugin", "bisected": True}),
        (None, True, {"stage": None, "bisected": True}),
    ],
)
def test_the_last_incident_tells_its_stage_where_there_is_one(
    stage: str | None, bisected: bool, told: dict[str, object]
) -> None:
    tally = hung()
    tally.opened(OpenIncident(TWO, replace(HANG, stage=stage, bisected=bisected)), "now")
    incident = tally.describe()["last_incident"]
    assert {key: incident[key] for key in ("stage", "bisected") if key in incident} == told


def test_the_last_incident_has_its_own_outcome_and_nobody_elses() -> None:
    tally = hung()
    tally.closed(CloseIncident(TWO, "recovered"))
    assert "outcome" not in tally.describe()["last_incident"]
    tally.closed(CloseIncident(ONE, "recovered"))
    assert tally.describe()["last_incident"]["outcome"] == "recovered"
