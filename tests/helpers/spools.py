"""A spool as the supervisor leaves it, of real heartbeat files: what is not said has a value that nothing else has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from watchdogd import abi, abi_driver
from watchdogd.incidents.spool import Spool
from watchdogd.model import MILLISECOND, SECOND
from watchdogd.observe.heartbeat import HeartbeatReader

AT_NS = 2_000 * SECOND  # of the capture
ID = "20261121T054615Z-model_h-15994.1"

HEAD: dict[str, Any] = {
    "id": ID,
    "worker": "model_h",
    "incarnation": 3,
    "opened": "2026-11-21T05:46:15.123456Z",
    "opened_unix_ns": 1_795_239_975_123_456_000,
    "boot_id": "6f1c2d3e-0000-4000-8000-000000000001",
    "version": "0.1.0",
    "accelerator": "dla0",
    "level": "memory",
    "budget_ns": None,
    "verdict": {
        "verdict": "call",
        "detected_ns": AT_NS,
        "operation": "sync",
        "stage": "plugin",
        "entered_ns": AT_NS - 212 * MILLISECOND,
        "deadline_ns": AT_NS - 12 * MILLISECOND,
        "pid": 4711,
        "tid": 4713,
    },
    "loads": [{"accelerator": "dla0", "samples": [[AT_NS - SECOND, 0.25], [AT_NS - 500 * MILLISECOND, None]]}],
    "sources": [{"name": "tegrastats", "up": True, "sample_ns": AT_NS - 500 * MILLISECOND}],
    "suspects": [{"worker": "model_h", "operation": "sync", "confidence": 0.75}],
    "command": ["python", "model.py"],
    "environment": [["MODEL", "a"]],
    "heartbeat": "/run/gpu-watchdogd/heartbeats/model_h.3",
    "pids": [4711],
}


def told(name: str, **changes: Any) -> dict[str, Any]:
    """What the head says of one worker."""
    return {"name": name, "phase": "running", "incarnation": 3, "accelerator": "dla0", "pid": 4711, **changes}


def blobs(name: str, path: Path) -> dict[str, bytes]:
    """What the supervisor reads of one worker's heartbeat."""
    reader = HeartbeatReader(str(path))
    try:
        pulse = reader.read()
        whole = path.read_bytes()
        result = {f"{name}/pulse": pulse.raw}
        total = 0
        for lane in range(pulse.lanes):
            block = whole[abi.COLD_OFFSET + lane * abi.COLD_STRIDE :][: abi.COLD_STRIDE]
            ring = block[abi.RING_OFFSET :][: abi.RING_ENTRIES * abi.RING_ENTRY_WORDS * abi.WORD]
            result[f"{name}/ring.{lane}"] = ring
            total += int.from_bytes(block[: abi.RING_OFFSET], sys.byteorder)
        result[f"{name}/driver"] = whole[abi_driver.OFFSET : abi_driver.FILE_SIZE]
        result[f"{name}/stages"] = whole[abi.STAGE_OFFSET : abi.COLD_OFFSET]
        result[f"{name}/sums"] = total.to_bytes(abi.RING_OFFSET, sys.byteorder)
        return result
    finally:
        reader.close()


def spool(
    *workers: Mapping[str, Any], blobs: Mapping[str, bytes] | None = None, when: str = "verdict", at_ns: int = AT_NS,
    **head: Any,
) -> Spool:  # fmt: skip
    capture = {"when": when, "at_ns": at_ns, "took_ns": 1_234_567, "left_out": ["model_z"]}
    return Spool({**HEAD, "capture": capture, "workers": list(workers), **head}, dict(blobs or {}))
