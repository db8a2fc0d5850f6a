"""`watchdogd incidents` as people and scripts use it: with no supervisor, and with a remedy for whoever may not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.process.test_cli import COMMAND, run
from tests.unit.test_incident_folders import keep
from tests.unit.test_incident_view import rich
from watchdogd.incidents import folders

NAMES = ("20261119T000000Z-model_h-1.1", "20261120T000000Z-model_h-1.2", "20261121T000000Z-model_i-7.3")


@pytest.fixture
def state() -> Iterator[Path]:
    """Three incidents, two of them alike, and a folder that is torn; any user may look: pytest's own is closed."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield fill(Path(place))


def fill(place: Path) -> Path:
    root = place / "state" / folders.DIRECTORY
    root.parent.mkdir()
    day_ns = 86_400 * 1_000_000_000
    for number, name in enumerate(NAMES):
        one = replace(rich(), id=name, worker=name.split("-")[1], opened_unix_ns=time.time_ns() - (3 - number) * day_ns)
        keep(root, replace(one, signature="beef00" if number < 2 else "cafe00", files={}), {"core": b"x" * 1000})
    (root / "torn").mkdir()
    (root / "torn" / folders.DOCUMENT).write_text('{"schema": 1')
    config = place / "vehicle.toml"
    config.write_text(f'[supervisor]\nstate_dir = "{place}/state"\nruntime_dir = "{place}/run"\n')
    return config


def ids(told: subprocess.CompletedProcess[str]) -> list[str]:
    assert told.returncode == 0, told.stderr
    return [line.split()[-1] for line in told.stdout.splitlines()[1:]]


