"""What the supervisor leaves of an incident on tmpfs: whole or not there, and never the last that fits there."""

from __future__ import annotations

import os
import types
from pathlib import Path

import pytest

from watchdogd.incidents import spool

MIB = 1 << 20


def of_size(total: int, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = types.SimpleNamespace(f_frsize=4096, f_blocks=total // 4096, f_bavail=free // 4096)
    monkeypatch.setattr(os, "statvfs", lambda _: told)


@pytest.mark.parametrize(("total", "free"), [(4096 * MIB, 15 * MIB), (16 * MIB, 3 * MIB), (64 * MIB, 16 * MIB)])
def test_where_only_room_for_heartbeats_is_left_none_is_written(
    total: int, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_size(total, free, monkeypatch)
    with pytest.raises(OSError, match="for heartbeats"):
        spool.write(str(tmp_path / "one.spool"), {}, {"a/pulse": b"x" * MIB})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("total", "free"), [(4096 * MIB, 18 * MIB), (16 * MIB, 6 * MIB), (0, 0)])
def test_where_there_is_more_one_is(total: int, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_size(total, free, monkeypatch)
    path = str(tmp_path / "one.spool")
    spool.write(path, {"id": "one"}, {"a/pulse": b"x" * MIB})
    assert spool.read(path) == spool.Spool({"id": "one"}, {"a/pulse": b"x" * MIB})
