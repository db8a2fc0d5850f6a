"""The snapshot's body from its parts."""

from __future__ import annotations

import json

from tests.helpers.pulses import deadlines
from watchdogd import abi
from watchdogd.publish import snapshot

PARTS = ({"version": "7"}, [{"name": "gpu0"}], [{"name": "nvml"}], {"written": 3})


def body(*workers: str) -> bytes:
    supervisor, accelerators, sources, events = PARTS
    return snapshot.body(supervisor, workers, accelerators, sources, events)


def test_every_part_is_in_the_body_under_its_name() -> None:
    fragments = [snapshot.fragment({"name": name}) for name in ("a", "b")]
    assert json.loads(body(*fragments)) == {
        "schema": snapshot.SCHEMA,
        "supervisor": {"version": "7"},
        "accelerators": [{"name": "gpu0"}],
        "sources": [{"name": "nvml"}],
        "events": {"written": 3},
        "kernel": None,
        "holders": [],
        "incidents": None,
        "workers": [{"name": "a"}, {"name": "b"}],
    }


def test_no_worker_is_an_empty_list() -> None:
    assert json.loads(body())["workers"] == []


def test_equal_inputs_give_equal_bytes() -> None:
    assert body('{"name":"a"}') == body('{"name":"a"}')


def test_a_name_in_any_script_survives() -> None:
    fragment = snapshot.fragment({"name": 'größe "7" \\ \u2028'})
    assert json.loads(body(fragment))["workers"] == [{"name": 'größe "7" \\ \u2028'}]


def test_only_deadlines_that_are_set_are_told() -> None:
    told = snapshot.deadlines_seconds(deadlines(startup=60_000, step=500, sync=200))
    assert told == {"startup": 60.0, "step": 0.5, "sync": 0.2}


def test_every_hang_has_a_key_to_be_counted_under() -> None:
    assert set(snapshot.HANG_KEYS) == {"startup", "first_step", "step", "stall", *abi.OPERATIONS[1:]}


def test_recovery_has_few_enough_buckets_in_order() -> None:
    bounds = snapshot.RECOVERY_BOUNDS_NS
    assert list(bounds) == sorted(set(bounds))
    assert len(bounds) <= 14