def test_all_are_listed_and_what_is_torn_is_told_with_no_supervisor(state: Path) -> None:
    for words in (("incidents", "-c", state), ("incidents", "list", "-c", state)):
        told = run(*words)
        assert ids(told) == list(NAMES)
        assert "left out:" in told.stderr and "torn" in told.stderr
    as_json = [json.loads(line) for line in run("incidents", "--json", "-c", state).stdout.splitlines()]
    assert [(one["id"], one["signature"]) for one in as_json] == list(
        zip(NAMES, ("beef00", "beef00", "cafe00"), strict=True)
    )


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        (("--worker", "model_i"), NAMES[2:]),
        (("--verdict", "call"), NAMES),
        (("--signature", "beef"), NAMES[:2]),
        (("--since", "60h"), NAMES[1:]),
        (("--since", "2h"), ()),
    ],
)
def test_a_filter_may_stand_before_and_after_the_word(state: Path, filters: tuple[str, str], left: list[str]) -> None:
    for words in (("incidents", *filters, "-c", state), ("incidents", "list", *filters, "-c", state)):
        assert ids(run(*words)) == list(left) or (not left and "none of the 3" in run(*words).stdout)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--worker", "nobody"), 2, "there are: model_h, model_i"),
        (("--signature", "f"), 2, "has signature 'f'"),
        (("--verdict", "bad"), 2, "invalid choice"),
        (("show", "2026112"), 2, "may be 20261120"),
        (("show", "nothing"), 2, "no incident 'nothing' is kept"),
        (("export", "nothing"), 2, "no incident 'nothing' is kept"),
        (("prune",), 2, "--keep N"),
        (("prune", "--keep", "-1"), 2, "--keep"),
        (("prune", "--keep-bytes", "7 apples"), 2, "KiB, MiB or GiB"),
    ],
)
def test_a_slip_of_the_finger_is_told_with_what_there_is(
    state: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    told = run("incidents", "-c", state, *words)
    assert (told.returncode, told.stdout) == (status, "") and said in told.stderr
    assert "Traceback" not in told.stderr


def test_nothing_kept_yet_is_no_mystery(tmp_path: Path) -> None:
    told = run("incidents", "--directory", tmp_path / "none")
    assert told.returncode == 1 and "no incident was kept yet" in told.stderr
    (tmp_path / "empty").mkdir()
    told = run("incidents", "--directory", tmp_path / "empty")
    assert told.returncode == 0 and "no incident is kept in" in told.stdout


def test_a_directory_may_be_the_state_dir_or_the_one_in_it_and_what_is_shown_names_it(
    state: Path,
) -> None:
    for directory in (state.parent / "state", state.parent / "state" / folders.DIRECTORY):
        assert ids(run("incidents", "--directory", directory)) == list(NAMES)
        told = run("incidents", "show", "last", "--directory", directory).stdout
        assert f"`watchdogd incidents --directory {directory} --signature" in told and "watchdogd events" not in told
    told = run("incidents", "show", "last", "-c", state).stdout
    assert f"`watchdogd events -c {state} --incident {NAMES[2]}`" in told


@pytest.mark.parametrize("name", ["last", "7.3", NAMES[2], "20261121"])
def test_one_is_shown_by_whatever_of_its_id_is_enough(state: Path, name: str) -> None:
    told = run("incidents", "show", name, "-c", state)
    assert told.returncode == 0 and told.stderr == ""
    what, cause, first, *_ = told.stdout.splitlines()
    assert "model_i#3 hung: call sync in stage plugin on dla0" in what and "since" in what
    assert "kernel_without_end: Kernel spin (kernels.cu:14) does not end" in cause
    assert "model_h (sync 212 ms before the verdict, 75% sure), then model_i" in first
    whole = json.loads(run("incidents", "show", name, "--json", "-c", state).stdout)
    assert whole["id"] == NAMES[2] and whole["events"]


def test_an_export_lands_here_under_its_id_or_where_it_is_told(state: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    told = subprocess.run(
        [*COMMAND, "incidents", "export", "last", "-c", state], cwd=tmp_path, capture_output=True, text=True,
        timeout=30, check=True, env=environment,
    )  # fmt: skip
    made = told.stdout.strip()
    assert made.startswith(NAMES[2] + ".tar.") and (tmp_path / made).stat().st_size > 500
    other = tmp_path / "for-nvidia.tar.gz"
    assert run("incidents", "export", "1.1", "-o", other, "-c", state).stdout == f"{other}\n"
    again = run("incidents", "export", "1.1", "-o", other, "-c", state)
    assert again.returncode == 1 and "exists already" in again.stderr


def test_a_dry_run_removes_nothing_and_a_prune_what_it_said(state: Path) -> None:
    root = state.parent / "state" / folders.DIRECTORY
    before = sorted(root.iterdir())
    told = run("incidents", "prune", "--keep", "1", "--dry-run", "-c", state)
    assert told.returncode == 0 and f"would be removed: {NAMES[0]}" in told.stdout and sorted(root.iterdir()) == before
    told = run("incidents", "prune", "--keep", "1", "-c", state)
    assert told.stdout.startswith(f"removed: {NAMES[0]}") and re.search(r"\n2 kept, [\d.]+ KiB\n", told.stdout)
    assert "last of its signature" in told.stderr
    assert sorted(path.name for path in root.iterdir()) == sorted((*NAMES[1:], "torn"))


def test_who_may_not_read_is_told_how_he_may(state: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user is needed")
    root = state.parent / "state" / folders.DIRECTORY
    root.chmod(0o750)
    os.chown(root, 0, 4)  # adm
    told = as_stranger("incidents", "-c", str(state))
    assert told.returncode == 1 and "Permission denied; use sudo, or join the group adm" in told.stderr
    root.chmod(0o755)
    told = as_stranger("incidents", "-c", str(state))
    assert told.returncode == 0 and told.stderr.count("Permission denied") == 3
    for folder in root.iterdir():
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)
    told = as_stranger("incidents", "prune", "--keep", "0", "-c", str(state))
    assert told.returncode == 1 and "could not be removed; use sudo" in told.stderr
    assert as_stranger("incidents", "show", "last", "-c", str(state)).returncode == 0


def as_stranger(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The imports come first: the interpreter's own files may be root's alone."""
    code = f"""
import os, sys
from watchdogd import cli, incidents_command
from watchdogd.config import files, values
from watchdogd.incidents import codec, export, folders, quota
from watchdogd.publish import board
from watchdogd.view import incident_list, incident_show
import encodings.utf_8_sig, grp, json, shutil
os.setgroups([]); os.setgid(54321); os.setuid(54321)
sys.exit(cli.main({arguments!r}))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
