"""Who is looked at when, by that part of a supervisor alone: children look at real processes, the test moves time."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.helpers.running import wait_until
from watchdogd.act.fleet import Fleet
from watchdogd.act.process import hold
from watchdogd.act.sweep import reap_ended
from watchdogd.act.watched import Watched
from watchdogd.model import (
    MILLISECOND,
    SECOND,
    DeviceMemory,
    Finding,
    GrowthSettings,
    Phase,
    SupervisorSettings,
    Usage,
    Verdict,
    WorkerSettings,
)
from watchdogd.publish.journal import Journal
from watchdogd.publish.throttle import Throttle
from watchdogd.supervisor.growth import FRESH_NS, MOST_AT_ONCE, GrowthLooks

ME = {str(os.getpid()): 7}


class Looks:
    def __init__(self, watched: list[Watched]) -> None:
        self.watched = watched
        self.fleet = Fleet(watched, SupervisorSettings())
        self.looks = GrowthLooks(watched, Journal(7, 0, Throttle(1 << 20)), self.fleet)

    def begin(self, now_ns: int) -> bool:
        """Whether somebody looks now."""
        self.looks.look(now_ns)
        return self.looks._glance is not None

    def settled(self, now_ns: int) -> None:
        """Until all who are due at that time have been looked at."""
        wait_until(lambda: not self.begin(now_ns))
        reap_ended()

    def held(self, resource: str = "threads") -> list[int | None]:
        return [w.growing.describe().get(resource, {}).get("now") for w in self.watched]


@contextmanager
def looking(count: int = 1, phase: Phase = Phase.RUNNING, rule: GrowthSettings | None = None) -> Iterator[Looks]:
    """At workers whose process is this one."""
    watched = []
    for number in range(count):
        settings = WorkerSettings(f"w{number}", ("true",), growth=rule or GrowthSettings())
        each = Watched(settings)
        each.state = replace(each.state, phase=phase, incarnation=1)
        each.process = hold(os.getpid())
        watched.append(each)
    made = Looks(watched)
    try:
        yield made
    finally:
        made.looks.close()
        for each in watched:
            if each.process is not None:
                each.process.close()


def test_not_all_are_looked_at_at_once_and_each_every_ten_seconds() -> None:
    with looking(MOST_AT_ONCE + 3) as made:
        assert made.begin(0)
        wait_until(lambda: made.begin(0) and any(made.held()))
        assert len([held for held in made.held() if held]) == MOST_AT_ONCE
        made.settled(500 * MILLISECOND)
        assert all(made.held())
        assert not made.begin(9 * SECOND)
        assert made.begin(10 * SECOND)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.PAUSED, Phase.TERMINATING])
def test_who_is_not_at_its_work_is_not_looked_at(phase: Phase) -> None:
    with looking(phase=phase) as made:
        assert not made.begin(0)
    with looking() as made:
        assert made.begin(0)


def test_who_is_not_to_be_measured_is_not_looked_at() -> None:
    with looking(rule=GrowthSettings(baseline_ns=None)) as made:
        assert not made.begin(0)


def test_what_was_seen_of_an_incarnation_is_not_the_next_ones() -> None:
    with looking(2) as made:
        assert made.begin(0)
        first = made.watched[0]
        first.state = replace(first.state, incarnation=2)
        made.settled(1)
        assert [held is None for held in made.held()] == [True, False]


def test_what_could_not_be_looked_at_is_unknown_and_not_as_it_was() -> None:
    with looking() as made, subprocess.Popen(["sleep", "60"]) as process:
        made.settled(0)
        assert made.held() != [None]
        watched = made.watched[0]
        assert watched.process is not None
        watched.process.close()
        watched.process = hold(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert made.begin(10 * SECOND)
        made.settled(10 * SECOND)
        assert made.held() == [None]


def test_nor_is_it_known_in_a_pause_and_where_no_process_is_to_be_had() -> None:
    with looking(2) as made:
        made.settled(0)
        assert None not in made.held()
        first = made.watched[0]
        first.growing.waits, first.state = "it waits", replace(first.state, phase=Phase.PAUSED)
        assert not made.begin(1)
        assert [held is None for held in made.held()] == [True, False] and first.growing.waits == ""
        free = os.open("/dev/null", os.O_RDONLY)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        os.close(free)
        try:
            assert not made.begin(10 * SECOND)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert made.held() == [None, None]


def test_what_was_seen_before_a_pause_or_by_another_supervisor_condemns_nobody_before_a_new_look() -> None:
    for seen, condemned in ((None, False), (1, False), (100, True)):
        with looking(rule=LEAKS, phase=Phase.PAUSED) as made:
            watched = made.watched[0]
            leaks(watched)
            made.begin(LATER)
            watched.state = replace(watched.state, phase=Phase.RUNNING)
            watched.growing.take(Usage(threads=seen), LATER)
            made.begin(LATER)
            assert (made.fleet.take(watched) is not None) == condemned
        with looking(rule=LEAKS) as made:
            watched = made.watched[0]
            watched.growing.recall({"threads": COURSE})
            watched.growing.next_ns = 1 << 62
            watched.growing.take(Usage(threads=seen), LATER)
            made.begin(LATER)
            assert (made.fleet.take(watched) is not None) == condemned


def test_what_a_source_told_long_ago_of_a_device_is_unknown_and_so_is_what_nobody_told() -> None:
    with looking() as made:
        made.settled(0)
        assert made.held("device_memory") == [None]
        made.looks.device(DeviceMemory(ME), 10 * SECOND)
        for at, held in ((10 * SECOND, 7), (10 * SECOND + FRESH_NS, 7), (21 * SECOND + FRESH_NS, None)):
            assert made.begin(at)
            made.settled(at)
            assert made.held("device_memory") == [held]


@pytest.mark.parametrize(("told", "held"), [({"1": 5}, None), ({**ME, "1": 5}, 7), ({str(os.getpid()): None}, None)])
def test_a_worker_has_its_own_part_of_a_device_and_one_that_is_not_told_of_is_unknown(
    told: dict[str, int | None], held: int | None
) -> None:
    with looking() as made:
        made.looks.device(DeviceMemory(told), 0)
        made.settled(0)
        assert made.held("device_memory") == [held]


LEAKS = GrowthSettings(leak=True, threads=1, factor=1.0)
LATER = 7200 * SECOND  # after its first hour
COURSE = {"since_ns": 0, "looks": 360, "most": 1, "now": 100, "over": 0, "least": 50, "warned": 50, "times": 2}


def leaks(watched: Watched) -> None:
    """As the last look at it has shown."""
    watched.growing.recall({"threads": COURSE})
    watched.growing.take(Usage(threads=100), LATER)
    watched.growing.next_ns = 1 << 62


def leaking(made: Looks) -> Finding | None:
    """What the fleet is told of the first worker, which leaks."""
    leaks(made.watched[0])
    made.begin(LATER)
    return made.fleet.take(made.watched[0])


def test_a_leak_is_found_of_who_works_and_has_no_other_verdict() -> None:
    with looking(rule=LEAKS) as made:
        found = leaking(made)
        assert found is not None and found.verdict is Verdict.LEAK
    with looking(rule=LEAKS) as made:
        made.watched[0].state = replace(made.watched[0].state, finding=Finding(Verdict.CALL, 1))
        assert leaking(made) is None
    for phase in (Phase.PAUSED, Phase.TERMINATING):
        with looking(rule=LEAKS, phase=phase) as made:
            assert leaking(made) is None
    with looking(rule=LEAKS._replace(leak=False)) as made:
        assert leaking(made) is None


def test_of_two_that_leak_one_is_found_at_a_time() -> None:
    with looking(2, rule=LEAKS) as made:
        leaks(made.watched[1])
        assert leaking(made) is not None and made.fleet.take(made.watched[1]) is None


def test_what_is_only_observed_is_found_once_whatever_else_was_found() -> None:
    with looking(rule=LEAKS, phase=Phase.OBSERVED) as made:
        made.watched[0].state = replace(made.watched[0].state, finding=Finding(Verdict.CALL, 1))
        assert leaking(made) is not None
        assert leaking(made) is None
