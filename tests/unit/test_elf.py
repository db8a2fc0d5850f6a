"""The patched shim: what the loader makes of it, and that no file is more than a reason."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.shared_objects import DRIVER, build, build_shim
from watchdogd.instrument import elf
from watchdogd.instrument.elf import BadObject

ASK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in ("cuInit", "cuOld", "cuNew"):
    print(getattr(library, name)() if hasattr(library, name) else None)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def driver(folder: Path) -> Path:
    return build(folder / "real", "libcuda.so.1", DRIVER)


@pytest.fixture(scope="module", params=["--enable-new-dtags", "--disable-new-dtags"])
def shim(folder: Path, request: pytest.FixtureRequest) -> bytes:
    return build_shim(folder / request.param, f"-Wl,{request.param}").read_bytes()


def exports(path: Path) -> frozenset[str]:
    return elf.of_bytes(path.read_bytes()).exports()


def asked(path: Path) -> list[str]:
    command = [sys.executable, "-c", ASK, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()


def test_the_copy_wraps_forwards_and_has_what_the_driver_has(shim: bytes, driver: Path, tmp_path: Path) -> None:
    copy = tmp_path / "libcuda.so.1"
    copy.write_bytes(elf.patched(shim, str(driver), exports(driver)))
    assert asked(copy) == ["111", "12", "None"]


def test_what_a_newer_driver_has_is_wrapped(shim: bytes, folder: Path, tmp_path: Path) -> None:
    newer = build(folder / "newer", "libcuda.so.1", DRIVER + "int cuNew(void) { return 13; }")
    copy = tmp_path / "libcuda.so.1"
    copy.write_bytes(elf.patched(shim, str(newer), exports(newer)))
    assert asked(copy) == ["111", "12", "200"]


def test_a_copy_is_not_patched_again(shim: bytes, driver: Path) -> None:
    with pytest.raises(BadObject, match="is it patched already"):
        elf.patched(elf.patched(shim, str(driver), exports(driver)), str(driver), exports(driver))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("relative/libcuda.so.1", "absolute path"),
        ("/opt/$ORIGIN/libcuda.so.1", "without \\$"),
        ("/" + "d" * 1007, "room for a path of 1007 bytes, and the driver's has 1008"),
    ],
)
def test_a_path_that_the_loader_would_not_take_is_refused(shim: bytes, path: str, reason: str) -> None:
    with pytest.raises(BadObject, match=reason):
        elf.patched(shim, path, frozenset())


def test_the_longest_path_has_room(shim: bytes) -> None:
    path = "/" + "d" * 1006
    assert elf.patched(shim, path, frozenset()).count(path.encode() + b"\0") == 2


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_symbols_are_counted_by_whatever_hash_table_there_is(folder: Path, style: str) -> None:
    library = build(folder / style, "libcuda.so.1", DRIVER, f"-Wl,--hash-style={style}")
    assert {"cuInit", "cuOld"} <= exports(library)
    assert "cuNew" not in exports(library)


def test_what_a_library_only_uses_is_not_what_it_exports(folder: Path) -> None:
    library = build(folder / "uses", "libcuda.so.1", "int cuNew(void); int cuInit(void) { return cuNew(); }")
    assert "cuNew" not in exports(library)


def test_a_library_without_exports_has_none(folder: Path) -> None:
    library = build(folder / "bare", "libcuda.so.1", "static int x; int *y(void);", "-nostdlib", "-Wl,--hash-style=gnu")
    assert {name for name in exports(library) if name.startswith("cu")} == set()


def test_a_32_bit_library_is_another_class(folder: Path) -> None:
    raw = bytearray(build(folder / "small", "libcuda.so.1", DRIVER).read_bytes())
    raw[4] = 1
    with pytest.raises(BadObject, match="not 64 bit"):
        elf.of_bytes(bytes(raw))


@pytest.mark.parametrize("raw", [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, bytes(4096)])
def test_what_is_no_library_says_so(raw: bytes) -> None:
    with pytest.raises(BadObject):
        elf.of_bytes(raw)


def test_a_symbol_without_a_name_in_the_table_is_a_reason(shim: bytes) -> None:
    raw = bytearray(shim)
    symbol = next(symbol for symbol in elf.of_bytes(shim).symbols() if symbol.name == "cuNew")
    struct.pack_into("<I", raw, symbol.offset, 1 << 30)
    with pytest.raises(BadObject, match="outside its string table"):
        elf.of_bytes(bytes(raw)).exports()


def all_of(raw: bytes) -> None:
    """Whatever can be asked of it."""
    library = elf.of_bytes(raw)
    library.exports()
    elf.patched(raw, "/driver", frozenset())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_reason_and_no_crash(shim: bytes, data: st.DataObject) -> None:
    dynamic = elf.of_bytes(shim).dynamic[0].offset
    places = st.integers(0, 4095) | st.integers(dynamic, dynamic + 500)  # headers, hash tables, symbols; its entries
    raw = bytearray(shim)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(places)] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadObject):
        all_of(bytes(raw))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_short_is_a_reason_and_no_crash(shim: bytes, data: st.DataObject) -> None:
    dynamic = elf.of_bytes(shim).dynamic[-1].offset
    with pytest.raises(BadObject):
        all_of(shim[: data.draw(st.integers(0, dynamic))])
