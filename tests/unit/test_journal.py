"""The journal with real pipes: it never blocks, counts what it drops, and loses no line to a recorder that dies."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from watchdogd.model import SECOND
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import BURST, MOST_QUEUED, TELL_SUPPRESSED_NS, Journal
from watchdogd.publish.throttle import Throttle

WIDE = "x" * 6000  # a line longer than PIPE_BUF may be written in part
PAGE = 4096


class Pipe:
    """A recorder's standard input, and what has come out of it."""

    def __init__(self, size: int = PAGE) -> None:
        self.read_end, self.write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
        self.received = b""

    def drain(self) -> None:
        try:
            while raw := os.read(self.read_end, 1 << 16):
                self.received += raw
        except BlockingIOError:
            return

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line, none of them torn."""
        self.drain()
        assert self.received.endswith(b"\n") or not self.received
        return [json.loads(line) for line in self.received.splitlines()]

    def die(self) -> None:
        os.close(self.read_end)
        self.read_end = -1

    def close(self) -> None:
        for descriptor in (self.read_end, self.write_end):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Pipe]:
    made = Pipe(1 << 20)
    yield made
    made.close()


def new(pipe: Pipe | None = None, file_bytes: int = 1 << 40) -> Journal:
    made = Journal(boot_id=7, first_seq=41, throttle=Throttle(file_bytes))
    if pipe is not None:
        made.attach(pipe.write_end)
    return made


def tell(told: Journal, *names: str) -> None:
    for name in names:
        told.emit(EventKind.PHASE, 5, worker=name)


def workers(pipe: Pipe) -> list[str]:
    return [event["worker"] for event in pipe.events]


def test_an_event_is_in_the_pipe_when_emit_returns(pipe: Pipe) -> None:
    new(pipe).emit(EventKind.VERDICT, 5, worker="h", incarnation=3, incident="i7", verdict="call")
    (event,) = pipe.events
    assert (event["seq"], event["monotonic_ns"], event["kind"], event["worker"]) == (41, 5, "verdict", "h")
    assert (event["incarnation"], event["incident"], event["verdict"]) == (3, "i7", "call")


def test_events_before_the_first_recorder_wait_for_it(pipe: Pipe) -> None:
    told = new()
    tell(told, "a", "b")
    assert told.backlog
    told.attach(pipe.write_end)
    assert (workers(pipe), told.backlog) == (["a", "b"], False)


def test_a_full_pipe_does_not_block_and_loses_nothing(pipe: Pipe) -> None:
    told = new(pipe)
    names = [f"{number}" for number in range(300)]
    tell(told, *names)
    assert told.backlog
    while told.backlog:
        pipe.drain()
        told.flush()
    assert workers(pipe) == names
    assert [event["seq"] for event in pipe.events] == list(range(41, 341))


def test_a_line_longer_than_the_pipe_arrives_whole(pipe: Pipe) -> None:
    told = new(pipe)
    tell(told, WIDE, "after")
    while told.backlog:
        pipe.drain()
        told.flush()
    assert workers(pipe) == [WIDE, "after"]


def test_a_full_queue_drops_the_newest_counts_them_and_recovers(other: Pipe) -> None:
    told = new()
    tell(told, *["kept"] * MOST_QUEUED, *["lost"] * 3)
    assert (told.dropped, told.emitted) == (3, MOST_QUEUED + 3)
    told.attach(other.write_end)
    while told.backlog:
        other.drain()
        told.flush()
    tell(told, "next")
    kept, following = other.events[-2:]
    assert (kept["worker"], following["worker"]) == ("kept", "next")
    assert following["seq"] - kept["seq"] == 4  # what was dropped is missing from the sequence


def test_a_full_queue_drops_nothing_once_the_pipe_takes_more(pipe: Pipe) -> None:
    told = new(pipe)
    while not told.dropped:
        tell(told, "before")
    pipe.drain()
    tell(told, "after")
    assert told.dropped == 1


def test_a_recorder_that_dies_costs_no_event(pipe: Pipe, other: Pipe) -> None:
    told = new(pipe)
    tell(told, "read by the first")
    pipe.die()
    tell(told, "written to a dead one", "and another")
    told.attach(other.write_end)
    assert workers(other) == ["written to a dead one", "and another"]


@pytest.mark.parametrize("noticed", ["by writing", "by its exit"])
def test_a_line_that_a_dead_recorder_had_half_of_is_sent_again_whole(noticed: str, pipe: Pipe, other: Pipe) -> None:
    told = new(pipe)
    tell(told, WIDE)
    assert told.backlog  # a part of it is in the pipe
    pipe.die()
    if noticed == "by writing":
        told.flush()
    else:
        told.attach(None)
    told.attach(other.write_end)
    assert workers(other) == [WIDE]


def test_an_error_of_the_pipe_that_is_no_dead_recorder_is_not_swallowed(pipe: Pipe) -> None:
    told = new()
    with pytest.raises(OSError, match="Bad file descriptor"):
        told.attach(pipe.read_end)  # not open for writing
        tell(told, "h")


def misses(told: Journal, count: int, now_ns: int, worker: str = "h") -> None:
    for _ in range(count):
        told.emit_limited(EventKind.NEAR_MISS, now_ns, worker=worker)


def test_a_storm_is_limited_and_what_was_suppressed_is_told(other: Pipe) -> None:
    told = new(other)
    misses(told, BURST + 7, 5)
    misses(told, 1, 5 + SECOND)
    suppressed = [event.get("suppressed") for event in other.events]
    assert suppressed == [None] * BURST + [7]


def test_what_comes_slower_than_that_is_not_limited(other: Pipe) -> None:
    told = new(other)
    for second in range(4):
        misses(told, BURST, second * SECOND)
    assert len(other.events) == 4 * BURST


def test_the_storm_of_one_worker_does_not_silence_another(other: Pipe) -> None:
    told = new(other)
    misses(told, BURST + 7, 5)
    misses(told, 1, 5, worker="other")
    assert workers(other)[-1] == "other"


def test_a_storm_does_not_silence_a_verdict(other: Pipe) -> None:
    told = new(other)
    misses(told, BURST + 7, 5)
    told.emit(EventKind.VERDICT, 5, worker="h")
    assert other.events[-1]["kind"] == "verdict"


# --- more than may be recorded ----------------------------------------------------------------------------------------

SMALL = 4096  # of the record's files: the least that can be recorded per second


def storm(told: Journal, now_ns: int, count: int = 1000) -> None:
    for _ in range(count):
        told.emit(EventKind.PHASE, now_ns, worker="h", phase="starting")


def drained(told: Journal, pipe: Pipe) -> list[dict[str, Any]]:
    while told.backlog:
        pipe.drain()
        told.flush()
    return pipe.events


def test_what_a_storm_has_too_much_of_is_counted_and_one_line_says_so(other: Pipe) -> None:
    told = new(other, SMALL)
    storm(told, 5)
    assert told.suppressed > 900
    lines = [event for event in drained(told, other) if event["kind"] == "suppressed"]
    assert [line["count"] for line in lines] == [1]  # at once; the rest is told later
    told.tell_suppressed(5 + TELL_SUPPRESSED_NS - 1)
    assert len([event for event in drained(told, other) if event["kind"] == "suppressed"]) == 1
    told.tell_suppressed(5 + TELL_SUPPRESSED_NS)
    lines = [event for event in drained(told, other) if event["kind"] == "suppressed"]
    assert sum(line["count"] for line in lines) == told.suppressed
    assert lines[-1]["kinds"] == {"phase": told.suppressed - 1}


def test_every_event_is_recorded_or_counted_and_the_record_has_no_gap(other: Pipe) -> None:
    told = new(other, SMALL)
    storm(told, 5)
    seen = drained(told, other)
    assert len([event for event in seen if event["kind"] == "phase"]) + told.suppressed == 1000
    assert [event["seq"] for event in seen] == list(range(41, 41 + len(seen)))


def test_no_storm_no_line(other: Pipe) -> None:
    told = new(other, SMALL)
    storm(told, 5, count=10)
    told.tell_suppressed(5 + TELL_SUPPRESSED_NS)
    assert ({event["kind"] for event in other.events}, told.suppressed) == ({"phase"}, 0)


def test_near_misses_at_any_rate_leave_room_for_the_verdict(other: Pipe) -> None:
    told = new(other, SMALL)
    for second in range(600):
        misses(told, BURST, second * SECOND)
    assert told.suppressed
    told.emit(EventKind.VERDICT, 600 * SECOND, worker="h", verdict="call")
    assert drained(told, other)[-1]["kind"] == "verdict"


def test_what_one_second_has_too_many_of_counts_as_suppressed_too(other: Pipe) -> None:
    told = new(other)
    misses(told, BURST + 7, 5)
    assert told.suppressed == 7
