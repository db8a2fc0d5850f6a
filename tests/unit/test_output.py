"""Each kind of bad output, and what is none; what a sample sees, and when."""

from __future__ import annotations

import ctypes
import math
import random
import struct
from array import array
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from watchdogd import _native, abi
from watchdogd.worker import _scan, attach, output
from watchdogd.worker.output import Canary, OutputCheck

BOTH = {"native": _native, "python": _scan}


@pytest.fixture(params=BOTH, autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The parts that look, each in turn; what stamps is the native one."""
    part = BOTH[request.param]
    attach()

    class Part:
        output = staticmethod(_native.output)
        extremes, uniform = staticmethod(part.extremes), staticmethod(part.uniform)
        digest, deviation = staticmethod(part.digest), staticmethod(part.deviation)

    monkeypatch.setattr(output, "_implementation", Part)
    yield part


def floats(*values: float, letter: str = "f") -> bytes:
    return struct.pack(f"={len(values)}{letter}", *values)


def noise(count: int, seed: int = 1) -> array[float]:
    draw = random.Random(seed)
    return array("f", [draw.uniform(-1, 1) for _ in range(count)])


LARGE = noise(1 << 18)  # 1 MiB: sampled, not read whole


def large(seed: int = 0) -> array[float]:
    """A large output, another for every seed, wherever one looks."""
    return array("f", [LARGE[(at + seed) % 1024] for at in range(len(LARGE))])


# --- each kind, and what is none ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "values", "kind"),
    [
        ("f", (0.0, 0.0, 0.0), "zero"),
        ("f", (0.0, -0.0, 0.0), "zero"),
        ("f", (-0.0, -0.0), "zero"),
        ("d", (0.0, -0.0), "zero"),
        ("e", (-0.0, 0.0), "zero"),
        ("b", (0, 0), "zero"),
        ("B", (0, 0), "zero"),
        ("q", (0, 0), "zero"),
        ("f", (0.0, 1e-45), None),  # a denormal is not zero
        ("f", (0.0, -1e-45), None),
        ("d", (0.0, 5e-324), None),
        ("e", (0.0, 6e-8), None),
        ("f", (1.0, math.nan, 2.0), "nan"),
        ("f", (1.0, -math.nan), "nan"),
        ("f", (1.0, math.inf), "nan"),
        ("f", (1.0, -math.inf), "nan"),
        ("d", (1.0, math.nan), "nan"),
        ("e", (1.0, math.inf), "nan"),
        ("e", (65504.0, -65504.0), None),  # the largest halves
        ("f", (3.4e38, -3.4e38), None),
        ("f", (0.25, 0.25, 0.25), "constant"),
        ("i", (-7, -7), "constant"),
        ("B", (255, 255), "constant"),
        ("i", (-7, -8), None),
        ("B", (255, 0), None),
        ("f", (0.25,), None),  # one element is always the same everywhere
    ],
)
def test_kinds(letter: str, values: tuple[float, ...], kind: str | None) -> None:
    assert OutputCheck(dtype=letter)(floats(*values, letter=letter)) == kind


@pytest.mark.parametrize(
    ("bits", "kind"),
    [
        ((0x0000, 0x8000), "zero"),
        ((0x3F80, 0x7F80), "nan"),
        ((0x3F80, 0xFFC0), "nan"),
        ((0x3F80, 0x3F80), "constant"),
        ((0x3F80, 0x7F7F), None),  # the largest
        ((0x3F80, 0x0001), None),  # the smallest
        ((0x3C01, 0x7C01), None),  # as halves, the latter would be NaN
    ],
)
def test_bfloat16_is_told_from_half(bits: tuple[int, ...], kind: str | None) -> None:
    assert OutputCheck(dtype="bf16")(struct.pack("=2H", *bits)) == kind


@pytest.mark.parametrize("pattern", [0x7C01, 0x7E00, 0xFC01, 0xFFFF])
def test_every_pattern_of_half_nan_is_one(pattern: int) -> None:
    assert OutputCheck(dtype="e")(struct.pack("=3H", 0x3C00, pattern, 0x3C01)) == "nan"


def test_what_a_network_may_do_rightly_can_be_left_out() -> None:
    same = floats(0.25, 0.25)
    assert OutputCheck(constant=False, stale=False)(memoryview(same).cast("f")) is None
    empty_mask = OutputCheck(zero=False, stale=False, dtype="f")
    assert empty_mask(bytes(64)) is None  # and it is not constant in place of that
    assert empty_mask(floats(0.0, -0.0)) is None
    assert OutputCheck(nan=False, dtype="f")(floats(1.0, math.nan)) is None
    assert OutputCheck(nan=False, dtype="f")(floats(math.nan, math.nan)) == "constant"


@pytest.mark.parametrize(
    ("values", "kind"),
    [((0.0, 1.0), None), ((0.5, 1.0000001), "bounds"), ((-1e-45, 0.5), "bounds"), ((-0.0, 1.0), None)],
)
def test_bounds_are_the_last_values_that_are_good(values: tuple[float, ...], kind: str | None) -> None:
    assert OutputCheck(bounds=(0.0, 1.0), dtype="f")(floats(*values)) == kind


def test_a_dtype_that_there_is_not_is_refused_before_the_first_output() -> None:
    with pytest.raises(ValueError, match="elements of format 'float32' cannot be judged; use one of b, h, i"):
        OutputCheck(dtype="float32")


def test_nan_is_within_no_bounds() -> None:
    assert OutputCheck(nan=False, bounds=(-1e30, 1e30), dtype="f")(floats(0.0, math.nan)) == "bounds"


@pytest.mark.parametrize(("value", "kind"), [(200, None), (201, "bounds"), (99, "bounds")])
def test_bounds_of_unsigned_elements(value: int, kind: str | None) -> None:
    assert OutputCheck(bounds=(100, 200))(bytes((150, value))) == kind


def test_the_same_output_for_another_input_is_stale() -> None:
    check = OutputCheck(dtype="f")
    assert [check(floats(1, 2)), check(floats(1, 3)), check(floats(1, 3))] == [None, None, "stale"]
    assert check(floats(1, 3), input_changed=False) is None
    assert [check(floats(1, 3)), check(floats(1, 4))] == ["stale", None]


def test_a_large_output_is_stale_one_output_later() -> None:
    check = OutputCheck()
    same = large()
    assert [check(same) for _ in range(4)] == [None, None, "stale", "stale"]


def test_a_large_output_that_changes_where_no_sample_looks_is_not_stale() -> None:
    check, changing = OutputCheck(), large()
    for number in range(20):
        changing[64 * 77] = number / 100  # one element of a block that is in one sample at most
        assert check(changing) is None


def test_a_large_output_with_one_element_is_not_zero_and_not_constant() -> None:
    """A sample of it is all zero nearly always."""
    for value in (0.0, 0.5):
        check = OutputCheck(stale=False)
        for number in range(20):
            nearly = array("f", [value]) * (1 << 18)
            nearly[(number * 7919) % len(nearly)] = 0.25
            assert check(nearly) is None


def test_a_large_output_of_zeros_is_found_at_once() -> None:
    assert OutputCheck()(array("f", bytes(1 << 20))) == "zero"


def test_outputs_of_other_sizes_are_not_compared() -> None:
    check = OutputCheck(dtype="f")
    assert [check(floats(*range(1, size))) for size in (3, 4, 3, 4)] == [None] * 4


# --- what a sample sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 2, 8, 64])
def test_a_bad_region_is_found_within_the_calls_that_are_promised(part: int) -> None:
    healthy, step = large(), output._step(1 << 20)
    for start in (0, 3, step // 2 + 1):
        check = OutputCheck(stale=False)
        for _ in range(5):  # it goes bad at any time
            assert check(healthy) is None
        spoilt = array("f", healthy)
        length = -(-step // part)
        for at in range(start * 64, (start + length) * 64):
            spoilt[at] = math.nan
        found = [check(spoilt) for _ in range(1 if part == 1 else min(4 * part, step))]
        assert "nan" in found


def test_a_single_bad_element_that_stays_is_found_in_as_many_calls_as_a_sample_has_steps() -> None:
    for at in (0, 12345, (1 << 18) - 1):
        check, spoilt = OutputCheck(stale=False), large()
        spoilt[at] = math.inf
        found = [check(spoilt) for _ in range(2 * output._step(1 << 20))]
        first = found.index("nan")
        assert first < output._step(1 << 20)
        assert set(found[first:]) == {"nan"}  # from then on in every output: a run
        assert check(large(1)) is None


@pytest.mark.parametrize("size", [1, 255, 256, 32768, 32769, 100_000, 8 << 20])
def test_the_samples_of_one_round_are_every_block_once(size: int) -> None:
    step = output._step(size)
    assert sorted(output._first(turn, step) for turn in range(step)) == list(range(step))
    assert -(-size // (256 * step)) <= output.SAMPLE


# --- what can be looked at ------------------------------------------------------------------------------------------


def test_anything_with_the_buffer_protocol_is_an_output() -> None:
    values = (0.5, 1.5, 2.5)
    for seen in (
        array("f", values),
        memoryview(array("f", values)),
        (ctypes.c_float * 3)(*values),
        ((ctypes.c_float * 3) * 2)((ctypes.c_float * 3)(*values)),
        memoryview(floats(*values)).cast("f"),
        memoryview(floats(*values, *values)).cast("B").cast("f", (2, 3)),
    ):
        assert OutputCheck(bounds=(0, 3))(seen) is None
        assert OutputCheck(bounds=(0, 2))(seen) == "bounds" or memoryview(seen).ndim == 2


def test_an_output_of_nothing_says_nothing() -> None:
    check = OutputCheck(dtype="f")
    check(bytes(8))
    run = check._run
    assert check(b"") is None
    assert check._run == run != 0  # neither good nor bad


@pytest.mark.parametrize(
    ("output_", "dtype", "words"),
    [
        (memoryview(bytes(64)).cast("f")[::2], None, "not contiguous"),
        (bytes(7), "f", "not whole elements"),
        (memoryview(b"abc").cast("c"), None, "dtype="),
        (bytes(8), "g", "cannot be judged"),
        ((ctypes.c_float.__ctype_be__ * 2)(), None, "cannot be judged"),
    ],
)
def test_what_cannot_be_judged_is_an_error_that_says_why(output_: Any, dtype: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        OutputCheck(dtype=dtype)(output_)


def test_what_is_no_buffer_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        OutputCheck()([0.0, 1.0])  # type: ignore[arg-type]  # a list is no buffer


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="lowest comes first"):
        OutputCheck(bounds=(1.0, 0.0))


# --- the two implementations ----------------------------------------------------------------------------------------

FORMATS = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3), (4, 0), (4, 1), (4, 2), (8, 0), (8, 1), (8, 2)]
SPECIAL = st.sampled_from([b"\0", b"\x80", b"\x7f", b"\xff", b"\0\x80", b"\0\0\x80\x7f", b"\0\0\xc0\xff", b"\0\x7c"])
DATA = st.one_of(
    st.binary(max_size=700),
    st.lists(SPECIAL, max_size=90).map(b"".join),
    st.tuples(st.binary(min_size=8, max_size=8), st.integers(0, 90)).map(lambda drawn: drawn[0] * drawn[1]),
)


@given(data=DATA, layout=st.sampled_from(FORMATS), first=st.integers(0, 3), step=st.integers(1, 5))
@example(data=b"\0\0\0\x80" * 70, layout=(4, 2), first=0, step=1)
@settings(deadline=None)
def test_native_and_pure_python_see_the_same(data: bytes, layout: tuple[int, int], first: int, step: int) -> None:
    width, kind = layout
    data = data[: len(data) // width * width]
    assert _native.uniform(data, width, kind) == _scan.uniform(data, width, kind)
    if first * abi.BLOCK < len(data):
        assert _native.extremes(data, width, kind, first, step) == _scan.extremes(data, width, kind, first, step)
    other = data[::-1]
    assert _native.deviation(data, other, width, kind) == _scan.deviation(data, other, width, kind)
    assert _native.digest(data, step) == _native.digest(bytearray(data), step)


@given(data=DATA, at=st.integers(0, 699), bit=st.integers(0, 7))
@settings(deadline=None)
def test_one_bit_makes_another_digest(data: bytes, at: int, bit: int) -> None:
    if at < len(data):
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        for part in BOTH.values():
            assert part.digest(data, 1) != part.digest(changed, 1)


@pytest.mark.parametrize("places", [(7, 39), (7, 71), (63, 255)])
def test_two_sign_bits_make_another_digest(places: tuple[int, int], implementation: ModuleType) -> None:
    data = bytearray(noise(64).tobytes())
    before = implementation.digest(data, 1)
    for place in places:
        data[place] ^= 0x80
    assert implementation.digest(data, 1) != before


@pytest.mark.parametrize("arguments", [(3, 0), (1, 2), (4, 3), (8, 4), (16, 0), (0, 0), (-1, 0)])
def test_the_native_part_refuses_formats_that_there_are_not(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        _native.uniform(bytes(64), *arguments)


# --- the canary -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "off_by", "passes"),
    [("fp32", 0.001, True), ("fp32", 0.1, False), ("fp16", 0.03, True), ("fp16", 0.1, False), ("int8", 0.3, True)],
)
def test_the_golden_output_has_a_tolerance_for_each_precision(precision: str, off_by: float, passes: bool) -> None:
    """As a part of its largest magnitude, which is 2."""
    canary = Canary(
        lambda given: floats(0.0, given[0] + off_by), [-2.0], floats(0.0, -2.0), precision=precision, dtype="f"
    )
    assert canary.run() is passes


def test_a_tolerance_of_ones_own() -> None:
    golden = array("f", [1.0, 2.0])
    almost = array("f", [1.0, 2.1])
    assert Canary(lambda _: almost, None, golden, precision="mine", tolerance={"mine": 0.1}).run()
    assert not Canary(lambda _: almost, None, golden, precision="mine", tolerance={"mine": 0.01}).run()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_the_golden_output(value: float) -> None:
    golden = array("f", [1.0, 2.0])
    assert not Canary(lambda _: array("f", [1.0, value]), None, golden, tolerance={"fp32": 1e30}).run()


def test_a_canary_is_due_at_first_and_after_its_interval() -> None:
    golden = array("f", [1.0])
    often, seldom = (Canary(lambda _: golden, None, golden, every_seconds=every) for every in (0, 3600))
    assert often.due() and seldom.due()
    assert often.run() and seldom.run()
    assert often.due() and not seldom.due()


@pytest.mark.parametrize(
    ("golden", "keys", "words"),
    [
        (b"", {}, "no elements"),
        (floats(1, math.nan), {}, "NaN"),
        (floats(1), {"precision": "fp4"}, "no tolerance for precision 'fp4'"),
    ],
)
def test_what_can_be_no_golden_output_is_refused(golden: bytes, keys: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Canary(lambda _: golden, None, golden, dtype="f", **keys)  # type: ignore[arg-type]  # what is wrong on purpose


def test_an_output_of_another_size_than_the_golden_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="the output has 8 bytes, and the golden output 4"):
        Canary(lambda _: floats(1, 2), None, floats(1), dtype="f").run()
