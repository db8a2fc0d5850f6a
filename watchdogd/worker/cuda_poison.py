"""Poisoned outputs: what a run has not written is named, instead of being taken for what the last run left there.

    poison = Poison(boxes=Output(device_boxes, host_boxes, itemsize=4), scores=engine.output("scores"))
    poison.fill(stream)                 # before each run
    ...                                 # run, copy_out, synchronize
    poison.check()                      # raises UnwrittenError: boxes: elements 96 to 99 of 100 were never written

Costs a fill of each output on both sides and a look through it: for finding faults, not for every day.

Invariant: an element counts as never written only if every byte of it is the poison. With the default, 255, that is a
NaN in every floating-point format, and none that a GPU computes; for integers, where it is -1, choose another byte.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from watchdogd.worker.cuda import Buffer, HostBuffer, Stream

MOST_NAMED = 4  # ranges, in one message


class Output(NamedTuple):
    buffer: Buffer
    host: HostBuffer
    itemsize: int  # bytes of an element

    @property
    def view(self) -> memoryview:
        return self.host.view


class AnyOutput(Protocol):
    """An Output, or an engine's, of which only what its shape takes is looked at."""

    @property
    def buffer(self) -> Buffer: ...
    @property
    def view(self) -> memoryview: ...
    @property
    def itemsize(self) -> int: ...


class UnwrittenError(Exception):
    """``unwritten``: ranges of elements by output."""

    def __init__(self, unwritten: dict[str, list[range]], counts: dict[str, int]) -> None:
        super().__init__(unwritten, counts)
        self.unwritten = unwritten
        self.counts = counts

    def __str__(self) -> str:
        return "; ".join(f"{name}: {_words(found, self.counts[name])}" for name, found in self.unwritten.items())


def _words(found: list[range], count: int) -> str:
    named = [f"{r.start} to {r.stop - 1}" if len(r) > 1 else str(r.start) for r in found[:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more ranges" if len(found) > MOST_NAMED else ""
    return f"elements {', '.join(named)}{more} of {count} were never written"


class Poison:
    def __init__(self, byte: int = 0xFF, **outputs: AnyOutput) -> None:
        if not 0 <= byte <= 0xFF:
            raise ValueError(f"byte={byte}: use 0 to 255")
        if not outputs:
            raise ValueError("a Poison of no outputs finds nothing: name them, as Poison(boxes=Output(...))")
        self._byte = byte
        self._outputs = outputs

    def fill(self, stream: Stream) -> None:
        """Queues a fill of the device's side, and fills the host's now: nothing may still be copied there."""
        for output in self._outputs.values():
            stream.fill(output.buffer, self._byte)
            output.view[:] = bytes((self._byte,)) * output.view.nbytes

    def check(self) -> None:
        """After the copies to the host were synchronized. Raises UnwrittenError."""
        found = {name: unwritten(output.view, output.itemsize, self._byte) for name, output in self._outputs.items()}
        missing = {name: ranges for name, ranges in found.items() if ranges}
        if missing:
            counts = {name: self._outputs[name].view.nbytes // self._outputs[name].itemsize for name in missing}
            raise UnwrittenError(missing, counts)


def unwritten(view: memoryview, itemsize: int, byte: int = 0xFF) -> list[range]:
    """The ranges of elements that hold nothing but the byte."""
    ranges: list[range] = []
    for run in re.finditer(re.escape(bytes((byte,))) + b"{%d,}" % itemsize, view):
        first, last = -(-run.start() // itemsize), run.end() // itemsize
        if last > first:
            ranges.append(range(first, last))
    return ranges
