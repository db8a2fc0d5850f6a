"""The heartbeat's reader: a reading or a typed reason, whatever a worker leaves in the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fake_runtime import MS, FakeHeartbeat
from watchdogd import abi, abi_driver
from watchdogd.observe import heartbeat
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader, Unreadable
from watchdogd.pulse import Pulse, word_offset

BOOT_ID = 0xFEDCBA98765432100123456789ABCDEF
SPAWNED_NS = 5_000_000_000


@pytest.fixture
def beat(tmp_path: Path) -> Iterator[FakeHeartbeat]:
    beat = FakeHeartbeat(tmp_path / "beat", 3, SPAWNED_NS)
    yield beat
    beat.close()


@pytest.fixture
def reader(beat: FakeHeartbeat) -> Iterator[HeartbeatReader]:
    reader = HeartbeatReader(str(beat.path))
    yield reader
    reader.close()


def reason(reader: HeartbeatReader) -> Unreadable:
    with pytest.raises(HeartbeatError) as raised:
        reader.read()
    return raised.value.reason


# --- creation -------------------------------------------------------------------------------------------------------


def test_a_new_heartbeat_says_whose_it_is_and_has_its_space(tmp_path: Path) -> None:
    reader = heartbeat.create(str(tmp_path / "new"), boot_id=BOOT_ID, incarnation=7, spawned_ns=SPAWNED_NS)
    reader.write_spawned_pid(4321)
    pulse = reader.read()
    assert pulse.lanes == 0
    assert (pulse.header("boot_id_high") << 64 | pulse.header("boot_id_low")) == BOOT_ID
    assert [pulse.header(name) for name in ("incarnation", "spawned_ns", "spawned_pid")] == [7, SPAWNED_NS, 4321]
    assert pulse.header("state") == abi.stamp(SPAWNED_NS, abi.STATE["created"])
    assert [pulse.header(name) for name in ("version", "oldest_writer")] == [3, 1]  # so libraries of 1 attach
    stat = (tmp_path / "new").stat()
    assert stat.st_size == abi_driver.FILE_SIZE and stat.st_blocks * 512 >= abi_driver.FILE_SIZE
    reader.close()


@pytest.mark.parametrize("bisect", [True, False])
def test_a_new_heartbeat_asks_its_worker_to_synchronize_where_it_is_to(tmp_path: Path, bisect: bool) -> None:
    path = str(tmp_path / "new")
    reader = heartbeat.create(path, boot_id=BOOT_ID, incarnation=7, spawned_ns=SPAWNED_NS, bisect=bisect)
    assert reader.read().header("bisect") == abi.BISECT["asked" if bisect else "off"]
    reader.close()


def test_a_heartbeat_is_never_made_over_another_one(tmp_path: Path, beat: FakeHeartbeat) -> None:
    before = beat.path.read_bytes()
    with pytest.raises(FileExistsError):
        heartbeat.create(str(beat.path), boot_id=BOOT_ID, incarnation=8, spawned_ns=1)
    assert beat.path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        heartbeat.create(str(tmp_path / "no" / "such"), boot_id=BOOT_ID, incarnation=8, spawned_ns=1)


# --- reading --------------------------------------------------------------------------------------------------------


def test_words_are_read_from_the_lanes_that_are_used(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    beat.enter(0, "sync", 6_000_000_000)
    beat.lane(2, steps_done=41, owner=77 << 32 | 78)
    pulse = reader.read()
    assert pulse.lanes == 3
    assert pulse.column("outer") == [abi.stamp(6_000_000_000, abi.OPERATION["sync"]), 0, 0]
    assert pulse.column("steps_done") == [0, 0, 41]
    assert pulse.lane(2, "owner") == 77 << 32 | 78
    assert reader.word(word_offset(2, "steps_done")) == 41


def test_lanes_claimed_either_way_are_read(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    beat.put(word_offset(4, "steps_done"), 5)
    assert reader.read().lanes == 0
    beat.header(lanes_used_locked=5)
    assert reader.read().column("steps_done") == [0, 0, 0, 0, 5]


def test_the_last_lane_is_read_as_soon_as_it_is_used(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    assert reader.read().lanes == 0
    beat.lane(abi.LANES - 1, steps_done=9)
    pulse = reader.read()
    assert pulse.lanes == abi.LANES and pulse.column("steps_done")[-1] == 9


def test_a_lane_count_beyond_the_lanes_is_impossible(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    beat.header(lanes_used_cas=abi.LANES + 1)
    assert reason(reader) is Unreadable.IMPOSSIBLE_LANES


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("magic", Unreadable.BAD_MAGIC),
        ("oldest_writer", Unreadable.NEWER_VERSION),
        ("version", Unreadable.NEWER_VERSION),
        ("byte_order", Unreadable.BAD_HEADER),
        ("cold_stride", Unreadable.BAD_HEADER),
    ],
)
def test_a_foreign_header_gives_its_reason(
    beat: FakeHeartbeat, reader: HeartbeatReader, word: str, expected: Unreadable
) -> None:
    beat.header(**{word: 12345})
    assert reason(reader) is expected


@pytest.mark.parametrize(("version", "oldest_writer"), [(0, 1), (1, 1), (2, 1), (2, 2)])
def test_this_version_and_those_before_it_are_read(
    beat: FakeHeartbeat, reader: HeartbeatReader, version: int, oldest_writer: int
) -> None:
    beat.header(version=version, oldest_writer=oldest_writer)
    beat.lane(0, steps_done=41)
    assert reader.read().column("steps_done") == [41]


@pytest.mark.parametrize(("version", "oldest_writer"), [(4, 1), (4, 3), (4, 4), (3, 4), (1 << 63, 1)])
def test_a_newer_version_is_not_read(
    beat: FakeHeartbeat, reader: HeartbeatReader, version: int, oldest_writer: int
) -> None:
    beat.header(version=version, oldest_writer=oldest_writer)
    assert reason(reader) is Unreadable.NEWER_VERSION


def test_there_was_no_version_before_the_first(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    beat.header(oldest_writer=0)
    assert reason(reader) is Unreadable.BAD_HEADER


@pytest.mark.parametrize("length", [0, 7, 96, 255, abi.HOT_OFFSET + 63])
def test_a_file_cut_off_under_its_reader_is_truncated(
    beat: FakeHeartbeat, reader: HeartbeatReader, length: int
) -> None:
    beat.lane(0, steps_done=1)
    os.truncate(beat.path, length)
    assert reason(reader) is Unreadable.TRUNCATED


def test_a_file_cut_off_behind_what_is_used_is_still_read(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    beat.lane(0, steps_done=1)
    os.truncate(beat.path, abi.HOT_OFFSET + abi.HOT_STRIDE)
    assert reader.read().column("steps_done") == [1]


def test_a_word_beyond_the_end_is_none(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    os.truncate(beat.path, abi.HOT_OFFSET + 4)
    assert reader.word(abi.HOT_OFFSET) is None
    assert reader.word(0) == abi.MAGIC


def test_a_missing_heartbeat_is_missing_and_a_symlink_is_not_followed(tmp_path: Path, beat: FakeHeartbeat) -> None:
    with pytest.raises(HeartbeatError) as raised:
        HeartbeatReader(str(tmp_path / "gone"))
    assert raised.value.reason is Unreadable.MISSING
    (tmp_path / "link").symlink_to(beat.path)
    with pytest.raises(OSError, match="symbolic link"):
        HeartbeatReader(str(tmp_path / "link"))


def test_a_closed_reader_can_be_closed_again(beat: FakeHeartbeat) -> None:
    reader = HeartbeatReader(str(beat.path))
    reader.close()
    reader.close()


def test_a_stage_name_is_printable_and_never_missing(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    offset = abi.STAGE_OFFSET + 17 * abi.STAGE_NAME_SIZE
    assert reader.stage_name(abi.WELL_KNOWN_STAGES.index("enqueue")) == "enqueue"
    assert reader.stage_name(17) == "stage 17"
    with beat.path.open("r+b") as file:
        file.seek(offset)
        file.write("dé\x1b[2J".encode() + b"\xff")
    assert reader.stage_name(17) == "dé?[2J\N{REPLACEMENT CHARACTER}"
    os.truncate(beat.path, offset)
    assert reader.stage_name(17) == "stage 17"


# --- histograms -----------------------------------------------------------------------------------------------------


def test_histograms_are_summed_over_lanes_and_kept_apart_by_operation(
    beat: FakeHeartbeat, reader: HeartbeatReader
) -> None:
    beat.record(0, "sync", 5 * MS, times=2)
    beat.record(3, "sync", 7 * MS, times=4)
    beat.record(3, "copy", 11 * MS, times=8)
    histograms = reader.histograms(reader.read())
    assert {name: (h.count, h.total_ns) for name, h in histograms.items() if h.count} == {
        "sync": (6, 38 * MS),
        "copy": (8, 88 * MS),
    }
    assert histograms["sync"].counts[abi.bucket_of(5 * MS)] == 2
    assert histograms["sync"].counts[abi.bucket_of(7 * MS)] == 4
    assert set(histograms) == {"step", *abi.OPERATIONS[1:]}


def test_a_lane_without_a_call_is_not_looked_at(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    beat.lane(0, steps_begun=1)
    os.truncate(beat.path, abi.COLD_OFFSET)
    assert reader.histograms(reader.read())["sync"].count == 0
    beat.lane(0, steps_done=1)
    with pytest.raises(HeartbeatError) as raised:
        reader.histograms(reader.read())
    assert raised.value.reason is Unreadable.TRUNCATED


def test_counts_that_overflow_are_nonsense_but_no_error(beat: FakeHeartbeat, reader: HeartbeatReader) -> None:
    for lane in (0, 1):
        beat.lane(lane, calls=1)
        with beat.path.open("r+b") as file:
            file.seek(abi.COLD_OFFSET + lane * abi.COLD_STRIDE)
            file.write(b"\xff" * abi.RING_OFFSET)
    assert set(reader.histograms(reader.read())) == {"step", *abi.OPERATIONS[1:]}


# --- whatever is in the file ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file to overwrite, and the good start of it up to and including ten lanes."""
    beat = FakeHeartbeat(tmp_path_factory.mktemp("heartbeat") / "fuzzed", 3, SPAWNED_NS)
    beat.lane(9, calls=3, steps_done=2)
    beat.close()
    return beat.path, beat.path.read_bytes()[: abi.HOT_OFFSET + 10 * abi.HOT_STRIDE]


