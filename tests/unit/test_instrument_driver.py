"""The real driver is the file that the loader would have given the program without us."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.shared_objects import DRIVER, build, build_shim
from watchdogd.instrument import driver, elf
from watchdogd.instrument.driver import NAME, NoDriver

MACHINE = elf.X86_64 if os.uname().machine == "x86_64" else elf.AARCH64
FLAGS = {elf.X86_64: 0x0303, elf.AARCH64: 0x0A03}[MACHINE]
Find = Callable[..., str]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("raw"), NAME, DRIVER).read_bytes()


@pytest.fixture
def there(tmp_path: Path, raw: bytes) -> Callable[[str], Path]:
    """Puts a driver into a folder."""

    def put(folder: str) -> Path:
        path = tmp_path / folder / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return path

    return put


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """On a machine that has only what the test put there."""
    monkeypatch.setattr(driver, "PLACES", {MACHINE: (str(tmp_path / "known"),)})
    monkeypatch.setattr(driver, "EVERYWHERE", ())

    def found(searched: str | None = None, **environment: str) -> str:
        if searched is not None:
            environment["LD_LIBRARY_PATH"] = searched
        return driver.find(environment, str(tmp_path), MACHINE, str(tmp_path / "cache")).path

    return found


def cache_of(*entries: tuple[int, str, str]) -> bytes:
    """As ``ldconfig`` writes it since glibc 2.2: flags, name and path of each library."""
    start = 48 + 24 * len(entries)
    table, texts = b"", b""
    for flags, *pair in entries:
        offsets = []
        for text in pair:
            offsets.append(start + len(texts))
            texts += os.fsencode(text) + b"\0"
        table += struct.pack("<iIIIQ", flags, *offsets, 0, 0)
    return struct.pack("<20sIIB3xI12x", b"glibc-ld.so.cache1.1", len(entries), len(texts), 2, 0) + table + texts


def test_the_workers_own_search_path_comes_before_the_cache(
    find: Find, there: Callable[[str], Path], tmp_path: Path
) -> None:
    cached, own = there("cached"), there("compat")
    (tmp_path / "cache").write_bytes(cache_of((FLAGS, "libz.so.1", "/z"), (FLAGS, NAME, str(cached))))
    assert find() == str(cached)
    assert find(f"/nowhere:{own.parent}") == str(own)


def test_the_cache_comes_before_the_known_places(find: Find, there: Callable[[str], Path], tmp_path: Path) -> None:
    known, cached = there("known"), there("cached")
    assert find() == str(known)
    (tmp_path / "cache").write_bytes(cache_of((FLAGS, NAME, str(cached))))
    assert find() == str(cached)


def test_an_old_cache_before_the_new_one_is_passed_over(
    find: Find, there: Callable[[str], Path], tmp_path: Path
) -> None:
    new = cache_of((FLAGS, NAME, str(there("cached"))))
    (tmp_path / "cache").write_bytes(b"ld.so-1.7.0\0" + struct.pack("<I", 0) + new)
    assert find() == str(tmp_path / "cached" / NAME)


def test_a_cached_library_of_another_machine_is_not_taken(
    find: Find, there: Callable[[str], Path], tmp_path: Path
) -> None:
    known = there("known")
    (tmp_path / "cache").write_bytes(cache_of((0x0003, NAME, str(there("cached"))), (FLAGS, NAME + "23", "/x")))
    assert find() == str(known)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 20, cache_of((FLAGS, NAME, "/x"))[:60]])
def test_a_cache_that_nobody_understands_is_none(
    find: Find, there: Callable[[str], Path], tmp_path: Path, damage: bytes
) -> None:
    known = there("known")
    (tmp_path / "cache").write_bytes(damage)
    assert find() == str(known)


def test_an_empty_entry_is_the_directory_it_is_started_in(
    find: Find, there: Callable[[str], Path], tmp_path: Path
) -> None:
    there("known")
    here = there(".")
    assert find("/nowhere:") == str(here)
    assert find("") == str(tmp_path / "known" / NAME)  # an empty variable is none


@pytest.mark.parametrize("separator", [":", ";"])
def test_entries_may_be_relative(find: Find, there: Callable[[str], Path], separator: str) -> None:
    own = there("own")
    assert find(f"/nowhere{separator}own") == str(own)


def test_a_stub_is_no_driver(find: Find, there: Callable[[str], Path], tmp_path: Path) -> None:
    known, stub = there("known"), there("lib64/stubs")
    link = tmp_path / "linked" / NAME
    link.parent.mkdir()
    link.symlink_to(stub)
    assert find(f"{stub.parent}:{link.parent}") == str(known)


def test_the_shim_of_an_outer_watchdogd_is_passed_over(
    find: Find, there: Callable[[str], Path], tmp_path: Path
) -> None:
    known = there("known")
    outer = tmp_path / "outer" / NAME
    outer.parent.mkdir()
    outer.write_bytes(elf.patched(build_shim(tmp_path / "shim").read_bytes(), str(known), frozenset({"cuInit"})))
    assert find(str(outer.parent)) == str(known)
    known.unlink()
    with pytest.raises(NoDriver, match=f"{outer} is the shim of a watchdogd"):
        find(str(outer.parent))


def test_a_library_for_another_machine_is_passed_over(find: Find, there: Callable[[str], Path]) -> None:
    known, other = there("known"), there("other")
    raw = bytearray(other.read_bytes())
    raw[18] = 40  # 32-bit ARM
    other.write_bytes(raw)
    assert find(str(other.parent)) == str(known)


def test_where_there_is_none_it_says_what_was_found_instead(find: Find, there: Callable[[str], Path]) -> None:
    broken = there("broken")
    broken.write_bytes(b"#!/bin/sh\n" * 10)
    with pytest.raises(NoDriver, match=f"{broken} is no ELF file.*{driver.OVERRIDE}"):
        find(str(broken.parent))


def test_a_pipe_in_its_place_holds_nobody_up(find: Find, there: Callable[[str], Path], tmp_path: Path) -> None:
    known = there("known")
    os.mkfifo(tmp_path / NAME)
    assert find(str(tmp_path)) == str(known)


def test_the_one_that_was_named_is_taken_or_nothing(find: Find, there: Callable[[str], Path]) -> None:
    there("known")
    own = there("own").rename(there("own").with_name("libcuda.so.580"))
    assert find(**{driver.OVERRIDE: str(own)}) == str(own)
    with pytest.raises(NoDriver, match="/nowhere/libcuda is not there"):
        find(**{driver.OVERRIDE: "/nowhere/libcuda"})


def test_another_file_of_that_name_is_another_driver(there: Callable[[str], Path], tmp_path: Path) -> None:
    environment = {"LD_LIBRARY_PATH": str(there("own").parent)}
    before = driver.find(environment, "/", MACHINE)
    assert driver.find(environment, "/", MACHINE) == before
    (tmp_path / "new").write_bytes(Path(before.path).read_bytes() + b"\0")
    (tmp_path / "new").replace(before.path)
    assert driver.find(environment, "/", MACHINE) != before
