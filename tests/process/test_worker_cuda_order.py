"""The order of streams that use the same memory, and poisoned outputs, on the simulated driver."""

from __future__ import annotations

import pytest

from tests.helpers.cuda_process import Start, Worker

SETUP = """
from watchdogd.worker.cuda_poison import Output, Poison, UnwrittenError
ctx = cuda.Context(order={order!r})
first, second, third = ctx.stream(), ctx.stream(), ctx.stream()
frame, buffer, out, result = ctx.alloc_host(64), ctx.alloc(64), ctx.alloc(64), ctx.alloc_host(64)
module = ctx.module(b"")
slow, scale = module.kernel("sim_sleep_us_30000"), module.kernel("sim_copy_scale__50us")
event = ctx.event()
frame.view.cast("f")[:] = memoryview(bytes(64)).cast("f")
frame.view.cast("f")[0] = 3.0
def inputs():
    first.launch(slow, 1, 1)
    first.copy_in(buffer, frame)
def outputs():
    second.launch(scale, 1, 16, (out, buffer, 16, 2.0), reads=(buffer,))
    second.copy_out(result, out)
    second.synchronize()
    return result.view.cast("f")[0]
for memory in (buffer, out): first.fill(memory, 0)
first.synchronize()
waits = []
wait = driver.cuStreamWaitEvent
driver.cuStreamWaitEvent = lambda *given: (waits.append(1), wait(*given))[1]
"""


def of(start: Start, order: str, more: str = "") -> Worker:
    return start(SETUP.format(order=order) + more)


def test_unordered_streams_compute_from_what_is_not_there_yet(start: Start) -> None:
    assert of(start, "off").run("inputs() or outputs()") == 0.0  # the field report's all-zero output


def test_inserted_order_makes_the_output_right(start: Start) -> None:
    worker = of(start, "insert")
    assert worker.run("inputs() or outputs()") == 6.0
    assert worker.run("len(waits)") == 1


def test_strict_order_refuses_and_queues_nothing(start: Start) -> None:
    worker = of(start, "strict")
    worker.run("inputs()")
    kind, text = worker.run("caught(outputs)")
    address, streams = worker.run("buffer.address"), worker.run("[first.handle, second.handle]")
    assert kind == "OrderError"
    assert text == (
        f"Buffer {address:#x} was written in CUstream {streams[0]:#x}, and is used in CUstream {streams[1]:#x} with no"
        " order between them: record an event there, and wait for it here"
    )
    assert worker.run("second._line.queued") == 0


def test_strict_order_is_content_with_an_event(start: Start) -> None:
    worker = of(start, "strict")
    assert worker.run("[inputs(), event.record(first), second.wait(event), outputs()][3]") == 6.0


def test_an_event_recorded_before_the_write_orders_nothing(start: Start) -> None:
    worker = of(start, "strict")
    worker.run("event.record(first); inputs(); second.wait(event)")
    assert worker.run("caught(outputs)")[0] == "OrderError"


def test_order_goes_through_a_third_stream(start: Start) -> None:
    worker = of(start, "strict", "other = ctx.event()")
    worker.run("inputs(); event.record(first); third.wait(event); other.record(third); second.wait(other)")
    assert worker.run("outputs()") == 6.0


@pytest.mark.parametrize("wait", ["first.synchronize()", "ctx.synchronize()", "event.synchronize()"])
def test_what_the_host_has_waited_for_needs_no_order(start: Start, wait: str) -> None:
    worker = of(start, "strict")
    assert worker.run(f"[inputs(), event.record(first), {wait}, outputs()][3]") == 6.0


def test_what_an_event_was_asked_for_and_is_done_needs_no_order(start: Start) -> None:
    worker = of(start, "strict")
    worker.run("inputs(); event.record(first)\nwhile not event.done(): time.sleep(0.001)")
    assert worker.run("outputs()") == 6.0


