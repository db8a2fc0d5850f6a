"""watchdogd.worker.cuda on the simulated driver: real cuda-python in a process of its own, its heartbeat read here."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import psutil
import pytest

from tests.helpers.cuda_process import SETUP, Start
from tests.helpers.worker_process import ROOT, TIMEOUT_SECONDS, wait_until
from tests.simulator.control import SimulatedDevice
from watchdogd.cuda_results import CONTEXT_ERRORS, STICKY_ERRORS, STICKY_EXIT

# What the heartbeat says


@pytest.mark.parametrize(
    ("call", "source", "operation"),
    [
        ("stream_synchronize", "stream.synchronize()", "sync"),
        ("ctx_synchronize", "ctx.synchronize()", "sync"),
        ("event_synchronize", "event.synchronize()", "event"),
        ("alloc", "ctx.alloc(64)", "alloc"),
        ("alloc_managed", "ctx.alloc_managed(64)", "alloc"),
        ("host_register", "ctx.alloc_host(64)", "alloc"),
        ("free", "buffer.free()", "free"),
        ("host_unregister", "host.free()", "free"),
        ("copy_async", "stream.copy_in(buffer, host)", "copy"),
        ("copy_async", "stream.copy_out(host, buffer)", "copy"),
        ("launch", "stream.launch(kernel, 1, 1, (buffer, 1))", "launch"),
        ("set_async", "stream.fill(buffer, 0)", "launch"),
        ("launch_host", "stream.host_function(int)", "launch"),
        ("event_record", "event.record(stream)", "launch"),
        ("stream_wait_event", "stream.wait(event)", "launch"),
        ("stream_create", "ctx.stream()", "other"),
        ("stream_destroy", "stream.close()", "other"),
        ("event_create", "ctx.event()", "other"),
        ("event_query", "event.done()", "other"),
        ("event_destroy", "event.close()", "other"),
        ("module_load", "ctx.module(b'')", "other"),
        ("ctx_create", "cuda.Context()", "other"),
        ("ctx_destroy", "ctx.close()", "other"),
        ("host_unregister", "ctx.close()", "free"),
    ],
)
def test_a_call_in_flight_is_in_the_heartbeat(
    device: SimulatedDevice, start: Start, call: str, source: str, operation: str
) -> None:
    worker = start()
    fault = device.fault("call_hang", call=call)
    worker.send(f"({source}) and None")
    wait_until(lambda: fault.fired > 0)
    assert worker.operations() == [operation]
    fault.clear()
    worker.answer()
    assert worker.operations() == []


def test_the_drivers_initialisation_in_flight_is_in_the_heartbeat(device: SimulatedDevice, start: Start) -> None:
    worker = start("pass")
    fault = device.fault("call_hang", call="init")
    worker.send("cuda.Context() and None")
    wait_until(lambda: fault.fired > 0)
    assert worker.operations() == ["other"]


def test_a_stream_that_hangs_shows_as_a_sync(device: SimulatedDevice, start: Start) -> None:
    worker = start()
    fault = device.fault("hang")
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1))")
    worker.send("stream.synchronize()")
    wait_until(lambda: fault.fired > 0 and worker.operations() == ["sync"])
    fault.clear()
    worker.answer()
    assert worker.operations() == []


def test_a_call_that_failed_is_not_in_the_heartbeat(device: SimulatedDevice, start: Start) -> None:
    worker = start()
    device.fault("error", code=719)
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1))")
    assert worker.run("caught(stream.synchronize)")[1] == "CUDA_ERROR_LAUNCH_FAILED"
    assert worker.operations() == []


@pytest.mark.parametrize("pure", ["0", "1"])
def test_other_threads_go_on_during_a_hung_call(device: SimulatedDevice, start: Start, pure: str) -> None:
    worker = start(WATCHDOGD_PURE_PYTHON=pure)
    worker.run("threading.Thread(target=step_for_ever, daemon=True).start()")
    device.fault("hang")
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1))")
    worker.send("stream.synchronize()")
    wait_until(lambda: worker.operations() == ["sync"])
    steps = worker.heartbeat.total("steps_done")
    wait_until(lambda: worker.heartbeat.total("steps_done") > steps + 50)
    assert worker.operations() == ["sync"]


# Errors


def test_a_sticky_error_has_a_type_of_its_own_and_is_recorded(device: SimulatedDevice, start: Start) -> None:
    worker = start()
    device.fault("error", code=700)
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1))")
    *error, text = worker.run("caught(stream.synchronize)")
    assert error == ["StickyCudaError", "CUDA_ERROR_ILLEGAL_ADDRESS", 700, "cuStreamSynchronize"]
    assert text.startswith("cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS (700); of earlier asynchronous work")
    assert worker.last_error() == 700


def test_an_error_of_earlier_work_names_what_was_last_queued(start: Start) -> None:
    worker = start()
    worker.run("before = ctx.module(b'').kernel('sim_sleep_us_10'); stream.launch(before, 1, 1)")
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1000))")
    text = worker.run("caught(stream.synchronize)")[4]
    assert text.endswith(f"last queued: sim_add_one__50us in CUstream {worker.run('hex(stream.handle)')}")
    assert worker.run("caught(lambda: ctx.alloc(4))")[4].endswith("(700); as since cuStreamSynchronize")


def test_an_error_of_earlier_work_in_another_context_names_that_too(start: Start) -> None:
    worker = start("ctx = cuda.Context(); stream, buffer = ctx.stream(), ctx.alloc(64); innocent = cuda.Context()\n")
    worker.run("kernel = ctx.module(b'').kernel('sim_add_one__50us'); mine = innocent.stream()")
    worker.run("mine.fill(innocent.alloc(64), 0); mine.synchronize(); stream.launch(kernel, 1, 1, (buffer, 1000))")
    handles = worker.run("[hex(mine.handle), hex(stream.handle)]")
    worker.run("answers = []")
    wait_until(lambda: worker.run("answers.append(caught(mine.synchronize)) or answers[-1]") is not None)
    text = worker.run("answers[-1][4]")
    assert text.endswith(f"last queued: fill in CUstream {handles[0]}, sim_add_one__50us in CUstream {handles[1]}")


def test_an_error_of_the_call_itself_blames_no_other(start: Start) -> None:
    worker = start()
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1))")
    assert worker.run("caught(lambda: ctx.alloc(1 << 60))")[4] == "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2)"


def test_an_error_that_can_be_survived_is_not_sticky_but_recorded(start: Start) -> None:
    worker = start()
    assert worker.run("caught(lambda: ctx.alloc(1 << 60))")[:3] == ["CudaError", "CUDA_ERROR_OUT_OF_MEMORY", 2]
    assert worker.last_error() == 2
    assert worker.run("caught(lambda: ctx.module(b'').kernel(''))")[1] == "CUDA_ERROR_NOT_FOUND"
    assert worker.last_error() == 500
    worker.run("stream.synchronize()")


def test_an_assertion_on_the_device_needs_a_new_context_only(device: SimulatedDevice, start: Start) -> None:
    worker = start()
    device.fault("error", code=710)
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1))")
    assert worker.run("caught(stream.synchronize)")[:2] == ["ContextFailedError", "CUDA_ERROR_ASSERT"]
    worker.run("ctx.close()")
    worker.run("ctx = cuda.Context(); ctx.alloc(64); ctx.stream().synchronize()")


STICKY = "cuda_driver.failure(driver.CUresult(700), 'cuOther')"


def test_a_recorded_sticky_error_stays(start: Start) -> None:
    worker = start("from watchdogd.worker import cuda_driver" + SETUP)
    worker.run(f"{STICKY} and None")
    word = worker.heartbeat.header("last_error")
    assert worker.run("caught(lambda: ctx.alloc(1 << 60))")[:2] == ["CudaError", "CUDA_ERROR_OUT_OF_MEMORY"]
    worker.run(f"{STICKY} and None")
    assert worker.heartbeat.header("last_error") == word


def test_a_sticky_error_recorded_meanwhile_is_not_hidden(start: Start) -> None:
    worker = start()
    worker.run(
        "from watchdogd.worker import cuda_driver\n"
        "class Overtaken:\n"
        "    def error(self, code):\n"
        "        cuda_driver.attach = watchdogd.worker.attach\n"
        f"        {STICKY}\n"
        "        worker.error(code)\n"
        "cuda_driver.attach = Overtaken"
    )
    assert worker.run("caught(lambda: ctx.alloc(1 << 60))")[2] == 2
    assert worker.last_error() == 700


def test_no_error_is_recorded_where_none_was(start: Start) -> None:
    worker = start()
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1)); stream.synchronize(); ctx.close()")
    assert worker.heartbeat.header("last_error") == 0


def test_the_first_error_is_the_one_that_leaves_the_with_block(start: Start) -> None:
    worker = start("pass")
    worker.run(
        "def work():\n"
        "    with cuda.Context() as ctx:\n"
        "        stream, host = ctx.stream(), ctx.alloc_host(64)\n"
        "        stream.launch(ctx.module(b'').kernel('sim_add_one'), 1, 1, (ctx.alloc(4), 1000))\n"
        "        stream.synchronize()\n"
    )
    assert worker.run("caught(work)")[3] == "cuStreamSynchronize"


def test_a_failing_close_is_not_silent(start: Start) -> None:
    worker = start()
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1000))")
    worker.run("caught(stream.synchronize)")
    assert worker.run("caught(ctx.close)")[:2] == ["StickyCudaError", "CUDA_ERROR_ILLEGAL_ADDRESS"]
    assert worker.run("caught(ctx.close)") is None


def test_what_close_could_not_unlock_does_not_keep_the_context(device: SimulatedDevice, start: Start) -> None:
    worker = start()
    worker.run("with ctx.current(): unlocked = int(driver.cuMemHostUnregister(host.address)[0])")
    assert worker.run("unlocked") == 0
    assert worker.run("caught(ctx.close)")[1] == "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"
    assert worker.run("caught(ctx.synchronize)") == ["ValueError", "the Context is closed"]
    assert device.processes()[0].memory_bytes == 0


def test_sticky_errors_bear_nvidias_names() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    for errors in (STICKY_ERRORS, CONTEXT_ERRORS):
        assert {code: driver.CUresult(code).name for code in errors} == errors


@pytest.mark.parametrize("switched_on", [True, False])
def test_a_sticky_error_ends_the_process_where_that_was_asked_for(start: Start, switched_on: bool) -> None:
    worker = start()
    if switched_on:
        worker.run("cuda.exit_on_sticky()")
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1000))")
    worker.send(
        "in_thread(lambda: caught(stream.synchronize))[1]"
    )  # though it would be caught, and not in the main thread
    if not switched_on:
        assert worker.answer() == "CUDA_ERROR_ILLEGAL_ADDRESS"
        return
    assert worker.process.wait(TIMEOUT_SECONDS) == STICKY_EXIT == 76
    errors = worker.errors()
    assert "in synchronize" in errors
    assert "CUDA_ERROR_ILLEGAL_ADDRESS (700); of earlier asynchronous work" in errors
    assert worker.last_error() == 700


@pytest.mark.parametrize("nobody", ["has_closed_it", "reads_it"])
def test_it_ends_so_although_nobody_takes_its_last_words(start: Start, nobody: str) -> None:
    worker = start(
        SETUP + "cuda.exit_on_sticky(); reader, writer = os.pipe(); os.set_blocking(writer, False)\n"
        "def has_closed_it(): os.close(reader)\n"
        "def reads_it():\n"
        "    try:\n"
        "        while True: os.write(writer, bytes(4096))\n"
        "    except BlockingIOError: os.set_blocking(writer, True)\n"
    )
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1000))")
    worker.send(f"{nobody}(); os.dup2(writer, 1); os.dup2(writer, 2); stream.synchronize()")
    assert worker.process.wait(TIMEOUT_SECONDS) == STICKY_EXIT


def test_other_errors_do_not_end_the_process(start: Start) -> None:
    worker = start()
    worker.run("cuda.exit_on_sticky()")
    assert worker.run("caught(lambda: ctx.alloc(1 << 60))")[2] == 2


def test_a_forked_child_is_told_that_it_has_no_driver(start: Start) -> None:
    worker = start()
    worker.run("child = os.fork()\nif child == 0: os._exit(caught(stream.synchronize)[2])")
    assert worker.run("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])") == 3


def python(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=30,
    )


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="there is a CUDA driver here")
def test_a_missing_driver_is_one_error_with_its_remedy() -> None:
    ended = python("from watchdogd.worker import cuda; cuda.Context()")
    assert ended.stderr.count("Traceback") == 1
    assert "CudaUnavailableError: no CUDA driver" in ended.stderr
    assert "--gpus all" in ended.stderr


def test_missing_bindings_are_one_error_with_its_remedy() -> None:
    ended = python("import sys; sys.modules['cuda'] = None; from watchdogd.worker import cuda")
    assert "pip install 'watchdogd[cuda]'" in ended.stderr


def test_bindings_that_hold_the_gil_are_warned_of_once() -> None:
    source = (
        "import cuda.bindings; cuda.bindings.__version__ = '{}'\n"
        "import watchdogd.worker.cuda, watchdogd.worker.cuda_driver"
    )
    for version in ("12.6.2.post1", "12.8.0", "12.9.0"):
        assert python(source.format(version)).stderr.count("holds the GIL") == 1
    for version in ("12.9.1", "12.10.0", "13.0.0rc1"):
        assert python(source.format(version)).stderr == ""


# Contexts


def test_two_contexts_work_side_by_side(start: Start) -> None:
    worker = start()
    worker.run("other = cuda.Context(); second = other.stream(); memory = other.alloc(64)")
    worker.run("same = other.module(b'').kernel('sim_add_one__50us')")
    for _ in range(2):
        worker.run("stream.launch(kernel, 1, 1, (buffer, 1)); second.launch(same, 1, 1, (memory, 1))")
        worker.run("stream.synchronize(); second.synchronize()")
    assert worker.run("ctx.handle != other.handle")
    worker.run("ctx.close(); second.synchronize(); memory.free(); other.close()")


def test_a_hang_in_one_context_leaves_the_other_usable(start: Start) -> None:
    worker = start()
    worker.run("other = cuda.Context(); second = other.stream(); spin = ctx.module(b'').kernel('sim_spin')")
    worker.run("stream.launch(spin, 1, 1)")
    worker.run("threading.Thread(target=stream.synchronize, daemon=True).start()")
    wait_until(lambda: worker.operations() == ["sync"])
    worker.run("second.synchronize()")


def test_any_thread_may_use_a_context(start: Start) -> None:
    worker = start()
    assert worker.run(
        "in_thread(lambda: (stream.launch(kernel, 1, 1, (buffer, 1)), stream.synchronize(), current()))"
    ) == [
        None,
        None,
        0,
    ]
    assert worker.run("in_thread(lambda: ctx.alloc(64).nbytes)") == 64


def test_another_librarys_current_context_stays(start: Start) -> None:
    worker = start()
    worker.run("primary = driver.cuDevicePrimaryCtxRetain(0)[1]; driver.cuCtxSetCurrent(primary)")
    worker.run("stream.synchronize(); caught(lambda: ctx.alloc(1 << 60)); cuda.Context().close()")
    assert worker.run("current() == int(primary)")
    worker.run("with ctx.current(): inside = current()")
    assert worker.run("inside == ctx.handle and current() == int(primary)")
    worker.run("with ctx.current(): ctx.close()")
    worker.run("with cuda.Context() as ctx: inside = current(); same = inside == ctx.handle")
    assert worker.run("same and current() == int(primary)")
    worker.run("with cuda.Context() as ctx: ctx.close()")
    assert worker.run("current() == int(primary)")


@pytest.mark.parametrize(("wait", "flags"), [("auto", 0), ("spin", 1), ("yield", 2), ("blocking", 4)])
def test_the_way_to_wait_reaches_the_driver(start: Start, wait: str, flags: int) -> None:
    worker = start(f"ctx = cuda.Context(wait={wait!r})")
    worker.run("with ctx.current(): flags = int(driver.cuCtxGetFlags()[1])")
    assert worker.run("flags & 7") == flags


@pytest.mark.parametrize("how", ["stream", "event", "context"])
def test_spinning_costs_the_cpu_that_blocking_does_not(start: Start, how: str) -> None:
    worker = start("pass")
    blocking = worker.run(f"busy_seconds('blocking', {how!r})")
    assert blocking < 0.03
    assert worker.run(f"busy_seconds('spin', {how!r})") > 5 * blocking  # as much of 0.1 s as others leave it


@pytest.mark.parametrize(("wait", "blocking"), [("auto", 0), ("spin", 0), ("yield", 0), ("blocking", 1)])
def test_events_are_told_too_how_to_wait(start: Start, wait: str, blocking: int) -> None:
    # The simulated driver goes by the context's flags as well; the documentation speaks of the event's alone.
    worker = start(f"ctx = cuda.Context(wait={wait!r}); given = []; create = driver.cuEventCreate")
    worker.run("driver.cuEventCreate = lambda flags: (given.append(flags), create(flags))[1]")
    worker.run("event = ctx.event()")
    assert worker.run("given[0] & 1") == blocking


def test_an_unknown_way_to_wait_is_refused(start: Start) -> None:
    assert start().run("caught(lambda: cuda.Context(wait='doze'))") == [
        "ValueError",
        "wait='doze': use one of auto, spin, yield, blocking",
    ]


@pytest.mark.parametrize("version", ["13000", "12060"])
def test_it_works_with_older_drivers_too(start: Start, version: str) -> None:
    start(SIMCUDA_VERSION=version).run("stream.launch(kernel, 1, 1, (buffer, 1)); stream.synchronize()")


# What belongs to one


def test_what_is_copied_in_and_computed_is_copied_out(start: Start) -> None:
    worker = start()
    worker.run("floats = host.view.cast('f'); floats[0], floats[1], floats[15] = 1.5, 2.5, 3.5")
    worker.run("stream.copy_in(buffer, host); stream.launch(kernel, (1,), (1, 1, 1), (buffer, ctypes.c_int(2)))")
    worker.run("stream.copy_out(host, buffer); event.record(stream); event.synchronize()")
    assert worker.run("[floats[0], floats[1], floats[15]]") == [2.5, 3.5, 3.5]
    worker.run("scale = ctx.module(b'').kernel('sim_copy_scale'); out = ctx.alloc(64)")
    worker.run("stream.launch(scale, 1, 16, [out, buffer, 16, 2.0]); stream.copy_out(host, out); stream.synchronize()")
    assert worker.run("[floats[0], floats[1], floats[15]]") == [5.0, 7.0, 7.0]


def test_a_stream_waits_for_an_event_of_another(start: Start) -> None:
    worker = start()
    worker.run("slow = ctx.module(b'').kernel('sim_sleep_us_50000'); second = ctx.stream()")
    worker.run("stream.launch(slow, 1, 1); event.record(stream); second.wait(event)")
    assert worker.run("driver.cuStreamQuery(second.handle)[0]") == 201  # nothing of ours is current here
    worker.run("begin = time.monotonic(); second.synchronize(); took = time.monotonic() - begin")
    assert worker.run("took") > 0.03


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_an_int_that_is_no_c_int_is_refused(start: Start, number: int) -> None:
    assert "is no C int" in start().run(f"caught(lambda: stream.launch(kernel, 1, 1, (buffer, {number})))")[1]


def test_a_copy_that_does_not_fit_is_refused(start: Start) -> None:
    worker = start()
    worker.run("large = ctx.alloc_host(65); larger = ctx.alloc(65)")
    assert worker.run("caught(lambda: stream.copy_in(buffer, large))") == ["ValueError", "65 bytes do not fit into 64"]
    assert worker.run("caught(lambda: stream.copy_out(host, larger))") == ["ValueError", "65 bytes do not fit into 64"]
    worker.run("stream.copy_in(larger, host); stream.synchronize()")


@pytest.mark.parametrize("source", ["buffer.free", "host.free", "stream.close", "event.close", "ctx.close"])
def test_closing_twice_does_nothing(start: Start, source: str) -> None:
    worker = start()
    assert worker.run(f"caught({source}) or caught({source})") is None
    assert worker.last_error() == 0


def test_closing_after_the_context_does_nothing(start: Start) -> None:
    worker = start()
    worker.run("ctx.close(); buffer.free(); host.free(); stream.close(); event.close()")
    assert worker.last_error() == 0


@pytest.mark.parametrize(
    ("close", "use"),
    [
        ("stream.close()", "stream.synchronize()"),
        ("stream.close()", "event.record(stream)"),
        ("event.close()", "stream.wait(event)"),
        ("buffer.free()", "stream.copy_in(buffer, host)"),
        ("host.free()", "stream.copy_in(buffer, host)"),
        ("host.free()", "host.view"),
        ("ctx.close()", "stream.synchronize()"),
        ("ctx.close()", "ctx.alloc(4)"),
        ("ctx.close()", "ctx.handle"),
    ],
)
def test_what_is_closed_is_not_handed_to_the_driver(start: Start, close: str, use: str) -> None:
    worker = start()
    worker.run(close)
    kind, text = worker.run(f"caught(lambda: {use})")
    assert kind == "ValueError"
    assert text.endswith("is closed")


def test_closing_gives_the_memory_back(device: SimulatedDevice, start: Start) -> None:
    worker = start("ctx = cuda.Context(); buffers = [ctx.alloc(1 << 20) for _ in range(3)]; host = ctx.alloc_host(64)")

    def used() -> int:
        return device.processes()[0].memory_bytes

    assert used() >= 3 << 20
    worker.run("buffers.pop().free()")
    assert 2 << 20 <= used() < 3 << 20
    worker.run("ctx.close()")
    assert used() < 1 << 20


def test_what_is_collected_calls_no_driver(device: SimulatedDevice, start: Start) -> None:
    worker = start()
    faults = [device.fault("call_hang", call=call) for call in ("free", "host_unregister", "ctx_destroy")]
    worker.run("import gc; del ctx, stream, event, buffer, host, kernel; gc.collect()")
    assert [fault.fired for fault in faults] == [0, 0, 0]


def test_collected_page_locked_memory_stays_until_its_context_is_closed(start: Start) -> None:
    worker = start("ctx = cuda.Context()")
    # Were it unmapped, the next would be put in its place, which the driver still takes for registered.
    assert worker.run("[caught(lambda: ctx.alloc_host(1 << 20)) for _ in range(4)]") == [None] * 4
    worker.run("import gc; del ctx; gc.collect(); ctx = cuda.Context()")
    assert worker.run("[caught(lambda: ctx.alloc_host(1 << 20)) for _ in range(4)]") == [None] * 4


def test_freed_page_locked_memory_is_given_back(start: Start) -> None:
    worker = start("ctx = cuda.Context(); large = ctx.alloc_host(64 << 20); large.view[::4096] = bytes(64 << 8)")
    resident = psutil.Process(worker.pid).memory_info().rss
    worker.run("large.free(); del large")
    assert psutil.Process(worker.pid).memory_info().rss < resident - (60 << 20)


def test_a_closed_context_is_forgotten(start: Start) -> None:
    worker = start(
        "import gc, weakref; ctx = cuda.Context(); kept = weakref.ref(ctx); ctx.close(); del ctx; gc.collect()"
    )
    assert worker.run("kept() is None")


def test_a_view_outlives_its_buffer(start: Start) -> None:
    worker = start()
    worker.run("view = host.view; view[:3] = b'abc'; host.free(); ctx.close()")
    assert worker.run("bytes(view[:3]).decode()") == "abc"
