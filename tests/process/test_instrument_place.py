"""The shim on a file system from which no code can be run, and for a worker of another user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.private_mounts import in_private_mounts, small_disk
from watchdogd.instrument import place
from watchdogd.instrument.place import NoPlace


def put(*roots: Path) -> str:
    return place.put("n", 3, lambda: b"abc", map(str, roots), None)


def test_the_next_root_is_taken_where_the_first_is_mounted_noexec(tmp_path: Path) -> None:
    def body() -> None:
        small_disk(tmp_path / "noexec", "noexec,size=1m")
        (tmp_path / "plain").mkdir()
        assert put(tmp_path / "noexec", tmp_path / "plain") == str(tmp_path / "plain" / "shim" / "n")
        assert os.listdir(tmp_path / "noexec" / "shim") == []

    in_private_mounts(body)


def test_with_noexec_alone_it_says_so(tmp_path: Path) -> None:
    def body() -> None:
        small_disk(tmp_path / "noexec", "noexec,size=1m")
        with pytest.raises(NoPlace, match=r"noexec/shim.*no code can be run from there"):
            put(tmp_path / "noexec")
        with pytest.raises(OSError, match="no code can be run"):
            place.try_directory(str(tmp_path / "noexec"))
        assert os.listdir(tmp_path / "noexec") == ["shim"]

    in_private_mounts(body)
