"""Folders of incidents: whole whatever happens to their writer, read with care, and bounded."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import spools
from tests.unit.test_incident_assemble import begun
from watchdogd.incident import Call, Capture, Incident, Lane, Thread, Worker
from watchdogd.incidents import contents, folders, quota
from watchdogd.incidents.folders import BadFolder, Kept


def incident(number: int = 1, **changes: object) -> Incident:
    made = replace(begun(), id=f"{number}-{spools.ID}", opened_unix_ns=number)
    return replace(made, **changes)  # type: ignore[arg-type]  # any of its fields


def keep(root: Path, one: Incident, files: dict[str, bytes] | None = None) -> Path:
    folder = Path(folders.make(str(root), one.id))
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    folders.complete(str(root), one.id, lambda _: one)
    return folder


# --- writing --------------------------------------------------------------------------------------------------------


def test_what_was_kept_is_read_again_with_the_hashes_of_its_files(tmp_path: Path) -> None:
    files = {"stacks.txt": b"one", "dump/core": b"two" * 100_000}
    folder = keep(tmp_path / "incidents", incident(), files)
    kept = folders.read(str(folder))
    assert kept == replace(incident(), files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    assert sorted(path.name for path in folder.iterdir()) == [contents.BRIEF, "dump", "incident.json", "stacks.txt"]


def test_a_document_is_changed_from_what_it_was_and_a_torn_one_anew(tmp_path: Path) -> None:
    one = incident()
    folder = keep(tmp_path, one)
    seen = []
    folders.update(str(tmp_path), one.id, lambda before: seen.append(before) or replace(one, state="open"))  # type: ignore[func-returns-value]  # what append returns
    (folder / folders.DOCUMENT).write_text('{"schema": 1, "id"')
    folders.update(str(tmp_path), one.id, lambda before: seen.append(before) or one)  # type: ignore[func-returns-value]  # what append returns
    assert seen == [one, None]
    assert folders.read(str(folder)) == one


def test_nobody_but_the_group_of_the_directory_may_read(tmp_path: Path) -> None:
    group = 54321 if os.geteuid() == 0 else os.getegid()
    os.chown(tmp_path, -1, group)
    before = os.umask(0o000)
    try:
        folder = keep(tmp_path / "incidents", incident(), {"core": b"x"})
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder)}
    assert set(modes.values()) == {0o750}
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("core", folders.DOCUMENT)} == {0o640}
    assert {path.stat().st_gid for path in (folder.parent, folder, *folder.iterdir())} == {group}


@pytest.fixture
def anothers() -> Iterator[Path]:
    """A directory that user 54321 may change, and reach: those of pytest are closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        if os.geteuid() == 0:
            os.chown(directory, 54321, 0)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
def test_a_group_that_may_not_be_given_keeps_nothing_from_being_written(anothers: Path) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            keep(anothers / "incidents", incident(), {"core": b"x"})
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (folder,) = (anothers / "incidents").iterdir()
    assert (folder / folders.DOCUMENT).exists()
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (folder, *folder.iterdir())} == {(54321, 54321)}


@pytest.mark.parametrize("odd", ["../up", "", ".hidden", "a/b", "a\nb"])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path: Path, odd: str) -> None:
    with pytest.raises(BadFolder):
        folders.update(str(tmp_path / "incidents"), odd, lambda _: incident())
    assert list(tmp_path.iterdir()) == []


