"""The driver region of a heartbeat: what the driver shim saw of an unmodified program's CUDA (since version 3).

It lies behind ``abi.SIZE``, which is what libraries of before compare and map. The shim is its only writer.

Invariant: as in ``abi``, one fact is one aligned 8-byte word; for each, 0 means "not said".
"""

from __future__ import annotations

from watchdogd import abi

# What the supervisor asks of the shim, as bits of the header's word ``driver``.
OPTIONS = (
    "ready_on_sync",  # a process's first completed synchronize makes the worker ready
    "check_context",  # ask at each stamped call which context is current
    "sync_spin",  # how a synchronize waits, set as a context is made; at most one of the three
    "sync_yield",
    "sync_blocking",
)
OPTION = {name: 1 << bit for bit, name in enumerate(OPTIONS)}

# The driver region. Its times are CLOCK_MONOTONIC ns, its counts only grow; 0 = never, none.
OFFSET = abi.SIZE
HEADER = (
    "loaded_ns",  # when a process of the worker last loaded the shim
    "loaded_pid",
    "driver_version",  # of the real driver, as cuDriverGetVersion tells it
    "contexts_unkept",  # contexts and streams that found no entry
    "streams_unkept",
    "misuses",  # stamped calls whose context was not the one their thread had used before
    "misuse_owner",  # of the last one: pid << 32 | tid
    "misuse_expected",  # the context its thread used before
    "misuse_found",  # the one that was current; 0 = none
    "misuse_ns",
    "host_functions_unkept",  # that found no entry, so that nobody knows whether they ran
    "host_functions_run",
    "host_function_ns",  # when one last began or ended: both say that something got on
    "ranges_unkept",  # NVTX ranges whose name found no stage
    "error_owner",  # whose the header's last_error is: pid << 32; 0 = not said
)
HEADER_SIZE = 256
LONGEST_TICK_NS = 10_000_000  # of the kernel's clock, by whose ticks launches are stamped: HZ is 100 at least
# A line for each lane, written by its owner; not emptied when the lane changes hands.
LANE = (
    "queued",  # pieces of work: launches, graphs, asynchronous copies and fills
    "queued_ns",  # when the last of them was queued, or a late tick earlier
    "completed",  # synchronous copies, and waits and queries that found work done, other than what was known to be
    "completed_ns",
    "unready_ns",  # when a query last found work that was not done
    "object",  # what the last blocking call waited for: a stream or event; 0 = the default stream, or the context
    "context",  # the context its thread last made current, as far as the shim saw
    "uncounted",  # a byte for each operation code: calls that ended and are in no histogram yet
)
LANES_OFFSET = OFFSET + HEADER_SIZE
LANE_STRIDE = len(LANE) * abi.WORD
# Entries are claimed by compare-and-swap of their first word, by whoever first uses the context or stream.
CONTEXT = (
    "owner",  # pid << 32 | device ordinal + 1; 0 = free
    "handle",
    "made_ns",  # when the shim first saw it
    "gone_ns",  # when it was destroyed or released
)
CONTEXTS = 32
CONTEXTS_OFFSET = LANES_OFFSET + abi.LANES * LANE_STRIDE
CONTEXT_STRIDE = len(CONTEXT) * abi.WORD
STREAM = (
    "owner",  # pid << 32 | 1; 0 = free
    "handle",  # as the program gave it; 0 = the default stream, 1 and 2 = the legacy and the per-thread one
    "context",
    "queued",
    "completed",  # synchronizes and queries of this stream that found its work done, other than what was known to be
    "completed_ns",
    "idle",  # 1 = known to be: found done, nothing queued in it since, nor found undone; 0 = not said
    "unused_7",
)
STREAMS = 64
STREAMS_OFFSET = CONTEXTS_OFFSET + CONTEXTS * CONTEXT_STRIDE
STREAM_STRIDE = len(STREAM) * abi.WORD
# Functions of the host, queued in a stream and not done: each is pending since ``queued_ns``, while that is not 0.
HOST_FUNCTION = (
    "owner",  # pid << 32 | 1; 0 = free
    "queued_ns",
    "stream",
    "context",
)
HOST_FUNCTIONS = 128
HOST_FUNCTIONS_OFFSET = STREAMS_OFFSET + STREAMS * STREAM_STRIDE
HOST_FUNCTION_STRIDE = len(HOST_FUNCTION) * abi.WORD
SIZE = (HOST_FUNCTIONS_OFFSET + HOST_FUNCTIONS * HOST_FUNCTION_STRIDE - OFFSET + 4095) // 4096 * 4096
FILE_SIZE = abi.SIZE + SIZE
