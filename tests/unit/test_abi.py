"""The table agrees with itself and with ``watchdogd.h``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from watchdogd import abi, abi_header

HEADER = Path(abi.__file__).parent / "native" / "watchdogd.h"


def test_the_constants_of_the_c_header_are_those_of_the_table() -> None:
    block = HEADER.read_text().partition("do not edit --- */\n")[2].partition("/* --- end of the generated")[0]
    assert block.strip() == abi_header.c_header_block().strip(), (
        "paste what `python -m watchdogd.abi_header` prints between the marks"
    )


def test_the_module_prints_the_block() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "watchdogd.abi_header"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == abi_header.c_header_block()


def test_regions_follow_each_other_without_overlap_or_gap_beyond_alignment() -> None:
    ends = [
        (0, len(abi.HEADER) * abi.WORD, abi.HOT_OFFSET),
        (abi.HOT_OFFSET, abi.LANES * abi.HOT_STRIDE, abi.STAGE_OFFSET),
        (abi.STAGE_OFFSET, abi.STAGES * abi.STAGE_NAME_SIZE, abi.COLD_OFFSET),
    ]
    for start, size, following in ends:
        assert start + size == following
    assert abi.COLD_OFFSET + abi.LANES * abi.COLD_STRIDE == abi.OUTPUT_COUNTS_OFFSET
    assert abi.OUTPUT_COUNTS_OFFSET + 2 * abi.OUTPUT_COUNTS * abi.WORD == abi.REQUESTS_OFFSET
    assert 0 <= abi.SIZE - (abi.REQUESTS_OFFSET + abi.REQUESTS_SIZE) < 4096


def test_the_file_is_as_large_as_before_it_held_counts_of_outputs_and_requests() -> None:
    """Libraries of before compare the size, and write nothing where these are."""
    assert abi.SIZE == 0x25B000


def test_hot_lines_and_cold_blocks_are_whole_cache_lines() -> None:
    assert (abi.HOT_OFFSET % 64, abi.HOT_STRIDE, abi.COLD_OFFSET % 64, abi.COLD_STRIDE % 64) == (0, 64, 0, 0)


def test_a_cold_block_holds_its_histograms_and_its_ring() -> None:
    ring_size = abi.RING_ENTRIES * abi.RING_ENTRY_WORDS * abi.WORD
    assert abi.HISTOGRAMS * abi.HISTOGRAM_WORDS * abi.WORD <= abi.RING_OFFSET
    assert abi.RING_OFFSET + ring_size <= abi.COLD_STRIDE


def test_both_kinds_of_claimer_have_lanes_and_requests() -> None:
    locked = sum(map(abi.is_locked, range(abi.LANES)))
    assert (abi.LANES - locked, locked) == (256, 64)
    locked = sum(map(abi.is_locked, range(abi.REQUESTS)))
    assert (abi.REQUESTS - locked, locked) == (160, 40)


def test_codes_fit_their_bits() -> None:
    assert max(len(abi.OPERATIONS), abi.STAGES, len(abi.STATES), len(abi.REQUEST_STATES)) <= abi.CODE_MASK + 1
    assert len(abi.WELL_KNOWN_STAGES) <= abi.FIRST_DYNAMIC_STAGE
    assert len(abi.OUTPUTS) <= abi.OUTPUT_COUNTS
    assert abi.MOST_IN_A_ROW << abi.RUN_LENGTH_SHIFT | abi.CODE_MASK == abi.ERROR_MASK


@pytest.mark.parametrize("index", range(abi.BUCKETS - 1))
def test_a_bucket_ends_where_the_next_begins(index: int) -> None:
    upper_ns = abi.bucket_upper_ns(index)
    assert upper_ns is not None
    assert (abi.bucket_of(upper_ns - 1), abi.bucket_of(upper_ns)) == (index, index + 1)


def test_the_last_bucket_has_no_end() -> None:
    assert abi.bucket_upper_ns(abi.BUCKETS - 1) is None
    assert abi.bucket_of(2**62) == abi.BUCKETS - 1


def test_a_stamp_keeps_the_code_and_the_time_to_256_ns() -> None:
    word = abi.stamp(1_234_567_890_123, abi.OPERATION["copy"])
    assert word & abi.CODE_MASK == abi.OPERATION["copy"]
    assert 0 <= 1_234_567_890_123 - (word & ~abi.CODE_MASK) < 256
