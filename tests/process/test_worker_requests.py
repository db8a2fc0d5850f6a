"""Requests in flight and those given back, as a reader in another process sees them."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import run_worker
from watchdogd import abi
from watchdogd.observe.heartbeat import HeartbeatReader

pytestmark = pytest.mark.parametrize("implementation", ["native", "python"])


def requests(heartbeat: HeartbeatFile) -> list[tuple[str, int]]:
    """State and number of each that is there, the oldest first."""
    reader = HeartbeatReader(str(heartbeat.path))
    entries = sorted(reader.requests().entries)
    reader.close()
    return [(abi.REQUEST_STATES[entry.state], entry.request) for entry in entries]


def header(heartbeat: HeartbeatFile, name: str) -> int:
    return heartbeat.word(abi.REQUESTS_OFFSET + abi.REQUESTS_HEADER.index(name) * abi.WORD)


def give(heartbeat: HeartbeatFile, implementation: str, *numbers: int) -> None:
    """As a supervisor does; the first one is the oldest, and they are in the places that this kind of writer claims."""
    places = [place for place in range(abi.REQUESTS) if abi.is_locked(place) == (implementation == "python")]
    heartbeat.set_word(abi.REQUESTS_OFFSET, len(numbers))
    for age, number in enumerate(numbers):
        offset = abi.REQUEST_TABLE_OFFSET + places[-1 - age] * abi.REQUEST_WORDS * abi.WORD
        heartbeat.set_word(offset, abi.stamp(1_000_000 + age * 1000, abi.REQUEST_STATE["given"]))
        heartbeat.set_word(offset + abi.WORD, number)


@pytest.fixture
def heartbeat(tmp_path: Path) -> HeartbeatFile:
    return HeartbeatFile(tmp_path / "heartbeat")


def test_a_request_is_in_flight_from_its_begin_to_its_end(heartbeat: HeartbeatFile, implementation: str) -> None:
    source = "with worker.step(request=17): say(); hear()\nsay(); hear()"
    before_ns = time.monotonic_ns()
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("begun", 17)]
        (place,) = [
            place for place in range(abi.REQUESTS)
            if heartbeat.word(abi.REQUEST_TABLE_OFFSET + place * abi.REQUEST_WORDS * abi.WORD)
        ]  # fmt: skip
        word = heartbeat.word(abi.REQUEST_TABLE_OFFSET + place * abi.REQUEST_WORDS * abi.WORD)
        assert before_ns - 256 < word & ~abi.CODE_MASK <= time.monotonic_ns()
        assert abi.is_locked(place) == (implementation == "python")
        worker.ask("go on")
        assert requests(heartbeat) == []
        assert heartbeat.total("steps_begun") == heartbeat.total("steps_done") == 1


def test_a_step_without_a_request_is_none(heartbeat: HeartbeatFile, implementation: str) -> None:
    source = "with worker.step(), worker.step(request=None): worker.begin_step(request=None); say(); hear()"
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == []
        assert heartbeat.total("steps_begun") == 3


def test_requests_end_in_whichever_order_and_thread(heartbeat: HeartbeatFile, implementation: str) -> None:
    source = """
tokens = {}
for number in (3, 1, 2):
    tokens[number] = worker.begin_step(request=number); time.sleep(0.001)
say(); hear()
thread = threading.Thread(target=worker.end_step, args=(tokens[1],)); thread.start(); thread.join()
say(); hear()
worker.end_step(tokens[3]); worker.end_step(tokens[3])
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("begun", 3), ("begun", 1), ("begun", 2)]
        worker.ask("end one")
        assert requests(heartbeat) == [("begun", 3), ("begun", 2)]
        worker.ask("end another, twice")
        assert requests(heartbeat) == [("begun", 2)]


def test_a_thread_that_ends_leaves_its_request_in_flight(heartbeat: HeartbeatFile, implementation: str) -> None:
    source = """
thread = threading.Thread(target=lambda: worker.begin_step(request=17)); thread.start(); thread.join()
say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("begun", 17)]


def test_a_forked_child_ends_its_own_requests_and_leaves_what_it_dies_with(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    source = """
token = worker.begin_step(request=1); time.sleep(0.001)
child = os.fork()
if child == 0:
    worker.end_step(token)
    with worker.step(request=2): pass
    worker.begin_step(request=3); os._exit(0)
os.waitpid(child, 0); say(); hear()
worker.end_step(token); say(); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("begun", 1), ("begun", 3)]
        worker.ask("end the parent's")
        assert requests(heartbeat) == [("begun", 3)]


def test_what_was_in_flight_at_an_exec_stays_so(heartbeat: HeartbeatFile, implementation: str) -> None:
    source = """
if len(sys.argv) == 1:
    worker.begin_step(request=1)
    os.execv(sys.executable, [sys.executable, "-c", os.environ["AGAIN"], "again"])
worker.begin_step(request=2); say(); hear()
"""
    with run_worker(
        f"source = {source!r}\nos.environ['AGAIN'] = os.environ.get('AGAIN') or sys.orig_argv[2]\nexec(source)",
        implementation,
        heartbeat.path,
    ) as worker:
        worker.hear()
        assert [number for _, number in requests(heartbeat)] == [1, 2]


