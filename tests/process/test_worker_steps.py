"""Steps and stages, as a reader in another process sees them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import run_worker, wait_until
from watchdogd import abi

pytestmark = pytest.mark.parametrize("implementation", ["native", "python"])


def steps(heartbeat: HeartbeatFile, pid: int) -> tuple[int, int, int]:
    """The step word of the process, and how many were begun and done."""
    lane = heartbeat.process_lane(pid)
    return heartbeat.lane(lane, "step"), heartbeat.lane(lane, "steps_begun"), heartbeat.lane(lane, "steps_done")


def test_a_step_in_flight_says_since_when(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    before_ns = time.monotonic_ns()
    with run_worker("with worker.step(): say(); hear()\nsay(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        word, begun, done = steps(heartbeat, worker.pid)
        assert before_ns - 256 < word <= time.monotonic_ns()
        assert (word & abi.CODE_MASK, begun, done) == (abi.STEP_FIRST, 1, 0)
        assert heartbeat.header("last_step_ns") == 0
        begun_ns = time.monotonic_ns()
        worker.ask("go on")
        assert steps(heartbeat, worker.pid) == (0, 1, 1)
        assert begun_ns < heartbeat.header("last_step_ns") <= time.monotonic_ns()


def test_the_oldest_step_in_flight_remains_visible(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
first = worker.begin_step(); say(); hear()
second = worker.begin_step(); say(time.monotonic_ns()); hear()
third = worker.begin_step()
worker.end_step(second); say(); hear()
worker.end_step(first); say(); hear()
worker.end_step(third); say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        first = steps(heartbeat, worker.pid)[0]
        second_begun_ns = int(worker.ask("go on"))
        assert steps(heartbeat, worker.pid) == (first, 2, 0)
        worker.ask("end the second")
        assert steps(heartbeat, worker.pid) == (first, 3, 1)
        worker.ask("end the first")
        third, begun, done = steps(heartbeat, worker.pid)
        assert third > second_begun_ns - 256
        assert (begun, done) == (3, 2)
        worker.ask("end the third")
        assert steps(heartbeat, worker.pid) == (0, 3, 3)


def test_every_step_begun_before_the_first_was_done_is_a_first_one(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
first, second = worker.begin_step(), worker.begin_step(); say(); hear()
worker.end_step(first); third = worker.begin_step(); say(); hear()
worker.end_step(second); say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        for code in (abi.STEP_FIRST, abi.STEP_FIRST, abi.STEP_LATER):
            worker.hear()
            assert steps(heartbeat, worker.pid)[0] & abi.CODE_MASK == code
            worker.tell()


def test_what_is_done_for_the_first_time_makes_the_steps_in_flight_first_ones_until_one_is_done(
    tmp_path: Path, implementation: str
) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
with worker.step(): pass
older, newer = worker.begin_step(), worker.begin_step(); say(); hear()
worker.first_step(); say(); hear()
worker.end_step(older); say(); hear()
worker.end_step(newer); later = worker.begin_step(); say(); hear()
worker.end_step(later); worker.first_step(); worker.begin_step(); say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        begun = []
        for code in (abi.STEP_LATER, abi.STEP_FIRST, abi.STEP_FIRST, abi.STEP_LATER, abi.STEP_FIRST):
            worker.hear()
            word = steps(heartbeat, worker.pid)[0]
            assert word & abi.CODE_MASK == code
            begun.append(word & ~abi.CODE_MASK)
            worker.tell()
        assert begun[0] == begun[1] <= begun[2] < begun[3] < begun[4]  # within 256 ns they are the same


def test_a_forked_child_has_a_first_step_of_its_own(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
with worker.step(): pass
child = os.fork()
worker.begin_step()
if child == 0:
    say(os.getpid()); time.sleep(60); os._exit(0)
hear(); os.kill(child, signal.SIGKILL); os.waitpid(child, 0); say()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        child = int(worker.hear())
        wait_until(lambda: steps(heartbeat, worker.pid)[0] != 0)
        assert steps(heartbeat, child)[0] & abi.CODE_MASK == abi.STEP_FIRST
        assert steps(heartbeat, worker.pid)[0] & abi.CODE_MASK == abi.STEP_LATER
        worker.ask("end the child")


def test_a_step_may_end_in_another_thread(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
token = worker.begin_step()
thread = threading.Thread(target=worker.end_step, args=(token,))
thread.start(); thread.join()
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert steps(heartbeat, worker.pid) == (0, 1, 1)


def test_steps_of_interleaved_tasks_are_told_apart(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
import asyncio
async def frame(begun, end):
    with worker.step():
        begun.set()
        await end.wait()
async def main():
    begun, end = [asyncio.Event() for _ in "ab"], [asyncio.Event() for _ in "ab"]
    tasks = []
    for number in 0, 1:
        tasks.append(asyncio.create_task(frame(begun[number], end[number])))
        await begun[number].wait()
    say(); hear()
    end[0].set(); await tasks[0]
    say(); hear()
    end[1].set(); await tasks[1]
    say(); hear()
asyncio.run(main())
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        first, begun, done = steps(heartbeat, worker.pid)
        assert (begun, done) == (2, 0)
        worker.ask("end the first")
        second, begun, done = steps(heartbeat, worker.pid)
        assert second > first
        assert (begun, done) == (2, 1)
        worker.ask("end the second")
        assert steps(heartbeat, worker.pid) == (0, 2, 2)


@pytest.mark.parametrize("token", ["token", "123456789", "2**64 - 1", "1 << 40 | 1"])
def test_a_token_that_is_not_in_flight_ends_nothing(tmp_path: Path, implementation: str, token: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = f"""
token = worker.begin_step()
worker.end_step(token)
still_running = worker.begin_step()
worker.end_step({token})
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        word, begun, done = steps(heartbeat, worker.pid)
        assert word != 0
        assert (begun, done) == (2, 1)