def test_a_buffer_is_not_overwritten_while_another_stream_reads_it(start: Start) -> None:
    worker = of(start, "insert")
    worker.run("first.copy_in(buffer, frame); first.synchronize(); second.launch(slow, 1, 1)")
    worker.run("second.copy_out(result, buffer)")  # reads it 30 ms from now
    worker.run("frame.view.cast('f')[0] = 9.0; first.copy_in(buffer, frame); second.synchronize()")
    assert worker.run("result.view.cast('f')[0]") == 3.0


def test_readers_need_no_order_among_them(start: Start) -> None:
    worker = of(start, "strict")
    worker.run("first.copy_in(buffer, frame); first.synchronize(); other = ctx.alloc(64)")
    worker.run("first.launch(scale, 1, 16, (out, buffer, 16, 2.0), reads=(buffer,))")
    worker.run("second.launch(scale, 1, 16, (other, buffer, 16, 2.0), reads=(buffer,))")
    assert (
        worker.run("caught(lambda: second.launch(scale, 1, 16, (other, out, 16, 2.0), reads=(out,)))")[0]
        == "OrderError"
    )
    assert worker.run("caught(lambda: second.launch(scale, 1, 16, (buffer, other, 16, 2.0)))")[0] == "OrderError"


def test_one_stream_alone_waits_for_no_event(start: Start) -> None:
    worker = of(start, "insert")
    worker.run("first.copy_in(buffer, frame)\nfor _ in range(3): first.copy_out(result, buffer)")
    worker.run("first.synchronize()")
    assert worker.run("waits") == []


def test_a_wait_is_inserted_once(start: Start) -> None:
    worker = of(start, "insert")
    worker.run("inputs(); second.copy_out(result, buffer); second.copy_out(result, buffer); third.copy_out(frame, out)")
    assert worker.run("len(waits)") == 2  # and one of the third, for the frame that the first reads


def test_a_closed_stream_is_waited_for_all_the_same(start: Start) -> None:
    worker = of(start, "insert")
    assert worker.run("[inputs(), first.close(), outputs()][2]") == 6.0


def test_a_stream_of_another_thread_alone_is_not_recorded_in_but_its_event_is_enough(start: Start) -> None:
    worker = start(
        "from watchdogd.worker.cuda_thread import CudaThread\n"
        "one, two = CudaThread(), CudaThread()\n"
        "def parts(gpu):\n"
        "    ctx = gpu.context\n"
        "    return ctx.stream(), ctx.alloc(64), ctx.alloc_host(64), ctx.event()\n"
        "writer, buffer, frame, event = one.submit(parts, one).result(9)\n"
        "reader, _, result, _ = two.submit(parts, two).result(9)\n"
        "def written(): writer.copy_in(buffer, frame); event.record(writer)\n"
        "one.submit(written).result(9)"
    )
    read = "two.submit(reader.copy_out, result, buffer).result(9)"
    kind, text = worker.run(f"caught(lambda: {read})")
    assert (kind, text.startswith("Buffer ")) == ("OrderError", True)
    worker.run(f"two.submit(reader.wait, event).result(9); {read}")


@pytest.mark.parametrize("order", ["insert", "strict"])
def test_what_another_library_queues_can_be_told(start: Start, order: str) -> None:
    worker = of(start, order)
    worker.run(
        "def foreign():\n"
        "    with second.ordered(reads=[buffer], writes=[out]) as handle:\n"
        "        given = handle\n"
        "    return given == second.handle\n"
        "inputs()"
    )
    if order == "strict":
        assert worker.run("caught(foreign)")[0] == "OrderError"
        worker.run("event.record(first); second.wait(event)")
    assert worker.run("foreign()") is True
    assert worker.run("len(waits)") == 1
    assert worker.run("out._uses.writer is second._line")


