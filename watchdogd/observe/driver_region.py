"""The driver region of a heartbeat, read: what the shim saw of a program's CUDA (the layout is ``abi_driver``).

Invariant: pure; whatever a worker wrote there is a figure or a name, and nothing is judged by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from watchdogd import abi, abi_driver


class Context(NamedTuple):
    pid: int
    device: int | None  # ordinal; None = not said
    handle: int
    gone_ns: int | None  # when it was destroyed


class Stream(NamedTuple):
    pid: int
    handle: int  # 0 = the default stream, 1 and 2 = the legacy and the per-thread one
    context: int
    queued: int
    completed: int
    completed_ns: int | None


class HostFunction(NamedTuple):
    """A function of the host that was queued in a stream, and is not done."""

    queued_ns: int
    pid: int
    stream: int


class Misuse(NamedTuple):
    """The last call whose context was not the one that its thread had used before."""

    pid: int
    tid: int
    expected: int  # the context that its thread used before
    found: int  # the one that was current; 0 = none
    at_ns: int


class Driver(NamedTuple):
    version: int | None  # as cuDriverGetVersion tells it
    queued: int  # pieces of work
    completed: int
    misuses: int
    misuse: Misuse | None
    contexts: tuple[Context, ...]
    streams: tuple[Stream, ...]
    host_functions: tuple[HostFunction, ...]  # the oldest first
    unkept: int  # contexts, streams and host functions that found no entry
    ranges_unkept: int  # NVTX ranges whose name found no stage
    objects: tuple[int | None, ...]  # by lane: what its last blocking call waited for; None = not of the shim's lanes


def parse(raw: bytes) -> Driver | None:
    """None if no process has loaded the shim, or the file has no such region."""
    if len(raw) < abi_driver.SIZE:
        return None
    words = memoryview(raw)[: abi_driver.SIZE].cast("Q").tolist()
    header = dict(zip(abi_driver.HEADER, words, strict=False))
    if not header["loaded_ns"]:
        return None
    lanes = list(_entries(words, abi_driver.LANES_OFFSET, abi.LANES, abi_driver.LANE))
    contexts = _entries(words, abi_driver.CONTEXTS_OFFSET, abi_driver.CONTEXTS, abi_driver.CONTEXT)
    streams = _entries(words, abi_driver.STREAMS_OFFSET, abi_driver.STREAMS, abi_driver.STREAM)
    functions = _entries(words, abi_driver.HOST_FUNCTIONS_OFFSET, abi_driver.HOST_FUNCTIONS, abi_driver.HOST_FUNCTION)
    owner = header["misuse_owner"]
    misuse = Misuse(owner >> 32, owner & _LOW, header["misuse_expected"], header["misuse_found"], header["misuse_ns"])
    return Driver(
        version=header["driver_version"] or None,
        queued=sum(lane["queued"] for lane in lanes),
        completed=sum(lane["completed"] for lane in lanes) + header["host_functions_run"],
        misuses=header["misuses"],
        misuse=misuse if header["misuses"] else None,
        contexts=tuple(
            Context(each["owner"] >> 32, (each["owner"] & _LOW) - 1 if each["owner"] & _LOW else None,
                    each["handle"], each["gone_ns"] or None)
            for each in contexts if each["owner"]
        ),
        streams=tuple(
            Stream(each["owner"] >> 32, each["handle"], each["context"], each["queued"], each["completed"],
                   each["completed_ns"] or None)
            for each in streams if each["owner"]
        ),
        host_functions=tuple(sorted(
            HostFunction(each["queued_ns"], each["owner"] >> 32, each["stream"])
            for each in functions if each["owner"] and each["queued_ns"]
        )),
        unkept=header["contexts_unkept"] + header["streams_unkept"] + header["host_functions_unkept"],
        ranges_unkept=header["ranges_unkept"],
        objects=tuple(lane["object"] if any(lane.values()) else None for lane in lanes),
    )  # fmt: skip


_LOW = (1 << 32) - 1


def _entries(words: list[int], offset: int, count: int, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    first = (offset - abi_driver.OFFSET) // abi.WORD
    for at in range(first, first + count * len(names), len(names)):
        yield dict(zip(names, words[at : at + len(names)], strict=True))
