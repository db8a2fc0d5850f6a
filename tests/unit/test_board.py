"""The board: a body is read whole or not at all, whatever the file holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.publish import board
from watchdogd.publish.board import Board, BoardError

BOOT_ID = 0xFEDCBA98765432100123456789ABCDEF


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / board.FILE_NAME


@pytest.fixture
def writer(path: Path) -> Iterator[Board]:
    writer = Board(str(path), pid=4321, boot_id=BOOT_ID, capacity=1000)
    writer.publish(b"{}")
    yield writer
    writer.close()


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def slot(sequence: int) -> int:
    return board._SLOT_START * 8 + (sequence & 1) * (board._SLOT_HEADER.size + 1000)


def test_before_its_first_tick_a_board_says_since_when_a_look_is_due(path: Path) -> None:
    writer = Board(str(path), pid=4321, boot_id=BOOT_ID, capacity=1000, due_ns=77)
    writer.publish(b"{}")
    published = board.read(str(path))
    assert (published.next_tick_ns, published.stall_ns, published.stall_end_ns) == (77, 0, 0)
    writer.stalled(5, 80)
    writer.tick(81, 1, 90)
    published = board.read(str(path))
    assert (published.next_tick_ns, published.stall_ns, published.stall_end_ns) == (90, 5, 80)
    writer.close()


def test_what_was_published_is_read(path: Path, writer: Board) -> None:
    writer.publish(b'{"workers": [1]}')
    writer.tick(7_000, 300, 9_000)
    writer.count("wakeup_lateness", 5_000)
    writer.count("wakeup_lateness", 2_000)
    published = board.read(str(path))
    assert (published.pid, published.boot_id) == (4321, BOOT_ID)
    assert (published.last_tick_ns, published.last_tick_duration_ns, published.next_tick_ns) == (7_000, 300, 9_000)
    assert (published.ticks, published.sequence, published.max_lateness_ns) == (1, 2, 5_000)
    assert published.body == {"workers": [1]}
    assert {name: h.count for name, h in published.histograms.items()} == {
        "wakeup_lateness": 2,
        "detection_lateness": 0,
        "tick_duration": 1,
    }
    assert published.histograms["wakeup_lateness"].total_ns == 7_000


def test_a_new_board_can_be_read_before_anything_was_published(path: Path, writer: Board) -> None:
    assert writer.path == str(path)
    assert board.read(str(path)).body == {}


def test_being_woken_early_counts_as_no_lateness(path: Path, writer: Board) -> None:
    writer.count("wakeup_lateness", -5)
    histogram = board.read(str(path)).histograms["wakeup_lateness"]
    assert (histogram.count, histogram.total_ns) == (1, 0)


def test_a_body_that_does_not_fit_leaves_the_one_before_it(path: Path, writer: Board) -> None:
    writer.publish(b'{"first": 1}')
    with pytest.raises(BoardError, match="1010 bytes does not fit the board's 1000"):
        writer.publish(b'{"x": "' + b"y" * 1001 + b'"}')
    assert board.read(str(path)).body == {"first": 1}


def test_a_writer_that_stopped_in_the_middle_of_a_body_has_not_published_it(path: Path, writer: Board) -> None:
    writer.publish(b'{"first": 1}')  # sequence 2
    overwrite(path, slot(3), board._SLOT_HEADER.pack(3, 500, 0) + b'{"half": ')
    assert board.read(str(path)).body == {"first": 1}


def test_a_current_body_that_does_not_match_its_checksum_is_an_error(path: Path, writer: Board) -> None:
    writer.publish(b'{"first": 1}')
    overwrite(path, slot(2) + board._SLOT_HEADER.size + 2, b"F")
    with pytest.raises(BoardError, match="never stood still"):
        board.read(str(path))


def test_a_new_supervisor_makes_a_new_file(path: Path, writer: Board) -> None:
    writer.publish(b'{"first": 1}')
    before = path.stat().st_ino
    second = Board(str(path), pid=5555, boot_id=BOOT_ID, capacity=1000)
    assert board.read(str(path)).body == {"first": 1}  # to go on from, if this one is killed now
    second.publish(b'{"second": 1}')
    writer.publish(b'{"late": 1}')  # by a predecessor that does not know
    assert path.stat().st_ino != before
    assert (board.read(str(path)).pid, board.read(str(path)).body) == (5555, {"second": 1})
    second.close()


@pytest.mark.usefixtures("writer")
def test_what_a_supervisor_left_that_was_killed_before_its_first_body_is_removed(path: Path) -> None:
    Board(str(path), pid=5555, boot_id=BOOT_ID, capacity=1000).close()
    assert [other.name for other in path.parent.iterdir() if other != path] == ["board.5555.new"]
    Board(str(path), pid=5556, boot_id=BOOT_ID, capacity=1000).close()
    assert [other.name for other in path.parent.iterdir() if other != path] == ["board.5556.new"]


def test_a_missing_board_says_that_no_supervisor_ran(path: Path) -> None:
    with pytest.raises(BoardError, match="has not run with this runtime directory"):
        board.read(str(path))


def test_a_symlink_is_not_followed(path: Path, writer: Board, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(BoardError, match="not a watchdogd board"):
        board.read(str(tmp_path / "link"))
    assert board.read(writer.path).pid == 4321


def test_a_directory_or_a_fifo_is_an_error_and_no_wait(path: Path, tmp_path: Path) -> None:
    os.mkfifo(path)
    for strange in (path, tmp_path):
        with pytest.raises(BoardError):
            board.read(str(strange))


def test_a_board_of_another_version_says_both(path: Path, writer: Board) -> None:
    overwrite(path, 8, (9).to_bytes(8, "little"))
    with pytest.raises(BoardError, match="version 9; this program reads 1"):
        board.read(str(path))
    assert writer.path == str(path)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 900])
def test_a_body_that_is_no_object_is_an_error(path: Path, writer: Board, body: bytes) -> None:
    writer.publish(body)
    with pytest.raises(BoardError, match="holds no snapshot"):
        board.read(str(path))


@pytest.fixture(scope="module")
def a_board(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("board") / "fuzzed"
    writer = Board(str(path), pid=1, boot_id=BOOT_ID, capacity=64)
    writer.publish(json.dumps({"workers": []}).encode())
    writer.close()
    return path, path.read_bytes()


def read_or_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        published = board.read(str(path))
    except BoardError:
        return
    assert isinstance(published.body, dict)


@given(content=st.binary(max_size=400))
def test_arbitrary_bytes_are_a_board_error(a_board: tuple[Path, bytes], content: bytes) -> None:
    path, _ = a_board
    path.write_bytes(content)
    with pytest.raises(BoardError):
        board.read(str(path))


@given(data=st.data())
def test_a_damaged_or_cut_board_is_a_reading_or_a_board_error(a_board: tuple[Path, bytes], data: st.DataObject) -> None:
    path, good = a_board
    content = bytearray(good)
    # The words of the header and the slots; histograms may hold any number.
    places = [*range(0, 96, 8), *range(board._SLOT_START * 8, len(good) - 8, 8)]
    word = st.sampled_from([0, 1, 2, 3, (1 << 64) - 1, 1 << 63]) | st.integers(0, (1 << 64) - 1)
    for at in data.draw(st.lists(st.sampled_from(places), max_size=4)):
        content[at : at + 8] = data.draw(word).to_bytes(8, "little")
    length = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    read_or_error(path, bytes(content[:length]))
