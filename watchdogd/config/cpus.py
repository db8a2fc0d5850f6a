"""The CPUs of this machine: which exist, and which a worker could run on now.

Invariant: the kernel is asked exactly as at a worker's start, and what is asked leaves no trace on the asking process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from watchdogd.config.values import MOST_CPUS, read_cpus

_PRESENT = "/sys/devices/system/cpu/present"  # "possible" counts the sockets of a server that stand empty
_ANSWER_SECONDS = 1.0


def present() -> frozenset[int]:
    """The CPUs that exist, online or not. Where sysfs does not tell, none is known not to."""
    try:
        with open(_PRESENT, encoding="ascii") as file:
            return frozenset(read_cpus(file.read().strip()))
    except OSError:
        return frozenset(range(MOST_CPUS))


def usable() -> frozenset[int]:
    """The CPUs that are online and in the cpuset of our control group.

    Not our own affinity: a worker may leave what ``taskset`` or ``CPUAffinity=`` gave us. So a thread asks for all CPUs
    and sees what it gets; we ourselves would keep the mask that we asked for, even when more CPUs come online.
    """
    import threading  # noqa: PLC0415 - few configurations name a CPU

    answer = [os.sched_getaffinity(0)]  # what a worker has where it cannot ask for others

    def ask() -> None:
        with suppress(PermissionError):
            os.sched_setaffinity(0, range(MOST_CPUS))
            answer.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_SECONDS)
    return frozenset(answer[-1])


def show(cpus: Iterable[int]) -> str:
    """As the configuration writes them: "0-3,5"."""
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
