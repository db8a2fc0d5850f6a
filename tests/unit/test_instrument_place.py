"""The copy of the shim: where it can be run from, for whom, and that nothing half or foreign is believed."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from watchdogd.instrument import place
from watchdogd.instrument.driver import NAME
from watchdogd.instrument.place import NoPlace

CONTENT = b"what is in it"


def content() -> bytes:
    return CONTENT


def put(*roots: Path, name: str = "n", ids: tuple[int, int, tuple[int, ...]] | None = None) -> Path:
    return Path(place.put(name, len(CONTENT), content, map(str, roots), ids))


def modes(folder: Path) -> list[str]:
    return [oct(path.stat().st_mode & 0o777) for path in (folder.parent, folder, folder / NAME)]


def test_a_folder_holds_the_copy_under_both_names(tmp_path: Path) -> None:
    folder = put(tmp_path)
    assert (folder / NAME).read_bytes() == (folder / "libcuda.so").read_bytes() == CONTENT
    assert [path.name for path in folder.parent.iterdir()] == ["n"]


def test_everybody_may_read_it_and_nobody_else_may_write_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert modes(put(tmp_path)) == ["0o755"] * 3
    finally:
        os.umask(before)


def test_the_next_start_finds_it_again(tmp_path: Path) -> None:
    folder = put(tmp_path)
    inode = (folder / NAME).stat().st_ino
    assert (put(tmp_path) / NAME).stat().st_ino == inode
    assert put(tmp_path, name="other") != folder


def test_one_that_a_power_cut_left_empty_is_made_anew(tmp_path: Path) -> None:
    (put(tmp_path) / NAME).write_bytes(b"")
    assert (put(tmp_path) / NAME).read_bytes() == CONTENT


def test_the_next_root_is_taken_where_the_first_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    assert put(tmp_path / "first", tmp_path / "second").is_relative_to(tmp_path / "second")


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim").chmod(0o777)
    with pytest.raises(NoPlace, match=r"not a directory that only user .* can write"):
        put(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shim").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoPlace, match="not a directory"):
        put(tmp_path)


def test_a_name_that_the_search_path_cannot_hold_is_none(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    with pytest.raises(NoPlace, match="cannot hold this name"):
        put(tmp_path / "a:b")


def test_a_folder_that_its_user_cannot_pass_through_is_none_and_says_where(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(NoPlace, match=r"user 4711 cannot pass through .* \(mode 0700\).*state_dir"):
        put(closed, ids=(4711, 4712, ()))
    assert put(closed)  # we ourselves can
    assert put(closed, ids=(0, 0, ()))


def test_a_group_may_open_it_to_the_user(tmp_path: Path) -> None:
    everybodys = Path(tempfile.gettempdir()).resolve()  # not ours to change: only what pytest made below it is
    for path in [tmp_path, *tmp_path.parents]:
        if path != everybodys and path.is_relative_to(everybodys):
            path.chmod(0o750)
    ids = (4711, 4712, (4712, os.getgid()))
    assert put(tmp_path, ids=ids)


def test_a_copy_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails() -> bytes:
        raise NoPlace("no")

    with pytest.raises(NoPlace):
        place.put("n", 1, fails, [str(tmp_path)], None)
    assert list((tmp_path / "shim").iterdir()) == []


def aged(folder: Path) -> Path:
    then_ns = time.monotonic_ns() - place.YOUNG_NS - 1
    os.utime(folder, ns=(then_ns, then_ns) if then_ns > 0 else (2**62, 2**62))
    return folder


def test_a_sweep_leaves_what_is_in_use(tmp_path: Path) -> None:
    kept, gone = aged(put(tmp_path, name="kept")), aged(put(tmp_path, name="gone"))
    ended = subprocess.Popen(["true"])
    ended.wait(10)
    half, making = kept.with_name(f".half.{ended.pid}"), kept.with_name(f".half.{os.getpid()}")
    half.mkdir()
    making.mkdir()
    place.sweep([str(tmp_path), str(tmp_path / "nowhere")], [str(kept)])
    assert [path.exists() for path in (kept / NAME, gone, half, making)] == [True, False, False, True]


def test_a_folder_of_before_a_reboot_is_not_young(tmp_path: Path) -> None:
    folder = put(tmp_path, name="before")
    later_ns = time.monotonic_ns() + 3_600_000_000_000
    os.utime(folder, ns=(later_ns, later_ns))
    place.sweep([str(tmp_path)], [])
    assert not folder.exists()


def test_a_start_that_takes_a_folder_as_it_is_swept_has_it_or_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two is first: the sweep has seen that it is old, and then it is taken."""
    folder, rename = aged(put(tmp_path)), os.rename
    inode = folder.stat().st_ino

    def taken_first(old: str, new: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        assert put(tmp_path) == folder
        rename(old, new)

    monkeypatch.setattr(os, "rename", taken_first)
    place.sweep([str(tmp_path)], [])
    assert (folder / NAME).exists() and folder.stat().st_ino == inode

    def taken_after(old: str, new: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        rename(old, new)
        assert put(tmp_path) == folder

    aged(folder)
    monkeypatch.setattr(os, "rename", taken_after)
    place.sweep([str(tmp_path)], [])
    assert (folder / NAME).exists() and folder.stat().st_ino != inode


def test_a_sweep_leaves_what_another_start_has_just_taken(tmp_path: Path) -> None:
    new, again, old = put(tmp_path, name="new"), aged(put(tmp_path, name="again")), aged(put(tmp_path, name="old"))
    put(tmp_path, name="again")
    place.sweep([str(tmp_path)], [])
    assert [path.exists() for path in (new, again, old)] == [True, True, False]


def test_a_sweep_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "precious").mkdir(parents=True)
    aged(tmp_path / "elsewhere" / "precious")
    (tmp_path / "shim").symlink_to(tmp_path / "elsewhere")
    place.sweep([str(tmp_path)], [])
    assert (tmp_path / "elsewhere" / "precious").exists()
