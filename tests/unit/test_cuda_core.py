"""Core dumps of a GPU: kernels by their names, their sizes, and the line where they are; and what is no dump at all."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.gpu_core import CUBIN, DEEP, PLAIN, WAITS, Core, Grid, relocated, spinning
from watchdogd.incident import Kernel
from watchdogd.incidents.collectors import cuda_core, elf

SOURCE = "/tmp/example/spin.cu"
EVERY = 0xFFFFFFFF


def test_a_kernel_is_named_with_its_sizes_and_the_line_where_its_threads_are() -> None:
    assert cuda_core.kernels(spinning()) == [Kernel("spin_deep", "(3,1,1)", "(32,1,1)", f"{SOURCE}:7", 0)]


@pytest.mark.parametrize("symbols", [True, False])
@pytest.mark.parametrize("lines", [True, False])
def test_it_is_named_however_far_its_image_was_relocated(symbols: bool, lines: bool) -> None:
    core = Core([Grid(2, PLAIN, [(PLAIN + 0x20, EVERY)])], [relocated(symbols=symbols, lines=lines)])
    assert cuda_core.kernels(core.build()) == [Kernel("spin_plain", "(1,1,1)", "(32,1,1)", f"{SOURCE}:16", 0)]


def test_where_most_of_its_threads_are_is_where_it_is() -> None:
    warps = [(PLAIN + 0x60, 1), (PLAIN + 0x10, EVERY), (PLAIN + 0x90, 0xFF)]
    (kernel,) = cuda_core.kernels(Core([Grid(2, PLAIN, warps)], [relocated()]).build())
    assert kernel.location == f"{SOURCE}:16"


def test_a_lane_that_is_not_there_is_nowhere() -> None:
    core = Core([Grid(2, PLAIN, [(PLAIN + 0x10, 0)])], [relocated()])
    assert cuda_core.kernels(core.build())[0].location == ""


def test_of_two_kernels_each_has_its_own_line_and_the_larger_comes_first() -> None:
    grids = [Grid(5, PLAIN, [(PLAIN + 0x10, 1)]), Grid(6, DEEP, [(WAITS, EVERY), (WAITS, EVERY)])]
    found = cuda_core.kernels(Core(grids, [relocated()]).build())
    assert [(kernel.name, kernel.location) for kernel in found] == [
        ("spin_deep", f"{SOURCE}:7"),
        ("spin_plain", f"{SOURCE}:16"),
    ]


def test_a_grid_that_waits_for_its_turn_or_ended_is_no_kernel_that_runs() -> None:
    grids = [Grid(5, PLAIN, status=1), Grid(6, PLAIN, status=4), Grid(7, DEEP, [(WAITS, 1)])]
    assert [kernel.name for kernel in cuda_core.kernels(Core(grids, [relocated()]).build())] == ["spin_deep"]


def test_fields_that_a_newer_driver_adds_are_passed_over() -> None:
    core = Core([Grid(2, DEEP, [(WAITS, EVERY)], blocks=(3, 1, 1))], [relocated()], wider=24)
    assert cuda_core.kernels(core.build()) == cuda_core.kernels(spinning())


def test_a_dump_with_more_sections_than_a_header_can_count_is_read() -> None:
    core = Core([Grid(2, DEEP, [(WAITS, EVERY)], blocks=(3, 1, 1))], [relocated()], extended=True).build()
    assert cuda_core.kernels(core) == cuda_core.kernels(spinning())
    assert cuda_core.is_whole(elf.of(core), len(core))
    assert not cuda_core.is_whole(elf.of(core[:-1]), len(core) - 1)


def test_without_its_image_a_kernel_has_no_name_and_is_told() -> None:
    (kernel,) = cuda_core.kernels(Core([Grid(2, DEEP, [(WAITS, 1)])]).build())
    assert (kernel.name, kernel.location) == (f"unnamed, at {DEEP:#x}", "")


def test_an_address_in_no_function_has_no_line() -> None:
    image = elf.Image(relocated())
    assert image.line(PLAIN + 0x17F) is not None
    assert image.line(PLAIN + 0x180) is image.line(DEEP - 1) is image.line(0) is None
    assert image.function(PLAIN - 1) is None


def test_the_innermost_function_is_the_one() -> None:
    image = elf.Image(relocated())
    inner, outer = image.function(WAITS), image.function(DEEP)
    assert inner is not None and cuda_core.plain(inner.name) == "ours::wait_for_ever"
    assert outer is not None and cuda_core.plain(outer.name) == "spin_deep"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("spin", "spin"),
        ("_Z4spinPi", "spin"),
        ("_ZN2nv4spinEv", "nv::spin"),
        ("_Z9templatedIfEvPT_", "_Z9templatedIfEvPT_"),
        ("_ZN2at6native3addIfEEvi", "_ZN2at6native3addIfEEvi"),
        ("_Z", "_Z"),
        ("_Z9x", "_Z9x"),
    ],
)
def test_a_plain_name_is_shown_plainly_and_one_with_template_arguments_whole(name: str, said: str) -> None:
    assert cuda_core.plain(name) == said


def test_a_dump_is_whole_with_its_last_byte_and_not_before() -> None:
    core = spinning()
    assert cuda_core.is_whole(elf.of(core), len(core))
    for size in (0, 63, 64, 1000, len(core) - 64, len(core) - 1):
        assert not cuda_core.is_whole(elf.of(core[:size]), size)


def test_one_whose_headers_came_first_is_not_whole_without_the_rest() -> None:
    core = spinning()
    assert not cuda_core.is_whole(elf.of(core), len(core) - len(core) // 2)


@pytest.mark.parametrize("core", [b"", b"\x7fELF", b"x" * 5000, CUBIN.read_bytes()])
def test_what_is_no_dump_is_told(core: bytes) -> None:
    with pytest.raises(elf.BadImage):
        cuda_core.kernels(core)


# Where damage leads somewhere: the dump's head, its tables, its last headers, and the cubin's line table and symbols.
TELLING = [place for place in range(len(spinning())) if place % 3 == 0 or spinning()[place]]


@given(st.lists(st.tuples(st.sampled_from(TELLING), st.integers(0, 255)), min_size=1, max_size=200))
def test_a_damaged_dump_ends_in_an_answer(damage: list[tuple[int, int]]) -> None:
    core = bytearray(spinning())
    for at, value in damage:
        core[at] = value
    with suppress(elf.BadImage):
        cuda_core.kernels(bytes(core))


@given(st.integers(0, len(spinning())))
def test_one_that_is_cut_off_ends_in_an_answer(size: int) -> None:
    with suppress(elf.BadImage):
        cuda_core.kernels(spinning()[:size])
