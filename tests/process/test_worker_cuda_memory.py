"""Deferred frees, the pool and host functions on the simulated driver; and the deadlocks that they are there for."""

from __future__ import annotations

import psutil
import pytest

from tests.helpers.cuda_process import Start, Worker
from tests.helpers.worker_process import wait_until
from tests.simulator.control import SimulatedDevice

SETUP = """
from watchdogd.worker.cuda_memory import DeferredFree, Pool
ctx = cuda.Context()
stream, second = ctx.stream(), ctx.stream()
slow = ctx.module(b"").kernel("sim_sleep_us_50000")
deferred, pool = DeferredFree(ctx, backlog=4), Pool(ctx)
"""
SPIN = SETUP + "spin = ctx.module(b'').kernel('sim_spin')\n"


def in_use(device: SimulatedDevice) -> int:
    return device.processes()[0].memory_bytes


def test_a_buffer_is_freed_once_its_last_use_is_done(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    worker.run("stream.launch(slow, 1, 1); buffer = ctx.alloc(1 << 20); deferred.free(buffer, stream)")
    assert worker.run("deferred.collect()") == 0
    assert in_use(device) >= 1 << 20
    worker.run("stream.synchronize()")
    assert worker.run("[deferred.collect(), deferred.waiting]") == [1, 0]
    assert in_use(device) < 1 << 20


def test_a_buffer_used_by_two_streams_waits_for_both(start: Start) -> None:
    worker = start(SETUP)
    worker.run("second.launch(slow, 1, 1); deferred.free(ctx.alloc(64), stream, second); stream.synchronize()")
    assert worker.run("deferred.collect()") == 0
    worker.run("second.synchronize()")
    assert worker.run("deferred.collect()") == 1


def test_a_freed_buffer_cannot_be_used_or_freed_again(start: Start) -> None:
    worker = start(SETUP + "buffer = ctx.alloc(64); deferred.free(buffer, stream)")
    assert worker.run("caught(lambda: buffer.address)") == ["ValueError", "the Buffer is closed"]
    assert worker.run("caught(lambda: deferred.free(buffer, stream))") == ["ValueError", "the Buffer is closed"]


def test_one_buffer_that_is_in_use_does_not_hold_up_the_others(start: Start) -> None:
    worker = start(SPIN + "second.launch(spin, 1, 1); deferred.free(ctx.alloc(64), second)")
    worker.run("events = len(deferred._events); buffer = pool.alloc(64); pool.free(buffer, stream)")
    worker.run("stream.synchronize()")
    worker.run("again = pool.alloc(64)")  # no cuMemFree, which would wait for the kernel that spins
    assert worker.run("[pool.hits, pool.misses]") == [1, 1]


def test_another_thread_only_hands_it_over(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    faults = [device.fault("call_hang", call=call) for call in ("free", "event_record", "event_query", "event_create")]
    worker.run("in_thread(lambda: deferred.free(ctx.alloc(64), stream))")
    assert [fault.fired for fault in faults] == [0] * 4
    for fault in faults:
        fault.clear()
    worker.run("deferred.drain()")
    assert worker.run("deferred.waiting") == 0


def test_only_the_owner_frees(start: Start) -> None:
    worker = start(SETUP)
    for call in ("deferred.collect", "deferred.drain", "pool.trim", "lambda: pool.alloc(4)"):
        kind, text = worker.run(f"in_thread(lambda: caught({call}))")
        assert (kind, f"of thread 'MainThread' (tid {worker.pid})" in text) == ("ContextLost", True)


def test_a_full_backlog_waits_for_the_oldest_in_a_stamped_call(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    fault = device.fault("hang", scope="stream")
    worker.run("stream.launch(slow, 1, 1)\nfor _ in range(4): deferred.free(ctx.alloc(64), stream)")
    assert worker.run("deferred.waiting") == 4
    worker.send("deferred.free(ctx.alloc(64), stream)")
    wait_until(lambda: worker.operations() == ["event"])
    fault.clear()
    worker.answer()
    assert worker.run("deferred.waiting") <= 4


@pytest.mark.parametrize("where", ["in the owner", "in another thread"])
def test_a_full_backlog_is_refused_where_it_must_not_wait(start: Start, where: str) -> None:
    worker = start(SPIN + "small = DeferredFree(ctx, backlog=1, full='raise'); stream.launch(spin, 1, 1)")
    worker.run("small.free(ctx.alloc(64), stream); buffer = ctx.alloc(64)")
    call = "caught(lambda: small.free(buffer, stream))"
    assert worker.run(call if where == "in the owner" else f"in_thread(lambda: {call})")[0] == "BacklogFullError"
    assert worker.run("buffer.address") != 0


def test_in_the_steady_state_nothing_is_allocated_or_freed(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    frame = "buffer = pool.alloc(1000); stream.launch(slow, 1, 1); pool.free(buffer, stream); stream.synchronize()"
    worker.run(frame)
    faults = [device.fault("call_hang", call=call) for call in ("alloc", "free", "event_create")]
    for _ in range(3):
        worker.run(frame)
    assert [fault.fired for fault in faults] == [0] * 3
    assert worker.run("[pool.misses, pool.hits, buffer.nbytes]") == [1, 3, 1000]


def test_what_is_still_in_use_is_not_handed_out_again(start: Start) -> None:
    worker = start(SETUP + "first = pool.alloc(64); address = first.address; stream.launch(slow, 1, 1)")
    worker.run("pool.free(first, stream); second = pool.alloc(64)")
    assert worker.run("second.address == address") is False
    worker.run("stream.synchronize(); third = pool.alloc(64)")
    assert worker.run("third.address == address") is True


def test_a_buffer_from_elsewhere_is_not_taken_for_a_larger_one(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP + "pool.free(ctx.alloc((1 << 20) + 1), stream); stream.synchronize(); pool.collect()")
    assert in_use(device) < 1 << 20
    worker.run("foreign = ctx.alloc(100); address = foreign.address; pool.free(foreign, stream)")
    worker.run("stream.synchronize(); large = pool.alloc(500)")
    assert worker.run("[pool.misses, pool.hits]") == [1, 0]
    assert worker.run("caught(lambda: pool.free(cuda.Context().alloc(4), stream))")[0] == "ValueError"


def test_what_lies_idle_is_given_back_when_memory_is_short(start: Start) -> None:
    worker = start(SETUP + "import resource; size = 256 << 20; pool.free(pool.alloc(size), stream)")
    used = psutil.Process(worker.pid).memory_info().vms
    worker.run(f"resource.setrlimit(resource.RLIMIT_AS, ({used} + size // 2,) * 2)")
    assert worker.run("caught(lambda: ctx.alloc(size + 1024))")[1] == "CUDA_ERROR_OUT_OF_MEMORY"
    assert worker.run("pool.alloc(size + 1024).nbytes") == (256 << 20) + 1024


def test_closing_gives_all_back(device: SimulatedDevice, start: Start) -> None:
    worker = start(SETUP)
    worker.run("pool.free(pool.alloc(1 << 20), stream); deferred.free(ctx.alloc(1 << 20), stream)")
    worker.run("kept = pool.alloc(64); pool.close(); deferred.close()")
    assert in_use(device) < 1 << 20
    worker.run("ctx.close(); pool.close(); deferred.close()")


# Allocating in the hot loop


def steps(worker: Worker, call: str) -> None:
    worker.run(f"with worker.step():\n    for _ in range(2):\n        {call}")


WARNED = "import warnings; told = []; warnings.showwarning = lambda *given: told.append(given); worker.ready()\n"


def test_the_warning_names_the_line_that_asked_through_the_pool_too(start: Start) -> None:
    worker = start(SETUP + WARNED)
    steps(worker, "pool.alloc(64)")
    assert worker.run("[given[2:4] for given in told]") == [["<string>", 3]]


def test_an_alloc_or_free_in_the_hot_loop_is_counted_and_warned_of_once(start: Start) -> None:
    worker = start(SETUP + WARNED)
    steps(worker, "ctx.alloc(64).free()")
    assert worker.run("ctx.hot_calls") == 4
    told = worker.run("[str(given[0]) for given in told]")
    assert [text.partition(":")[0] for text in told] == ["alloc inside a step", "free inside a step"]


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("pure", ["0", "1"])
def test_what_is_allocated_at_the_start_or_between_steps_is_not_counted(start: Start, ready: bool, pure: str) -> None:
    worker = start(SETUP, WATCHDOGD_PURE_PYTHON=pure)
    if ready:
        worker.run("worker.ready(); ctx.alloc(64).free()")
    else:
        steps(worker, "ctx.alloc(64).free()")
    assert worker.run("ctx.hot_calls") == 0
    worker.run("worker.ready()")
    steps(worker, "ctx.alloc(64)")
    assert worker.run("ctx.hot_calls") == 2


def test_the_pool_is_quiet_in_the_hot_loop(start: Start) -> None:
    worker = start(SETUP + "pool.free(pool.alloc(64), stream); stream.synchronize(); worker.ready()")
    steps(worker, "pool.free(pool.alloc(64), stream); stream.synchronize()")
    assert worker.run("ctx.hot_calls") == 0


# Host functions


def test_a_host_function_runs_in_its_stream(start: Start) -> None:
    worker = start(SETUP + "seen = []")
    worker.run("stream.launch(slow, 1, 1); stream.host_function(lambda: seen.append(tid()))")
    assert worker.run("seen") == []
    worker.run("stream.synchronize()")
    assert worker.run("len(seen)") == 1
    assert worker.run("seen[0]") != worker.pid


@pytest.mark.parametrize("pure", ["0", "1"])
@pytest.mark.parametrize(
    "call", ["second.synchronize()", "ctx.alloc(4)", "ctx.check()", "ctx.close()", "pool.alloc(4)", "cuda.Context()"]
)
def test_a_cuda_call_in_a_host_function_raises(start: Start, call: str, pure: str) -> None:
    worker = start(SETUP + "seen = []", WATCHDOGD_PURE_PYTHON=pure)
    worker.run(f"stream.host_function(lambda: seen.append(caught(lambda: {call}))); stream.synchronize()")
    kind, text = worker.run("seen[0]")[:2]
    assert (kind, "no CUDA call is allowed in a host function" in text) == ("HostFunctionError", True)
    assert worker.last_error() == 0  # the driver was not asked
    worker.run("second.synchronize(); ctx.alloc(4)")


def test_what_a_host_function_raises_is_raised_by_the_next_synchronize(start: Start) -> None:
    worker = start(SETUP)
    worker.run("stream.host_function(lambda: 1 / 0)")
    assert worker.run("caught(stream.synchronize)")[0] == "ZeroDivisionError"
    worker.run("stream.synchronize()")


# The deadlocks of the allocator


UNGUARDED = """
def rounds(call):
    for _ in range(200):
        call()
def allocates(): rounds(lambda: ctx.alloc_managed(64))
def frees():
    for buffer in [ctx.alloc(64) for _ in range(200)]: buffer.free()
def launches(): rounds(lambda: stream.launch(quick, 1, 1))
quick = ctx.module(b"").kernel("sim_sleep_us_1")
def together(*calls):
    for call in calls: threading.Thread(target=call, daemon=True).start()
"""
GUARDED = (
    UNGUARDED
    + """
from watchdogd.worker.cuda_thread import CudaThread
gpu = CudaThread()
deferred, stream = gpu.submit(lambda: (DeferredFree(gpu.context, 512), gpu.context.stream())).result(10)
quick = gpu.submit(lambda: gpu.context.module(b"").kernel("sim_sleep_us_1")).result(10)
def managed():
    buffer = gpu.submit(gpu.context.alloc_managed, 64).result(10)
    deferred.free(buffer, stream)
def launch():
    gpu.submit(stream.launch, quick, 1, 1).result(10)
    gpu.submit(deferred.collect).result(10)
def done(calls):
    threads = [threading.Thread(target=rounds, args=(call,), daemon=True) for call in calls]
    for thread in threads: thread.start()
    for thread in threads: thread.join(20)
    return [thread.is_alive() for thread in threads]
"""
)


@pytest.mark.parametrize(
    ("calls", "functions", "operations"),
    [
        ("alloc_managed,free", "allocates, frees", ["alloc", "free"]),
        ("launch,free", "launches, frees", ["free", "launch"]),
    ],
)
def test_both_sides_of_a_deadlock_in_the_driver_are_stamped(
    device: SimulatedDevice, start: Start, calls: str, functions: str, operations: list[str]
) -> None:
    worker = start(SETUP + UNGUARDED)
    fault = device.fault("deadlock", calls=calls)
    worker.run(f"together({functions})")
    wait_until(lambda: fault.fired > 0)
    wait_until(lambda: sorted(worker.operations()) == operations)


@pytest.mark.parametrize("calls", ["alloc_managed,free", "launch,free"])
def test_with_one_owner_and_deferred_frees_the_two_never_meet(
    device: SimulatedDevice, start: Start, calls: str
) -> None:
    worker = start(SETUP + GUARDED)
    fault = device.fault("deadlock", calls=calls, window_ms=1)
    assert worker.run("done([managed, launch])") == [False, False]
    assert fault.fired == 0


MUTEX = SETUP + (
    "mutex, entered = threading.Lock(), threading.Event()\n"
    "def takes_it():\n"
    "    entered.wait(10)\n"
    "    with mutex: pass\n"
    "buffer = ctx.alloc(64)\n"
    "def allocator(free):\n"
    "    with mutex:\n"
    "        entered.set()\n"
    "        free()\n"
    "stream.host_function(takes_it)\n"
)


def test_a_free_under_a_mutex_that_the_device_waits_for_hangs(start: Start) -> None:
    worker = start(MUTEX)
    worker.run("threading.Thread(target=allocator, args=(buffer.free,), daemon=True).start()")
    wait_until(lambda: sorted(worker.operations()) == ["free", "other"])  # the host function is a call, too
    worker.run("time.sleep(0.1)")
    assert sorted(worker.operations()) == ["free", "other"]


def test_a_deferred_free_under_that_mutex_does_not(start: Start) -> None:
    worker = start(MUTEX)
    worker.run("allocator(lambda: deferred.free(buffer, stream)); stream.synchronize()")
    assert worker.run("deferred.collect()") == 1


def test_a_deferred_free_may_be_asked_for_in_a_host_function(start: Start) -> None:
    worker = start(SETUP + "buffer = ctx.alloc(64)")
    worker.run("stream.host_function(lambda: deferred.free(buffer, stream)); stream.synchronize()")
    worker.run("deferred.drain()")
    assert worker.run("[deferred.waiting, caught(lambda: buffer.address)[0]]") == [0, "ValueError"]


# What is handed over in the wrong way, or at the wrong time


def test_a_misuse_while_collecting_loses_no_buffer(start: Start) -> None:
    worker = start(SETUP.replace("cuda.Context()", "cuda.Context(owner='thread')") + "other = cuda.Context()")
    worker.run("pool.free(ctx.alloc(512), stream); pool.drain(); stream.launch(slow, 1, 1)")
    worker.run("for _ in range(3): pool.free(ctx.alloc(512), stream)")
    worker.run("driver.cuCtxPushCurrent(other._context)")
    for call in ("pool.collect", "pool.drain", "pool.trim", "lambda: pool.alloc(64)"):
        assert worker.run(f"caught({call})")[0] == "ContextLost"
    worker.run("driver.cuCtxPopCurrent(); pool.drain()")
    assert worker.run("[pool.waiting, len(pool._idle[512]), len(pool._events)]") == [0, 4, 3]


@pytest.mark.parametrize("where", ["before it is handed over", "before it is taken"])
def test_a_stream_that_was_closed_is_waited_for(start: Start, where: str) -> None:
    worker = start(SETUP + "buffer = pool.alloc(64); stream.launch(slow, 1, 1, (buffer,))")
    if where == "before it is taken":
        worker.run("in_thread(lambda: pool.free(buffer, stream)); stream.close(); begun = time.monotonic()")
    else:
        worker.run("stream.close(); begun = time.monotonic(); pool.free(buffer, stream)")
    assert worker.run("[pool.collect(), pool.waiting, time.monotonic() - begun > 0.03]") == [1, 0, True]


def test_a_stream_that_was_not_named_but_is_known_to_use_it_is_waited_for(start: Start) -> None:
    worker = start(SETUP + "first = pool.alloc(64); address = first.address; second.launch(slow, 1, 1, (first,))")
    worker.run("pool.free(first, stream); stream.synchronize(); again = pool.alloc(64)")
    assert worker.run("again.address == address") is False
    worker.run("second.synchronize(); stream.synchronize()")
    assert worker.run("pool.alloc(64).address == address") is True


def test_streams_in_which_it_may_record_no_event_are_refused_at_once(start: Start) -> None:
    worker = start(SETUP + "def theirs(): pool.free(buffer, ctx.stream(owner='thread'))\nbuffer = ctx.alloc(64)")
    kind, text = worker.run("in_thread(lambda: caught(theirs))")
    assert (kind, text.startswith("thread 'MainThread'")) == ("ValueError", True)
    assert worker.run("caught(lambda: pool.free(buffer, cuda.Context().stream()))")[0] == "ValueError"
    assert worker.run("[pool.waiting, buffer.address != 0]") == [0, True]


def test_a_full_backlog_of_one_stream_costs_one_question(start: Start) -> None:
    worker = start(SETUP + "spin = ctx.module(b'').kernel('sim_spin'); stream.launch(spin, 1, 1)")
    worker.run("for _ in range(50): pool.free(ctx.alloc(64), stream)")
    worker.run("asked, query = [], driver.cuEventQuery")
    worker.run("driver.cuEventQuery = lambda *given: (asked.append(1), query(*given))[1]")
    assert worker.run("[pool.collect(), len(asked)]") == [0, 1]


def test_a_free_in_a_host_function_is_refused_and_not_lost(start: Start) -> None:
    worker = start(SETUP + WARNED + "buffer = ctx.alloc(64)")
    steps(worker, "stream.host_function(buffer.free)")
    kind, text = worker.run("caught(stream.synchronize)")
    assert (kind, text.startswith("cuMemFree: ")) == ("HostFunctionError", True)
    assert worker.run("[ctx.hot_calls, buffer.address != 0]") == [0, True]


def test_what_does_nothing_is_no_free_in_the_hot_loop(start: Start) -> None:
    worker = start(SETUP + WARNED + "buffer = ctx.alloc(64); buffer.free()")
    steps(worker, "buffer.free()")
    worker.run("host = ctx.alloc_host(64)")
    steps(worker, "ctx.close()")
    assert worker.run("[ctx.hot_calls, told]") == [0, []]
