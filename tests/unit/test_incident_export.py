"""An incident as one file: whole, with a README, and with nothing in it that is not the incident's."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.unit.test_incident_folders import incident, keep
from watchdogd.incidents import export

LINES = ("what      model_h hung", "cause     unknown")
PROGRAM = shutil.which("zstd")


def unpacked(archive: Path) -> dict[str, bytes]:
    raw = archive.read_bytes()
    if archive.name.endswith(".zst"):
        assert PROGRAM is not None
        raw = subprocess.run([PROGRAM, "-dc"], input=raw, capture_output=True, check=True, timeout=30).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = tar.getmembers()
        assert {(member.uid, member.gid, member.mode, member.type) for member in members} == {(0, 0, 0o644, b"0")}
        return {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]  # None fails the test too


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    folder = keep(tmp_path / "incidents", incident(), {"dump/core": b"core" * 5000, "stacks.txt": b"stacks"})
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "fifo")
    return folder


ENDINGS = [export.GZIP, pytest.param(export.ZSTD, marks=pytest.mark.skipif(not PROGRAM, reason="no zstd here"))]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_export_has_the_files_and_a_readme_that_explains_them(folder: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"out{ending}"
    assert export.write(str(folder), str(target), LINES) == str(target)
    found = unpacked(target)
    name = incident().id
    files = ("README.txt", "incident.json", "dump/core", "stacks.txt")
    assert sorted(found) == sorted(f"{name}/{file}" for file in files)
    assert found[f"{name}/dump/core"] == b"core" * 5000
    readme = found[f"{name}/README.txt"].decode()
    told = ("what      model_h hung", name, "timeline.html", "(redacted)", "SHA-256", "  dump/core", "Linux")
    assert [part for part in told if part not in readme] == []
    assert target.stat().st_mode & 0o777 == 0o640


def test_without_zstd_it_is_gzip_and_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert export.method() == (export.ZSTD if PROGRAM else export.GZIP)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert export.method() == export.GZIP


def test_nothing_is_written_over_and_what_fails_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.tar.zst"
    target.write_text("keep me")
    with pytest.raises(export.CannotExport, match="exists already"):
        export.write(str(folder), str(target), LINES)
    assert target.read_text() == "keep me"
    with pytest.raises(export.CannotExport, match=r"No such file or directory; name a file elsewhere with -o"):
        export.write(str(folder), str(tmp_path / "no/such.tar.gz"), LINES)
    program = tmp_path / "zstd"
    program.write_text("#!/bin/sh\ncat >/dev/null\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(export.CannotExport, match="status 3"):
        export.write(str(folder), str(tmp_path / "other.tar.zst"), LINES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["incidents", "out.tar.zst", "secret", "zstd"]
