"""Whose word it is: the thread or process behind a lane, and how the scheduler has treated it.

Invariant: an owner counts as gone only where the kernel says so; what cannot be looked up is not known to be gone.
"""

from __future__ import annotations

from typing import NamedTuple

from watchdogd.decide import liveness
from watchdogd.decide.liveness import Pending, Threads
from watchdogd.model import MILLISECOND, ThreadSample
from watchdogd.observe import procfs
from watchdogd.pulse import Pulse

START_TOLERANCE_NS = 20 * MILLISECOND  # a process's start is known to a clock tick


def owner(pulse: Pulse, pending: Pending, root: int) -> tuple[int, int]:
    """pid and tid of the lane's owner; tid 0 = the process as a whole. ``root``: the process that was spawned."""
    if pending.lane is None:
        return root, 0
    word = pulse.lane(pending.lane, "owner")
    return word >> 32, word & 0xFFFF_FFFF


class Owners:
    """Of the words of one pulse. Each process is looked up once, however many of its lanes are overdue: a worker may
    have hundreds, or say so, and nobody else's verdict shall wait for that."""

    def __init__(self, pulse: Pulse, root: int) -> None:
        self.pulse = pulse
        self._root = root
        namespace = pulse.header("pid_namespace")
        self._foreign = namespace if namespace not in (0, procfs.pid_namespace()) else None
        self._inside: dict[int, int] | None = None
        self._processes: dict[int, _Process | None] = {}

    def threads(self, pending: Pending) -> tuple[Threads | None, bool]:
        """Scheduler's view of the owner's process, and whether the owner is known to be gone."""
        pid, tid = owner(self.pulse, pending, self._root)
        if pid == 0:
            return None, pending.lane is not None  # a lane that belongs to nobody
        try:
            if pid not in self._processes:
                self._processes[pid] = self._look_up(pid)
            process = self._processes[pid]
            if process is None or process.started_ns > pending.entered_ns + START_TOLERANCE_NS:
                return None, True  # or the pid is another process's by now
            if tid == 0 or self._foreign is not None:
                return process.living, not process.living
            mine = process.living.get(tid) or _alive(procfs.thread(process.pid, tid))  # one of very many
        except OSError:  # no descriptors left, or hidden: no scheduler's evidence, and nobody known to be gone
            return None, False
        return process.living if mine is None else {tid: mine, **process.living}, mine is None

    def _look_up(self, pid: int) -> _Process | None:
        """None if it is gone. Raises OSError."""
        here: int | None = pid
        if self._foreign is not None:
            if self._inside is None:
                self._inside = procfs.inside(self._foreign)
            here = self._inside.get(pid)
        stat = None if here is None else procfs.stat(here)
        if stat is None or liveness.image_is_gone(self.pulse, pid, stat.image):
            return None  # or it has called exec: nobody is left to clear the word
        samples = ((tid, _alive(sample)) for tid, sample in procfs.threads(stat.pid).items())
        living = {tid: sample for tid, sample in samples if sample is not None}
        return _Process(stat.pid, procfs.started_ns(stat), living)


class _Process(NamedTuple):
    pid: int
    started_ns: int
    living: dict[int, ThreadSample]


def _alive(sample: ThreadSample | None) -> ThreadSample | None:
    """A zombie is gone too: nobody has reaped it yet, but no call of its can ever return."""
    return None if sample is None or sample.state in "ZX" else sample
