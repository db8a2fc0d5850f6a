"""One incident as it is kept: what ``incident.json`` says, in types.

A hang, crash or silent output, from its first evidence to its outcome. Times are ``_ns`` of CLOCK_MONOTONIC of the boot
``boot_id``; ``opened`` is the wall clock's, for people. What is not known is ``None``, never 0. docs/INCIDENTS.md
explains every field.

Invariant: pure and immutable; no judgement but those that are fields (``diagnosis``, ``repeats``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One call or step: in flight (``duration_ns`` is None), or of the ring of the last ones."""

    operation: str  # of abi.OPERATIONS, or "step"
    entered_ns: int
    duration_ns: int | None = None
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Lane:
    """What one thread (``tid`` 0: one process as a whole) had stamped at that instant."""

    lane: int
    pid: int
    tid: int
    in_flight: tuple[Call, ...] = ()  # outermost first; of a process lane its oldest step
    stage: str | None = None  # the innermost that is open
    calls: int = 0
    steps_begun: int = 0
    steps_done: int = 0
    ring: tuple[Call, ...] = ()  # the last calls, oldest first
    orphaned: bool = False  # whoever was in the call is gone


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker at the instant of a capture."""

    name: str
    phase: str
    incarnation: int
    accelerator: str | None = None
    pid: int | None = None
    coupled_with: tuple[str, ...] = ()
    spawned_ns: int | None = None
    ready_ns: int | None = None
    lanes: tuple[Lane, ...] = ()
    last_error: int | None = None  # CUresult
    misuses: int = 0  # calls that found another context current than their thread's last (`check_context`)
    misuse: str | None = None  # the last one, in words
    bad_outputs: int = 0  # in a row
    bad_kind: str | None = None  # of abi.OUTPUTS
    last_step_ns: int | None = None
    typical_ns: tuple[tuple[str, int], ...] = ()  # median per operation, of its whole life
    unread: str | None = None  # why nothing could be read of it
    misuse_ns: int | None = None  # when the last one was
    misuse_found: int | None = None  # the context that it found; 0: none
    killed_ns: int | None = None  # when its last kill for a verdict began, of this incarnation or one before


@dataclass(frozen=True, slots=True)
class Capture:
    """Shared memory of every worker, as near to one instant as reading it allows."""

    when: str  # "verdict" "signal" "gone" "ready"; "closed": it returned, and meanwhile another worker was killed
    at_ns: int
    took_ns: int
    workers: tuple[Worker, ...]
    left_out: tuple[str, ...] = ()  # workers that the time did not suffice for


@dataclass(frozen=True, slots=True)
class Load:
    """The last samples of one accelerator, oldest first."""

    accelerator: str
    samples: tuple[tuple[int, float | None], ...]  # arrival, load 0.0 to 1.0
    frozen_since_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Whether one of what is read tells anything: load readers, the kernel log."""

    name: str
    up: bool
    sample_ns: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One parsed message of the kernel log."""

    at_ns: int
    about: str  # of KernelKind
    text: str
    number: int | None = None
    worker: str | None = None
    accelerator: str | None = None
    pid: int | None = None
    expected: bool = False  # it follows from our own kill


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread as /proc shows it."""

    pid: int
    tid: int
    name: str = ""
    state: str | None = None  # R S D T Z ...
    wchan: str | None = None
    syscall: str | None = None  # its number or name and arguments, as /proc prints it
    kernel_stack: tuple[str, ...] = ()  # innermost first
    cpu_ns: int | None = None  # since it began
    ran_ns: int | None = None  # of CPU time between two looks,
    over_ns: int | None = None  # that were so far apart
    voluntary_switches: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the worker."""

    pid: int
    parent: int | None = None
    command: tuple[str, ...] = ()  # redacted
    devices: tuple[str, ...] = ()  # accelerator device files it has open
    resident: int | None = None  # bytes
    mapped: tuple[str, ...] = ()  # libraries that tell what it runs: driver, runtime, TensorRT, framework
    cgroup: tuple[tuple[str, str], ...] = ()  # counters: "cpu.stat.nr_throttled", "memory.events.oom_kill" ...


@dataclass(frozen=True, slots=True)
class Stack:
    """One thread's frames, innermost first, each "function (file:line)"."""

    pid: int
    tid: int | None
    kind: str  # "python" "native"
    frames: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel that was on the GPU, by its core dump."""

    name: str
    grid: str = ""  # "(1,1,1)"
    block: str = ""
    location: str = ""  # "file:line" where line information is there
    device: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one collector."""

    collector: str
    outcome: str  # "ok" "timed out" "missing tool" "no permission" "failed" "not asked for" "not reached"
    detail: str = ""  # with a missing tool: how to install it
    began_ns: int | None = None
    took_ns: int | None = None
    files: tuple[str, ...] = ()  # below the incident's folder


