"""The supervisor's end of the keeper: what it is asked for, what is believed of it, and that nothing waits for it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from watchdogd.model import SECOND
from watchdogd.supervisor.keeping import (
    ASK_NS,
    DUMP,
    FIRST_WORDS_NS,
    HARMLESS,
    MOST_COLLECTING,
    MOST_QUEUED,
    STANDS_STILL_NS,
    Keeping,
)


class Ends:
    """A pipe in the place of a keeper."""

    def __init__(self) -> None:
        self.collected: list[tuple[str, list[dict[str, Any]]]] = []
        self.keeping = Keeping("boot", lambda incident, outcomes: self.collected.append((incident, outcomes)), print)
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def attach(self) -> None:
        self.keeping.attach(self.write)

    def say(self, **told: Any) -> None:
        self.keeping.feed(json.dumps(told).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in os.read(self.read, 1 << 20).splitlines()]
        except BlockingIOError:
            return []


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    os.close(made.read)
    os.close(made.write)


def warm(ends: Ends) -> Keeping:
    ends.attach()
    ends.say(tools={})
    ends.heard()
    return ends.keeping


def test_a_keeper_is_asked_only_once_it_has_spoken(ends: Ends) -> None:
    assert not ends.keeping.is_ready
    ends.attach()
    assert not ends.keeping.is_ready
    ends.say(tools={})
    assert ends.keeping.is_ready


def test_one_that_has_ended_is_asked_for_nothing_and_nobody_waits_for_it(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.collect("i", HARMLESS, 7)
    keeping.lost()
    assert ends.collected == [("i", [])]
    assert not keeping.is_ready


def test_one_that_did_not_answer_in_time_is_asked_again_once_it_has(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.collect("i", HARMLESS, 7)
    keeping.give_up("i")
    assert not keeping.is_ready
    ends.say(collected="i", stage=HARMLESS, outcomes=[])
    assert (keeping.is_ready, ends.collected) == (True, [])  # it came too late to count


def test_a_collection_that_nobody_waits_for_any_more_makes_nobody_deaf(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.collect("i", HARMLESS, 7)
    keeping.forget("i")
    keeping.give_up("i")
    assert keeping.is_ready


def test_an_answer_counts_for_the_stage_that_was_asked_for(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.collect("i", DUMP, 7)
    ends.say(collected="i", stage=HARMLESS, outcomes=[])
    ends.say(collected="other", stage=DUMP, outcomes=[])
    assert ends.collected == []
    ends.say(collected="i", stage=DUMP, outcomes=[{"collector": "x"}])
    ends.say(collected="i", stage=DUMP, outcomes=[])
    assert ends.collected == [("i", [{"collector": "x"}])]


def test_more_workers_at_a_time_than_it_can_do_well_are_not_asked_for(ends: Ends) -> None:
    keeping = warm(ends)
    for number in range(MOST_COLLECTING):
        assert keeping.is_ready
        keeping.collect(str(number), HARMLESS, 7)
    assert not keeping.is_ready


def test_a_keeper_that_does_not_read_is_not_waited_for_and_not_asked(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.open("i", None)
    for _ in range(2 * MOST_QUEUED):
        keeping.event("i", b'{"kind":"near_miss","reason":"%b"}\n' % (b"x" * 100))
    assert not keeping.is_ready
    keeping.close("i", "recovered")  # told all the same
    heard: list[bytes] = []
    while some := os.read(ends.read, 1 << 20) if keeping._pipe or not heard else b"":
        heard.append(some)
        keeping.flush()
    lines = [json.loads(line) for line in b"".join(heard).splitlines()]
    assert lines[0]["op"] == "open"
    assert all(line["op"] == "event" for line in lines[1:-1]) and len(lines) <= 2 * MOST_QUEUED


def test_a_new_keeper_is_told_what_the_last_one_was_not_done_with(ends: Ends) -> None:
    keeping = warm(ends)
    for incident in ("open", "closed", "done"):
        keeping.open(incident, None)
    keeping.close("closed", "recovered")
    keeping.close("done", "recovered")
    ends.say(finished="done")
    keeping.lost()
    keeping.event("open", b"{}\n")  # it will find that in the record
    ends.heard()
    ends.attach()
    known, closed, here = ends.heard()
    assert here == {"op": "here"}
    assert (known["op"], known["ids"], known["boot_id"]) == ("known", ["open", "closed"], "boot")
    assert (closed["op"], closed["id"], closed["outcome"]) == ("close", "closed", "recovered")


def test_events_of_incidents_that_are_not_kept_are_not_told(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.event("never opened", b"{}\n")
    keeping.close("never opened", "recovered")
    assert ends.heard() == []


def test_what_it_prints_torn_is_no_answer(ends: Ends) -> None:
    keeping = warm(ends)
    keeping.feed(b'{"kept": 3, "by\n[1]\n')
    assert keeping.told == {**keeping.told, "kept": None, "bytes": None}
    ends.say(kept=3, bytes=7)
    assert keeping.told == {**keeping.told, "kept": 3, "bytes": 7}


@pytest.mark.parametrize(
    "said", ["[" * 30_000, '{"collected": "one", "stage": "harmless", "outcomes": 7}', '{"tools": 7}']
)
def test_whatever_it_prints_the_supervisor_goes_on(ends: Ends, said: str) -> None:
    ends.attach()
    ends.say(tools={})
    ends.keeping.collect("one", HARMLESS, 5)
    ends.keeping.feed(said.encode() + b"\n")
    assert all(outcomes == [] for _, outcomes in ends.collected)
    assert ends.keeping.is_ready


def test_a_flood_of_lines_is_not_read_and_what_a_keeper_says_at_most_is(ends: Ends) -> None:
    ends.attach()
    for incident in ("one", "two"):
        ends.keeping.open(incident, None)
    ends.keeping.feed(b'{"finished":"one"}\n' + b"1\n" * 32_000)
    assert ends.keeping.knows("one") and not ends.keeping.is_ready
    ends.keeping.feed(b'{"finished":"20261121T184455Z-a-27460.1"}\n' * 1_500 + b'{"finished":"two"}\n')
    assert not ends.keeping.knows("two")


def test_one_that_is_silent_is_asked_and_stands_still_only_if_it_does_not_answer(ends: Ends) -> None:
    keeping = warm(ends)
    ends.say(here=True)
    now_ns = time.monotonic_ns()
    assert not keeping.stands_still(now_ns) and ends.heard() == []
    asked_ns = now_ns + ASK_NS + SECOND
    for later_ns in (asked_ns, asked_ns + STANDS_STILL_NS):
        assert not keeping.stands_still(later_ns)
    assert ends.heard() == [{"op": "here"}]
    assert keeping.stands_still(asked_ns + STANDS_STILL_NS + 1)
    ends.say(here=True)
    assert not keeping.stands_still(now_ns + ASK_NS)
    keeping.lost()
    assert not keeping.stands_still(now_ns + 2 * FIRST_WORDS_NS)


def test_one_that_has_never_answered_has_long_to_begin(ends: Ends) -> None:
    """It may have to load where the CPUs are taken; or knows nothing of the question."""
    for _ in range(2):  # the second one anew
        ends.attach()
        began_ns = time.monotonic_ns()
        assert not ends.keeping.stands_still(began_ns + FIRST_WORDS_NS - SECOND)
        assert ends.keeping.stands_still(began_ns + FIRST_WORDS_NS + SECOND)
        ends.say(here=True)
