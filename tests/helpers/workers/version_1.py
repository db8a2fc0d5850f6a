"""What a worker's program begins with that stamps as libraries of heartbeat version 1 did, in pure Python.

Invariant: every number is written out, as it was compiled into those libraries; nothing of ``watchdogd`` is imported.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["call", "hang", "ready", "serve_until", "step", "wait_for"]

# magic, version, byte order, size, lanes, hot offset and stride, stage offset, stages, cold offset and stride, ring
HEADER = (
    0x3142_4854_474F_4457, 1, 0x0102_0304_0506_0708, 0x25B000, 320, 256, 64, 0x5100, 256, 0x7100, 7616, 32,
)  # fmt: skip
PID_NAMESPACE, ATTACHED_PID, STATE, LANES_USED_LOCKED = 21, 20, 22, 25
READY = 2
SYNC = 1
STEP, OWNER, CALLS, STEPS_BEGUN, STEPS_DONE = 2, 4, 5, 6, 7
PROCESS_LANE, THREAD_LANE = 32 + 4 * 8, 32 + 9 * 8  # two of those that are claimed under the lock
TIME = ~0xFF
LONG_SECONDS = 60.0

_descriptor = os.open(os.environ["WATCHDOGD_HEARTBEAT"], os.O_RDWR)
if struct.unpack("=12Q", os.pread(_descriptor, 96, 0)) != HEADER:
    sys.exit("other version")  # those libraries went on unwatched; to a test it is all one
_words = memoryview(mmap.mmap(_descriptor, HEADER[3])).cast("Q")
_words[PROCESS_LANE + OWNER] = os.getpid() << 32
_words[THREAD_LANE + OWNER] = os.getpid() << 32 | threading.get_native_id()
_words[LANES_USED_LOCKED] = 10
_words[PID_NAMESPACE] = os.stat("/proc/self/ns/pid").st_ino
_words[ATTACHED_PID] = os.getpid()


def ready() -> None:
    _words[STATE] = time.monotonic_ns() & TIME | READY


@contextmanager
def step() -> Iterator[None]:
    _words[PROCESS_LANE + STEP] = time.monotonic_ns() & TIME
    _words[PROCESS_LANE + STEPS_BEGUN] += 1
    yield
    _words[PROCESS_LANE + STEP] = 0
    _words[PROCESS_LANE + STEPS_DONE] += 1


@contextmanager
def call() -> Iterator[None]:
    """A ``sync``."""
    _words[THREAD_LANE] = time.monotonic_ns() & TIME | SYNC
    yield
    _words[THREAD_LANE] = 0
    _words[THREAD_LANE + CALLS] += 1


def hang() -> None:
    """Does not return while the test lasts."""
    time.sleep(LONG_SECONDS)


def wait_for(name: str) -> None:
    """Until the test has touched the file."""
    path = Path(os.environ["HERE"]) / name
    give_up = time.monotonic() + LONG_SECONDS
    while not path.exists():
        if time.monotonic() > give_up:
            sys.exit(f"nobody touched {name}")
        time.sleep(0.002)


def serve_until(name: str) -> None:
    """Healthy frames until the test has touched the file."""
    path = Path(os.environ["HERE"]) / name
    while not path.exists():
        with step(), call():
            time.sleep(0.002)
        time.sleep(0.008)