def test_a_step_ends_once(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
token = worker.begin_step()
for _ in range(3): worker.end_step(token)
tokens = [worker.begin_step() for _ in range(3)]
say(len(set(tokens))); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        assert worker.hear() == "3"
        assert steps(heartbeat, worker.pid)[1:] == (4, 1)


def test_steps_beyond_the_table_are_counted_and_the_oldest_kept(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
tokens = [worker.begin_step()]; say(); hear()
tokens += [worker.begin_step() for _ in range(1500)]
say(tokens.count(0)); hear()
for token in reversed(tokens[1:]): worker.end_step(token)
say(); hear()
worker.end_step(tokens[0])
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        oldest = steps(heartbeat, worker.pid)[0]
        assert worker.ask("more") == str(1501 - 1024)
        assert steps(heartbeat, worker.pid) == (oldest, 1501, 0)
        worker.ask("end all but the first")
        assert steps(heartbeat, worker.pid) == (oldest, 1501, 1500)
        worker.ask("end the first")
        assert steps(heartbeat, worker.pid) == (0, 1501, 1501)


def test_step_durations_are_counted(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
before = time.monotonic_ns()
with worker.step():
    inside = time.monotonic_ns(); hear(); inside = time.monotonic_ns() - inside
say(inside, time.monotonic_ns() - before); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        least_ns, most_ns = map(int, worker.ask("go on").split())
        total_ns, counts = heartbeat.histogram(heartbeat.process_lane(worker.pid), abi.STEP_HISTOGRAM)
        assert least_ns <= total_ns <= most_ns
        assert counts[abi.bucket_of(total_ns)] == sum(counts) == 1


def stage(heartbeat: HeartbeatFile, pid: int) -> int:
    (lane,) = heartbeat.thread_lanes(pid)
    return heartbeat.lane(lane, "stage")


def test_a_nested_stage_gives_the_outer_one_back(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
with worker.stage("preprocess"):
    say(); hear()
    with worker.stage("enqueue"): say(); hear()
    say(); hear()
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        outer = stage(heartbeat, worker.pid)
        assert outer & abi.CODE_MASK == abi.WELL_KNOWN_STAGES.index("preprocess")
        worker.ask("go on")
        inner = stage(heartbeat, worker.pid)
        assert inner & abi.CODE_MASK == abi.WELL_KNOWN_STAGES.index("enqueue")
        assert inner > outer
        worker.ask("go on")
        assert stage(heartbeat, worker.pid) == outer
        worker.ask("go on")
        assert stage(heartbeat, worker.pid) == 0


def test_a_call_is_remembered_with_the_stage_it_was_in(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
def call():
    with worker.call("other"): pass
call()
with worker.stage("preprocess"):
    call()
    with worker.stage("plugin"): call()
    call()
call()
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        (lane,) = heartbeat.thread_lanes(worker.pid)
        stages = [abi.WELL_KNOWN_STAGES[rest & abi.CODE_MASK] for _, rest in heartbeat.ring(lane)]
        assert stages == ["none", "preprocess", "plugin", "preprocess", "none"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("nms", "nms"),
        ("eight by", "eight by"),
        ("größenabhängige Nachbearbeitung", "größenabhängige Nachbearbeit"),  # 31 bytes end within no character
        ("x" * 30 + "é", "x" * 30),  # they would end within one
        ("y" * 200, "y" * 31),
    ],
)
def test_a_stage_of_ones_own_is_named_in_the_file(tmp_path: Path, implementation: str, name: str, kept: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker(f"with worker.stage({name!r}): say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        code = stage(heartbeat, worker.pid) & abi.CODE_MASK
        assert code >= abi.FIRST_DYNAMIC_STAGE
        assert abi.is_locked(code) == (implementation == "python")
        assert heartbeat.stage_name(code) == kept


@pytest.mark.parametrize("other", ["native", "python"])
def test_two_processes_share_a_stage_s_name(tmp_path: Path, implementation: str, other: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = "with worker.stage('tracking'): say(); hear()"
    with (
        run_worker(source, implementation, heartbeat.path) as one,
        run_worker("hear();" + "worker.stage('unlike');\n" + source, other, heartbeat.path) as two,
    ):
        one.hear()
        two.ask("now")
        codes = {stage(heartbeat, worker.pid) & abi.CODE_MASK for worker in (one, two)}
        assert [heartbeat.stage_name(code) for code in codes] == ["tracking"]


def test_two_names_have_two_codes(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = "with worker.stage('a'), worker.stage('b'): say(); hear()"
    with run_worker("worker.stage('a')\n" + source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert heartbeat.stage_name(stage(heartbeat, worker.pid) & abi.CODE_MASK) == "b"


@pytest.mark.parametrize("name", ["", "the last straw"])
def test_a_stage_that_cannot_be_named_has_code_0(tmp_path: Path, implementation: str, name: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = f"""
for number in range(300): worker.stage(f"stage {{number}}")
with worker.stage({name!r}): say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        word = stage(heartbeat, worker.pid)
        assert word & abi.CODE_MASK == 0
        assert word != 0
        locked = [abi.is_locked(code) for code in range(abi.FIRST_DYNAMIC_STAGE, abi.STAGES)]
        named = [bool(heartbeat.stage_name(code)) for code in range(abi.FIRST_DYNAMIC_STAGE, abi.STAGES)]
        assert named == (locked if implementation == "python" else [not is_locked for is_locked in locked])
