"""Contexts and threads on the simulated driver: what is called from elsewhere is caught at the call, or put right."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import pytest

from tests.helpers.cuda_process import Start
from watchdogd import _native
from watchdogd.worker import _place

PINNED = """
ctx = cuda.Context(owner="thread")
stream, buffer, host = ctx.stream(), ctx.alloc(64), ctx.alloc_host(64)
foreign = int(driver.cuDevicePrimaryCtxRetain(0)[1])
def named(name, call):
    answers = []
    thread = threading.Thread(target=lambda: answers.extend((tid(), caught(call))), name=name)
    thread.start(); thread.join()
    return answers
def forgetful():
    driver.cuCtxSetCurrent(foreign)
def guarded(call):
    with ctx.expected:
        call()
"""
both = pytest.mark.parametrize("pure", ["0", "1"])


@both
def test_a_call_by_another_thread_names_both_contexts_and_both_threads(start: Start, pure: str) -> None:
    worker = start(PINNED, WATCHDOGD_PURE_PYTHON=pure)
    tid, (kind, text) = worker.run("named('reader', stream.synchronize)")
    assert kind == "ContextLost"
    assert text == (
        f"cuStreamSynchronize: expected context {worker.run('ctx.handle'):#x} of thread 'MainThread'"
        f" (tid {worker.pid}), found no context in thread 'reader' (tid {tid});"
        " hand the call to its thread: CudaThread.submit"
    )
    assert worker.operations() == []


@both
def test_a_call_by_its_own_thread_is_made(start: Start, pure: str) -> None:
    worker = start(PINNED, WATCHDOGD_PURE_PYTHON=pure)
    worker.run("stream.copy_in(buffer, host); stream.synchronize(); ctx.check(); guarded(stream.synchronize)")
    assert worker.run("current() == ctx.handle")


@both
def test_a_context_that_another_thread_made_current_is_lost_all_the_same(start: Start, pure: str) -> None:
    worker = start(PINNED, WATCHDOGD_PURE_PYTHON=pure)
    tid, (kind, text) = worker.run("named('reader', lambda: (driver.cuCtxSetCurrent(ctx._context), ctx.alloc(4)))")
    handle = worker.run("ctx.handle")
    assert (kind, text.count(f"context {handle:#x}")) == ("ContextLost", 2)
    assert f"'reader' (tid {tid})" in text


def test_a_context_lost_to_another_library_is_caught_at_the_next_call(start: Start) -> None:
    worker = start(PINNED)
    worker.run("forgetful()")
    kind, text = worker.run("caught(lambda: stream.copy_in(buffer, host))")
    assert kind == "ContextLost"
    assert text.startswith(f"cuMemcpyHtoDAsync: expected context {worker.run('ctx.handle'):#x} of ")
    assert f"found context {worker.run('foreign'):#x} in " in text
    assert text.endswith("; put it back with context.rebind(), or make on_misuse='rebind' do so")
    worker.run("ctx.rebind(); stream.copy_in(buffer, host); stream.synchronize()")


@both
def test_a_foreign_call_that_changes_the_current_context_is_told_at_once(start: Start, pure: str) -> None:
    worker = start(PINNED, WATCHDOGD_PURE_PYTHON=pure)
    kind, text = worker.run("caught(lambda: guarded(forgetful))")
    assert kind == "ContextLost"
    assert text.startswith("after the block, which has changed the current context: expected context ")
    kind, text = worker.run("caught(lambda: guarded(forgetful))")
    assert text.startswith("before the block: expected context ")


@both
def test_a_foreign_call_is_not_made_by_another_thread(start: Start, pure: str) -> None:
    worker = start(PINNED + "called = []", WATCHDOGD_PURE_PYTHON=pure)
    assert worker.run("named('reader', lambda: guarded(lambda: called.append(1)))[1][0]") == "ContextLost"
    assert worker.run("named('reader', ctx.check)[1]")[1].startswith("check: expected context ")
    assert worker.run("called") == []


def test_the_blocks_own_error_leaves_it(start: Start) -> None:
    worker = start(PINNED)
    assert worker.run("caught(lambda: guarded(lambda: (forgetful(), 1 / 0)))")[0] == "ZeroDivisionError"


def test_a_context_of_no_thread_is_expected_wherever_it_is_current(start: Start) -> None:
    worker = start("ctx = cuda.Context()\ndef guarded():\n    with ctx.current(), ctx.expected: return current()")
    assert worker.run("in_thread(guarded) == ctx.handle")
    text = worker.run("caught(ctx.check)")[1]
    found = rf"found no context in thread 'MainThread' \(tid {worker.pid}\)"
    assert re.fullmatch(rf"check: expected context 0x\w+, {found}; make it current: with context.current\(\)", text)


@both
def test_misuse_is_put_right_and_counted_where_asked_for(start: Start, pure: str) -> None:
    worker = start(PINNED.replace('owner="thread"', 'owner="thread", on_misuse="rebind"'), WATCHDOGD_PURE_PYTHON=pure)
    worker.run("stream.copy_in(buffer, host); guarded(stream.synchronize)")
    assert worker.run("ctx.rebound") == 0
    assert worker.run("in_thread(lambda: (stream.copy_in(buffer, host), current()))") == [None, 0]
    assert worker.run("ctx.rebound") == 1
    worker.run("forgetful(); stream.synchronize()")
    assert worker.run("[ctx.rebound, current() == foreign]") == [2, True]  # for that call only: it may be theirs
    worker.run("guarded(lambda: None)")
    assert worker.run("[ctx.rebound, current() == ctx.handle]") == [3, True]
    worker.run("guarded(forgetful)")
    assert worker.run("[ctx.rebound, current() == ctx.handle]") == [4, True]


def test_a_stream_may_have_a_thread_of_its_own(start: Start) -> None:
    worker = start(
        "ctx = cuda.Context(); stream = ctx.stream(owner='thread'); shared = ctx.stream(); event = ctx.event()"
    )
    worker.run("stream.synchronize(); event.record(stream); in_thread(shared.synchronize)")
    for call in ("stream.synchronize", "lambda: event.record(stream)", "lambda: stream.wait(event)"):
        kind, text = worker.run(f"in_thread(lambda: caught({call}))")
        told = (
            f": CUstream {worker.run('stream.handle'):#x} is of thread 'MainThread' (tid {worker.pid}), not of thread "
        )
        assert (kind, told in text, "expected" in text) == ("ContextLost", True, False)


def test_a_pinned_context_is_closed_by_its_own_thread_only(start: Start) -> None:
    worker = start(PINNED + "empty = cuda.Context(owner='thread')")
    assert worker.run("in_thread(lambda: caught(ctx.close))")[0] == "ContextLost"
    assert worker.run("in_thread(lambda: caught(empty.close))")[0] == "ContextLost"
    worker.run("empty.close(); stream.synchronize(); ctx.close()")
    assert worker.run("current()") == 0
    assert (
        worker.run("caught(ctx.check)")
        == worker.run("caught(lambda: guarded(int))")
        == [
            "ValueError",
            "the Context is closed",
        ]
    )


def test_a_closed_context_is_not_expected_where_its_handle_is_left_over(start: Start) -> None:
    worker = start("ctx = cuda.Context(); handle = ctx.handle")
    worker.run("for _ in range(2): driver.cuCtxPushCurrent(ctx._context)")
    worker.run("ctx.close()")
    assert worker.run("current() == handle") is True
    assert worker.run("caught(ctx.check)") == ["ValueError", "the Context is closed"]


def test_two_pinned_contexts_of_one_thread_are_told_apart(start: Start) -> None:
    worker = start(PINNED + "other = cuda.Context(owner='thread')")
    worker.run("other.synchronize()")
    kind, text = worker.run("caught(stream.synchronize)")
    assert (kind, f"found context {worker.run('other.handle'):#x}" in text) == ("ContextLost", True)
    worker.run("other.close(); stream.synchronize()")


def test_a_driver_that_fails_every_call_is_not_a_lost_context(start: Start) -> None:
    worker = start(PINNED + "kernel = ctx.module(b'').kernel('sim_add_one')")
    worker.run("stream.launch(kernel, 1, 1, (buffer, 1000))")
    assert worker.run("caught(stream.synchronize)")[0] == "StickyCudaError"
    assert worker.run("caught(stream.synchronize)")[0] == "StickyCudaError"
    assert worker.run("caught(ctx.check)")[0] == "StickyCudaError"


@pytest.mark.parametrize("options", ["owner='process'", "on_misuse='ignore'"])
def test_an_unknown_option_is_refused(start: Start, options: str) -> None:
    assert start("pass").run(f"caught(lambda: cuda.Context({options}))")[0] == "ValueError"


def test_a_pinned_context_can_be_forgotten(start: Start) -> None:
    worker = start(
        "import gc, weakref\nctx = cuda.Context(owner='thread'); kept = weakref.ref(ctx._place); ctx.close()"
    )
    assert worker.run("[ctx := None, gc.collect(), kept()][2]") is None


# What the two implementations ask, with a stand-in for the driver's function: it counts.


@pytest.mark.parametrize("implementation", [_native, _place])
def test_in_a_host_function_the_driver_is_not_asked(implementation: Any) -> None:
    asked: list[int] = []
    missed: list[str] = []

    def get_current(current: Any) -> int:
        asked.append(1)
        current[0] = 7
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_void_p))(get_current)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    place = implementation.place(address, 7, 0, missed.append)
    assert place.here()
    assert len(asked) == 1
    with implementation.host_function:
        assert implementation.in_host_function()
        assert not place.here()
        place.check()
    assert (len(asked), missed) == (1, ["now"])
    assert not implementation.in_host_function()
    with place:
        current_elsewhere = implementation.place(address, 8, 0, missed.append)
        current_elsewhere.check()
    assert missed == ["now", "now"]


@pytest.mark.parametrize("made", ["ctx.alloc(64)", "ctx.alloc_host(64)", "ctx.stream()", "ctx.event()"])
def test_what_a_wrong_thread_could_not_close_is_still_there_for_its_owner(start: Start, made: str) -> None:
    worker = start(PINNED + f"made = {made}\nclose = getattr(made, 'free', None) or made.close")
    assert worker.run("in_thread(lambda: caught(close))")[0] == "ContextLost"
    assert worker.run("made._object is not None")
    worker.run("close()")
    assert worker.run("made._object is None")


@pytest.mark.parametrize("call", ["owned.ordered().__enter__()", "owned.close()", "owned.fill(buffer, 1)"])
def test_a_stream_of_one_thread_is_no_others_in_a_context_of_all(start: Start, call: str) -> None:
    worker = start("ctx = cuda.Context(); owned, buffer = ctx.stream(owner='thread'), ctx.alloc(64)")
    assert worker.run(f"in_thread(lambda: caught(lambda: {call}))")[0] == "ContextLost"
    worker.run(f"{call}")


def test_a_thread_that_got_the_number_of_one_that_ended_is_not_its_heir(start: Start) -> None:
    worker = start("ctx = cuda.Context()\nowned = in_thread(lambda: ctx.stream(owner='thread'))")
    heir = "in_thread(lambda: [threading.get_ident() == owned._owner.ident, caught(owned.synchronize)[0]])"
    tried = [worker.run(heir)]
    while not tried[-1][0] and len(tried) < 50:  # the number is mostly given out at once, not always
        tried.append(worker.run(heir))
    assert tried[-1][0]
    assert {told for _, told in tried} == {"ContextLost"}


def test_a_misuse_of_a_streams_and_a_contexts_thread_is_one(start: Start) -> None:
    worker = start(PINNED.replace('owner="thread"', 'owner="thread", on_misuse="rebind"'))
    worker.run("owned = ctx.stream(owner='thread')")
    for count, call in enumerate(("owned.fill(buffer, 1)", "owned.ordered().__enter__()", "owned.close()"), 1):
        worker.run(f"owned.synchronize(); in_thread(lambda: {call})")  # idle, or a close records an event, too
        assert worker.run("ctx.rebound") == count


def test_a_streams_handle_is_not_lent_to_another_thread_than_its_contexts(start: Start) -> None:
    worker = start(PINNED)
    kind, text = worker.run("in_thread(lambda: caught(stream.ordered().__enter__))")
    assert (kind, text.startswith("Stream.ordered: expected context")) == ("ContextLost", True)
    worker.run("stream.ordered().__enter__()")
