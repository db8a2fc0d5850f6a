"""Real lines of tegrastats, and what each of them says."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.model import LoadSample
from watchdogd.observe.sources.tegrastats import MAX_LINE, NotTegrastats, as_json, loads, parse_line

Sample = dict[str, Any]

SAMPLES: list[Sample] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures/tegrastats/samples.jsonl").read_text().splitlines()
]

# One field of a line, for the tests that move fields: written apart from the parser's own grammar.
_FIELD = re.compile(
    r"\d\d-\d\d-\d{4} \S+|RAM \S+ \(lfb \S+\)|IRAM \S+ \S+|SWAP \S+ \(cached \S+\)"
    r"|MTS fg \S+ bg \S+|EDP limit \S+|\S+@\S+C|\S+ \S+"
)

RAM = "RAM 2850/7486MB (lfb 33x4MB) CPU [2%@729,off]"


def said(line: str) -> Sample:
    """What a line says, as JSON says it."""
    fields: Sample = json.loads(as_json(line))
    return fields


def fields_of(line: str) -> list[str]:
    line = " ".join(line.split())
    fields = _FIELD.findall(line)
    assert " ".join(fields) == line
    return fields


def load_of(line: str, accelerator: str = "gpu0") -> float | None:
    return {sample.accelerator: sample.load_ratio for sample in loads(parse_line(line))}[accelerator]


def sample_from(device: str, l4t: str, note: str = "") -> str:
    (line, *_) = [
        sample["line"]
        for sample in SAMPLES
        if device in sample["device"] and l4t in sample["l4t"] and note in sample["note"]
    ]
    return str(line)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample['device']}, {sample['l4t']}")
def test_every_captured_line_says_exactly_what_it_prints(sample: Sample) -> None:
    expected = sample["expect"]
    fields = said(sample["line"])
    assert {key: value for key, value in fields.items() if value is not None or key in expected} == expected


def test_what_a_line_does_not_print_is_null_and_not_left_out() -> None:
    every_field = set().union(*(sample["expect"] for sample in SAMPLES))
    assert all(set(said(sample["line"])) == every_field for sample in SAMPLES)


# --- the load --------------------------------------------------------------------------------------------------------


def test_thor_line_without_percent_has_no_load() -> None:
    line = sample_from("Thor", "R38.4", "GPU power-gated")
    assert "GR3D_FREQ @[0,0,0]" in line
    assert loads(parse_line(line)) == (LoadSample("gpu0", None),)


def test_thor_line_without_a_gpu_token_has_no_load() -> None:
    line = sample_from("Thor", "R38.x", "non-root")
    assert not parse_line(line).gpu_token_present
    assert loads(parse_line(line)) == (LoadSample("gpu0", None),)


def test_thor_line_with_percent_has_a_load() -> None:
    assert load_of(sample_from("Thor", "R39")) == 0.87


def test_orin_idle_line_has_a_load_of_zero() -> None:
    assert load_of(sample_from("Orin 64GB", "R36.4.4")) == 0.0


def test_orin_busy_line_has_its_load() -> None:
    assert load_of(sample_from("Orin Nano", "R36.x")) == 0.99


def test_r39_brackets_are_not_read_as_a_constant_zero() -> None:
    assert [load_of(f"{RAM} GR3D_FREQ {percent}%@[1300,1300] NVENC0 off") for percent in (12, 34)] == [0.12, 0.34]


def test_a_clock_alone_is_not_a_load() -> None:
    assert load_of(f"{RAM} GR3D_FREQ 76") is None


def test_the_busier_of_two_gpcs_is_the_load() -> None:
    assert load_of(f"{RAM} GR3D_FREQ 7%@114 GR3D2_FREQ 52%@114") == 0.52
    assert load_of(f"{RAM} GR3D_FREQ 61%@114 GR3D2_FREQ 5%@114") == 0.61


def test_a_load_above_full_is_not_believed() -> None:
    assert load_of(f"{RAM} GR3D_FREQ 101%@76") is None


def test_a_full_load_is_believed() -> None:
    assert load_of(f"{RAM} GR3D_FREQ 100%@76") == 1.0


def test_a_running_dla_without_percent_has_no_load() -> None:
    assert load_of(sample_from("Orin 64GB", "R35.x", "DLA core 0 RUNNING"), "dla0") is None


def test_a_dla_with_percent_has_its_load() -> None:
    assert load_of(f"{RAM} NVDLA1 45%@1600", "dla1") == 0.45


def test_a_dla_that_is_off_is_idle() -> None:
    line = sample_from("Orin 64GB", "R36.4.4")
    assert (load_of(line, "dla0"), load_of(line, "dla1")) == (0.0, 0.0)


def test_a_line_that_names_no_dla_tells_nothing_of_it() -> None:
    assert [sample.accelerator for sample in loads(parse_line(sample_from("Orin 64GB", "R35.5")))] == ["gpu0"]


# --- the grammar -----------------------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(SAMPLES))
@settings(deadline=None, max_examples=50)
def test_the_order_of_fields_is_free(data: st.DataObject, sample: Sample) -> None:
    shuffled = " ".join(data.draw(st.permutations(fields_of(sample["line"]))))
    assert said(shuffled) == said(sample["line"])


@given(st.data(), st.sampled_from(SAMPLES))
@settings(deadline=None, max_examples=50)
def test_unknown_words_change_nothing(data: st.DataObject, sample: Sample) -> None:
    fields = fields_of(sample["line"])
    position = data.draw(st.integers(0, len(fields)))
    unknown = data.draw(st.sampled_from(["FUTURE_TOKEN value", "fan 12rpm", "[x]", "@", "%", "VDD_NEW 5V", "PVA 7%@"]))
    assert said(" ".join([*fields[:position], unknown, *fields[position:]])) == said(sample["line"])


@pytest.mark.parametrize("spaces", ["  ", "\t", "     "])
def test_the_width_of_the_gaps_is_free(spaces: str) -> None:
    for sample in SAMPLES:
        assert said(sample["line"].replace(" ", spaces)) == said(sample["line"])


def test_free_blocks_may_be_counted_in_kilobytes() -> None:
    assert parse_line("RAM 1/2MB (lfb 1x512kB)").lfb_block_kb == 512


# --- what is not tegrastats' -----------------------------------------------------------------------------------------

GARBAGE = (
    "",
    " ",
    "sh: tegrastats: command not found",
    "RAM 70",
    "GR3D_FREQ %@[,] CPU [",
    "05-09-2026 18:42:08 RAM -1/0MB (lfb x4MB) GR3D_FREQ NaN%",
    "XRAM 1/2MB",
    "RAM \u0661/\u0662MB",
    "cpu@52.1C tj@52.1C VDD_IN 4061/3911",
    '{"accelerator": "gpu0", "load_ratio": 0.5}',
    f"RAM {'9' * 5000}/1MB",
    "\x00\x01\ufffd",
)


@pytest.mark.parametrize("line", GARBAGE)
def test_a_line_of_something_else_is_refused(line: str) -> None:
    with pytest.raises(NotTegrastats):
        parse_line(line)


@pytest.mark.parametrize("line", ["RAM 1/2MB", "CPU [1%,off]@102", "GR3D_FREQ 7%"])
def test_a_line_cut_down_to_one_field_is_still_read(line: str) -> None:
    assert "error" not in said(line)


def test_a_line_too_long_to_be_real_is_refused() -> None:
    parse_line("RAM 1/2MB".ljust(MAX_LINE))
    with pytest.raises(NotTegrastats):
        parse_line("RAM 1/2MB".ljust(MAX_LINE + 1))


def test_the_error_shows_the_beginning_of_the_line() -> None:
    error = said("what is this? " + "x" * 5000)["error"]
    assert "what is this?" in error
    assert len(error) < 250


_MEMORY_AND_CORES = ["RAM", "1/2MB", "CPU", "[", "]", "[1%@7,off]", "cpu@-256C", "@1C", "x@1e9C", "1mW/2mW", "1/2/3/4"]
_UNITS = [
    "GR3D_FREQ",
    "NVDLA0",
    "NVDLA",
    "NVDLA\u0663",
    "%",
    "99%",
    "9999999999%",
    "@",
    "@[",
    "@[1,2]",
    "off",
    "\u0663%",
]
_WORDS = st.sampled_from([*_MEMORY_AND_CORES, *_UNITS, "\x00", "\u00b2%"])


@given(st.one_of(st.text(), st.lists(_WORDS).map(" ".join), st.lists(_WORDS).map("".join)))
@settings(deadline=None, max_examples=200)
def test_whatever_the_text_it_is_read_or_refused(text: str) -> None:
    try:
        parsed = parse_line(text)
    except NotTegrastats:
        return
    for sample in loads(parsed):
        assert sample.load_ratio is None or 0 <= sample.load_ratio <= 1


@pytest.mark.parametrize(
    "pattern", ["A ", "A", "A_FREQ ", "1/2 ", "a 1/2 ", "x@1", "CPU [1%,", "1%,", " ", "@[1,", "NC 0mW/0mW "]
)
def test_no_line_can_hold_up_the_reader(pattern: str) -> None:
    line = "RAM 1/2MB GR3D @[" + pattern * MAX_LINE
    start = time.perf_counter()
    parse_line(line[:MAX_LINE])
    assert time.perf_counter() - start < 0.5  # 4 ms or less here; seconds if the grammar backtracked