def test_short_lived_streams_are_forgotten(start: Start) -> None:
    worker = of(start, "insert")
    worker.run(
        "for _ in range(20):\n"
        "    brief = ctx.stream()\n"
        "    brief.copy_in(buffer, frame); first.copy_out(result, buffer); first.synchronize(); brief.close()\n"
        "import gc; gc.collect()"
    )
    assert worker.run("[len(first._line.seen), len(ctx._lines) < 13]") == [0, True]


def test_an_unknown_order_is_refused(start: Start) -> None:
    assert start("pass").run("caught(lambda: cuda.Context(order='maybe'))")[0] == "ValueError"


# Poison


POISON = """
poison = Poison(boxes=Output(out, result, 4))
def run(count):
    poison.fill(first)
    first.copy_in(buffer, frame)
    first.launch(scale, 1, 16, (out, buffer, count, 2.0), reads=(buffer,))
    first.copy_out(result, out)
    first.synchronize()
    poison.check()
    return [result.view.cast("f")[0], result.view.cast("f")[15]]
"""


def test_what_a_run_has_not_written_is_named(start: Start) -> None:
    worker = of(start, "insert", POISON)
    assert worker.run("run(16)") == [6.0, 0.0]
    assert worker.run("caught(lambda: run(13))") == [
        "UnwrittenError",
        "boxes: elements 13 to 15 of 16 were never written",
    ]
    assert worker.run("run(16)") == [6.0, 0.0]


def test_an_output_that_is_not_copied_out_is_named_whole(start: Start) -> None:
    worker = of(start, "insert", POISON)
    worker.run("run(16); poison.fill(first); first.synchronize()")
    assert worker.run("caught(poison.check)")[1] == "boxes: elements 0 to 15 of 16 were never written"


def test_poison_that_is_no_byte_is_refused(start: Start) -> None:
    kind, text = of(start, "insert", POISON).run("caught(lambda: Poison(300, boxes=Output(out, result, 4)))")
    assert (kind, text) == ("ValueError", "byte=300: use 0 to 255")


def test_poison_of_no_outputs_is_refused(start: Start) -> None:
    kind, text = of(start, "insert", POISON).run("caught(Poison)")
    assert (kind, text.partition(":")[0]) == ("ValueError", "a Poison of no outputs finds nothing")


BETWEEN = """
class Between:  # what another thread does while this one is inside a call, or just out of it
    def __init__(self, name, other):
        self.name, self.guard, self.other = name, getattr(ctx, name), other
        setattr(ctx, name, self)
    def __enter__(self): return self.guard.__enter__()
    def __exit__(self, *given):
        left = self.guard.__exit__(*given)
        setattr(ctx, self.name, self.guard)
        answers.append(in_thread(lambda: caught(self.other)))
        return left
answers = []
"""


def test_what_another_thread_queues_while_an_event_is_recorded_is_not_behind_it(start: Start) -> None:
    worker = of(start, "strict", BETWEEN + "Between('_launch', lambda: first.fill(buffer, 1))")
    worker.run("event.record(first); second.wait(event)")
    assert worker.run("answers") == [None]
    assert worker.run("caught(lambda: second.fill(buffer, 2))")[0] == "OrderError"


@pytest.mark.parametrize("order", ["insert", "strict"])
def test_two_threads_that_queue_uses_of_one_buffer_at_once_are_told(start: Start, order: str) -> None:
    worker = of(start, order, BETWEEN + "Between('_launch', lambda: second.fill(buffer, 1))")
    worker.run("first.fill(buffer, 2)")
    kind, text = worker.run("answers[0]")
    assert (kind, "in CUstream" in text, "at once" in text) == ("OrderError", True, True)
    worker.run("first.synchronize(); second.fill(buffer, 3)")


def test_two_threads_may_queue_reads_of_one_buffer_at_once(start: Start) -> None:
    worker = of(start, "strict", BETWEEN + "copies = ctx.alloc(64), ctx.alloc(64)")
    worker.run("Between('_copy', lambda: second.copy(copies[0], buffer)); first.copy(copies[1], buffer)")
    assert worker.run("answers") == [None]
