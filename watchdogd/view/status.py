"""Status: one reading of the board and of the workers' heartbeats.

Nothing is asked of the supervisor, so that the answer also comes when it is stuck or dead. Invariant: what cannot be
read is ``None``, never 0; no worker's heartbeat can make the collector fail; and without a supervisor nothing of a
worker grows older than the last tick.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from watchdogd import abi, bad_outputs, exits, places
from watchdogd.histogram import Histogram
from watchdogd.model import SECOND, Phase
from watchdogd.observe import procfs
from watchdogd.observe.driver_region import Driver
from watchdogd.observe.heartbeat import HeartbeatError, HeartbeatReader
from watchdogd.publish import board
from watchdogd.pulse import Pulse
from watchdogd.span import span

STUCK_AFTER_NS = 2 * SECOND  # past the moment at which the supervisor itself wanted to tick next
MAY_TAKE_WORK = {Phase.RUNNING, Phase.OBSERVED}
_WAITS = ("sync", "event")
AS_IT_SHOULD = {*MAY_TAKE_WORK, Phase.STARTING}


class UnknownWorker(Exception):
    """The message names the workers that there are."""


class Trouble(Enum):
    """What keeps a supervisor from watching."""

    STUCK = "stuck"  # its process is there and does not tick
    ENDED = "ended"
    EARLIER_BOOT = "earlier boot"  # ended too, and its times cannot be compared with now


HAS_ENDED = {Trouble.ENDED, Trouble.EARLIER_BOOT}


@dataclass(frozen=True, slots=True)
class Call:
    """A call in flight."""

    operation: str
    age_ns: int
    deadline_ns: int | None  # the length configured; None = never overdue
    pid: int | None = None
    object: int | None = None  # what it waits for, where a driver shim tells


@dataclass(frozen=True, slots=True)
class WorkerView:
    body: Mapping[str, Any]  # as in ``snapshot.py``
    call: Call | None
    sync: Histogram
    steps: int | None
    heartbeat_error: str | None
    looked_at: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(abi.OUTPUTS, 0))  # outputs, by kind
    bad: bad_outputs.Run | None = None  # those in a row, up to now
    bisect: str = "off"  # of ``abi.BISECTS``: whether its process synchronizes after each stage
    last_step_ns: int | None = None  # when it ended; None: none has, or a library of version 1 does not say
    is_first_again: bool = False  # a step in flight is a first one by the worker's own word, after others
    driver: Driver | None = None  # what its driver shim saw
    laneless: int = 0  # threads that found no lane

    @property
    def name(self) -> str:
        return str(self.body["name"])

    @property
    def phase(self) -> Phase:
        return Phase(self.body["phase"])

    @property
    def growth(self) -> Mapping[str, Mapping[str, Any]]:
        """By resource; a supervisor of before tells none."""
        told: Mapping[str, Mapping[str, Any]] = self.body.get("growth", {})
        return told

    @property
    def as_it_should(self) -> bool:
        return self.phase in AS_IT_SHOULD and self.body["held"] is None


@dataclass(frozen=True, slots=True)
class StatusView:
    now_ns: int
    as_of_ns: int  # up to when workers age: now, or the last tick of a supervisor that has ended
    published: board.Published
    trouble: Trouble | None
    fault: str | None  # what is wrong with the supervisor itself
    workers: tuple[WorkerView, ...]
    only: str | None  # the worker that was asked for
    is_service: bool = False  # systemd's to start

    @property
    def supervisor(self) -> Mapping[str, Any]:
        supervisor: Mapping[str, Any] = self.published.body.get("supervisor", {})
        return supervisor

    @property
    def accelerators(self) -> list[dict[str, Any]]:
        return list(self.published.body.get("accelerators", ()))

    @property
    def sources(self) -> list[dict[str, Any]]:
        return list(self.published.body.get("sources", ()))

    @property
    def holders(self) -> list[dict[str, Any]]:
        """Of an accelerator, where something is amiss with them."""
        return list(self.published.body.get("holders", ()))

    @property
    def last_tick_age_ns(self) -> int | None:
        return self.since(self.published.last_tick_ns or None)

    @property
    def ended(self) -> bool:
        return self.trouble in HAS_ENDED

    def since(self, then_ns: int | None) -> int | None:
        """Age of a sample or a tick now; unknown for the clock of an earlier boot."""
        return None if self.trouble is Trouble.EARLIER_BOOT else age(self.now_ns, then_ns)

    def lateness_ns(self, fraction: float) -> int | None:
        """Quantile of the supervisor's own lateness; never above the largest, as a bucket's upper bound may be."""
        quantile = self.published.histograms["wakeup_lateness"].quantile_ns(fraction)
        return None if quantile is None else min(quantile, self.published.max_lateness_ns)

    @property
    def exit_status(self) -> int:
        if self.trouble is not None:
            return exits.NOT_RUNNING
        judged = [worker for worker in self.workers if self.only or worker.body["required"]]
        return exits.FINE if all(worker.as_it_should for worker in judged) else exits.NOT_AS_IT_SHOULD


def age(now_ns: int, then_ns: int | None) -> int | None:
    """Never negative: what was written after ``now`` was taken is fresh."""
    return None if then_ns is None else max(0, now_ns - then_ns)


# --- collecting -----------------------------------------------------------------------------------------------------


def collect(runtime_dir: str, now_ns: int, worker: str | None = None) -> StatusView:
    """Read what there is. Raises BoardError, and UnknownWorker for a ``worker`` that is not in the configuration."""
    published = board.read(os.path.join(runtime_dir, board.FILE_NAME))
    bodies = published.body.get("workers", [])
    if worker is not None:
        names = [body["name"] for body in bodies]
        if worker not in names:
            raise UnknownWorker(f"no worker is called {worker!r}; there are: {', '.join(names) or 'none'}")
        bodies = [body for body in bodies if body["name"] == worker]
    trouble, why = _judge(published, now_ns)
    as_of_ns = _last_seen_ns(published) if trouble in HAS_ENDED else now_ns
    views = tuple(_worker(body, as_of_ns) for body in bodies)
    config = published.body.get("supervisor", {}).get("config", ())[:1]
    is_service = any(places.is_service(file) for file in config)
    return StatusView(now_ns, as_of_ns, published, trouble, why, views, worker, is_service)


def fault(published: board.Published, now_ns: int) -> str | None:
    """Why the supervisor cannot be relied on now; None if it can."""
    return _judge(published, now_ns)[1]


def _last_seen_ns(published: board.Published) -> int:
    return max(published.last_tick_ns, int(published.body.get("supervisor", {}).get("started_ns", 0)))


def _judge(published: board.Published, now_ns: int) -> tuple[Trouble, str] | tuple[None, None]:
    if published.boot_id != procfs.boot_id():
        return Trouble.EARLIER_BOOT, "NOT RUNNING - what follows is from before the last boot"
    last_seen_ns = _last_seen_ns(published)
    last_tick = f"last tick {span(age(now_ns, last_seen_ns))} ago"
    stat = procfs.stat(published.pid)
    lived_ns = 0
    if stat is not None:
        ticks_per_second = os.sysconf("SC_CLK_TCK")
        lived_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - stat.start_ticks * SECOND // ticks_per_second
    # A process younger than the last tick is somebody else with the same pid.
    if stat is None or stat.state in "ZX" or lived_ns + SECOND < now_ns - last_seen_ns:
        how = "was stopped" if published.body.get("supervisor", {}).get("stopping") else "is gone"
        return Trouble.ENDED, f"NOT RUNNING - pid {published.pid} {how}, {last_tick}"
    if now_ns > max(published.next_tick_ns, last_seen_ns) + STUCK_AFTER_NS:
        return Trouble.STUCK, f"STUCK - pid {published.pid} is alive (state {stat.state}), {last_tick}"
    return None, None


def _worker(body: Mapping[str, Any], now_ns: int) -> WorkerView:
    path, error = body["heartbeat"], body["heartbeat_error"]
    if path is None:
        return WorkerView(body, None, Histogram(), None, error)
    try:
        reader = HeartbeatReader(path)
        try:
            pulse = reader.read()
            sync, counts, driver = reader.histograms(pulse)["sync"], reader.outputs(), reader.driver()
        finally:
            reader.close()
    except (HeartbeatError, OSError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else str(failure)
        return WorkerView(body, None, Histogram(), None, error or reason)
    call = _oldest_call(body, pulse, driver, now_ns) if body["pid"] is not None else None
    bad = bad_outputs.under_way(pulse, now_ns)
    last_ns = last_step_ns(pulse, now_ns)
    word = pulse.header("bisect") if body["pid"] is not None else 0
    bisect = abi.BISECTS[word] if word < len(abi.BISECTS) else "off"
    again = is_first_again(pulse)
    steps, laneless = sum(pulse.column("steps_done")), pulse.header("laneless_cas") + pulse.header("laneless_locked")
    return WorkerView(body, call, sync, steps, error, counts, bad, bisect, last_ns, again, driver, laneless)


def _oldest_call(body: Mapping[str, Any], pulse: Pulse, driver: Driver | None, now_ns: int) -> Call | None:
    calls = list(_calls(pulse, now_ns))
    if not calls:
        return None
    operation, entered_ns, lane = min(calls, key=lambda call: call[1])
    seconds = body["deadlines"].get(operation)
    limit_ns = None if seconds is None else round(seconds * SECOND)
    waits_for = driver.objects[lane] if driver is not None and operation in _WAITS else None
    return Call(operation, max(0, now_ns - entered_ns), limit_ns, pulse.lane(lane, "owner") >> 32, waits_for)


def _calls(pulse: Pulse, now_ns: int) -> Iterator[tuple[str, int, int]]:
    """Operation, time of entry and lane of each call in flight; a word that cannot be a call's is left out."""
    spawned_ns = pulse.header("spawned_ns") & ~abi.CODE_MASK
    for level in ("outer", "inner"):
        for lane, word in enumerate(pulse.column(level)):
            code, entered_ns = word & abi.CODE_MASK, word & ~abi.CODE_MASK
            if 0 < code < len(abi.OPERATIONS) and spawned_ns <= entered_ns <= now_ns + SECOND:
                yield abi.OPERATIONS[code], entered_ns, lane


def calls_in_flight(pulse: Pulse, now_ns: int) -> dict[str, int]:
    """Age in ns of the oldest call in flight, by operation."""
    ages: dict[str, int] = {}
    for operation, entered_ns, _ in _calls(pulse, now_ns):
        ages[operation] = max(ages.get(operation, 0), now_ns - entered_ns)
    return ages


def is_first_again(pulse: Pulse) -> bool:
    """Whether an oldest step in flight is one that the worker called a first one (``first_step()``) after others."""
    steps = zip(pulse.column("step"), pulse.column("steps_done"), strict=True)
    return any(word & abi.CODE_MASK == abi.STEP_FIRST and done for word, done in steps if word)


def last_step_ns(pulse: Pulse, now_ns: int) -> int | None:
    """When the last step ended, as far as the worker says; a time that cannot be is left out."""
    ended_ns = pulse.header("last_step_ns")
    return ended_ns if pulse.header("spawned_ns") <= ended_ns <= now_ns + SECOND and ended_ns else None