def everything(path: Path) -> Pulse | None:
    """Every question that a reader can ask; None where the answer was a HeartbeatError, which alone may be raised."""
    reader = HeartbeatReader(str(path))
    try:
        pulse = reader.read()
        for name in abi.H:
            assert 0 <= pulse.header(name) < 1 << 64
        for name in abi.L:
            assert len(pulse.column(name)) == pulse.lanes
        for code in (0, 5, 16, 255):
            assert reader.stage_name(code).isprintable()
        assert reader.histograms(pulse).keys() == {"step", *abi.OPERATIONS[1:]}
    except HeartbeatError:
        return None
    finally:
        reader.close()
    return pulse


@given(content=st.binary(max_size=600))
def test_arbitrary_bytes_are_a_heartbeat_error(fuzzed: tuple[Path, bytes], content: bytes) -> None:
    path, _ = fuzzed
    path.write_bytes(content)
    assert everything(path) is None


@given(data=st.data())
def test_a_damaged_or_cut_heartbeat_is_a_pulse_or_a_heartbeat_error(
    fuzzed: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, good = fuzzed
    content = bytearray(good)
    constant = len(abi.CONSTANT_HEADER)
    # Mostly behind the constant header, where damage is not noticed at once.
    words = st.integers(constant, len(good) // abi.WORD - 1) | st.integers(0, constant - 1)
    value = st.sampled_from([0, 1, abi.LANES, abi.LANES + 1, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
    for word in data.draw(st.lists(words, max_size=6)):
        content[word * 8 : word * 8 + 8] = data.draw(value).to_bytes(8, "little")
    length = data.draw(st.sampled_from([len(good), abi.SIZE, abi.COLD_OFFSET + 100]) | st.integers(0, len(good)))
    path.write_bytes(content[:length].ljust(length, b"\xa5"))
    everything(path)


def test_the_fuzz_would_accept_a_good_heartbeat(fuzzed: tuple[Path, bytes]) -> None:
    path, good = fuzzed
    path.write_bytes(good.ljust(abi.SIZE, b"\0"))
    pulse = everything(path)
    assert pulse is not None and pulse.lanes == 10
