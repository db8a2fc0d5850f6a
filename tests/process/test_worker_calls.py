"""Call guards, as a reader in another process sees them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import run_worker
from watchdogd import abi

pytestmark = pytest.mark.parametrize("implementation", ["native", "python"])


def words(heartbeat: HeartbeatFile, pid: int) -> tuple[int, int]:
    """The outer and inner word of the only thread that stamps."""
    (lane,) = heartbeat.thread_lanes(pid)
    return heartbeat.lane(lane, "outer"), heartbeat.lane(lane, "inner")


def operations(heartbeat: HeartbeatFile, pid: int) -> tuple[str, str]:
    outer, inner = words(heartbeat, pid)
    return abi.OPERATIONS[outer & abi.CODE_MASK], abi.OPERATIONS[inner & abi.CODE_MASK]


@pytest.mark.parametrize("operation", abi.OPERATIONS[1:])
def test_a_call_in_flight_says_what_and_since_when(tmp_path: Path, implementation: str, operation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = f"with worker.call({operation!r}): say(); hear()\nsay(); hear()"
    before_ns = time.monotonic_ns()
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        outer, inner = words(heartbeat, worker.pid)
        assert outer & abi.CODE_MASK == abi.OPERATION[operation]
        assert before_ns - 256 < outer & ~abi.CODE_MASK <= time.monotonic_ns()
        assert inner == 0
        worker.ask("go on")
        assert words(heartbeat, worker.pid) == (0, 0)


def test_an_unknown_operation_is_refused_naming_the_known(implementation: str) -> None:
    source = "try: worker.call('wait')\nexcept ValueError as error: say(error)"
    with run_worker(source, implementation, None) as worker:
        assert worker.hear() == f"unknown operation 'wait': use one of {abi.OPERATIONS[1:]!r}"


def test_operation_none_is_refused(implementation: str) -> None:
    source = "try: worker.call('none')\nexcept ValueError as error: say('refused')"
    with run_worker(source, implementation, None) as worker:
        assert worker.hear() == "refused"


NESTED = """
def level(*names):
    if names:
        with worker.call(names[0]):
            say(); hear()
            level(*names[1:])
            say(); hear()
