"""Whose word it is: the thread or process behind a lane, and how the scheduler has treated it.

Invariant: an owner counts as gone only where the kernel says so; what cannot be looked up is not known to be gone.
"""

from __future__ import annotations

from watchdogd.decide import liveness
from watchdogd.decide.liveness import Pending, Threads
from watchdogd.model import MILLISECOND
from watchdogd.observe import procfs
from watchdogd.pulse import Pulse

START_TOLERANCE_NS = 20 * MILLISECOND  # a process's start is known to a clock tick


def owner(pulse: Pulse, pending: Pending, root: int) -> tuple[int, int]:
    """pid and tid of the lane's owner; tid 0 = the process as a whole. ``root``: the process that was spawned."""
    if pending.lane is None:
        return root, 0
    word = pulse.lane(pending.lane, "owner")
    return word >> 32, word & 0xFFFF_FFFF


def threads(pulse: Pulse, pending: Pending, root: int) -> tuple[Threads | None, bool]:
    """Scheduler's view of the owner's process, and whether the owner is known to be gone."""
    pid, tid = owner(pulse, pending, root)
    if pid == 0:
        return None, pending.lane is not None  # a lane that belongs to nobody
    namespace = pulse.header("pid_namespace")
    try:
        is_foreign = namespace not in (0, procfs.pid_namespace())
        here = procfs.in_namespace(pid, namespace) if is_foreign else pid
        stat = None if here is None else procfs.stat(here)
        if here is None or stat is None:
            return None, True
        if procfs.started_ns(stat) > pending.entered_ns + START_TOLERANCE_NS:
            return None, True  # the pid is another process's by now
        if liveness.image_is_gone(pulse, pid, stat.image):
            return None, True  # it has called exec: nobody is left to clear the word
        found = procfs.threads(here, None if is_foreign else tid) or {}
    except OSError:  # no descriptors left, or hidden: no scheduler's evidence, and nobody known to be gone
        return None, False
    # A zombie is gone too: nobody has reaped it yet, but no call of its can ever return.
    living = {number: sample for number, sample in found.items() if sample.state not in "ZX"}
    return living, not living or (tid != 0 and not is_foreign and tid not in living)
