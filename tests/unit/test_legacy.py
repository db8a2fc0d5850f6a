"""What a successor's heartbeat begins with, whatever is left of the files before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.fake_runtime import FakeHeartbeat
from watchdogd import abi
from watchdogd.act import birth, legacy
from watchdogd.act.runtime import Runtime
from watchdogd.decide.requests import Entry, Left
from watchdogd.model import SupervisorSettings, WorkerSettings
from watchdogd.observe import heartbeat
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader

A = WorkerSettings("a", ("a",), redeliver=True)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(SupervisorSettings(runtime_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")))


def incarnation(runtime: Runtime, number: int, *requests: int, born: bool = True) -> Path:
    """One with these begun."""
    beat = FakeHeartbeat(Path(runtime.heartbeat("a", number)), number, 5)
    for place, request in enumerate(requests):
        offset = abi.REQUEST_TABLE_OFFSET + place * abi.REQUEST_WORDS * abi.WORD
        beat.put(offset, abi.stamp(10**9, abi.REQUEST_STATE["begun"]))
        beat.put(offset + abi.WORD, request)
    beat.close()
    if born:
        birth.tell(runtime.birth("a", number), None, None)
    return beat.path


def given(runtime: Runtime, number: int, settings: WorkerSettings = A) -> list[int]:
    return [entry.request for entry in legacy.for_successor(runtime, settings, number).given]


def test_a_successor_is_given_what_the_one_before_it_had_in_flight(runtime: Runtime) -> None:
    incarnation(runtime, 1, 7)
    incarnation(runtime, 2, 8, 9)
    assert given(runtime, 3) == [8, 9]


def test_and_nothing_unless_that_is_configured(runtime: Runtime) -> None:
    incarnation(runtime, 1, 7)
    assert given(runtime, 2, A._replace(redeliver=False)) == []


def test_the_first_of_all_is_given_nothing(runtime: Runtime) -> None:
    assert legacy.for_successor(runtime, A, 1) == Left()


@pytest.mark.parametrize("made", ["not at all", "half"])
def test_one_that_never_began_is_passed_over(runtime: Runtime, made: str) -> None:
    incarnation(runtime, 1, 7)
    if made == "half":
        Path(runtime.heartbeat("a", 2)).touch()
    assert given(runtime, 3) == [7]


@pytest.mark.parametrize("length", [0, abi.HOT_OFFSET, abi.REQUESTS_OFFSET + 8])
def test_what_an_incarnation_that_lived_has_spoilt_is_not_given_a_second_time(runtime: Runtime, length: int) -> None:
    """Number 7 may have been in flight in the second one, too."""
    incarnation(runtime, 1, 7)
    os.truncate(incarnation(runtime, 2, 7), length)
    assert given(runtime, 3) == []


def test_what_is_given_is_in_the_new_file_before_its_worker(tmp_path: Path) -> None:
    entries = (Entry(abi.stamp(5000, abi.REQUEST_STATE["given"]), 2**64 - 1, 199), Entry(abi.stamp(99, 3), 0, 0))
    path = str(tmp_path / "new")
    reader = heartbeat.create(path, boot_id=1, incarnation=2, spawned_ns=3, given=entries)
    assert sorted(reader.requests().entries) == sorted(entries)
    assert reader.word(abi.REQUESTS_OFFSET) == 2  # so its worker looks for them
    assert not reader.requests().asked
    reader.close()


def test_a_file_without_requests_has_none(runtime: Runtime) -> None:
    reader = HeartbeatReader(str(incarnation(runtime, 1)))
    assert reader.requests() == ((), False, 0)
    assert legacy.left_by(reader, redeliver=True) == Left()
    reader.close()


def test_requests_of_a_file_that_is_cut_short_are_not_believed(runtime: Runtime) -> None:
    path = incarnation(runtime, 1, 7)
    reader = HeartbeatReader(str(path))
    os.truncate(path, abi.REQUESTS_OFFSET + 8)
    with pytest.raises(HeartbeatError):
        reader.requests()
    assert legacy.left_by(reader, redeliver=True) is None
    reader.close()
