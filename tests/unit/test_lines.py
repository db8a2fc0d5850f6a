"""From a source's bytes to samples: what is read, what is refused, and that memory stays bounded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.model import LoadSample
from watchdogd.observe.sources.lines import MAX_LINE, BadLine, LineBuffer, device_memory, parse

SOURCES = ("tegrastats", "nvml", "nvgpu", "nvdla")


# --- bytes to lines --------------------------------------------------------------------------------------------------


def test_a_line_may_arrive_in_pieces() -> None:
    buffer = LineBuffer()
    assert [buffer.feed(piece) for piece in (b"RAM 1", b"/2MB\nRA", b"M 3/4MB\n")] == [[], ["RAM 1/2MB"], ["RAM 3/4MB"]]


def test_a_line_without_its_end_is_not_handed_out() -> None:
    assert LineBuffer().feed(b"GR3D_FREQ 9") == []


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert LineBuffer().feed(b"\xff\x00\n") == ["\ufffd\x00"]


@pytest.mark.parametrize("piece", [1000, MAX_LINE, 10 * MAX_LINE])
def test_an_overlong_line_is_dropped_and_counted_once(piece: int) -> None:
    buffer = LineBuffer()
    stream = b"before\n" + b"x" * (5 * MAX_LINE) + b"\nafter\n"
    lines = [line for at in range(0, len(stream), piece) for line in buffer.feed(stream[at : at + piece])]
    assert (lines, buffer.dropped) == (["before", "after"], 1)


def test_an_overlong_line_is_dropped_before_it_ends() -> None:
    buffer = LineBuffer()
    buffer.feed(b"x" * (MAX_LINE + 1))
    assert buffer.dropped == 1


def test_the_longest_line_allowed_is_kept() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"x" * MAX_LINE) == []
    assert buffer.feed(b"\n") == ["x" * MAX_LINE]
    assert buffer.dropped == 0


@given(st.lists(st.binary(max_size=20)))
@settings(deadline=None)
def test_the_cuts_between_pieces_make_no_difference(pieces: list[bytes]) -> None:
    at_once, in_pieces = LineBuffer(), LineBuffer()
    assert at_once.feed(b"".join(pieces)) == [line for piece in pieces for line in in_pieces.feed(piece)]


# --- lines to samples ------------------------------------------------------------------------------------------------


def test_a_line_of_tegrastats_gives_its_loads() -> None:
    line = "RAM 1/2MB GR3D_FREQ 37%@[305] NVDLA0 off"
    assert parse("tegrastats", line) == (LoadSample("gpu0", 0.37), LoadSample("dla0", 0.0))


@pytest.mark.parametrize("source", ["nvml", "nvgpu"])
def test_a_json_line_gives_its_load(source: str) -> None:
    line = '{"accelerator": "gpu1", "load_ratio": 0.37, "name": "NVIDIA H200", "uuid": "GPU-1"}'
    assert parse(source, line) == (LoadSample("gpu1", 0.37, "NVIDIA H200", "GPU-1"),)


@pytest.mark.parametrize(("printed", "ratio"), [("0", 0.0), ("1", 1.0), ("0.001", 0.001), ("null", None)])
def test_a_load_from_nothing_to_full_or_none_is_believed(printed: str, ratio: float | None) -> None:
    (sample,) = parse("nvml", f'{{"accelerator": "gpu0", "load_ratio": {printed}}}')
    assert (sample.load_ratio, type(sample.load_ratio)) == (ratio, type(ratio))


@pytest.mark.parametrize("printed", ["true", "false", "NaN", "Infinity", "-0.01", "1.01", "37", '"0.5"', "[0.5]"])
def test_a_load_that_cannot_be_is_refused(printed: str) -> None:
    with pytest.raises(BadLine, match="load_ratio"):
        parse("nvml", f'{{"accelerator": "gpu0", "load_ratio": {printed}}}')


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "0.5",
        "{}",
        '{"accelerator": "gpu0"}',
        '{"load_ratio": 0.5}',
        '{"accelerator": "", "load_ratio": 0.5}',
        '{"accelerator": 0, "load_ratio": 0.5}',
        '{"accelerator": "gpu0", "load_ratio": 0.5, "name": 7}',
        '{"accelerator": "gpu0", "load_ratio": 0.5, "uuid": ["GPU-1"]}',
        '{"accelerator": "gpu0", "load_ratio": 0.5} {}',
        '{"accelerator": "gpu0", "load_',
        "[" * (MAX_LINE - 1),
        '{"accelerator": "gpu0", "load_ratio": ' + "9" * 5000 + "}",
    ],
    ids=lambda line: line[:40],
)
def test_a_line_of_something_else_is_refused(line: str) -> None:
    for source in SOURCES:
        with pytest.raises(BadLine):
            parse(source, line)


@given(
    st.sampled_from(SOURCES),
    st.one_of(
        st.text(),
        st.dictionaries(
            st.sampled_from(["accelerator", "load_ratio", "name", "uuid", "power"]),
            st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(), st.just([])),
        ).map(json.dumps),
    ),
)
@settings(deadline=None)
def test_whatever_the_line_it_is_read_or_refused(source: str, line: str) -> None:
    try:
        samples = parse(source, line)
    except BadLine:
        return
    for sample in samples:
        assert sample.load_ratio is None or (type(sample.load_ratio) is float and 0 <= sample.load_ratio <= 1)


def test_the_supervisor_imports_no_reader_s_library_with_it() -> None:
    program = "import sys, watchdogd.observe.sources.lines; print(*{'pynvml', 'ctypes', 'argparse'} & set(sys.modules))"
    # -S: a site's own start-up may import what it likes
    ran = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert ran.stdout.split() == []


# --- what processes hold of a device's memory ------------------------------------------------------------------------


def test_what_processes_hold_is_read_and_unknown_stays_unknown() -> None:
    told = device_memory('{"memory_bytes": {"7": 1234, "8": null, "9": 0}}')
    assert told is not None and told.memory_bytes == {"7": 1234, "8": None, "9": 0}
    assert device_memory('{"accelerator": "gpu0", "load_ratio": 0.5}') is None


@pytest.mark.parametrize("held", ["7", "[]", '{"7": -1}', '{"7": 1.5}', '{"7": true}', '{"7": "8"}', "{"])
def test_what_is_no_number_of_bytes_by_pid_is_a_bad_line(held: str) -> None:
    with pytest.raises(BadLine):
        device_memory(f'{{"memory_bytes": {held}}}')
