"""The history of calls: what is written when, what survives, and what a torn or foreign line does."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_runtime import MS, SECOND, FakeRuntime
from watchdogd.decide import reporting
from watchdogd.incidents import history
from watchdogd.incidents.history import EVERY_NS, Follower

NOW, WALL = 1_000 * SECOND, 1_795_234_400 * SECOND


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    (tmp_path / "state").mkdir()
    return FakeRuntime(tmp_path)


class Keeper:
    """What the keeper does with a follower, at times of the test."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.state = str(runtime.directory / "state")
        self.follower = Follower(str(runtime.directory), NOW)

    def look(self, after_ns: int = 0) -> int:
        """How many lines it wrote."""
        lines = self.follower.look(NOW + after_ns, WALL + after_ns)
        history.append(self.state, lines)
        return len(lines)

    def end(self, after_ns: int) -> None:
        history.append(self.state, self.follower.last(NOW + after_ns, WALL + after_ns))


def calls(runtime: FakeRuntime, since: int = 0) -> dict[str, int]:
    rows = reporting.calls(history.read(str(runtime.directory / "state")), since)
    return {row.operation: row.histogram.count for row in rows if row.histogram.count}


def test_a_line_an_hour_says_all_calls_so_far(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("a", 3)
    runtime.publish()
    keeper = Keeper(runtime)
    beat.record(0, "sync", 41 * MS, 100)
    assert keeper.look() == keeper.look(EVERY_NS - 1) == 0
    assert keeper.look(EVERY_NS) == 1
    (snapshot,) = history.read(keeper.state)
    assert (snapshot.worker, snapshot.unix_ns) == ("a", WALL + EVERY_NS)
    assert snapshot.deadlines_ns == {"startup": 60 * SECOND, "step": 500 * MS, "sync": 200 * MS}
    assert (snapshot.histograms["sync"].count, snapshot.histograms["sync"].total_ns) == (100, 4_100 * MS)
    beat.record(0, "sync", 41 * MS, 11)
    assert keeper.look(EVERY_NS + 5 * SECOND) == 0 and keeper.look(2 * EVERY_NS) == 1
    assert calls(runtime) == {"sync": 111} and calls(runtime, WALL + EVERY_NS + 1) == {"sync": 11}


def test_a_worker_that_did_nothing_costs_no_line(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("a", 3)
    runtime.publish()
    keeper = Keeper(runtime)
    keeper.look()
    assert keeper.look(EVERY_NS) == 0
    beat.record(0, "sync", MS)
    assert keeper.look(2 * EVERY_NS) == 1 and keeper.look(3 * EVERY_NS) == 0


def test_the_last_calls_of_an_incarnation_are_written_though_its_file_is_gone(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("a", 3)
    runtime.publish()
    keeper = Keeper(runtime)
    keeper.look()
    beat.record(0, "sync", MS, 7)
    beat.path.unlink()
    runtime.incarnation("a", 4).record(0, "alloc", MS, 2)
    runtime.publish()
    assert keeper.look(SECOND) == 1
    keeper.end(2 * SECOND)
    assert calls(runtime) == {"sync": 7, "alloc": 2}


def test_a_worker_that_waits_for_its_next_start_is_still_the_one_before(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("a", 3)
    runtime.publish()
    keeper = Keeper(runtime)
    keeper.look()
    beat.record(0, "sync", MS, 7)
    runtime.worker("a", phase="backoff")
    runtime.publish()
    assert keeper.look(SECOND) == 0
    keeper.end(SECOND)
    assert calls(runtime) == {"sync": 7}


def test_a_worker_that_was_taken_away_gets_its_last_line_and_no_descriptor_stays(runtime: FakeRuntime) -> None:
    before = len(os.listdir("/proc/self/fd"))
    beat = runtime.incarnation("a", 3)
    runtime.publish()
    keeper = Keeper(runtime)
    keeper.look()
    beat.record(0, "sync", MS, 7)
    runtime.workers.clear()
    runtime.publish()
    assert keeper.look(SECOND) == 1
    beat.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_two_keepers_one_after_the_other_count_nothing_twice(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("a", 3)
    runtime.publish()
    for number in range(3):
        keeper = Keeper(runtime)
        keeper.look()
        beat.record(0, "sync", MS, 10)
        keeper.end(number * SECOND)
        keeper.end(number * SECOND)
    assert calls(runtime) == {"sync": 30}


def test_a_heartbeat_that_its_worker_cut_keeps_what_was_written(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("a", 3)
    beat.record(0, "sync", MS, 5)
    runtime.publish()
    keeper = Keeper(runtime)
    keeper.look()
    keeper.end(0)
    os.truncate(beat.path, 100)
    assert keeper.look(EVERY_NS) == 0
    assert calls(runtime) == {"sync": 5}


def test_a_heartbeat_of_another_incarnation_than_the_board_says_is_not_counted_as_that(runtime: FakeRuntime) -> None:
    runtime.incarnation("a", 4).record(0, "sync", MS, 5)
    runtime.workers["a"]["incarnation"] = 3
    runtime.publish()
    keeper = Keeper(runtime)
    assert keeper.look() == keeper.look(EVERY_NS) == 0
    runtime.workers["a"]["incarnation"] = 4
    runtime.publish()
    keeper.look(EVERY_NS + 1)
    keeper.end(EVERY_NS + 1)
    assert calls(runtime) == {"sync": 5}


def test_without_a_board_nothing_is_written(tmp_path: Path) -> None:
    assert Follower(str(tmp_path), NOW).look(NOW + EVERY_NS, WALL) == []


# --- the file -------------------------------------------------------------------------------------------------------


def line(**changes: Any) -> bytes:
    told = {"schema": 1, "unix_ns": 5, "began_unix_ns": 4, "boot_id": "b", "worker": "a", "spawned_ns": 1,
            "deadlines": {"sync": 0.2}, "calls": {"sync": {"total_ns": 7, "counts": {"3": 2}}}, **changes}  # fmt: skip
    return json.dumps(told).encode() + b"\n"


def test_a_torn_line_loses_itself_alone(tmp_path: Path) -> None:
    history.append(str(tmp_path), [line(unix_ns=1)])
    path = tmp_path / "history" / "calls.jsonl"
    with path.open("ab") as file:
        file.write(line(unix_ns=2)[:40])
    history.append(str(tmp_path), [line(unix_ns=3)])
    assert [snapshot.unix_ns for snapshot in history.read(str(tmp_path))] == [1, 3]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"nonsense\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        line(schema=2),
        line(worker=None, spawned_ns="x"),
        line(deadlines=[1]),
        line(deadlines={"sync": None}),
        line(calls={"sync": {"total_ns": 7, "counts": {"9999": 1}}}),
        line(calls={"sync": {"total_ns": 7, "counts": {"3": -1}}}),
        line(calls={"sync": {"total_ns": 7, "counts": {"3": 1.5}}}),
        line(calls=7),
        line(unix_ns=1e400),
    ],
    ids=lambda bad: repr(bad[:60]),
)
def test_a_line_that_is_no_snapshot_is_left_out(bad: bytes) -> None:
    assert history.decode(bad) is None
    assert history.decode(line()) is not None


def test_the_files_are_bounded_and_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_BYTES", 1_000)
    for number in range(100):
        history.append(str(tmp_path), [line(unix_ns=number)])
    files = [*(tmp_path / "history").iterdir()]
    assert len(files) <= history.MOST_FILES
    assert sum(path.stat().st_size for path in files) < history.MOST_FILES * 1_300
    kept = [snapshot.unix_ns for snapshot in history.read(str(tmp_path))]
    assert kept == [*range(kept[0], 100)] and len(kept) > 10


def test_the_record_is_for_the_group_and_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        history.append(str(tmp_path), [line()])
    finally:
        os.umask(before)
    folder = tmp_path / "history"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "calls.jsonl")]
    assert modes == [0o750, 0o640]


def test_a_symbolic_link_in_its_place_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "history" / "calls.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        history.append(str(tmp_path), [line()])
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_no_lines_make_no_file(tmp_path: Path) -> None:
    history.append(str(tmp_path), [])
    assert list(tmp_path.iterdir()) == []