def test_a_link_among_its_files_is_left_alone_and_told(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    one = incident()
    folder = Path(folders.make(str(tmp_path / "incidents"), one.id))
    (folder / "core").symlink_to(secret)
    kept = folders.complete(str(tmp_path / "incidents"), one.id, lambda _: one)
    assert kept.files == {} and "core is no file" in kept.problems[0]
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert contents.size_of(str(folder)) == (folder / folders.DOCUMENT).stat().st_size


def test_a_part_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    one = incident()
    folder = Path(folders.make(str(tmp_path), one.id))
    (tmp_path / "target").write_text("keep me")
    (folder / f".{folders.DOCUMENT}.part").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        folders.update(str(tmp_path), one.id, lambda _: one)
    assert (tmp_path / "target").read_text() == "keep me"


# --- reading --------------------------------------------------------------------------------------------------------


def test_what_is_torn_or_foreign_is_skipped_with_a_message_and_stays(tmp_path: Path) -> None:
    good = keep(tmp_path, incident(5))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    text = (good / folders.DOCUMENT).read_text()
    (outside / folders.DOCUMENT).write_text(text)

    def folder(name: str, content: str | bytes | None) -> None:
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / folders.DOCUMENT).write_bytes(content.encode() if isinstance(content, str) else content)

    folder("a-torn", text[: len(text) // 2])
    folder("b-empty", "")
    folder("c-none", None)
    folder("d-other", text)
    folder("e-newer", json.dumps({"schema": 99, "id": "e-newer"}))
    folder("f-binary", b"\xff\xfe\x00")
    folder("g-deep", "[" * 100_000)
    folder("h-list", "[]")
    (tmp_path / "i-file").write_text("a note")
    (tmp_path / "j-link").symlink_to(outside)
    folder("k-link-in", None)
    (tmp_path / "k-link-in" / folders.DOCUMENT).symlink_to(good / folders.DOCUMENT)
    folder("l-fifo", None)
    os.mkfifo(tmp_path / "l-fifo" / folders.DOCUMENT)
    before = sorted(tmp_path.rglob("*"))
    found = folders.listing(str(tmp_path))
    assert [kept.path for kept in found.kept] == [str(good)]
    told = {os.path.basename(line.split(": ", 1)[0]): line.split(": ", 1)[1] for line in found.skipped}
    assert sorted(told) == sorted(path.name for path in tmp_path.iterdir() if path != good)
    expected = {
        "a-torn": "torn", "c-none": "no incident.json", "d-other": "is of incident", "e-newer": "newer",
        "i-file": "no folder", "j-link": "symbolic link", "k-link-in": "symbolic link", "l-fifo": "is no file",
    }  # fmt: skip
    assert [name for name, words in expected.items() if words not in told[name]] == []
    assert quota.enforce(str(tmp_path), found, 0, 0).removed == ()
    assert sorted(tmp_path.rglob("*")) == before


def long() -> Incident:
    """With what is left out in brief."""
    one = incident()
    lane = Lane(1, 2, 3, (Call("sync", 7),), ring=(Call("copy", 5, 1),))
    captures = tuple(Capture(when, 1, 1, (Worker("a", "running", 1, lanes=(lane,)),)) for when in ("verdict", "gone"))
    return replace(one, captures=captures, threads=(Thread(1, 2),), events=({"seq": 1},), signature="a")


def test_in_brief_an_incident_says_the_same_but_for_what_is_long(tmp_path: Path) -> None:
    folder = keep(tmp_path, long())
    brief = folders.read(str(folder), is_brief=True)
    lane = brief.captures[0].workers[0].lanes[0]
    assert (len(brief.captures), lane.ring, brief.threads, brief.events, brief.loads) == (1, (), (), (), ())
    assert (lane.in_flight, brief.signature, brief.verdict) == ((Call("sync", 7),), "a", long().verdict)
    (folder / contents.BRIEF).unlink()
    assert folders.read(str(folder), is_brief=True) == brief


@pytest.mark.parametrize("how", ["another document", "torn", "of another incident", "a list"])
def test_a_brief_that_is_not_of_this_document_is_passed_over(tmp_path: Path, how: str) -> None:
    folder = keep(tmp_path, long())
    brief = folder / contents.BRIEF
    if how == "another document":
        text = (folder / folders.DOCUMENT).read_text()
        (folder / folders.DOCUMENT).write_text(text.replace('"signature": "a"', '"signature": "b"'))
    elif how == "torn":
        brief.write_bytes(brief.read_bytes()[:-9])
    elif how == "of another incident":
        brief.write_text(brief.read_text().replace(long().id, "other"))
    else:
        brief.write_text("[]")
    kept, skipped = folders.listing(str(tmp_path))
    assert skipped == () and kept[0].incident.id == long().id
    assert kept[0].incident.signature == ("b" if how == "another document" else "a")


def test_no_directory_is_no_incident_and_one_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    assert folders.listing(str(tmp_path / "none")) == ((), ())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        folders.listing(str(tmp_path / "file"))


def test_a_folder_that_may_not_be_read_is_skipped_with_the_reason(anothers: Path) -> None:
    keep(anothers / "incidents", incident())
    (anothers / "incidents").chmod(0o755)
    next((anothers / "incidents").iterdir()).chmod(0o700 if os.geteuid() == 0 else 0)
    drop = "os.setgroups([]); os.setgid(54321); os.setuid(54321)" if os.geteuid() == 0 else "pass"
    listed = f"print(*folders.listing({str(anothers / 'incidents')!r}))"
    code = f"import os\nfrom watchdogd.incidents import folders\n{drop}\n{listed}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert "Permission denied" in told.stdout, told.stderr


# --- the quota ------------------------------------------------------------------------------------------------------


def shaped(kept: list[tuple[int, str, str]]) -> list[Kept]:
    made = [incident(n, signature=signature, state=state) for n, (_, signature, state) in enumerate(kept)]
    return [Kept(f"/{one.id}", one, size) for one, (size, _, _) in zip(made, kept, strict=True)]


STATES = st.sampled_from(["closed", "closed", "closed", "cut short", "open", "collecting"])
ANY = st.lists(st.tuples(st.integers(1, 100), st.sampled_from(["", "a", "b", "c"]), STATES), max_size=25)


@given(ANY, st.integers(0, 800), st.integers(0, 20))
def test_a_quota_removes_the_oldest_that_may_go_and_no_more_than_it_must(
    made: list[tuple[int, str, str]], most_bytes: int, most: int
) -> None:
    kept = shaped(made)
    planned = quota.plan(kept, most_bytes, most)
    assert sorted((*planned.removed, *planned.kept), key=lambda one: one.incident.opened_unix_ns) == kept
    assert all(one.incident.state in quota.ENDED for one in planned.removed)
    before, after = ({one.incident.signature for one in some} - {""} for some in (kept, planned.kept))
    assert before == after
    fits = planned.size <= most_bytes and len(planned.kept) <= most
    assert fits is (planned.problems == ())
    if planned.removed:  # with the last one still there it did not fit
        last = planned.removed[-1]
        assert planned.size + last.size > most_bytes or len(planned.kept) + 1 > most
    assert fits or quota.plan(planned.kept, most_bytes, most).removed == ()


def test_what_is_removed_is_gone_and_what_somebody_left_half_removed_too(tmp_path: Path) -> None:
    old, new = (keep(tmp_path, incident(n, signature="a", state="closed"), {"dump/core": b"x"}) for n in (1, 2))
    leaving = tmp_path / f"{folders.LEAVING}9-x"
    (leaving / "dump").mkdir(parents=True)
    done = quota.enforce(str(tmp_path), folders.listing(str(tmp_path)), None, 1)
    assert [one.path for one in done.removed] == [str(old)] and done.problems == ()
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


def test_an_incident_without_a_quota_stays(tmp_path: Path) -> None:
    for number in range(3):
        keep(tmp_path, incident(number, state="closed"))
    assert quota.enforce(str(tmp_path), folders.listing(str(tmp_path)), None, None).removed == ()
    assert len(list(tmp_path.iterdir())) == 3
