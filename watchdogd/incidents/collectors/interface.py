"""What a collector is, what it is told and what it hands back.

A collector is run in a process of its own (``incidents/jobs.py``) that is abandoned at its deadline, so it may block;
and it may be abandoned at any instruction, so what it got by then is worth nothing unless it returned.
Invariant: a collector judges nothing and harms nobody; one that makes a hung call return says so (``destructive``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from watchdogd.incident import Kernel, KernelLine, Process, Stack, Thread


class DumpTarget(NamedTuple):
    """Where the CUDA driver was told, at the worker's spawn, to listen and to write (``instrument/core_dump.py``)."""

    folder: str


class Target(NamedTuple):
    """The worker that evidence is about."""

    worker: str
    pids: tuple[int, ...]  # those known, the first process first: of that one alone the collectors look for its family
    folder: str  # where a collector may leave files; it is there
    incarnation: int
    heartbeat: str = ""  # path of this incarnation's
    since_ns: int | None = None  # when the worker was spawned
    until_ns: int | None = None  # CLOCK_MONOTONIC: when the collector is given up
    dump: DumpTarget | None = None  # None: ``gpu_core_dump`` is off
    accelerator: str | None = None
    killed_ns: int | None = None  # when we killed it: what the kernel says of it from then on is expected


class Evidence(NamedTuple):
    """What a collector got: fields of ``incident.Incident`` to add to, and its ``Outcome``'s.

    Of two collectors that both tell of a process each tells other fields.
    """

    outcome: str = "ok"  # or "missing tool" "no permission" "failed" "not asked for"; what was got all the same is kept
    detail: str = ""
    threads: tuple[Thread, ...] = ()
    processes: tuple[Process, ...] = ()
    stacks: tuple[Stack, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    kernel: tuple[KernelLine, ...] = ()
    files: tuple[str, ...] = ()  # names below ``Target.folder``


class Collector(NamedTuple):
    name: str
    destructive: bool  # a hung call may return because of it
    seconds: float  # its deadline, within the budget
    available: Callable[[], str | None]  # None = it can be had, else the remedy
    collect: Callable[[Target], Evidence]
    after: tuple[str, ...] = ()  # collectors that are to have ended, or to be given up, before it begins
    afterwards: bool = False  # needs no living worker: after the kill, and nothing waits for it
