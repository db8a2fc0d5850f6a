"""From a source's bytes to load samples: what the supervisor does with the pipe of a load reader.

Invariant: whatever comes through the pipe, memory is bounded and the only error is `BadLine`.
"""

from __future__ import annotations

import json
from typing import Any

from watchdogd.decide.progress import Sample
from watchdogd.model import DeviceMemory, LoadSample
from watchdogd.observe.sources import tegrastats

MAX_LINE = 65536  # bytes


class BadLine(ValueError):
    """The line is not one that this source prints."""


class LineBuffer:
    """Cuts a stream into lines. A line over ``MAX_LINE`` bytes is dropped, and counted in `dropped`."""

    def __init__(self) -> None:
        self.dropped = 0
        self._rest = b""
        self._skipping = False  # inside a line that was dropped

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, without their ends."""
        *lines, rest = (self._rest + data).split(b"\n")
        if self._skipping:
            if not lines:
                return []
            del lines[0]
        self._skipping = len(rest) > MAX_LINE
        self._rest = b"" if self._skipping else rest
        kept = [line for line in lines if len(line) <= MAX_LINE]
        self.dropped += len(lines) - len(kept) + self._skipping
        return [line.decode("utf-8", errors="replace") for line in kept]


def parse(source_name: str, line: str) -> tuple[LoadSample, ...]:
    """The samples that a line of ``tegrastats``, ``nvml``, ``nvgpu`` or ``nvdla`` tells. Raises `BadLine`."""
    if source_name != "tegrastats":
        return (_sample(_object(line)),)
    try:
        return tegrastats.loads(tegrastats.parse_line(line))
    except tegrastats.NotTegrastats as error:
        raise BadLine(str(error)) from error


def device_memory(line: str) -> DeviceMemory | None:
    """What a line of ``nvml`` tells of it; None where it tells something else. Raises `BadLine`."""
    if '"memory_bytes"' not in line:
        return None
    held = _object(line).get("memory_bytes")
    if not isinstance(held, dict):
        raise BadLine("memory_bytes is no object")
    if not all(item is None or (type(item) is int and item >= 0) for item in held.values()):
        raise BadLine("memory_bytes is neither null nor a number of bytes")
    return DeviceMemory(held)


def progress(line: str) -> Sample:
    """What one attempt to ask a worker found, as ``progress`` prints it. Raises `BadLine`."""
    fields = _object(line)
    try:
        sample = Sample(**fields)
    except TypeError as error:
        raise BadLine(str(error)) from error
    if type(sample.begun_ns) is not int or type(sample.ok) is not bool or not isinstance(sample.why, str):
        raise BadLine("begun_ns, ok or why is of another type")
    if not all(number is None or type(number) in (int, float) for number in (sample.counter, sample.pending)):
        raise BadLine("counter or pending is neither null nor a number")
    return sample._replace(why="".join(c if c.isprintable() else "?" for c in sample.why))


def _object(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:  # thousands of brackets exhaust json's recursion
        raise BadLine(f"not JSON ({type(error).__name__})") from error
    if not isinstance(fields, dict):
        raise BadLine("not a JSON object")
    return fields


def _sample(fields: dict[str, Any]) -> LoadSample:
    accelerator, load_ratio = fields.get("accelerator"), fields.get("load_ratio", "")
    if not isinstance(accelerator, str) or not accelerator:
        raise BadLine("no accelerator")
    if load_ratio is not None:
        # bool is an int to Python; NaN fails the comparison.
        if isinstance(load_ratio, bool) or not isinstance(load_ratio, int | float) or not 0 <= load_ratio <= 1:
            raise BadLine("load_ratio is neither null nor a number from 0 to 1")
        load_ratio = float(load_ratio)
    for key in ("name", "uuid", "power"):
        if not isinstance(fields.get(key), str | None):
            raise BadLine(f"{key} is neither null nor a string")
    return LoadSample(accelerator, load_ratio, fields.get("name"), fields.get("uuid"), fields.get("power"))
