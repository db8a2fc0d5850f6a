"""Who a child is, as it tells itself: half of it is none, and what stands in front of its driver may follow."""

from __future__ import annotations

import os
from pathlib import Path

from watchdogd.act import birth
from watchdogd.instrument.words import Shim


def test_a_birth_is_read_as_it_was_told(tmp_path: Path) -> None:
    path = str(tmp_path / "a.1")
    birth.tell(path, "/sys/fs/cgroup/x", None)
    told = birth.read(path)
    assert told is not None
    assert (told.identity.pid, told.cgroup, told.problem, told.shim) == (os.getpid(), "/sys/fs/cgroup/x", None, None)


def test_the_shim_follows(tmp_path: Path) -> None:
    path = str(tmp_path / "a.1")
    birth.tell(path, None, "no systemd")
    birth.add_shim(path, Shim("/folder", "/driver/libcuda.so.1"))
    told = birth.read(path)
    assert told is not None
    assert (told.problem, told.shim) == ("no systemd", Shim("/folder", "/driver/libcuda.so.1"))
    assert birth.folders(str(tmp_path)) == {"/folder"}


def test_a_shim_that_could_not_be_says_why_in_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "a.1")
    birth.tell(path, None, None)
    birth.add_shim(path, Shim(problem="no driver:\nnone\n"))
    told = birth.read(path)
    assert told is not None
    assert told.shim == Shim(problem="no driver: none")
    assert birth.folders(str(tmp_path)) == set()


def test_half_of_what_is_told_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.1"
    birth.tell(str(path), "/cgroup", "problem")
    whole = path.read_bytes()
    birth.add_shim(str(path), Shim("/folder", "/driver"))
    more = path.read_bytes()
    for length in range(len(more)):
        path.write_bytes(more[:length])
        told = birth.read(str(path))
        assert (told is None) == (length < len(whole))
        assert told is None or told.shim is None
