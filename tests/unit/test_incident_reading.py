"""What a spool holds of shared memory: calls that were, and no others."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import spools
from tests.helpers.fake_runtime import FakeHeartbeat
from tests.helpers.spools import AT_NS
from watchdogd import abi
from watchdogd.incident import Call, Worker
from watchdogd.incidents import reading
from watchdogd.model import MILLISECOND, SECOND
from watchdogd.pulse import word_offset

SPAWNED_NS = AT_NS - 100 * SECOND
ENTERED_NS = (AT_NS - 212 * MILLISECOND) & ~abi.CODE_MASK
OWNER = 4711 << 32 | 4713


@pytest.fixture
def beat(tmp_path: Path) -> Iterator[FakeHeartbeat]:
    beat = FakeHeartbeat(tmp_path / "beat", 3, SPAWNED_NS)
    yield beat
    beat.close()


def read(beat: FakeHeartbeat, **told: object) -> Worker:
    return reading.worker(spools.told("model_h", **told), spools.blobs("model_h", beat.path), AT_NS)


# --- calls in flight ------------------------------------------------------------------------------------------------


def test_nested_calls_are_in_flight_outermost_first_and_the_innermost_has_the_stage(beat: FakeHeartbeat) -> None:
    beat.lane(1, owner=OWNER, stage=abi.stamp(ENTERED_NS, abi.WELL_KNOWN_STAGES.index("plugin")), calls=0)
    beat.enter(1, "sync", ENTERED_NS + 512, "inner")
    beat.enter(1, "copy", ENTERED_NS)
    (lane,) = read(beat).lanes
    assert (lane.lane, lane.pid, lane.tid, lane.stage) == (1, 4711, 4713, "plugin")
    assert lane.in_flight == (Call("copy", ENTERED_NS), Call("sync", ENTERED_NS + 512, None, "plugin"))


def test_a_process_lane_has_its_oldest_step_and_no_stage(beat: FakeHeartbeat) -> None:
    step = abi.stamp(ENTERED_NS, abi.STEP_LATER)
    beat.lane(0, owner=4711 << 32, step=step, steps_begun=9, steps_done=7, stage=0xABCD04)  # there: the image
    (lane,) = read(beat).lanes
    assert (lane.tid, lane.stage, lane.in_flight) == (0, None, (Call("step", ENTERED_NS),))
    assert (lane.steps_begun, lane.steps_done) == (9, 7)


@pytest.mark.parametrize(
    "word",
    [
        abi.stamp(SPAWNED_NS - SECOND, abi.OPERATION["sync"]),
        abi.stamp(AT_NS + 2 * SECOND, abi.OPERATION["sync"]),
        abi.stamp(ENTERED_NS, len(abi.OPERATIONS)),
        abi.stamp(ENTERED_NS, 0),
    ],
)
def test_a_word_that_cannot_be_a_call_is_none(beat: FakeHeartbeat, word: int) -> None:
    beat.lane(0, owner=OWNER, outer=word)
    (lane,) = read(beat).lanes
    assert lane.in_flight == ()


def test_a_lane_that_is_nobodys_is_left_out_unless_somebody_was_in_a_call(beat: FakeHeartbeat) -> None:
    beat.lane(0, owner=0, calls=7)
    beat.enter(2, "free", ENTERED_NS)
    assert [lane.lane for lane in read(beat).lanes] == [2]


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_call_whose_thread_is_gone_is_told_apart(beat: FakeHeartbeat, is_gone: bool) -> None:
    beat.lane(0, owner=OWNER)
    beat.enter(0, "sync", ENTERED_NS)
    word = abi.stamp(ENTERED_NS, abi.OPERATION["sync"])
    orphaned = [[word_offset(0, "outer"), word if is_gone else word + 256]]
    (lane,) = read(beat, orphaned=orphaned).lanes
    assert lane.orphaned is is_gone


# --- the worker -----------------------------------------------------------------------------------------------------


def test_what_shared_memory_says_of_a_worker_joins_what_the_supervisor_knows(beat: FakeHeartbeat) -> None:
    beat.header(
        last_error=(AT_NS & ~abi.ERROR_MASK) | 719, last_step_ns=AT_NS - 5,
        bad_outputs=abi.run_of_bad(AT_NS - SECOND, 4, "nan"),
    )  # fmt: skip
    beat.record(0, "sync", 3 * MILLISECOND, times=40)
    told = read(beat, phase="collecting", coupled_with=["gpu0"], ready_ns=AT_NS - SECOND)
    assert (told.phase, told.coupled_with, told.ready_ns) == ("collecting", ("gpu0",), AT_NS - SECOND)
    assert (told.last_error, told.last_step_ns) == (719, AT_NS - 5)
    assert (told.bad_outputs, told.bad_kind) == (4, "nan")
    ((operation, median),) = told.typical_ns
    assert operation == "sync" and 3 * MILLISECOND <= median <= 4 * MILLISECOND


def test_calls_that_met_another_context_are_counted_and_the_last_one_is_told(beat: FakeHeartbeat) -> None:
    assert (read(beat).misuses, read(beat).misuse) == (0, None)
    beat.driver(misuses=3, misuse_owner=OWNER, misuse_expected=0xA0, misuse_found=0xB0, misuse_ns=AT_NS - 5)
    told = read(beat)
    assert told.misuses == 3
    assert told.misuse == "the last one thread 4713 of pid 4711: context 0xb0 in place of 0xa0"


def test_a_worker_that_said_nothing_bad_has_nothing_of_that(beat: FakeHeartbeat) -> None:
    told = read(beat)
    assert (told.last_error, told.bad_outputs, told.bad_kind, told.last_step_ns) == (None, 0, None, None)
    assert (told.typical_ns, told.lanes) == ((), ())


def test_a_worker_that_could_not_be_read_says_why() -> None:
    assert reading.worker(spools.told("model_h", unread="truncated"), {}, AT_NS).unread == "truncated"
    torn = reading.worker(spools.told("model_h"), {"model_h/pulse": bytes(abi.HEADER_SIZE + 7)}, AT_NS)
    assert torn.unread is not None and "no heartbeat" in torn.unread and torn.lanes == ()


def test_a_stage_has_its_own_name_a_well_known_one_or_its_number() -> None:
    table = bytearray(abi.STAGES * abi.STAGE_NAME_SIZE)
    struct.pack_into("8s", table, 20 * abi.STAGE_NAME_SIZE, b"ba\nd\x1b")
    whole = bytes(table)
    assert [reading.stage_name(whole, code) for code in (0, 4, 20, 21)] == [None, "plugin", "ba?d?", "stage 21"]
    assert reading.stage_name(whole[:64], 20) == "stage 20"


# --- the ring -------------------------------------------------------------------------------------------------------

Entry = tuple[int, int]  # stamp, duration << 8 | stage


def lived(lengths: list[tuple[int, int, bool]]) -> list[tuple[Entry, Call]]:
    """The calls of a thread as it leaves them: (pause, length, whether two more were nested in it)."""
    now_ns, found = SPAWNED_NS + 1, []
    for pause, length, nested in lengths:
        begun_ns = now_ns + pause
        inner = [(begun_ns + length // 3, length // 3, "event"), (begun_ns + length // 6, length * 2 // 3, "alloc")]
        calls = [*(inner if nested else ()), (begun_ns, length, "sync")]
        for entered_ns, duration_ns, operation in calls:
            stamp = abi.stamp(entered_ns, abi.OPERATION[operation])
            call = Call(operation, stamp & ~abi.CODE_MASK, duration_ns, "plugin")
            found.append(((stamp, duration_ns << 8 | 4), call))
        now_ns = begun_ns + length
    return found


def in_memory(entries: list[Entry], half: Entry | None) -> bytes:
    """A ring after all these calls; of one more only the first word is there."""
    words = [0] * (abi.RING_ENTRIES * 2)
    for number, (stamp, rest) in enumerate(entries):
        place = number % abi.RING_ENTRIES * 2
        words[place : place + 2] = stamp, rest
    if half is not None:
        words[len(entries) % abi.RING_ENTRIES * 2] = half[0]
    return struct.pack(f"={len(words)}Q", *words)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("nested", [0, 1, 2, 3])
@pytest.mark.parametrize("total", [5, 32, 33, 50, 64, 65, 90])
def test_whatever_was_written_meanwhile_a_ring_shows_calls_that_were(total: int, nested: int, half: bool) -> None:
    """``nested``: into each call of so many another one; 0: into none. ``half``: the last one is being left."""
    lengths = [(5_000 + 300 * n, 7_000 + 500 * (n % 7), bool(nested) and n % nested == 0) for n in range(total)]
    for since in range(40):
        _check(lived(lengths)[:total], since, half)


def _check(calls: list[tuple[Entry, Call]], since: int, half: bool) -> None:
    """``since``: calls that were left between the reading of the count and that of the ring."""
    whole = len(calls) - 1 if half else len(calls)
    counted = max(1, whole - since)
    raw = in_memory([entry for entry, _ in calls[:whole]], calls[whole][0] if half else None)
    shown = reading.ring(raw, counted, ended_ns(calls[counted - 1][1]))
    assert set(shown) <= {call for _, call in calls}
    kept = min(counted, abi.RING_ENTRIES)
    if whole - counted < kept:
        true = [call for _, call in calls[counted - kept : counted]]
        assert list(shown) == true[kept - len(shown) :]
        left = kept - (whole - counted)
        assert len(shown) >= (left - 2 if left > 5 else 0)


def ended_ns(call: Call) -> int:
    return call.entered_ns + (call.duration_ns or 0) + abi.CODE_MASK


def test_a_quiet_ring_shows_all_but_the_one_that_is_overwritten_next() -> None:
    calls = lived([(5_000, 7_000, False)] * 40)
    shown = reading.ring(in_memory([entry for entry, _ in calls], None), 40, AT_NS)
    assert list(shown) == [call for _, call in calls[9:40]]
    few = reading.ring(in_memory([entry for entry, _ in calls[:5]], None), 5, AT_NS)
    assert list(few) == [call for _, call in calls[:5]]


def test_a_ring_that_was_not_read_whole_shows_nothing() -> None:
    assert reading.ring(bytes(100), 5, AT_NS) == ()
