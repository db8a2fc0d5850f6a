"""A runtime directory as a supervisor leaves it: the real board and real heartbeat files, written by the test.

Invariant: every figure a fake writes is stated by the test, or by ``WORKER`` below, where all values differ.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

from watchdogd import abi, abi_driver
from watchdogd.model import KernelKind
from watchdogd.observe import heartbeat, procfs
from watchdogd.publish import board, snapshot
from watchdogd.pulse import word_offset

MS = 1_000_000
SECOND = 1_000_000_000

WORKER: dict[str, Any] = {
    "phase": "running",
    "required": True,
    "observe_only": False,
    "accelerator": "dla0",
    "note": "",
    "pid": None,
    "incarnation": 3,
    "heartbeat": None,
    "spawned_ns": None,
    "ready_ns": None,
    "restarts": {"call": 2, "operator": 1},
    "budget_left": 4,
    "next_start_ns": None,
    "unusable": 0,
    "deadlines": {"startup": 60.0, "step": 0.5, "sync": 0.2},
    "soft": 0.5,
    "bad_in_a_row": 0,
    "hangs": {"sync": 7, "startup": 1},
    "would_have_killed": 0,
    "near_misses": 5,
    "steps_dropped": 13,
    "steps_redelivered": 14,
    "soft_exceeded": 11,
    "uninstrumented": False,
    "shim": None,
    "progress": None,
    "heartbeat_error": None,
    "last_error": None,
    "held": None,
    "recovery": {"counts": [0, 2, 1, *[0] * (len(snapshot.RECOVERY_BOUNDS_NS) - 2)], "total_ns": 370 * MS},
    "last_incident": None,
    "kernel": None,
    "blocked": [],
}
ACCELERATOR: dict[str, Any] = {
    "name": "gpu0",
    "load_ratio": 0.42,
    "frozen": False,
    "ghost": False,
    "source": "tegrastats",
    "sample_ns": None,
    "device": "Orin",
    "uuid": None,
    "blocked_by": None,
    "power": None,
    "kernel": None,
}
KERNEL: dict[str, Any] = {
    "messages": {**dict.fromkeys((kind.value for kind in KernelKind), 0), "xid": 3, "expected": 2},
    "lost": 8,
}
SOURCE: dict[str, Any] = {
    "name": "tegrastats",
    "load": True,
    "up": True,
    "sample_ns": None,
    "restarts": 6,
    "bad_lines": 9,
    "note": "",
}


class FakeHeartbeat:
    """One incarnation's heartbeat; what a worker stores is stored with ``pwrite``."""

    def __init__(self, path: Path, incarnation: int, spawned_ns: int) -> None:
        heartbeat.create(str(path), boot_id=procfs.boot_id(), incarnation=incarnation, spawned_ns=spawned_ns).close()
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR)

    def put(self, offset: int, value: int) -> None:
        os.pwrite(self._descriptor, struct.pack("=Q", value), offset)

    def get(self, offset: int) -> int:
        (value,) = struct.unpack("=Q", os.pread(self._descriptor, abi.WORD, offset))
        return int(value)

    def header(self, **words: int) -> None:
        for name, value in words.items():
            self.put(abi.H[name] * abi.WORD, value)

    def lane(self, lane: int, **words: int) -> None:
        used = abi.H["lanes_used_cas"] * abi.WORD
        self.put(used, max(self.get(used), lane + 1))
        for name, value in words.items():
            self.put(word_offset(lane, name), value)

    def enter(self, lane: int, operation: str, at_ns: int, level: str = "outer") -> None:
        self.lane(lane, **{level: abi.stamp(at_ns, abi.OPERATION[operation])})

    def record(self, lane: int, operation: str, duration_ns: int, times: int = 1) -> None:
        """Calls that are over."""
        block = abi.COLD_OFFSET + lane * abi.COLD_STRIDE + abi.OPERATION[operation] * abi.HISTOGRAM_WORDS * abi.WORD
        bucket = block + (1 + abi.bucket_of(duration_ns)) * abi.WORD
        self.put(block, self.get(block) + duration_ns * times)
        self.put(bucket, self.get(bucket) + times)
        self.lane(lane, calls=self.get(word_offset(lane, "calls")) + times)

    def driver(self, **words: int) -> None:
        """Of the header of the driver region."""
        for name, value in {"loaded_ns": 1, **words}.items():
            self.put(abi_driver.OFFSET + abi_driver.HEADER.index(name) * abi.WORD, value)

    def driver_lane(self, lane: int, **words: int) -> None:
        for name, value in words.items():
            offset = abi_driver.LANES_OFFSET + lane * abi_driver.LANE_STRIDE
            self.put(offset + abi_driver.LANE.index(name) * abi.WORD, value)

    def context(self, entry: int, **words: int) -> None:
        for name, value in words.items():
            offset = abi_driver.CONTEXTS_OFFSET + entry * abi_driver.CONTEXT_STRIDE
            self.put(offset + abi_driver.CONTEXT.index(name) * abi.WORD, value)

    def stream(self, entry: int, **words: int) -> None:
        for name, value in words.items():
            offset = abi_driver.STREAMS_OFFSET + entry * abi_driver.STREAM_STRIDE
            self.put(offset + abi_driver.STREAM.index(name) * abi.WORD, value)

    def host_function(self, entry: int, **words: int) -> None:
        for name, value in words.items():
            offset = abi_driver.HOST_FUNCTIONS_OFFSET + entry * abi_driver.HOST_FUNCTION_STRIDE
            self.put(offset + abi_driver.HOST_FUNCTION.index(name) * abi.WORD, value)

    def close(self) -> None:
        os.close(self._descriptor)


