"""``ticking.py WORKERS TICKS DIRECTORY``: cost of a supervisor's tick, without processes to supervise; prints JSON.

A real ``Supervisor`` with real heartbeat files. Workers are brought to *running* by ``policy.decide`` itself, fed what
the loop would feed it; only the spawn that it orders is replaced, by a heartbeat with 64 lanes in a call. Entry times
are written anew between ticks, outside the measured time, as by workers that go on. CPU time of the thread, so that
neighbours who take the core do not count. Invariant: no tick finds anything overdue.
"""

import gc
import json
import statistics
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watchdogd import abi, model
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide import orders, policy
from watchdogd.observe import heartbeat
from watchdogd.publish.notify import Notifier
from watchdogd.pulse import word_offset
from watchdogd.supervisor.tick import Supervisor

LANES = 64
_LANES = [lane for lane in range(abi.LANES) if not abi.is_locked(lane)][:LANES]  # those that native workers claim
DEADLINE_NS = 2 * model.SECOND
SLOW_SECONDS = 1.1  # past the soft level, well before the deadline


def settings(directory: Path, workers: int) -> model.Settings:
    calls = tuple(DEADLINE_NS if code else None for code in range(len(abi.OPERATIONS)))
    deadlines = model.Deadlines(calls_ns=calls)
    return model.Settings(
        # Not real-time: that ends who runs for a second without a pause, and here nothing pauses.
        model.SupervisorSettings(
            runtime_dir=str(directory / "run"), state_dir=str(directory / "state"), realtime_priority=0
        ),
        model.MetricsSettings(listen=""),
        (),
        tuple(
            model.WorkerSettings(f"w{i}", ("true",), accelerator="gpu0", deadlines=deadlines, autostart=False)
            for i in range(workers)
        ),
        files=("ticking.toml",),
    )


class Heartbeats:
    """The workers' side: every lane in a call that began at most 64 us after a given moment."""

    def __init__(self) -> None:
        self._files: list[Any] = []

    def add(self, path: str) -> None:
        file = open(path, "r+b", buffering=0)  # noqa: SIM115 - as long as the process
        file.seek(abi.H["lanes_used_cas"] * abi.WORD)
        file.write(struct.pack("=Q", _LANES[-1] + 1))
        file.seek(abi.H["state"] * abi.WORD)
        file.write(struct.pack("=Q", abi.stamp(time.monotonic_ns(), abi.STATE["ready"])))
        self._files.append(file)

    def enter(self, since_ns: int) -> None:
        lines = bytearray((_LANES[-1] + 1) * abi.HOT_STRIDE)
        for index, lane in enumerate(_LANES):
            word = abi.stamp(since_ns - index * 37 % LANES * 1000, abi.OPERATION["sync"])  # in no order
            struct.pack_into("=Q", lines, lane * abi.HOT_STRIDE, word)
        for file in self._files:
            file.seek(word_offset(0, "outer"))
            file.write(lines)


def run(supervisor: Supervisor, watched: Watched, heartbeats: Heartbeats) -> None:
    """Start and ready, as ``decide`` orders it."""
    now_ns = time.monotonic_ns()
    occasion = orders.Occasion(now_ns, watched.settings, kill_grace_ns=model.SECOND)
    watched.state, actions = policy.decide(watched.state, orders.Trigger.START, occasion)
    if [type(action) for action in actions] != [orders.Spawn]:
        raise RuntimeError(f"start orders {actions}")
    path = supervisor.runtime.heartbeat(watched.settings.name, watched.state.incarnation)
    watched.reader = heartbeat.create(path, boot_id=1, incarnation=1, spawned_ns=now_ns)
    heartbeats.add(path)
    watched.state, _ = policy.decide(watched.state, orders.Trigger.READY, occasion)


def timed(holder: Any, name: str, spent: dict[str, int], label: str) -> None:
    """Count the time spent in a method under a label."""
    method: Callable[..., Any] = getattr(holder, name)

    def wrapper(*arguments: Any) -> Any:
        start = time.perf_counter_ns()
        try:
            return method(*arguments)
        finally:
            spent[label] += time.perf_counter_ns() - start

    setattr(holder, name, wrapper)


def ticks(
    supervisor: Supervisor, heartbeats: Heartbeats, count: int, *, stand: bool = False, changed: int = 0
) -> float:
    """Median ns of a tick. ``stand``: the words stay as they are; ``changed`` workers have something new to publish."""
    durations = []
    for _ in range(count):
        if not stand:
            heartbeats.enter(time.monotonic_ns())
        for watched in supervisor.watched[:changed]:
            watched.changed()
        start = time.thread_time_ns()
        supervisor.tick(0)
        durations.append(time.thread_time_ns() - start)
    if any(watched.state.finding for watched in supervisor.watched):
        raise RuntimeError("a tick found something overdue")
    return statistics.median(durations)


def main() -> None:
    workers, count, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    configured = settings(directory, workers)
    supervisor = Supervisor(configured, Runtime(configured.supervisor), Notifier())
    heartbeats = Heartbeats()
    try:
        for watched in supervisor.watched:
            run(supervisor, watched, heartbeats)
        gc.collect()
        gc.freeze()  # as Supervisor.run does
        ticks(supervisor, heartbeats, 5)
        measured = {
            "quiet_ns": ticks(supervisor, heartbeats, count),
            "one_changed_ns": ticks(supervisor, heartbeats, count, changed=1),
        }
        spent: dict[str, int] = defaultdict(int)
        for holder, name, label in (
            (supervisor.judging, "_observe", "observe"),
            (supervisor.judging, "settle", "decide"),
            (supervisor, "_when_next", "decide"),
            (supervisor.publication, "publish", "publish"),
        ):
            timed(holder, name, spent, label)
        timed(supervisor.board, "tick", spent, "publish")
        ticks(supervisor, heartbeats, count)
        shares = {f"{label}_share": spent[label] / sum(spent.values()) for label in ("observe", "decide", "publish")}
        time.sleep(SLOW_SECONDS)
        ticks(supervisor, heartbeats, 1, stand=True)  # the first look at a slow call remembers it
        measured["all_slow_ns"] = ticks(supervisor, heartbeats, 5, stand=True)
        print(json.dumps(measured | shares))
    finally:
        supervisor.close()


if __name__ == "__main__":
    main()