@dataclass(frozen=True, slots=True)
class Verdict:
    """As the event of kind ``verdict`` tells it."""

    verdict: str
    detected_ns: int
    operation: str | None = None
    stage: str | None = None
    entered_ns: int | None = None
    armed_ns: int | None = None
    deadline_ns: int | None = None
    pid: int | None = None
    tid: int | None = None
    detail: str = ""
    bisected: bool = False
    would_have_killed: bool = False  # only observed


@dataclass(frozen=True, slots=True)
class Suspect:
    """One of the ranking of who froze first, likeliest first."""

    worker: str
    operation: str | None = None
    entered_ns: int | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """When each step was done."""

    opened_ns: int | None = None
    evidence_ns: int | None = None  # collectors began
    committed_ns: int | None = None  # from here on the kill was committed
    signal_ns: int | None = None
    gone_ns: int | None = None
    usable_ns: int | None = None
    started_ns: int | None = None
    ready_ns: int | None = None
    closed_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """What another worker did meanwhile, by its own histograms."""

    worker: str
    operation: str  # "step", or what it does most
    before_p50_ns: int | None = None
    before_p99_ns: int | None = None
    during_p50_ns: int | None = None
    during_p99_ns: int | None = None
    during_count: int = 0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What it was, as far as the evidence decides."""

    cause: str  # of decide.diagnosis.CAUSES
    sentence: str  # for people, whole
    facts: tuple[str, ...] = ()  # that it rests on
    next_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeats:
    """Incidents before this one with its signature."""

    count: int  # with this one
    first: str  # RFC 3339
    sentence: str = ""  # what they have in common


@dataclass(frozen=True, slots=True)
class Incident:
    """The whole document."""

    id: str
    worker: str
    incarnation: int
    opened: str  # RFC 3339
    opened_unix_ns: int
    boot_id: str
    verdict: Verdict
    schema: int = SCHEMA
    version: str = ""  # of watchdogd
    accelerator: str | None = None
    level: str = "memory"  # or "full"
    budget_ns: int | None = None
    state: str = "open"  # "collecting" "open" "closed"; "cut short": the supervisor ended before it was
    outcome: str | None = None  # "recovered" "returned" "quarantined" "stopped" ...
    exit: str | None = None
    captures: tuple[Capture, ...] = ()
    loads: tuple[Load, ...] = ()
    sources: tuple[Source, ...] = ()
    kernel: tuple[KernelLine, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    stalled_ns: int | None = None  # how long the machine stood still lately, if it did
    collectors: tuple[Outcome, ...] = ()
    threads: tuple[Thread, ...] = ()
    processes: tuple[Process, ...] = ()
    stacks: tuple[Stack, ...] = ()
    kernels: tuple[Kernel, ...] = ()  # on the GPU, by its core dump
    moved_ns: int | None = None  # the call returned although its kill was committed
    times: Times = Times()
    others: tuple[Other, ...] = ()
    events: tuple[dict[str, Any], ...] = ()  # of the record, with this id
    signature: str = ""
    signature_words: str = ""  # what it was made of, for people
    diagnosis: Diagnosis | None = None
    repeats: Repeats | None = None
    export: Outcome | None = None  # what became of the export_hook, if there is one
    environment: tuple[tuple[str, str], ...] = ()  # of the worker, redacted
    command: tuple[str, ...] = ()  # redacted
    problems: tuple[str, ...] = ()  # with keeping it
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of each other file of its folder
