"""Shared memory of several workers at one instant: the nearest first, and never longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.fake_runtime import FakeHeartbeat
from watchdogd import abi
from watchdogd.incidents import reading
from watchdogd.model import MILLISECOND, SECOND
from watchdogd.observe import capture
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.pulse import Pulse, word_offset

NEVER = 1 << 62
Readers = list[tuple[str, HeartbeatReader | None]]


@pytest.fixture
def readers(tmp_path: Path) -> Iterator[Readers]:
    beats = [FakeHeartbeat(tmp_path / name, 3, 5 * SECOND) for name in ("a", "b")]
    for number, beat in enumerate(beats):
        beat.header(lanes_used_cas=3)
        beat.enter(0, "sync", 9 * SECOND + number)
        beat.record(1, "copy", 7_000_000, 3 + number)
    found: Readers = [(beat.path.name, HeartbeatReader(str(beat.path))) for beat in beats]
    yield found
    for _, reader in found:
        assert reader is not None
        reader.close()
    for beat in beats:
        beat.close()


def test_a_capture_is_what_the_readers_of_a_spool_take_for_one(
    readers: Readers,
) -> None:
    before_ns = time.monotonic_ns()
    taken = capture.take(readers, NEVER)
    assert before_ns <= taken.at_ns <= time.monotonic_ns()
    assert (taken.left_out, taken.unread) == ((), {})
    for name, reader in readers:
        assert reader is not None
        pulse = reader.read()
        assert taken.blobs[f"{name}/pulse"] == pulse.raw
        told = {"name": name, "phase": "running", "incarnation": 3}
        worker = reading.worker(told, taken.blobs, taken.at_ns)
        assert worker.unread is None
        assert dict(worker.typical_ns).keys() == {"copy"}
        assert [lane.in_flight[0].operation for lane in worker.lanes if lane.in_flight] == ["sync"]


def test_one_without_a_heartbeat_or_with_a_spoilt_one_says_so_and_hides_no_other(
    readers: Readers, tmp_path: Path
) -> None:
    with (tmp_path / "a").open("r+b") as file:
        file.truncate(100)
    taken = capture.take([("gone", None), *readers], NEVER)
    assert taken.unread == {"gone": "no process", "a": "truncated"}
    assert "b/pulse" in taken.blobs


def test_when_the_time_is_over_the_first_is_read_and_the_rest_is_left_out_and_named(
    readers: Readers,
) -> None:
    taken = capture.take([*readers, ("gone", None)], time.monotonic_ns() - 1)
    assert taken.left_out == ("b",)
    assert {name.split("/")[0] for name in taken.blobs} == {"a"} and "a/ring.1" in taken.blobs
    assert taken.unread == {"gone": "no process"}


def test_many_others_leave_time_for_what_the_nearest_did_before(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, first), (_, other) = readers
    many = [("a", first), *((f"other{number}", other) for number in range(2_000))]
    now_ns, read = [0], HeartbeatReader.read

    def slow_read(reader: HeartbeatReader) -> Pulse:  # by a clock that a busy machine makes no difference to
        now_ns[0] += MILLISECOND
        return read(reader)

    monkeypatch.setattr(HeartbeatReader, "read", slow_read)
    monkeypatch.setattr(capture, "time", SimpleNamespace(monotonic_ns=lambda: now_ns[0]))
    taken = capture.take(many, SECOND)
    assert "other0/ring.1" in taken.blobs
    assert "other1999" in taken.left_out


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("names", [0, 1, 3, 4, 5, 17, 47])
def test_as_much_of_the_stage_names_is_read_as_may_be_in_use(locked: bool, names: int) -> None:
    entries = [i for i in range(abi.FIRST_DYNAMIC_STAGE, abi.STAGES) if abi.is_locked(i) is locked][:names]
    read = capture._stages(0 if locked else len(entries), len(entries) if locked else 0)
    assert read == 0 if not entries else max(entries) < read <= abi.STAGES


def test_a_lane_that_did_nothing_has_no_ring(readers: Readers) -> None:
    taken = capture.take(readers, NEVER)
    raw = taken.blobs["a/pulse"]
    pulse = Pulse(raw, (len(raw) - word_offset(0, "outer")) // abi.HOT_STRIDE)
    assert (pulse.lanes, pulse.column("calls")) == (3, [0, 3, 0])
    assert [name for name in taken.blobs if name.startswith("a/ring.")] == ["a/ring.1"]
