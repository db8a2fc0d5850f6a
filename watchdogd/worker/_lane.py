"""The words of a lane for the pure-Python fallback: claimed in the heartbeat, or scratch memory where there was none.

Invariant: a lane is given up, its owner cleared last, by the process that claimed it and by no other.
"""

from __future__ import annotations

import os
import threading

from watchdogd import abi
from watchdogd.worker._memory import Heartbeat, hot_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEPTH = 8  # as in watchdogd.h: the time of deeper guards is not kept


def cold_word(lane: int) -> int:
    """Index of the first word of a lane's cold block."""
    return (abi.COLD_OFFSET + lane * abi.COLD_STRIDE) // abi.WORD


class Lane:
    """The words of a claimed lane; scratch memory for those who found none."""

    __slots__ = ("cold", "hot", "number")

    def __init__(self, heartbeat: Heartbeat, tid: int) -> None:
        self.number = heartbeat.claim(tid)
        if self.number is None:
            self.hot = memoryview(bytearray(abi.HOT_STRIDE)).cast("Q")
            self.cold = memoryview(bytearray(abi.COLD_STRIDE)).cast("Q")
        else:
            hot, cold = hot_word(self.number), cold_word(self.number)
            self.hot = heartbeat.words[hot : hot + abi.LANE_WORDS]
            self.cold = heartbeat.words[cold : cold + abi.COLD_STRIDE // abi.WORD]


class ThreadLane(Lane):
    __slots__ = ("calls", "counts", "depth", "pid", "stage", "stamps", "started_ns")

    def __init__(self, heartbeat: Heartbeat) -> None:
        super().__init__(heartbeat, threading.get_native_id())
        self.depth = 0
        # What only this thread writes is read from here: an index into a memoryview costs twice one into a list.
        self.calls: int = self.hot[abi.L["calls"]]
        self.counts: list[int] = self.cold[: abi.RING_OFFSET // abi.WORD].tolist()
        self.stage = 0
        self.started_ns = [0] * DEPTH
        self.stamps = [0] * DEPTH
        self.pid = os.getpid()

    def __del__(self, getpid: Callable[[], int] = os.getpid, words: range = range(abi.L["owner"] + 1)) -> None:
        """At thread exit, when ``threading.local`` drops it. A forked child drops its parent's: those stay as they are.

        Defaults, because at interpreter exit the globals may be gone.
        """
        if self.pid == getpid():
            for word in words:  # the owner last
                self.hot[word] = 0
