"""The driver shim in front of a driver, prepared as a supervisor does it, and what it wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import ROOT
from watchdogd import abi, abi_driver
from watchdogd.instrument import elf

SHIM = ROOT / "watchdogd" / "native" / "libcuda_shim.so"


def prepare(folder: Path, driver: Path, shim: Path = SHIM) -> Path:
    """A folder to come first on LD_LIBRARY_PATH."""
    folder.mkdir(exist_ok=True)
    exports = elf.of_bytes(driver.read_bytes()).exports()
    (folder / "libcuda.so.1").write_bytes(elf.patched(shim.read_bytes(), str(driver), exports))
    (folder / "libcuda.so").unlink(missing_ok=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


def environment(front: Path, heartbeat: HeartbeatFile | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    named = {abi.ENVIRONMENT: str(heartbeat.path)} if heartbeat else {}
    inherited = {name: value for name, value in os.environ.items() if name != abi.ENVIRONMENT}
    return {**inherited, **(more or {}), "LD_LIBRARY_PATH": str(front), **named}


def calls(heartbeat: HeartbeatFile, lane: int) -> dict[str, int]:
    """How many calls of each operation were stamped in a lane so far, whoever owned it."""
    codes = ((name, code) for name, code in abi.OPERATION.items() if code)
    more = _uncounted(heartbeat, lane)
    counts = {name: sum(heartbeat.histogram(lane, code)[1]) + more[code] for name, code in codes}
    return {name: count for name, count in counts.items() if count}


def uncounted(heartbeat: HeartbeatFile, lane: int) -> int:
    """Of these, how many are in no histogram and no ring."""
    return sum(_uncounted(heartbeat, lane))


def _uncounted(heartbeat: HeartbeatFile, lane: int) -> bytes:
    if os.stat(heartbeat.path).st_size < abi_driver.FILE_SIZE:
        return bytes(abi.WORD)
    return line(heartbeat, lane)["uncounted"].to_bytes(abi.WORD, "little")


def total_calls(heartbeat: HeartbeatFile) -> dict[str, int]:
    total: dict[str, int] = {}
    for lane in range(abi.LANES):
        for name, count in calls(heartbeat, lane).items():
            total[name] = total.get(name, 0) + count
    return total


def line(heartbeat: HeartbeatFile, lane: int) -> dict[str, int]:
    words = heartbeat.words(abi_driver.LANES_OFFSET + lane * abi_driver.LANE_STRIDE, len(abi_driver.LANE))
    return dict(zip(abi_driver.LANE, words, strict=True))


def header(heartbeat: HeartbeatFile) -> dict[str, int]:
    return dict(zip(abi_driver.HEADER, heartbeat.words(abi_driver.OFFSET, len(abi_driver.HEADER)), strict=True))


def contexts(heartbeat: HeartbeatFile) -> list[dict[str, int]]:
    return _table(
        heartbeat, abi_driver.CONTEXT, abi_driver.CONTEXTS_OFFSET, abi_driver.CONTEXTS, abi_driver.CONTEXT_STRIDE
    )


def streams(heartbeat: HeartbeatFile) -> list[dict[str, int]]:
    return _table(heartbeat, abi_driver.STREAM, abi_driver.STREAMS_OFFSET, abi_driver.STREAMS, abi_driver.STREAM_STRIDE)


def host_functions(heartbeat: HeartbeatFile) -> list[dict[str, int]]:
    return _table(
        heartbeat, abi_driver.HOST_FUNCTION, abi_driver.HOST_FUNCTIONS_OFFSET, abi_driver.HOST_FUNCTIONS,
        abi_driver.HOST_FUNCTION_STRIDE,
    )  # fmt: skip


def _table(
    heartbeat: HeartbeatFile, names: tuple[str, ...], offset: int, entries: int, stride: int
) -> list[dict[str, int]]:
    rows = [heartbeat.words(offset + entry * stride, len(names)) for entry in range(entries)]
    return [dict(zip(names, row, strict=True)) for row in rows if row[0]]
