"""`watchdogd report` as people and programs use it, on records of every kind."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.helpers.fake_runtime import MS, SECOND, FakeRuntime
from tests.helpers.incidents import deadlock
from tests.helpers.running import KEPT, Supervised, worker
from watchdogd.incident import Incident
from watchdogd.incidents import folders, history
from watchdogd.incidents.history import EVERY_NS, Follower
from watchdogd.publish import events
from watchdogd.publish.events import EventKind

HOUR, DAY = 3600 * SECOND, 24 * 3600 * SECOND


class Machine:
    """A state directory as a supervisor and its keeper leave it."""

    def __init__(self, directory: Path) -> None:
        self.runtime = FakeRuntime(directory)
        self.state = directory / "state"
        self.state.mkdir()
        self.now = time.time_ns()
        self._seq = 0

    def event(
        self, kind: EventKind, ago: int, incident: str | None = None, worker: str = "detector", **fields: Any
    ) -> None:
        self._seq += 1
        line = events.encode(kind, boot_id=7, seq=self._seq, wall_ns=self.now - ago, monotonic_ns=1_000 * SECOND,
                             worker=worker, incarnation=1, incident=incident, **fields)  # fmt: skip
        with (self.state / events.FILE_NAME).open("ab") as file:
            file.write(line)

    def verdict(self, ago: int, incident: str, recovery: float | None = None, **fields: Any) -> None:
        times = {"entered_ns": 999 * SECOND, "detected_ns": 1_000 * SECOND}
        self.event(EventKind.VERDICT, ago, incident, **{"verdict": "call", "operation": "sync", **times, **fields})
        if recovery is not None:
            self.event(EventKind.READY, ago, incident, recovery_seconds=recovery)

    def keep(self, ago: int, **changes: Any) -> Incident:
        incident = dataclasses.replace(deadlock(), opened_unix_ns=self.now - ago, **changes)
        return folders.update(str(self.state / folders.DIRECTORY), incident.id, lambda _: incident)

    def calls(self, name: str, number: int, ago: int, **records: tuple[int, int]) -> None:
        """So many calls that took so many ms, by operation, done by then."""
        beat = self.runtime.incarnation(name, number)
        for operation, (took_ms, times) in records.items():
            beat.record(0, operation, took_ms * MS, times)
        self.runtime.publish()
        now_ns = time.monotonic_ns()
        lines = Follower(str(self.runtime.directory), now_ns - EVERY_NS).look(now_ns, self.now - ago)
        history.append(str(self.state), lines)

    def report(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "WATCHDOGD_RUNTIME_DIR": str(self.runtime.directory)}
        command = [sys.executable, "-m", "watchdogd", "report", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)

    def told(self, *arguments: str) -> dict[str, Any]:
        ran = self.report("--json", *arguments)
        assert (ran.returncode, ran.stderr) == (0, "")
        told: dict[str, Any] = json.loads(ran.stdout)
        return told


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.runtime.publish()
    return machine


def of(rows: list[dict[str, Any]], worker: str) -> dict[str, Any]:
    (row,) = (row for row in rows if row["worker"] == worker)
    return row


def test_incidents_of_folders_and_of_events_are_told_once_each(machine: Machine) -> None:
    kept = machine.keep(2 * HOUR)
    machine.verdict(2 * HOUR, kept.id, worker="lane_dla", recovery=1.5)  # the same one
    machine.verdict(HOUR, "pruned", recovery=0.9)
    told = machine.told()
    assert (of(told["workers"], "lane_dla")["hangs"], of(told["workers"], "lane_dla")["lost_ns"]) == (1, 1_542 * MS)
    assert (of(told["workers"], "detector")["hangs"], of(told["workers"], "detector")["lost_ns"]) == (1, 900 * MS)
    assert {row["words"] for row in told["signatures"]} == {"call sync in plugin, dla0", "call sync"}
    assert {row["last_id"] for row in told["signatures"]} == {kept.id, "pruned"}


def test_what_lies_before_since_is_left_out(machine: Machine) -> None:
    machine.verdict(30 * HOUR, "long-ago", recovery=1)
    machine.verdict(HOUR, "lately", recovery=2)
    assert of(machine.told()["workers"], "detector")["hangs"] == 2
    assert of(machine.told("--since", "1d")["workers"], "detector")["hangs"] == 1
    assert machine.told("--since", "30m")["workers"] == []


def test_a_call_that_returned_before_its_kill_cost_no_recovery(machine: Machine) -> None:
    machine.verdict(HOUR, "returned")
    for incident, limit_ms in (("returned", 800), (None, 1_200)):
        times: dict[str, Any] = {"entered_ns": 999 * SECOND, "deadline_ns": 999 * SECOND + limit_ms * MS}
        machine.event(EventKind.NEAR_MISS, HOUR, incident, operation="sync", **times)
    told = machine.told()
    row = of(told["workers"], "detector")
    assert (row["hangs"], row["near_misses"], row["recovered"], row["not_recovered"]) == (1, 2, 0, 0)
    assert told["near_miss_shares"]["counts"] == [0, 0, 0, 1, 0, 1, 0]  # 1 s of 1.2 s, and of 800 ms


def test_verdicts_that_are_only_reported_are_no_ends(machine: Machine) -> None:
    machine.event(EventKind.VERDICT, HOUR, None, verdict="uninstrumented")
    machine.event(EventKind.VERDICT, HOUR, "x", verdict="heartbeat_unreadable")
    assert machine.told()["workers"] == []


def test_deadlines_stand_against_the_calls_and_a_proposal_can_be_copied(machine: Machine) -> None:
    machine.calls("detector", 1, 2 * DAY, sync=(9, 40_000), alloc=(1, 12))
    machine.calls("detector", 2, HOUR, sync=(9, 30_000), copy=(300, 20_000))
    machine.verdict(HOUR, "one", recovery=0.9)
    told = machine.told()
    sync, alloc = (next(row for row in told["calls"] if row["operation"] == name) for name in ("sync", "alloc"))
    assert (sync["calls"], sync["deadline_ns"], sync["proposed_ns"]) == (70_000, 200 * MS, 50 * MS)
    assert sync["shares"] == [70_000, 0, 0, 0, 0, 0]
    assert (alloc["calls"], alloc["proposed_ns"], alloc["reason"]) == (12, None, "too few calls: 12 of 10,000")
    assert told["what_if"] == {"more": 0, "fewer": 0, "earlier_ns": 150 * MS}

    suggested = machine.report("--suggest-deadlines").stdout
    deadlines = {"copy": "1500ms", "sync": "50ms", "step": "1500ms"}  # a step may not be shorter than a copy
    assert tomllib.loads(suggested) == {"workers": {"detector": {"deadlines": deadlines}}}
    assert "# alloc: too few calls: 12 of 10,000; none now" in suggested
    assert "4 x p99.9 or 2 x the longest that returned" in suggested
    assert "now 200ms; p99.9 10.5 ms, longest 10.5 ms of 70,000" in suggested


def test_a_deadline_that_is_too_short_is_told_with_how_many_it_would_have_spared(machine: Machine) -> None:
    machine.calls("detector", 1, HOUR, sync=(300, 20_000))  # observed, with a deadline of 200 ms
    told = machine.told()
    assert told["what_if"]["fewer"] == 20_000 and told["what_if"]["more"] == 0
    assert "would have killed 0 more, 20,000 fewer" in machine.report().stdout


def test_text_has_all_of_it_and_is_not_fooled_by_what_it_shows(machine: Machine) -> None:
    machine.keep(HOUR, worker="lane\x1b[31m_dla\u202e", signature_words="a\nb")
    machine.calls("detector", 1, HOUR, sync=(11, 40_000))
    text = machine.report().stdout
    assert "\x1b" not in text and "\u202e" not in text and "a?b" in text
    for words in ("HANGS", "TIME LOST", "1.54 s", "PROPOSED", "<=1/16", "100.0%", "With these deadlines"):
        assert words in text


def test_where_nothing_is_proposed_nothing_is_said_of_its_effect(machine: Machine) -> None:
    machine.calls("detector", 1, HOUR, sync=(9, 12))
    for words in ((), ("--suggest-deadlines",)):
        told = machine.report(*words).stdout
        assert "sync" in told and "With these deadlines" not in told
    assert "too few calls: 12 of 10,000" in machine.report("--suggest-deadlines").stdout


def test_an_empty_record_is_no_error_and_says_what_is_missing(machine: Machine) -> None:
    ran = machine.report()
    assert ran.returncode == 0
    assert "No worker is on record." in ran.stdout and "No calls are on record" in ran.stdout
    assert "No calls are on record" in machine.report("--suggest-deadlines").stdout


def test_what_cannot_be_read_is_named_and_the_rest_is_told(machine: Machine) -> None:
    (machine.state / folders.DIRECTORY / "foreign").mkdir(parents=True)
    machine.verdict(HOUR, "one", recovery=1)
    with (machine.state / events.FILE_NAME).open("ab") as file:
        file.write(b"nonsense\n")
    text = machine.report().stdout
    assert "foreign: no incident.json in it" in text and "1 line is no event" in text and "1 of 1" in text


def test_a_worker_is_asked_for_by_its_name_and_a_slip_of_the_finger_is_told(machine: Machine) -> None:
    machine.verdict(HOUR, "one", recovery=1)
    machine.verdict(HOUR, "two", worker="tracker", recovery=1)
    assert [row["worker"] for row in machine.told("--worker", "tracker")["workers"]] == ["tracker"]
    ran = machine.report("--worker", "trakcer")
    assert ran.returncode == 2
    assert ran.stderr == "watchdogd: no worker is called 'trakcer'; there are: detector, tracker\n"


@pytest.mark.parametrize("since", ["7", "x", "-1d", "1.5d", "9999d"])
def test_a_time_that_is_none_is_refused_with_the_remedy(machine: Machine, since: str) -> None:
    ran = machine.report(f"--since={since}")
    assert ran.returncode == 2 and 'write it as "7d"' in ran.stderr


def test_without_a_record_it_says_so(tmp_path: Path) -> None:
    FakeRuntime(tmp_path).publish()
    environment = {**os.environ, "WATCHDOGD_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "watchdogd", "report"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 1 and "nothing was recorded yet" in ran.stderr


def test_what_was_done_since_the_last_line_is_told_too(machine: Machine) -> None:
    machine.calls("detector", 1, HOUR, sync=(9, 40_000))
    beat = machine.runtime.incarnation("detector", 2)
    beat.record(0, "sync", 9 * MS, 2)
    machine.runtime.publish()
    (sync,) = (row for row in machine.told()["calls"] if row["operation"] == "sync")
    assert sync["calls"] == 40_002


def test_calls_are_on_record_since_the_oldest_life_began(machine: Machine) -> None:
    assert machine.told()["calls_since_ns"] is None
    machine.runtime.incarnation("detector", 1).record(0, "sync", 9 * MS, times=10_000)  # spawned 5 s ago
    machine.runtime.publish()
    assert 4 * SECOND < time.time_ns() - machine.told()["calls_since_ns"] < 25 * SECOND
    assert " s on record) would have killed" in machine.report().stdout


HANGS = """
worker.ready()
while True:
    with worker.call('sync'):
        if (HERE / 'hang').exists() and INCARNATION == 1: hang()
        time.sleep(0.002)
"""


def test_a_real_hang_and_real_calls_are_in_the_report() -> None:
    workers = {"lane_dla": worker(HANGS, deadlines={"startup": "20s", "sync": "200ms"})}
    with Supervised(workers, incidents=KEPT) as supervised:
        supervised.wait_phase("lane_dla", "running")
        follower = Follower(str(supervised.runtime), 0)
        follower.look(0, time.time_ns())
        supervised.touch("hang")
        verdict = supervised.wait_event("verdict", "lane_dla")
        supervised.wait_event("ready", "lane_dla", count=2)
        history.append(str(supervised.state), follower.look(1, time.time_ns()))  # of the one that was killed
        command = [sys.executable, "-m", "watchdogd", "report", "--json", "-c", str(supervised.config)]
        told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    row = of(told["workers"], "lane_dla")
    assert (row["hangs"], row["recovered"]) == (1, 1) and row["lost_ns"] > 200 * MS
    assert told["signatures"][0]["last_id"] == verdict["incident"]
    sync = next(row for row in told["calls"] if row["operation"] == "sync")
    assert sync["deadline_ns"] == 200 * MS and sync["calls"] > 0 and sync["reason"].startswith("too few calls")
