"""Who owns which lane: threads, their ends, descendants, the dead."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import run_worker, wait_until
from watchdogd import abi
from watchdogd.observe import procfs

pytestmark = pytest.mark.parametrize("implementation", ["native", "python"])

CAPACITY = {"native": 256, "python": 64}
KIND = {"native": "cas", "python": "locked"}


def claimable(implementation: str) -> list[int]:
    return [lane for lane in range(abi.LANES) if abi.is_locked(lane) == (implementation == "python")]


def test_every_thread_has_a_lane_of_its_own(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
def work(operation, entered):
    with worker.call(operation):
        entered.set(); threading.Event().wait()
for operation in "sync", "copy":
    entered = threading.Event()
    threading.Thread(target=work, args=(operation, entered), daemon=True).start()
    entered.wait()
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        lanes = heartbeat.thread_lanes(worker.pid)
        calls = {heartbeat.lane(lane, "outer") & abi.CODE_MASK for lane in lanes}
        assert calls == {abi.OPERATION["sync"], abi.OPERATION["copy"]}
        tids = {heartbeat.owners()[lane][1] for lane in lanes}
        assert tids <= {int(tid) for tid in os.listdir(f"/proc/{worker.pid}/task")}
        assert set(lanes) <= set(claimable(implementation))
        assert heartbeat.header(f"lanes_used_{KIND[implementation]}") == max(lanes) + 1


def test_a_thread_s_end_frees_its_lane_and_keeps_its_counts(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
def work():
    with worker.stage("plugin"):
        guard = worker.call("sync")
        with guard: pass
        guard.__enter__(); guard.__enter__()  # and it ends within calls
while True:
    thread = threading.Thread(target=work); thread.start(); thread.join()
    say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        for life in range(1, 4):
            worker.hear()
            wait_until(lambda: heartbeat.thread_lanes(worker.pid) == [])
            (lane,) = (lane for lane in range(abi.LANES) if heartbeat.lane(lane, "calls"))
            assert heartbeat.lane(lane, "calls") == life
            assert sum(heartbeat.histogram(lane, abi.OPERATION["sync"])[1]) == life
            assert [heartbeat.lane(lane, word) for word in ("outer", "inner", "stage")] == [0, 0, 0]
            worker.tell("next life")


CROWD = """
import queue
release, through = threading.Event(), queue.SimpleQueue()
def work():
    for _ in range(3):
        with worker.call("sync"): pass
    through.put(1); release.wait()
    with worker.call("sync"), worker.stage("sync"): pass
