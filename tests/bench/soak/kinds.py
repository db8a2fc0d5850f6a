"""What can happen to a vehicle's models, each a line of data: how it is brought about, and what must follow.

Invariant: what must follow is the supervisor's documented behaviour, the same settings for all; no kind has code of its
own in the judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

GPU_MODELS = ("model_a", "model_b", "model_c", "model_d", "model_e")
DLA_MODEL = "model_h"
MODELS = (*GPU_MODELS, DLA_MODEL)

PERIOD_MS = {"model_a": 50, "model_b": 50, "model_c": 66, "model_d": 100, "model_e": 100, "model_h": 66}
KERNEL_US = {"model_a": 4000, "model_b": 3000, "model_c": 6000, "model_d": 9000, "model_e": 5000, "model_h": 12000}
BAD_IN_A_ROW = 5
LOCAL_MS: dict[str, int] = {"alloc": 250, "free": 250, "copy": 250, "launch": 250, "other": 250}
DEADLINES_MS: dict[str, int] = {"startup": 6000, "first_step": 1500, "step": 600, "sync": 200, "event": 200, **LOCAL_MS}
DLA_SYNC_MS = 300  # more than the GPU models have: the victims' verdicts come before the culprit's


def deadline_ms(model: str, name: str) -> int:
    """``outputs``: the time of so many frames; "": what ends by itself is known at once."""
    if name == "outputs":
        return BAD_IN_A_ROW * PERIOD_MS[model]
    if name == "sync" and model == DLA_MODEL:
        return DLA_SYNC_MS
    return DEADLINES_MS[name] if name else 0


@dataclass(frozen=True)
class Kind:
    """``act``: a function of ``model``; ``fault``: of the simulated driver; ``does``: a method of ``conductor``."""

    name: str
    act: str = ""
    fault: str = ""
    does: str = ""
    verdicts: tuple[str, ...] = ()  # any of these must be told; none: no verdict, and nobody ends
    operations: tuple[str, ...] = ()  # that the verdict names, with those in flight beside it
    detail: str = ""  # that the verdict has
    deadline: str = ""  # from which on it is late
    evidence: str = ""  # kind of event that must be recorded all the same
    on: tuple[str, ...] = MODELS
    successor: bool = False  # the act is the next incarnation's: an operator restarts the worker
    spreads: bool = False  # others stand still too: verdicts on them are true
    others_may_end: bool = False  # ... and the record cannot tell who began, so their kills are counted, not judged
    harms: bool = True  # False: nobody's process is the worse for it, its frames are the machine's
    seconds: float = 0.0  # so long it lasts, if nobody ends
    weight: int = 2  # how often in a deck

    @property
    def ends(self) -> bool:
        """Whether its worker has a successor then."""
        return bool(self.verdicts) or self.does == "restart"

    @property
    def is_local(self) -> bool:
        """A harm that stays inside a process."""
        return self.harms and not self.spreads


CALL, STEP, SILENT = ("call",), ("step",), ("silent_output",)
ENDED = ("crashed", "exited")  # how a worker ended that was adopted, nobody can know

KINDS: tuple[Kind, ...] = (
    # the DLA deadlock
    Kind("stream frozen", fault="hang scope=stream", verdicts=CALL, operations=("sync",), deadline="sync", weight=3),
    Kind("process frozen", fault="hang scope=process spread_ms=2 load=63", verdicts=CALL, operations=("sync",),
         deadline="sync", weight=3),
    Kind("device frozen by the DLA", fault="hang scope=device spread_ms=5 load=63", verdicts=CALL,
         operations=("sync",), deadline="sync", on=(DLA_MODEL,), spreads=True, weight=4),
    Kind("device frozen by a GPU model", fault="hang scope=device spread_ms=5 load=99", verdicts=CALL,
         operations=("sync",), deadline="sync", on=GPU_MODELS, spreads=True, others_may_end=True),
    # calls other than synchronize; the allocator's deadlock
    Kind("hang in alloc", fault="call_hang call=alloc", verdicts=CALL, operations=("alloc",), deadline="alloc"),
    Kind("hang in free", fault="call_hang call=free", verdicts=CALL, operations=("free",), deadline="free"),
    Kind("hang in launch", fault="call_hang call=launch", verdicts=CALL, operations=("launch",), deadline="launch"),
    Kind("hang in copy", fault="call_hang call=copy_async", verdicts=CALL, operations=("copy",), deadline="copy"),
    Kind("alloc against free", act="deadlock", fault="deadlock calls=alloc_managed,free window_ms=50", verdicts=CALL,
         operations=("alloc", "free"), deadline="alloc"),
    # outside of CUDA
    Kind("waits for a lock", act="lock", verdicts=STEP, deadline="step"),
    Kind("endless loop", act="loop", verdicts=STEP, deadline="step"),
    Kind("first step hangs", act="first_step", verdicts=("first_step",), deadline="first_step", successor=True),
    Kind("start hangs", act="startup", verdicts=("startup",), deadline="startup", successor=True, weight=1),
    # errors, and the lost context
    Kind("sticky error", fault="error code=700", verdicts=("sticky_error", "crashed"),
         detail="CUDA_ERROR_ILLEGAL_ADDRESS"),
    Kind("error that is not sticky", act="out_of_memory", evidence="recovered", seconds=0.5),
    Kind("context fails", fault="error code=710", evidence="recovered", seconds=0.5),
    Kind("context lost", act="lost_context", evidence="recovered", seconds=0.5),
    # silent outputs
    Kind("outputs all zero", fault="zero", verdicts=SILENT, deadline="outputs"),
    Kind("outputs NaN", act="nan", verdicts=SILENT, deadline="outputs"),
    Kind("outputs constant", act="constant", verdicts=SILENT, deadline="outputs"),
    Kind("outputs stale", act="stale", verdicts=SILENT, deadline="outputs"),
    # ends
    Kind("SIGSEGV", act="crash", verdicts=ENDED),
    Kind("exit(0)", act="exit_0", verdicts=ENDED),
    Kind("exit(1)", act="exit_1", verdicts=ENDED),
    Kind("SIGKILL by a stranger", does="kill", verdicts=ENDED),
    # nobody may be condemned for these
    Kind("slow, below the deadline", fault="call_hang call=stream_synchronize for_ms=140", evidence="near_miss",
         on=GPU_MODELS, seconds=0.5),
    Kind("restart by an operator", does="restart", evidence="ready", seconds=0.5, weight=4),
    Kind("burst of CPU load", does="burst", on=(), harms=False, seconds=1.5),
    Kind("load source silent", does="silent_source", evidence="source", on=(), harms=False, seconds=1.5, weight=1),
    Kind("load source frozen", does="frozen_source", on=(), harms=False, seconds=1.5, weight=1),
    Kind("load source dies", does="dead_source", evidence="source", on=(), harms=False, seconds=1.0, weight=1),
    Kind("kernel tells of a fault", does="kernel_line", evidence="kernel", harms=False, seconds=0.5, weight=1),
    Kind("SIGKILL of the supervisor", does="kill_supervisor", evidence="supervisor", on=(), harms=False, seconds=1.0),
)  # fmt: skip

BY_NAME = {kind.name: kind for kind in KINDS}
ACTS = tuple(kind.act for kind in KINDS if kind.act)  # their numbers are what a worker is told
PAIR = 3  # times in a deck that two workers are harmed at once
FOR_A_PAIR = tuple(kind for kind in KINDS if kind.is_local and kind.verdicts and not kind.successor)


@dataclass(frozen=True)
class Fault:
    """One that happened, as it was written down; None: it is nobody's, or did not begin."""

    id: int
    kind: str
    worker: str | None
    asked_ns: int  # before anything was done
    until_ns: int  # all ran normally again
    episode: int = 0  # two at once have the same
    incarnation: int | None = None
    began_ns: int | None = None

    @property
    def of(self) -> Kind:
        return BY_NAME[self.kind]


def joined(lines: Iterable[dict[str, Any]]) -> list[Fault]:
    """The truth as it was written: line after line by the conductor and by the worker; that which came to its end."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(line["id"], {}).update(line)
    return [Fault(**body) for body in found.values() if "until_ns" in body]
