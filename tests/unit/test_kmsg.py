"""Lines of the kernel log: real ones parse to what they say, others are none; records, overruns, storms."""

from __future__ import annotations

import dataclasses
import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.model import KernelKind, KernelMessage
from watchdogd.observe.sources.kmsg import MAX_NAME, MAX_TEXT, MOST_A_SECOND, Log, gpus, parse_line

FILE = Path(__file__).resolve().parents[1] / "fixtures/kmsg/lines.jsonl"
LINES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
XID = "NVRM: Xid (PCI:0000:02:00): 109, pid=8494,   name=RenderThread, channel 0x0000000d, CTX SWITCH TIMEOUT"
PREFIXES = (
    "",
    "3,339,5140900,-;",
    "6,339,5140900,-,caller=T12;",
    "<6>",
    "[    5.140900] ",
    "[Fri Mar  3 04:27:08 2023] ",
)


def facts(message: KernelMessage | None) -> dict[str, Any] | None:
    """What it tells besides its text."""
    if message is None:
        return None
    told = {key: value for key, value in dataclasses.asdict(message).items() if value is not None and key != "text"}
    return {**told, "kind": message.kind.value}


@pytest.mark.parametrize("sample", LINES, ids=lambda sample: f"{sample['kind']}-{sample['line'][:40]}")
def test_a_line_says_what_it_says_and_no_more(sample: dict[str, Any]) -> None:
    assert facts(parse_line(sample["line"])) == sample["expect"]


def test_every_kind_has_a_line_and_every_line_its_origin() -> None:
    assert {sample["expect"]["kind"] for sample in LINES if sample["expect"]} == {kind.value for kind in KernelKind}
    assert all(sample["origin"] for sample in LINES)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_stands_before_it_makes_no_difference(prefix: str) -> None:
    message = parse_line(prefix + XID)
    assert message == parse_line(XID)
    assert message is not None and message.text.startswith("NVRM: Xid")


@pytest.mark.parametrize("priority", [3, 4, 6, 7])
def test_no_priority_is_left_out(priority: int) -> None:
    assert parse_line(f"{priority},1,2,-;15880000.nvdla0:f: engine timeout detected") is not None


def test_a_pid_that_is_none_is_not_one() -> None:
    for pid in ("'<unknown>'", "0", "-1", "99999999999999999999", "¼"):
        message = parse_line(f"NVRM: Xid (PCI:0000:02:00): 45, pid={pid}, name=<unknown>, Ch 0000000a")
        assert message is not None
        assert (message.pid, message.name) == (None, None)


@pytest.mark.parametrize("word", ["INFO", "WRN", "DBG"])
def test_of_nvgpu_only_errors_and_known_texts_are_taken(word: str) -> None:
    assert parse_line(f"nvgpu: 17000000.gpu  f:1  [{word}]  all is well") is None
    assert parse_line(f"nvgpu: 17000000.gpu  f:1  [{word}]  error notifier set to 43 for ch 7") is not None


WORDS = st.sampled_from(
    ["NVRM: Xid ", "(PCI:0000:02:00)", ": ", "109", ", pid=", "7", "9" * 5000, "name=", "nvgpu: ", "g ", "f:1  [ERR]  ",
     "error notifier set to ", " for ch ", " owned by ", "channel ", ", still waiting", "[MMU FAULT]", "ch id: ",
     "nvdla0", ":", "engine timeout detected", "INFO: task ", " blocked for more than ", " seconds", "syncpoint id ",
     "(", ")", " stuck waiting", "cdma_timeout_handler: timeout: ", "6,1,2,-;", "\x1b[2J", "\x00", "\n", "²", "٣",
     " " * 99]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(WORDS, max_size=30).map("".join)))
@settings(deadline=None, max_examples=500)
def test_whatever_the_line_it_is_read_or_it_is_not(line: str) -> None:
    message = parse_line(line)
    if message is not None:
        assert message.text.isprintable() and len(message.text) <= MAX_TEXT
        assert message.name is None or (message.name.isprintable() and 0 < len(message.name) <= MAX_NAME)
        assert message.number is None or message.number >= 0


@pytest.mark.parametrize("piece", [" ", "a", ":", "a: ", "nvdla0", "nvdla0:", "[MMU FAULT]", "INFO: task a:1 "])
@pytest.mark.parametrize("start", ["", "nvgpu: g f:1  [ERR]  ", "NVRM: Xid (PCI:0): 1, ", "INFO: task ", "nvdla0:"])
def test_no_line_is_long_in_the_reading(start: str, piece: str) -> None:
    began = time.perf_counter()
    parse_line(start + piece * 1_000_000)
    assert time.perf_counter() - began < 0.2


def test_gpus_are_counted_along_the_bus(tmp_path: Path) -> None:
    assert gpus(str(tmp_path)) == []
    for place in ("0000:B3:00.0", "0000:0f:00.0", "0000:0f:00.1"):
        (tmp_path / "driver/nvidia/gpus" / place).mkdir(parents=True)
    assert gpus(str(tmp_path)) == ["0000:0f:00", "0000:b3:00"]


# --- records --------------------------------------------------------------------------------------------------------


def record(text: str = XID, sequence: int = 1, priority: int = 3) -> bytes:
    return f"{priority},{sequence},5140900,-;{text}\n".encode()


def log(*records: bytes | OSError, programs: bool = False) -> Log:
    return Log(reads(*records), programs=programs)


def reads(*records: bytes | OSError) -> Callable[[], bytes]:
    left: Iterator[bytes | OSError] = iter(records)

    def read() -> bytes:
        item = next(left, None)
        if item is None:
            raise BlockingIOError
        if isinstance(item, OSError):
            raise item
        return item

    return read


def test_a_record_is_printed_without_its_prefix_and_its_dictionary() -> None:
    text = "nvgpu: 17000000.gpu  f:1  [ERR]  TSG 8 generated a mmu fault"
    taken = log(record(text) + b" SUBSYSTEM=platform\n DEVICE=+platform:17000000.gpu\n").take(1)
    assert taken == [text]


def test_a_record_of_another_s_is_not_printed() -> None:
    assert log(record("usb 1-1: new device"), b"", b"garbage", b"3,1,2,-", b";\n").take(1) == []


def test_what_a_program_wrote_there_is_no_evidence_unless_asked_for() -> None:
    by_a_program = record(priority=8 + 3)
    assert log(by_a_program).take(1) == []
    assert log(by_a_program, programs=True).take(1) == [XID]


def test_a_line_s_end_within_a_message_ends_it() -> None:
    assert log(record(XID + r"\x0aNVRM: more")).take(1) == [XID]


def test_what_was_overwritten_is_counted() -> None:
    taken = log(record(sequence=7), OSError(errno.EPIPE, "overwritten"), record(sequence=12)).take(1)
    assert taken == [XID, "watchdogd: lost 4 lines (overrun)", XID]


def test_nothing_is_lost_between_neighbours() -> None:
    assert log(record(sequence=7), record("usb 1-1", sequence=8), record(sequence=9)).take(1) == [XID, XID]


def test_another_error_is_not_swallowed() -> None:
    with pytest.raises(OSError, match="gone"):
        log(OSError(errno.EIO, "gone")).take(1)


def test_a_storm_is_cut_off_and_told_once_it_is_over() -> None:
    storm = log(*(record(sequence=number) for number in range(500)))
    assert len(storm.take(1)) == MOST_A_SECOND
    assert storm.take(1) == []
    assert storm.take(2) == [f"watchdogd: lost {500 - MOST_A_SECOND} lines (a storm)"]
    assert storm.take(3) == []