threads = [threading.Thread(target=work) for _ in range(300)]
for thread in threads: thread.start()
for _ in threads: through.get()
say(); hear()
release.set()
for thread in threads: thread.join()
say(); hear()
with worker.call("sync"): pass
say(); hear()
"""


def test_threads_that_find_no_lane_are_counted_once_each_and_go_on(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    lanes = CAPACITY[implementation] - 1  # one holds the process's steps
    with run_worker(CROWD, implementation, heartbeat.path) as worker:
        worker.hear()
        assert len(heartbeat.thread_lanes(worker.pid)) == lanes
        assert heartbeat.header(f"laneless_{KIND[implementation]}") == 300 - lanes
        assert heartbeat.header(f"lanes_used_{KIND[implementation]}") == max(claimable(implementation)) + 1
        worker.ask("let them go")
        wait_until(lambda: heartbeat.thread_lanes(worker.pid) == [])
        assert heartbeat.header(f"laneless_{KIND[implementation]}") == 300 - lanes
        assert heartbeat.total("calls") == 4 * lanes
        worker.ask("once more")
        assert len(heartbeat.thread_lanes(worker.pid)) == 1
        assert heartbeat.header(f"lanes_used_{KIND[implementation]}") == max(claimable(implementation)) + 1


def dead_owner() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(20)
    return process.pid << 32 | process.pid


def fill(heartbeat: HeartbeatFile, owner: int) -> None:
    """Every lane belongs to ``owner``, who is in the middle of everything."""
    now_ns = time.monotonic_ns()
    for lane in range(abi.LANES):
        for word in ("outer", "inner", "step", "stage"):
            heartbeat.set_lane(lane, word, abi.stamp(now_ns, 1))
        heartbeat.set_lane(lane, "calls", 5)
        heartbeat.set_lane(lane, "owner", owner)


ONE_CALL = "with worker.call('copy'): say(); hear()"


def test_lanes_of_the_dead_are_taken_over_emptied(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    fill(heartbeat, dead_owner())
    with run_worker(ONE_CALL, implementation, heartbeat.path) as worker:
        worker.hear()
        (lane,) = heartbeat.thread_lanes(worker.pid)
        assert heartbeat.lane(lane, "outer") & abi.CODE_MASK == abi.OPERATION["copy"]
        assert [heartbeat.lane(lane, word) for word in ("inner", "step", "stage")] == [0, 0, 0]
        steps = heartbeat.process_lane(worker.pid)
        assert [heartbeat.lane(steps, word) for word in ("outer", "inner", "step")] == [0, 0, 0]
        assert heartbeat.lane(lane, "calls") == heartbeat.lane(steps, "calls") == 5
        assert heartbeat.header(f"laneless_{KIND[implementation]}") == 0


@pytest.mark.parametrize("tid", ["thread", "process"])
def test_lanes_of_the_living_are_not_taken_over(tmp_path: Path, implementation: str, tid: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    owner = os.getpid() << 32 | (os.getpid() if tid == "thread" else 0)
    fill(heartbeat, owner)
    with run_worker(ONE_CALL, implementation, heartbeat.path) as worker:
        worker.hear()
        assert {heartbeat.lane(lane, "owner") for lane in range(abi.LANES)} == {owner}
        assert {heartbeat.lane(lane, "outer") & abi.CODE_MASK for lane in range(abi.LANES)} == {1}
        assert heartbeat.header(f"laneless_{KIND[implementation]}") == 2  # the process's steps, and the thread


def test_lanes_of_another_pid_namespace_are_not_taken_over(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker("say(); hear()\n" + ONE_CALL, implementation, heartbeat.path) as worker:
        worker.hear()
        owner = dead_owner()
        fill(heartbeat, owner)
        heartbeat.set_header("pid_namespace", 1)
        worker.ask("now")
        assert {heartbeat.lane(lane, "owner") for lane in range(abi.LANES)} == {owner}


def test_a_free_lane_is_preferred_to_one_of_the_dead(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    fill(heartbeat, dead_owner())
    free = claimable(implementation)[-2:]
    for lane in free:
        heartbeat.set_lane(lane, "owner", 0)
    with run_worker(ONE_CALL, implementation, heartbeat.path) as worker:
        worker.hear()
        assert [heartbeat.process_lane(worker.pid), *heartbeat.thread_lanes(worker.pid)] == free


def test_the_two_kinds_of_claimer_never_meet(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    other = "python" if implementation == "native" else "native"
    with (
        run_worker(CROWD, implementation, heartbeat.path) as one,
        run_worker(CROWD, other, heartbeat.path) as two,
    ):
        for worker in (one, two):
            worker.hear()
        owners = heartbeat.owners()
        assert len(owners) == abi.LANES
        for lane, (pid, _) in owners.items():
            assert (pid == two.pid) == (lane in claimable(other))


FORK = """
entered = threading.Event()
def work():
    with worker.call("event"): entered.set(); threading.Event().wait()
threading.Thread(target=work, daemon=True).start(); entered.wait()
token = worker.begin_step()
with worker.stage("plugin"), worker.call("sync"):
    say(); hear()
    if os.fork() == 0:
        worker.end_step(token)  # the parent's
        with worker.call("copy"):
            mine = worker.begin_step()
            say(os.getpid()); hear()
    else:
        os.wait()
        say(); hear()
        os._exit(0)
say(); hear()  # the child, after it has left the parent's guards
say(wd.attach().supervised); hear()
os._exit(0)
"""


def test_a_fork_never_writes_its_parent_s_lanes(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    with run_worker(FORK, implementation, heartbeat.path) as worker:
        worker.hear()
        parents = sorted([heartbeat.process_lane(worker.pid), *heartbeat.thread_lanes(worker.pid)])

        def parent_s_words() -> list[list[int]]:
            return [heartbeat.words(abi.HOT_OFFSET + lane * abi.HOT_STRIDE, abi.LANE_WORDS) for lane in parents]

        before = parent_s_words()
        assert len(parents) == 3
        child = int(worker.ask("fork"))
        (lane,) = heartbeat.thread_lanes(child)
        assert heartbeat.lane(lane, "outer") & abi.CODE_MASK == abi.OPERATION["copy"]
        assert heartbeat.lane(heartbeat.process_lane(child), "step") != 0
        assert parent_s_words() == before
        worker.ask("the child leaves its own guard and the parent's")
        assert heartbeat.lane(lane, "calls") == 1
        assert heartbeat.lane(lane, "outer") == 0
        assert parent_s_words() == before
        assert heartbeat.header("attached_pid") == worker.pid
        assert worker.ask("the child attaches") == "True"
        assert heartbeat.header("attached_pid") == child
        worker.ask("the child ends")
        assert parent_s_words() == before


def test_a_forked_child_that_uses_nothing_owns_nothing(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
with worker.call("sync"):
    if os.fork() == 0: say(); hear(); os._exit(0)
    os.wait(); say()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert {pid for pid, _ in heartbeat.owners().values()} == {worker.pid}
        worker.ask("the child ends")


def test_descendants_are_watched_by_way_of_the_environment(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    inner = "import watchdogd.worker as wd\nwith wd.attach().call('sync'): print('x', flush=True); input()"
    source = f"subprocess.run([sys.executable, '-c', {inner!r}], close_fds=True)"
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        (descendant,) = {pid for pid, _ in heartbeat.owners().values()} - {worker.pid}
        (lane,) = heartbeat.thread_lanes(descendant)
        assert heartbeat.lane(lane, "outer") & abi.CODE_MASK == abi.OPERATION["sync"]
        worker.tell("end")
        worker.end()


def test_a_lock_that_somebody_keeps_delays_a_worker_only_briefly(tmp_path: Path, implementation: str) -> None:
    """Only claimers without compare-and-swap need it: the native one does not notice."""
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = """
say(); hear()
before = time.monotonic()
for _ in range(100):
    with worker.call("sync"): pass
