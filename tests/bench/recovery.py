"""From a verdict to the first instruction of the successor, beyond what the kernel needs to end one and begin another.

Each restart is a first one: they come further apart than the budget's window, so there is no backoff. Invariant: what
is killed and started for reference is the same program in the same state, on a heartbeat too.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import rig
from tests.bench.report import Row, Scale, median, quantile
from watchdogd import abi
from watchdogd.model import MILLISECOND
from watchdogd.observe import heartbeat
from watchdogd.publish.events import EventKind

CALLS_MS = 500
DEADLINES = {"startup": "10s", "sync": "50ms"}
FIRST = {"backoff": "1ms", "backoff_max": "1ms", "budget": 10, "window": "300ms"}


@dataclass(frozen=True, slots=True)
class Recovery:
    """Medians would hide which step is slow, so: ms per restart, after the verdict's own instant."""

    killed: list[float]
    gone: list[float]
    first: list[float]


def run(scale: Scale) -> list[Row]:
    count = int(scale.pick(60, 8))
    with rig.scratch() as directory:
        program = rig.compile_c("first", directory)
        before = _kernel(program, directory, count)
        recovery = _supervised(program, directory, count)
        after = _kernel(program, directory, count)
    kernel = median([exit_ms + exec_ms for exit_ms, exec_ms in (*before, *after)])
    exit_ms, exec_ms = (median([pair[i] for pair in (*before, *after)]) for i in (0, 1))
    against = f"kernel alone: SIGKILL to waitid {exit_ms:.2f} ms, spawn to first instruction {exec_ms:.2f} ms"
    steps = (
        f"verdict to SIGKILL {median(recovery.killed):.2f} ms, to gone with descendants {median(recovery.gone):.2f} ms"
    )
    beyond = [first - kernel for first in recovery.first]
    return [
        Row("recovery", "verdict to successor, beyond the kernel: median", median(beyond), "ms", 30.0, against),
        Row("recovery", "the same: p90", quantile(beyond, 0.9), "ms", 30.0, f"{len(beyond)} first restarts"),
        Row("recovery", "verdict to successor's first instruction: median", median(recovery.first), "ms", None, steps),
    ]


def _supervised(program: Path, directory: Path, count: int) -> Recovery:
    times = directory / "supervised"
    table = rig.worker_table(
        "only", [program, times, str(CALLS_MS)], accelerator="gpu0", deadlines=DEADLINES, restart=FIRST
    )
    with rig.Rig([table], metrics=False, supervisor={"max_kills": 100_000}) as running:
        rig.wait_until(lambda: len(_times(times)) > count, 20 + 2 * count, f"{count} restarts", 1)
        events = running.events()
    verdicts = [e for e in events if e["kind"] == EventKind.VERDICT]
    starts = _times(times)[1:]
    waits = [e for e in events if e["kind"] == EventKind.PHASE and e["phase"] == "backoff"]
    if waits or any(e["verdict"] != "call" for e in verdicts):
        raise rig.Failed("not every restart was the first one after a hang")
    pairs = list(zip(verdicts, starts, strict=False))
    signalled = {e["incident"]: e["monotonic_ns"] for e in events if e["kind"] == EventKind.SIGNAL}
    gone = {e["incident"]: e["monotonic_ns"] for e in events if e["kind"] == EventKind.GONE}
    return Recovery(
        [(signalled[v["incident"]] - v["detected_ns"]) / MILLISECOND for v, _ in pairs],
        [(gone[v["incident"]] - v["detected_ns"]) / MILLISECOND for v, _ in pairs],
        [(start - v["detected_ns"]) / MILLISECOND for v, start in pairs],
    )


def _kernel(program: Path, directory: Path, count: int) -> list[tuple[float, float]]:
    """ms from SIGKILL until it can be reaped, and from posix_spawn (a vfork) to the first instruction."""
    path, times = directory / "heartbeat", directory / "bare"
    measured = []
    for _ in range(count):
        times.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        now_ns = time.monotonic_ns()
        reader = heartbeat.create(str(path), boot_id=1, incarnation=1, spawned_ns=now_ns)
        environment = rig.ENVIRONMENT | {abi.ENVIRONMENT: str(path)}
        spawned_ns = time.monotonic_ns()
        pid = os.posix_spawn(str(program), [str(program), str(times), "20"], environment)
        try:
            rig.wait_until(lambda: any(reader.read().column("calls")), 5, "a call", 0.01)  # noqa: B023 - used at once
            time.sleep(0.05)
        finally:
            killed_ns = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED)
            ended_ns = time.monotonic_ns()
            reader.close()
        measured.append(((ended_ns - killed_ns) / MILLISECOND, (_times(times)[0] - spawned_ns) / MILLISECOND))
    return measured


def _times(path: Path) -> list[int]:
    try:
        return [int(line) for line in path.read_text(encoding="ascii").splitlines()]
    except FileNotFoundError:
        return []