class FakeRuntime:
    def __init__(self, directory: Path, *, pid: int | None = None, boot_id: int | None = None) -> None:
        self.directory = directory
        self.pid = os.getpid() if pid is None else pid
        self.started_ns = time.monotonic_ns() - 90 * SECOND
        self.board = board.Board(
            str(directory / board.FILE_NAME),
            pid=self.pid,
            boot_id=procfs.boot_id() if boot_id is None else boot_id,
            capacity=1 << 16,
        )
        self.board.publish(b"{}")
        self.workers: dict[str, dict[str, Any]] = {}
        self.accelerators: list[dict[str, Any]] = []
        self.sources: list[dict[str, Any]] = []
        self.supervisor: dict[str, Any] = {
            "version": "0.1.0",
            "started_ns": self.started_ns,
            "observe_only": False,
            "runtime_dir": str(directory),
            "state_dir": str(directory / "state"),
            "config": ["watchdogd.toml"],
            "metrics": None,
            "stopping": False,
        }
        self.kernel: dict[str, Any] | None = None
        self.holders: list[dict[str, Any]] = []
        self.incidents: dict[str, Any] | None = None
        self.events: dict[str, Any] = {"written": 17, "dropped": 0, "error": None}

    def worker(self, name: str, **changes: Any) -> dict[str, Any]:
        self.workers[name] = {"name": name, **WORKER, **changes}
        return self.workers[name]

    def incarnation(self, name: str, number: int, pid: int | None = None, **changes: Any) -> FakeHeartbeat:
        """Begin an incarnation of a worker, with a heartbeat of its own."""
        now_ns = time.monotonic_ns()
        spawned_ns = now_ns - 5 * SECOND
        beat = FakeHeartbeat(self.directory / f"{name}.{number}.heartbeat", number, spawned_ns)
        pid = os.getpid() if pid is None else pid
        running = {"pid": pid, "incarnation": number, "heartbeat": str(beat.path), "spawned_ns": spawned_ns}
        self.worker(name, **running, **changes)
        return beat

    def publish(self) -> None:
        """Publish everything, and tick."""
        workers = [snapshot.fragment(worker) for worker in self.workers.values()]
        told = (self.accelerators, self.sources, self.events, self.kernel, self.holders)
        self.board.publish(snapshot.body(self.supervisor, workers, *told, self.incidents))
        self.tick()

    def tick(self, ago_ns: int = 0) -> None:
        now_ns = time.monotonic_ns() - ago_ns
        self.board.tick(now_ns, 80_000, now_ns + 100 * MS)