say(time.monotonic() - before); hear()
threading.Thread(target=lambda: worker.call("sync").__enter__() or say() or hear()).start()
"""
    with run_worker(source, implementation, heartbeat.path) as worker, heartbeat.path.open("r+b") as lock:
        worker.hear()
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, 0)
        assert float(worker.ask("now")) < 1.0
        assert heartbeat.header("laneless_locked") == (1 if implementation == "python" else 0)
        assert len(heartbeat.thread_lanes(worker.pid)) == (0 if implementation == "python" else 1)
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, 0)
        before = len(heartbeat.thread_lanes(worker.pid))
        worker.ask("a new thread, now that the lock is free")
        assert len(heartbeat.thread_lanes(worker.pid)) == before + 1


IN_FLIGHT = """
worker.begin_step()
with worker.call("sync"), worker.stage("plugin"):
    say(); hear()
    os.environ["WATCHDOGD_PURE_PYTHON"] = "{pure}"
    os.execv(sys.executable, [sys.executable, "-c", {source!r}])
"""
NEW_IMAGE = """
import sys, time
import watchdogd.worker as wd

print(flush=True), sys.stdin.readline()
worker = wd.attach()
with worker.call("alloc"):
    print(flush=True), sys.stdin.readline()
"""


@pytest.mark.parametrize("pure", ["0", "1"])
def test_an_exec_leaves_no_words_once_the_new_image_has_attached(
    tmp_path: Path, implementation: str, pure: str
) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    source = IN_FLIGHT.format(pure=pure, source=NEW_IMAGE)
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert sorted(words_in_flight(heartbeat, worker.pid)) == [("outer", "sync"), ("step", "")]
        before = image_of(heartbeat, worker.pid)
        worker.tell()
        worker.hear()
        assert sorted(words_in_flight(heartbeat, worker.pid)) == [("outer", "sync"), ("step", "")]
        stat = procfs.stat(worker.pid)
        assert stat is not None and before not in (0, stat.image)
        worker.tell()
        worker.hear()
        assert words_in_flight(heartbeat, worker.pid) == [("outer", "alloc")]
        assert image_of(heartbeat, worker.pid) == stat.image


def test_a_second_library_in_one_process_takes_nothing_from_the_first(tmp_path: Path, implementation: str) -> None:
    heartbeat = HeartbeatFile(tmp_path / "heartbeat")
    other = "_native" if implementation == "python" else "worker._fallback"
    source = f"""
import watchdogd.{other} as other
worker.begin_step()
with worker.call("sync"):
    other.attach(os.environ["{abi.ENVIRONMENT}"])
    say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert sorted(words_in_flight(heartbeat, worker.pid)) == [("outer", "sync"), ("step", "")]


def words_in_flight(heartbeat: HeartbeatFile, pid: int) -> list[tuple[str, str]]:
    """Column and operation of every call and step word whose lane the process owns."""
    lanes = [lane for lane in range(abi.LANES) if heartbeat.lane(lane, "owner") >> 32 == pid]
    found = [(name, heartbeat.lane(lane, name)) for lane in lanes for name in ("outer", "inner", "step")]
    names = {"step": [""] * 2}
    return [(name, names.get(name, list(abi.OPERATIONS))[word & abi.CODE_MASK]) for name, word in found if word]


def image_of(heartbeat: HeartbeatFile, pid: int) -> int:
    return heartbeat.lane(heartbeat.process_lane(pid), "stage")