level("sync", "copy", "event", "free")
"""


def test_an_outer_call_is_never_hidden_by_a_fresh_inner_one(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker(NESTED, implementation, heartbeat.path) as worker:
        worker.hear()
        outer = words(heartbeat, worker.pid)[0]
        seen = [operations(heartbeat, worker.pid)]
        for _ in range(7):
            worker.ask("go on")
            seen.append(operations(heartbeat, worker.pid))
            assert words(heartbeat, worker.pid)[0] == outer
        assert seen == [("sync", "none"), *[("sync", "copy")] * 6, ("sync", "none")]


def test_deeper_calls_fold_into_the_first_inner_one(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker(NESTED, implementation, heartbeat.path) as worker:
        worker.hear()
        worker.ask("go on")
        inner = words(heartbeat, worker.pid)[1]
        for _ in range(4):
            worker.ask("go on")
            assert words(heartbeat, worker.pid)[1] == inner


def test_folded_calls_are_counted_by_their_own_operation(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = NESTED.replace("say(); hear()", "pass") + "say(); hear()"
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        (lane,) = heartbeat.thread_lanes(worker.pid)
        assert [abi.OPERATIONS[entry & abi.CODE_MASK] for entry, _ in heartbeat.ring(lane)] == [
            "free",
            "event",
            "copy",
            "sync",
        ]
        counts = {name: sum(heartbeat.histogram(lane, abi.OPERATION[name])[1]) for name in abi.OPERATIONS}
        assert {name for name, count in counts.items() if count} == {"sync", "copy", "event", "free"}
        assert set(counts.values()) == {0, 1}


def test_calls_far_too_deep_still_unwind_to_an_idle_lane(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
def deep(depth):
    if depth:
        with worker.call("other"):
            deep(depth - 1)
deep(30)
say(); hear()
with worker.call("sync"): say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert words(heartbeat, worker.pid) == (0, 0)
        assert heartbeat.total("calls") == 8  # those whose time was kept
        worker.ask("go on")
        assert operations(heartbeat, worker.pid) == ("sync", "none")


def test_leaving_without_entering_is_ignored(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
guard = worker.call("copy")
with guard: pass
guard.__exit__(None, None, None)
with worker.call("sync"): say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert operations(heartbeat, worker.pid) == ("sync", "none")
        assert heartbeat.total("calls") == 1


def test_an_exception_passes_through_and_clears_the_word(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
try:
    with worker.step(), worker.stage("sync"), worker.call("sync"): raise KeyError("mine")
except KeyError as error: say(error)
hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        assert worker.hear() == "'mine'"
        assert words(heartbeat, worker.pid) == (0, 0)
        (lane,) = heartbeat.thread_lanes(worker.pid)
        assert heartbeat.lane(lane, "stage") == heartbeat.total("step") == 0
        assert heartbeat.total("steps_done") == 1


def test_a_signal_handler_that_raises_clears_the_word(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
def give_up(number, frame): raise TimeoutError
signal.signal(signal.SIGUSR1, give_up)
try:
    with worker.call("sync"):
        say(); time.sleep(60)
except TimeoutError: say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert operations(heartbeat, worker.pid) == ("sync", "none")
        worker.process.send_signal(signal.SIGUSR1)
        worker.hear()
        assert words(heartbeat, worker.pid) == (0, 0)


def test_a_call_within_a_signal_handler_is_an_inner_one(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
def handler(number, frame):
    with worker.call("free"): say(); hear()
signal.signal(signal.SIGUSR1, handler)
with worker.call("sync"):
    say(); hear()
    signal.raise_signal(signal.SIGUSR1)
    say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        outer = words(heartbeat, worker.pid)[0]
        worker.ask("raise it")
        assert operations(heartbeat, worker.pid) == ("sync", "free")
        worker.ask("go on")
        assert words(heartbeat, worker.pid) == (outer, 0)


def test_sigkill_leaves_the_word_standing(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker("with worker.call('sync'): say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        before = words(heartbeat, worker.pid)
        worker.kill()
        assert words(heartbeat, worker.pid) == before != (0, 0)


def test_what_a_call_took_is_counted_and_remembered(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
before = time.monotonic_ns()
with worker.stage("enqueue"), worker.call("alloc"):
    say(); hear()
    inside = time.monotonic_ns()
say(before, inside, time.monotonic_ns()); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        entered = words(heartbeat, worker.pid)[0]
        before_ns, inside_ns, after_ns = map(int, worker.ask("go on").split())
        (lane,) = heartbeat.thread_lanes(worker.pid)
        total_ns, counts = heartbeat.histogram(lane, abi.OPERATION["alloc"])
        assert inside_ns - (entered & ~abi.CODE_MASK) - 256 <= total_ns <= after_ns - before_ns
        assert counts[abi.bucket_of(total_ns)] == sum(counts) == 1
        assert heartbeat.lane(lane, "calls") == 1
        assert heartbeat.ring(lane) == [(entered, total_ns << 8 | abi.WELL_KNOWN_STAGES.index("enqueue"))]


def test_every_duration_lands_in_its_bucket(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
for exponent in range(20):
    with worker.call("other"):
        end = time.monotonic_ns() + (1 << exponent)
        while time.monotonic_ns() < end: pass
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        (lane,) = heartbeat.thread_lanes(worker.pid)
        durations_ns = [word >> 8 for _, word in heartbeat.ring(lane)]
        total_ns, counts = heartbeat.histogram(lane, abi.OPERATION["other"])
        expected = [0] * abi.BUCKETS
        for duration_ns in durations_ns:
            expected[abi.bucket_of(duration_ns)] += 1
        assert (len(durations_ns), total_ns, counts) == (20, sum(durations_ns), expected)


def test_the_ring_keeps_the_newest(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
for _ in range(1000):
    with worker.call("launch"): pass
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        (lane,) = heartbeat.thread_lanes(worker.pid)
        stamps = [stamp for stamp, _ in heartbeat.ring(lane)]
        assert heartbeat.lane(lane, "calls") == 1000
        assert len(stamps) == abi.RING_ENTRIES
        assert stamps == sorted(stamps)
        assert {stamp & abi.CODE_MASK for stamp in stamps} == {abi.OPERATION["launch"]}


def test_a_reader_never_sees_a_torn_word(tmp_path: Path, implementation: str) -> None:
    """The stage word is never 0 here: a store that is not one store would show it."""
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
with worker.stage("preprocess"), worker.call("sync"):
    say()
    while True:
        with worker.stage("enqueue"), worker.call("copy"): pass
"""
    before_ns = time.monotonic_ns() - 256
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        (lane,) = heartbeat.thread_lanes(worker.pid)
        outer = heartbeat.lane(lane, "outer")
        hot = abi.HOT_OFFSET + lane * abi.HOT_STRIDE
        seen: set[int] = set()
        reads, give_up = 0, time.monotonic() + 20
        while reads < 50_000 or len(seen) < 100:  # on a busy machine the two may take turns on one CPU
            assert time.monotonic() < give_up, "the writer wrote nothing while it was read"
            reads += 1
            row = heartbeat.words(hot, abi.LANE_WORDS)
            inner, stage = row[abi.L["inner"]], row[abi.L["stage"]]
            assert row[abi.L["outer"]] == outer
            assert stage & abi.CODE_MASK in (1, 3)
            assert before_ns <= stage <= time.monotonic_ns()
            assert inner == 0 or (inner & abi.CODE_MASK == abi.OPERATION["copy"] and before_ns <= inner)
            seen.add(inner)


def test_a_reader_would_see_a_word_that_is_not_one_store(tmp_path: Path, implementation: str) -> None:
    """The control of the test above: ``struct.pack_into`` zeroes what it is about to write."""
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = f"""
import mmap, struct
memory = mmap.mmap(os.open({str(heartbeat.path)!r}, os.O_RDWR), 4096)
struct.pack_into("=Q", memory, 8 * {abi.H["driver"]}, 2**64 - 1)
say()
while True: struct.pack_into("=Q", memory, 8 * {abi.H["driver"]}, 2**64 - 1)
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        give_up = time.monotonic() + 10
        while heartbeat.header("driver") == 2**64 - 1:
            assert time.monotonic() < give_up, "no torn word seen"
