"""What a program's calls were by an independent count (``trace.c``, by CUPTI), and by the shim's stamps.

Invariant: functions are sorted into operations by the shim's own table, so that none is left out of both.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.helpers.worker_process import ROOT
from watchdogd import abi, abi_driver
from watchdogd.observe.heartbeat import HeartbeatReader

TABLES = ROOT / "watchdogd/native/shim"
_ROW = re.compile(r"^ROW\w*\((\w+), \d+, (\w+),", re.MULTILINE)
_RECORD = struct.Struct("64sQ")


def traced(files: Iterable[Path]) -> Counter[str]:
    """How often each function was entered, over all processes of a run."""
    counts: Counter[str] = Counter()
    for file in files:
        for name, count in _RECORD.iter_unpack(file.read_bytes()):
            if count:
                counts[name.rstrip(b"\0").decode()] += count
    return counts


def stamped(heartbeat: Path) -> dict[str, int]:
    """How many calls of each operation ended."""
    reader = HeartbeatReader(str(heartbeat))
    histograms = reader.histograms(reader.read())
    lines = memoryview(reader.raw(abi_driver.LANES_OFFSET, abi.LANES * abi_driver.LANE_STRIDE) or b"").cast("Q")
    reader.close()
    words = lines[abi_driver.LANE.index("uncounted") :: len(abi_driver.LANE)]
    uncounted = [word.to_bytes(abi.WORD, "little") for word in words]  # a byte for each operation
    counts = {abi.OPERATION[name]: histogram.count for name, histogram in histograms.items() if name != "step"}
    return {abi.OPERATIONS[code]: n + sum(word[code] for word in uncounted) for code, n in counts.items()}


def operations() -> dict[str, str]:
    """The operation of each function that the shim stamps, in all its variants."""
    rows = (row for table in sorted(TABLES.glob("*.def")) for row in _ROW.findall(table.read_text(encoding="ascii")))
    return {
        name + variant: operation.lower()
        for name, operation in rows
        for variant in ("", "_ptsz", "_ptds")
        if operation != "NONE"
    }


def by_operation(calls: Counter[str]) -> dict[str, int]:
    """Of those that the shim stamps."""
    table = operations()
    sums: Counter[str] = Counter()
    for name, count in calls.items():
        if name in table:
            sums[table[name]] += count
    return dict(sums)