@pytest.mark.parametrize("number", [0, 1, 2**53 + 1, 2**64 - 1])
def test_any_number_of_64_bits_is_a_request(heartbeat: HeartbeatFile, implementation: str, number: int) -> None:
    with run_worker(f"worker.begin_step(request={number}); say(); hear()", implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("begun", number)]


def test_what_is_no_such_number_is_refused_at_once_and_begins_nothing(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    source = """
class Number:
    def __index__(self): return 5
errors = []
for begin in (worker.step, worker.begin_step):
    for given in (-1, 2**64, "17", 1.5):
        try: begin(request=given)
        except TypeError as error: errors.append(type(error).__name__)
        except ValueError as error: errors.append(str(error).replace(" ", "_"))
    try: begin(17)
    except TypeError: errors.append("positional")
    try: begin(of=17)
    except TypeError: errors.append("unknown")
worker.begin_step(request=Number())
say(*errors); hear()
"""
    range_ = "request_is_a_number_from_0_to_2**64_-_1"
    each = f"{range_} {range_} TypeError TypeError positional unknown"
    with run_worker(source, implementation, heartbeat.path) as worker:
        assert worker.hear() == f"{each} {each}"
        assert requests(heartbeat) == [("begun", 5)]
        assert heartbeat.total("steps_begun") == 1


def test_requests_beyond_the_table_are_counted_and_their_steps_go_on(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    source = """
tokens = [worker.begin_step(request=number) for number in range(250)]; say(); hear()
for token in tokens: worker.end_step(token)
tokens = [worker.begin_step(request=1000 + number) for number in range(10)]; say(); hear()
"""
    places = sum(abi.is_locked(place) == (implementation == "python") for place in range(abi.REQUESTS))
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert len(requests(heartbeat)) == places
        unkept = header(heartbeat, "unkept_cas"), header(heartbeat, "unkept_locked")
        assert unkept == ((0, 250 - places) if implementation == "python" else (250 - places, 0))
        assert heartbeat.total("steps_begun") == 250
        worker.ask("end them")
        assert heartbeat.total("steps_done") == 250
        assert len(requests(heartbeat)) == 10


def test_a_request_of_a_step_that_can_only_be_counted_is_checked_and_counted_too(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    source = """
tokens = [worker.begin_step() for _ in range(1024)]
try: worker.begin_step(request=-1)
except ValueError as error: say(type(error).__name__, worker.begin_step(request=17)); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        assert worker.hear() == "ValueError 0"
        assert header(heartbeat, "unkept_cas") + header(heartbeat, "unkept_locked") == 1
        assert heartbeat.total("steps_begun") == 1025


# --- given back -----------------------------------------------------------------------------------------------------


def test_what_is_given_back_is_handed_out_once_oldest_first_and_one_at_a_time(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    give(heartbeat, implementation, 18, 17, 0)
    source = """
back = worker.redelivered(); say(); hear()
say(next(back)); hear()
with worker.step(request=18): say(); hear()
say(*back, *worker.redelivered()); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("given", 18), ("given", 17), ("given", 0)]
        assert header(heartbeat, "asked_ns") == 0
        assert worker.ask("the first") == "18"
        assert requests(heartbeat) == [("taken", 18), ("given", 17), ("given", 0)]
        assert header(heartbeat, "asked_ns") > 0
        worker.ask("begin it")
        assert sorted(requests(heartbeat)) == [("again", 18), ("given", 0), ("given", 17)]
        assert worker.ask("the rest") == "17 0"
        assert requests(heartbeat) == [("taken", 17), ("taken", 0)]


def test_a_healthy_worker_is_given_nothing(heartbeat: HeartbeatFile, implementation: str) -> None:
    source = "with worker.step(request=17): say(list(worker.redelivered())); hear()"
    with run_worker(source, implementation, heartbeat.path) as worker:
        assert worker.hear() == "[]"
        assert requests(heartbeat) == [("begun", 17)]


def test_nor_is_one_that_nobody_watches(implementation: str) -> None:
    source = "with worker.step(request=17): say(list(worker.redelivered()))"
    with run_worker(source, implementation, None) as worker:
        assert worker.hear() == "[]"


def test_of_several_threads_and_processes_each_request_is_handed_to_one(
    heartbeat: HeartbeatFile, implementation: str
) -> None:
    numbers = range(100, 130)
    give(heartbeat, implementation, *numbers)
    source = """
readable, writable = os.pipe()
children = [os.fork() for _ in range(2)]  # four processes
go = threading.Barrier(3)
def take():
    go.wait()
    for request in worker.redelivered(): os.write(writable, request.to_bytes(8, sys.byteorder))
threads = [threading.Thread(target=take) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
for child in children:
    if child: os.waitpid(child, 0)
if not all(children): os._exit(0)
say(os.read(readable, 65536).hex()); hear()
"""
    with run_worker(source, implementation, heartbeat.path) as worker:
        raw = bytes.fromhex(worker.hear())
        assert sorted(struct.unpack(f"={len(raw) // 8}Q", raw)) == list(numbers)


def test_a_new_request_is_not_taken_for_one_that_was_handed_out(heartbeat: HeartbeatFile, implementation: str) -> None:
    give(heartbeat, implementation, 17)
    source = "next(worker.redelivered()); worker.begin_step(request=18); say(); hear()"
    with run_worker(source, implementation, heartbeat.path) as worker:
        worker.hear()
        assert requests(heartbeat) == [("taken", 17), ("begun", 18)]
