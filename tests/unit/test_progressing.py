"""What one worker's shell remembers of its progress: whose samples count, how patient it is, when it looks again."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.pulses import call, thread
from watchdogd import abi, abi_driver
from watchdogd.act.progressing import NOT_ALL_SEEN, NOT_LOADED, Progressing
from watchdogd.decide.liveness import Pending, Threads
from watchdogd.decide.orders import WorkerState
from watchdogd.decide.progress import Sample
from watchdogd.model import MILLISECOND, SECOND, Deadlines, Phase, ProgressSource, Verdict, WorkerSettings
from watchdogd.observe.heartbeat import HeartbeatReader

T = 10 * SECOND
SPAWNED = 100 * SECOND
READY = 101 * SECOND
MARGIN = 20 * MILLISECOND
STATE = WorkerState("a", Phase.RUNNING, incarnation=1, spawned_ns=SPAWNED, ready_ns=READY, armed_ns=READY)
SETTINGS = WorkerSettings("a", ("a",), deadlines=Deadlines(progress_ns=T))
SYNC, METRICS, HTTP = (
    ProgressSource(kind, target) for kind, target in (("sync", ()), ("metrics", ("m",)), ("http", ("h",)))
)

ThreadsOf = Callable[[Pending], tuple[Threads | None, bool]]


def asleep(_: Pending) -> tuple[Threads | None, bool]:
    return {1: thread("S")}, False


def starving(_: Pending) -> tuple[Threads | None, bool]:
    """Runnable, and never run."""
    return {1: thread("R", ran=1)}, False


def gone(_: Pending) -> tuple[Threads | None, bool]:
    return None, True


class Rig(Progressing):
    def __init__(self, path: Path, source: ProgressSource, **keys: Any) -> None:
        super().__init__(SETTINGS._replace(progress=source, **keys))
        path.mkdir(exist_ok=True)
        self.file = HeartbeatFile(path / "a.1", version=abi.VERSION, spawned_ns=SPAWNED, lanes_used_cas=1)
        self.reader = HeartbeatReader(str(path / "a.1"))
        self.stalls: list[tuple[int, int]] = []
        self.load()

    def load(self, loaded_ns: int = SPAWNED) -> None:
        self.file.set_word(abi_driver.OFFSET, loaded_ns)

    def put(self, **words: int) -> None:
        for name, word in words.items():
            self.file.set_word(abi_driver.LANES_OFFSET + abi_driver.LANE.index(name) * abi.WORD, word)

    def verdict(self, now_ns: int, threads: ThreadsOf = asleep, state: WorkerState = STATE) -> Verdict | None:
        self.look(self.reader, self.reader.read(), state, now_ns)
        found = self.judge(state, threads, lambda since: sum(n for at, n in self.stalls if at > since), MARGIN, now_ns)
        return None if found is None else found.verdict

    def first(self, begin_ns: int, end_ns: int, threads: ThreadsOf = asleep, state: WorkerState = STATE) -> int | None:
        """When it was first found to stall, as the supervisor looks."""
        now_ns = begin_ns
        while now_ns < end_ns:
            if self.verdict(now_ns, threads, state) is not None:
                return now_ns
            due_ns = self.due_ns()
            assert due_ns is not None and due_ns > now_ns
            now_ns = due_ns
        return None


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, SYNC)
    yield made
    made.reader.close()


def hang(rig: Rig, entered_ns: int) -> None:
    rig.put(completed_ns=entered_ns - SECOND)
    rig.file.set_lane(0, "outer", call("sync", entered_ns))


def put_host_function(rig: Rig, queued_ns: int, pid: int = 11, entry: int = 3, stream: int = 0x7F00) -> None:
    words = {"owner": pid << 32 | 1, "queued_ns": queued_ns, "stream": stream}
    for name, word in words.items():
        offset = abi_driver.HOST_FUNCTIONS_OFFSET + entry * abi_driver.HOST_FUNCTION_STRIDE
        rig.file.set_word(offset + abi_driver.HOST_FUNCTION.index(name) * abi.WORD, word)


# --- host functions -------------------------------------------------------------------------------------------------

QUEUED = 200 * SECOND


def test_a_host_function_that_does_not_run_is_found_at_its_deadline(rig: Rig) -> None:
    rig.file.set_lane(0, "owner", 11 << 32)
    put_host_function(rig, QUEUED)
    put_host_function(rig, QUEUED + SECOND, entry=0)
    assert rig.first(QUEUED, QUEUED + 60 * SECOND) == QUEUED + T
    assert "a host function queued 10.0 s ago in stream 0x7f00 has not run" in rig.text(QUEUED + T)


@pytest.mark.parametrize("words", [{"queued_ns": 0}, {"pid": 12}, {"queued_ns": SPAWNED - 1}])
def test_one_that_ran_and_one_of_a_process_that_nobody_knows_are_none(rig: Rig, words: dict[str, int]) -> None:
    rig.file.set_lane(0, "owner", 11 << 32)
    put_host_function(rig, **{"queued_ns": QUEUED, **words})
    assert rig.first(QUEUED, QUEUED + 60 * SECOND) is None


def test_one_whose_process_is_gone_is_none_and_the_next_is_found(rig: Rig) -> None:
    rig.file.set_lane(0, "owner", 11 << 32)
    put_host_function(rig, QUEUED)
    assert rig.first(QUEUED, QUEUED + 60 * SECOND, gone) is None
    put_host_function(rig, QUEUED + 61 * SECOND, entry=5)
    assert rig.first(QUEUED + 61 * SECOND, QUEUED + 90 * SECOND) == QUEUED + 61 * SECOND + T


def test_host_functions_that_run_are_progress(rig: Rig) -> None:
    rig.file.set_lane(0, "owner", 11 << 32)
    put_host_function(rig, QUEUED)
    for at in range(QUEUED, QUEUED + 60 * SECOND, SECOND):
        rig.file.set_word(abi_driver.OFFSET + abi_driver.HEADER.index("host_function_ns") * abi.WORD, at)
        assert rig.verdict(at) is None


# --- patience -------------------------------------------------------------------------------------------------------

ENTERED = 200 * SECOND & ~abi.CODE_MASK


def test_a_call_that_hangs_is_found_at_its_deadline(rig: Rig) -> None:
    hang(rig, ENTERED)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND) == ENTERED + T


def test_what_threads_without_a_lane_may_have_completed_is_no_stall(rig: Rig) -> None:
    """Of 300 threads those that queue may have lanes, and those that synchronize none."""
    hang(rig, ENTERED)
    rig.file.set_header("laneless_cas", 1)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND) is None
    assert rig._course.unknown == NOT_ALL_SEEN


def test_a_machine_that_stood_still_meanwhile_gets_that_time(rig: Rig) -> None:
    hang(rig, ENTERED)
    rig.stalls = [(ENTERED + 5 * SECOND, 3 * SECOND)]
    assert rig.first(ENTERED, ENTERED + 60 * SECOND) == ENTERED + T + 3 * SECOND


def test_a_machine_that_stood_still_before_gets_none(rig: Rig) -> None:
    hang(rig, ENTERED)
    rig.stalls = [(ENTERED - 5 * SECOND, 3 * SECOND)]
    assert rig.first(ENTERED, ENTERED + 60 * SECOND) == ENTERED + T


def test_a_worker_that_starves_gets_its_turn_first_and_not_for_ever(rig: Rig) -> None:
    hang(rig, ENTERED)
    found = rig.first(ENTERED, ENTERED + T + SECOND, starving)
    assert found is None
    assert rig.verdict(ENTERED + 12 * T, starving) is Verdict.STALL


def test_a_wait_that_was_granted_is_over_where_nobody_judges_any_more(rig: Rig) -> None:
    hang(rig, ENTERED)
    rig.verdict(ENTERED + T, starving)
    assert rig.due_ns() == rig.waiting_ns is not None
    now_ns = ENTERED + 2 * T  # another verdict stands meanwhile, and is held
    rig.look(rig.reader, rig.reader.read(), STATE, now_ns)
    due_ns = rig.due_ns()
    assert due_ns is not None and due_ns > now_ns


def test_the_call_of_an_owner_that_is_gone_is_no_work_and_another_is(rig: Rig) -> None:
    hang(rig, ENTERED)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND, gone) is None
    rig.file.set_lane(0, "outer", call("sync", ENTERED + 60 * SECOND))
    assert rig.first(ENTERED + 60 * SECOND, ENTERED + 90 * SECOND) is not None


def test_a_worker_that_is_not_ready_is_not_judged(rig: Rig) -> None:
    hang(rig, ENTERED)
    starting = replace(STATE, phase=Phase.STARTING, ready_ns=None, armed_ns=None)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND, state=starting) is None


def test_a_resume_begins_the_time_anew(rig: Rig) -> None:
    hang(rig, ENTERED)
    resumed = replace(STATE, armed_ns=ENTERED + 7 * SECOND)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND, state=resumed) == ENTERED + 7 * SECOND + T


def test_an_observed_one_is_found_once_until_something_moves(rig: Rig) -> None:
    observed = replace(STATE, phase=Phase.OBSERVED)
    hang(rig, ENTERED)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND, state=observed) is not None
    assert rig.first(ENTERED + 60 * SECOND, ENTERED + 90 * SECOND, state=observed) is None
    hang(rig, ENTERED + 100 * SECOND)
    assert rig.first(ENTERED + 100 * SECOND, ENTERED + 190 * SECOND, state=observed) is not None


# --- what is unknown ------------------------------------------------------------------------------------------------


def test_a_shim_that_is_not_loaded_tells_nothing(rig: Rig) -> None:
    rig.load(0)
    hang(rig, ENTERED)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND) is None
    told = rig.describe()
    assert told is not None and told["unknown"] == NOT_LOADED


def test_a_worker_without_a_heartbeat_is_looked_at_no_more_often(rig: Rig) -> None:
    hang(rig, ENTERED)
    rig.look(None, None, STATE, ENTERED + T)
    due_ns = rig.due_ns()
    assert due_ns is not None and due_ns > ENTERED + T


def test_a_file_of_a_library_of_before_has_no_such_region(rig: Rig) -> None:
    hang(rig, ENTERED)
    with open(rig.reader.path, "r+b") as file:
        file.truncate(abi.SIZE)
    assert rig.first(ENTERED, ENTERED + 60 * SECOND) is None


# --- samples --------------------------------------------------------------------------------------------------------


def test_an_attempt_begun_before_its_spawn_is_anothers(tmp_path: Path) -> None:
    for begun_ns, ready in ((SPAWNED - 1, False), (SPAWNED, True)):
        rig = Rig(tmp_path, HTTP)
        starting = replace(STATE, phase=Phase.STARTING, ready_ns=None)
        rig.take(Sample(begun_ns, True), starting, SPAWNED + 5)
        assert rig.is_ready(rig.reader.read(), starting, SPAWNED + 5) is ready
        rig.reader.close()


@pytest.mark.parametrize(
    ("source", "attached", "ready"), [(METRICS, 0, True), (METRICS, 7, False), (HTTP, 0, True), (HTTP, 7, True)]
)
def test_a_worker_that_attached_says_itself_when_it_is_ready_unless_it_has_a_probe(
    tmp_path: Path, source: ProgressSource, attached: int, ready: bool
) -> None:
    rig = Rig(tmp_path, source)
    rig.file.set_header("attached_pid", attached)
    starting = replace(STATE, phase=Phase.STARTING, ready_ns=None)
    assert not rig.is_ready(rig.reader.read(), starting, SPAWNED + 4)
    rig.take(Sample(SPAWNED + 1, False, "refused"), starting, SPAWNED + 4)
    assert not rig.is_ready(rig.reader.read(), starting, SPAWNED + 4)
    rig.take(Sample(SPAWNED + 1, True, "", 1, 1), starting, SPAWNED + 5)
    assert rig.is_ready(rig.reader.read(), starting, SPAWNED + 5) is ready
    assert not rig.is_ready(rig.reader.read(), STATE, SPAWNED + 5)  # it is already
    rig.reader.close()


def test_what_is_told_of_it_is_bounded(tmp_path: Path) -> None:
    rig = Rig(tmp_path, ProgressSource("command", ("x" * 5000,)))
    rig.take(Sample(SPAWNED, False, "y" * 5000), STATE, SPAWNED + 5)
    rig.silent = "z" * 5000
    told = rig.describe()
    assert told is not None and len(told["pending"]) + len(str(told)) < 1500
    rig.reader.close()


@pytest.mark.parametrize(("after", "ready"), [(None, False), (5, True), (6, False)])
def test_it_counts_as_ready_so_long_after_its_spawn(tmp_path: Path, after: int | None, ready: bool) -> None:
    rig = Rig(tmp_path, SYNC, ready_after_ns=after)
    starting = replace(STATE, phase=Phase.STARTING, ready_ns=None)
    assert rig.is_ready(rig.reader.read(), starting, SPAWNED + 5) is ready
    rig.reader.close()


@pytest.mark.parametrize(
    ("source", "kills", "only"), [(HTTP, False, True), (HTTP, True, False), (METRICS, False, False)]
)
def test_a_probe_alone_only_tells_unless_it_may_kill(
    tmp_path: Path, source: ProgressSource, kills: bool, only: bool
) -> None:
    rig = Rig(tmp_path, source, progress_kills=kills)
    assert rig.only_tells is only
    rig.reader.close()


def test_ready_is_written_as_one_stamp_and_nothing_beside_it(rig: Rig) -> None:
    before = rig.file.words(0, len(abi.HEADER))
    rig.reader.write_ready(ENTERED + 77)
    after = rig.file.words(0, len(abi.HEADER))
    before[abi.H["state"]] = abi.stamp(ENTERED + 77, abi.STATE["ready"])
    assert after == before and struct.pack("=Q", after[abi.H["state"]])
