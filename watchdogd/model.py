"""The words of the pure core: settings, phases, observations, findings, actions.

Invariant: everything here is immutable and knows no clock and no I/O. Times are ``_ns`` integers of CLOCK_MONOTONIC;
an absent value is ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, NewType

from watchdogd import abi

SECOND = 1_000_000_000
MILLISECOND = 1_000_000

IncidentId = NewType("IncidentId", str)


# --- settings -------------------------------------------------------------------------------------------------------


class Deadlines(NamedTuple):
    """How long things may take. ``None`` = never overdue."""

    startup_ns: int | None = 120 * SECOND
    first_step_ns: int | None = None
    step_ns: int | None = None
    calls_ns: tuple[int | None, ...] = (None,) * len(abi.OPERATIONS)  # indexed by operation code
    progress_ns: int | None = None


class RestartSettings(NamedTuple):
    backoff_ns: int = 100 * MILLISECOND
    backoff_max_ns: int = 10 * SECOND
    budget: int = 5
    window_ns: int = 60 * SECOND
    when_spent: str = "quarantine"  # or "retry-slowly"
    bisect_after: int = 0  # kills for hangs whose stage does not tell where; 0 = however many
    before_exit: int = 0  # with on_verdict "exit": restarts after verdicts before it


class OutputSettings(NamedTuple):
    bad_in_a_row: int = 0  # so many are a verdict; 0 = none is


class GrowthSettings(NamedTuple):
    baseline_ns: int | None = 3600 * SECOND  # the most of so long after ready is what growth is measured by; None = off
    factor: float = 1.5  # growth is what is beyond so many times that,
    memory: int = 256 * 1024 * 1024  # and beyond that by so much; of a device's memory too
    descriptors: int = 64
    threads: int = 32
    leak: bool = False  # whether growth that goes on is a verdict


class ProgressSource(NamedTuple):
    """What tells of a worker's progress where its code does not."""

    kind: str  # "sync": the driver shim; "metrics": its own Prometheus endpoint; "http", "command": a probe
    target: tuple[str, ...] = ()  # the URL, or the program and its arguments

    @property
    def is_probe(self) -> bool:
        """Whether it tells only that something answers."""
        return self.kind in {"http", "command"}

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.target)}".rstrip()


class WorkerSettings(NamedTuple):
    name: str
    command: tuple[str, ...]
    accelerator: str | None = None
    instrument: str = "worker"  # who stamps: the worker's own code, or a shim in front of the CUDA "driver"
    check_context: bool = False  # the shim asks which context is current
    sync_mode: str | None = None  # "spin" "yield" "blocking": how its synchronizes wait, set by the shim
    nvtx: bool = False  # the shim is told of its NVTX ranges
    coupled_with: tuple[str, ...] = ()  # accelerators or workers whose hang can freeze this worker
    redundancy: str | None = None  # group of workers that do the same work
    deadlines: Deadlines = Deadlines()
    progress: ProgressSource | None = None
    progress_counter: str | None = None  # series of the program's metrics, such as 'name' or 'name{label="x"}'
    progress_pending: str | None = None
    progress_interval_ns: int = SECOND  # between two attempts, and the longest that one may take
    progress_kills: bool = False  # whether a probe alone may
    ready_after_ns: int | None = None  # after its spawn it counts as ready
    soft: float | None = 0.5  # fraction of a deadline at which a call counts as slow
    on_verdict: str = "restart"  # or "exit": the supervisor ends, and whoever owns it starts both again
    restart: RestartSettings = RestartSettings()
    outputs: OutputSettings = OutputSettings()
    growth: GrowthSettings = GrowthSettings()
    redeliver: bool = False  # what was in flight at its end, to its successor, once
    evidence: str = "memory"  # of an incident: what shared memory says; "full": what collectors get within the budget
    evidence_budget_ns: int = 400 * MILLISECOND  # verdict to kill
    gpu_core_dump: bool = False  # with "full": of the kernels that hang; makes the hung call return
    probe: tuple[str, ...] = ()  # run before the successor of a worker that was killed or crashed
    probe_deadline_ns: int = 10 * SECOND
    required: bool = True
    observe_only: bool = False
    autostart: bool = True
    after: tuple[str, ...] = ()  # workers that are to be ready before it is started with the supervisor
    restart_with: tuple[str, ...] = ()  # workers that are restarted after it was
    stop_timeout_ns: int = 10 * SECOND  # SIGTERM to SIGKILL
    user: str | None = None
    group: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str | None = None
    cpu_affinity: tuple[int, ...] = ()
    nice: int | None = None
    scheduling: str | None = None  # "other" "batch" "idle" "fifo:PRIORITY" "rr:PRIORITY"
    oom_score_adj: int | None = None
    cuda_visible_devices: str | None = None
    output: str = "file"  # "file" "journal" "inherit" "null"
    output_max_bytes: int = 16 * 1024 * 1024
    on_supervisor_exit: str = "kill"
    foreground: bool = False  # of `exec`: with all that we were started with, terminal and standard input included


class SupervisorSettings(NamedTuple):
    runtime_dir: str = "/run/gpu-watchdogd"
    state_dir: str = "/var/lib/gpu-watchdogd"
    stop_timeout_ns: int = 10 * SECOND  # default of every worker's
    kill_grace_ns: int = 5 * SECOND  # SIGKILL to "unkillable"
    max_kills: int = 20
    max_kills_window_ns: int = 60 * SECOND
    observe_only: bool = False
    realtime_priority: int = 1  # SCHED_FIFO, for the supervisor alone; 0 = the normal scheduler
    cpu_affinity: tuple[int, ...] = ()  # for the supervisor alone; () = wherever it was started
    late_margin_ns: int = 20 * MILLISECOND  # a wake-up later than this was a stalled machine
    hold_max_ns: int = 5 * SECOND  # longest deferral of a kill in favour of an older suspect
    events_max_bytes: int = 8 * 1024 * 1024
    log_format: str = "auto"  # or "text" "json" "journal"
    events_file: str | None = None  # of `exec`: where events go instead of to ``state_dir``; never rotated
    worker_slice: str = "gpu-watchdogd-workers.slice"  # of systemd, for a scope per worker; "" = none


class MetricsSettings(NamedTuple):
    listen: str = "127.0.0.1:19877"  # "" = no exporter


class IncidentSettings(NamedTuple):
    max_bytes: int = 256 * 1024 * 1024
    max_count: int = 200  # 0 = none is kept, and no evidence taken
    export_hook: tuple[str, ...] = ()  # given the folder of an incident that is closed
    export_hook_deadline_ns: int = 60 * SECOND
    redact: tuple[str, ...] = ()  # names of variables and options, as fnmatch has them, besides those that are known
    directory: str | None = None  # of `exec`: where they are kept instead of in ``state_dir``


class HooksSettings(NamedTuple):
    on_verdict: tuple[str, ...] = ()
    on_verdict_deadline_ns: int = 200 * MILLISECOND
    veto: bool = False  # whether its answer may delay a kill
    veto_max_ns: int = SECOND  # from the verdict on


@dataclass(frozen=True, slots=True)
class EscalationSettings:
    action: str = "none"  # "service-fail" "reboot"
    ask: tuple[str, ...] = ()  # exit status 0 is its consent
    consent_file: str | None = None  # must be there, too
    consent_timeout_ns: int = 60 * SECOND
    hangs: int = 0  # on one accelerator, within the window; 0 = however many
    window_ns: int = 600 * SECOND
    min_interval_ns: int = 3600 * SECOND
    reboot_command: tuple[str, ...] = ("systemctl", "reboot")
    dry_run: bool = False

    @property
    def enabled(self) -> bool:
        return bool(self.ask or self.consent_file) or self.action != "none"


class SourceSettings(NamedTuple):
    """One load reader: a child process whose lines are samples. An empty command switches it off."""

    name: str  # "tegrastats" "nvml" "nvgpu" "nvdla"
    command: tuple[str, ...]
    interval_ns: int = 500 * MILLISECOND
    frozen_after_ns: int = 3 * SECOND


class KmsgSettings(NamedTuple):
    """The reader of the kernel log: a child process whose lines are the kernel's. An empty command switches it off."""

    command: tuple[str, ...] = ()


class Settings(NamedTuple):
    supervisor: SupervisorSettings
    metrics: MetricsSettings
    sources: tuple[SourceSettings, ...]
    workers: tuple[WorkerSettings, ...]
    files: tuple[str, ...] = ()  # where this came from, for messages
    hooks: HooksSettings = HooksSettings()
    escalation: EscalationSettings = EscalationSettings()
    kmsg: KmsgSettings = KmsgSettings()
    incidents: IncidentSettings = IncidentSettings()

    @property
    def asks_programs(self) -> bool:
        """Whether a program of the integrator may have to be run, other than a worker."""
        probes = any(worker.probe for worker in self.workers)
        return bool(self.hooks.on_verdict) or self.escalation.enabled or probes


# --- observed -------------------------------------------------------------------------------------------------------


class LoadSample(NamedTuple):
    """One accelerator's load at one moment, as one source tells it."""

    accelerator: str  # "gpu0" "dla0" ...
    load_ratio: float | None  # 0.0 to 1.0; None = the source prints no load for it
    name: str | None = None  # the device's own name, where the source knows it
    uuid: str | None = None
    power: str | None = None  # "active" "suspended" ...: what a source tells that knows no load


class DeviceMemory(NamedTuple):
    """What each process holds of all devices' memory, as a source tells it. A pid that is not in it is not known."""

    memory_bytes: Mapping[str, int | None]  # by pid


class Usage(NamedTuple):
    """What the processes of a worker hold together at one moment. The names are those of metrics and events."""

    memory: int | None = None  # bytes that no file backs, resident or swapped out
    device_memory: int | None = None  # bytes
    descriptors: int | None = None
    threads: int | None = None


class KernelKind(str, Enum):
    """What a message of the kernel is about. The text is the label of metrics and events."""

    XID = "xid"
    NOTIFIER = "error_notifier"  # nvgpu's; its numbers are those of Xids
    MMU_FAULT = "mmu_fault"
    SWITCH = "context_switch_timeout"
    CHANNEL = "channel_timeout"
    PREEMPT = "preempt_timeout"
    RELEASE = "release_stuck"  # a channel that the driver cannot let go of: D state
    GPU_DOWN = "gpu_did_not_start"
    NVGPU = "nvgpu_error"  # any other that nvgpu calls an error
    SYNCPOINT = "syncpoint_stuck"
    HOST1X = "host1x_timeout"
    DLA_TIMEOUT = "dla_timeout"
    DLA_RESET = "dla_reset"
    TASK = "task_blocked"  # the kernel's own look at D state


@dataclass(frozen=True, slots=True)
class KernelMessage:
    """One line of the kernel log about an accelerator, as far as it tells."""

    kind: KernelKind
    text: str  # printable, bounded
    number: int | None = None  # of an Xid, an error notifier, a syncpoint; seconds of a task that is blocked
    accelerator: str | None = None
    device: str | None = None  # as the driver calls it: "17000000.gpu", "0000:01:00"
    pid: int | None = None
    name: str | None = None  # of the process or thread
    channel: int | None = None


class Exit(NamedTuple):
    """How a process ended. Both None: it is gone and nobody can know how."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return "exited (status unknown)" if self.code is None else f"exited with status {self.code}"


class ThreadSample(NamedTuple):
    """What the kernel's scheduler says of one thread (``/proc/PID/task/TID/{stat,schedstat}``)."""

    state: str  # R S D T ...
    ran_ns: int
    waited_ns: int  # runnable but not run; a wait that still lasts is not in it


# --- judged ---------------------------------------------------------------------------------------------------------


class Verdict(str, Enum):
    """What the evidence says. The text is the label of metrics and events."""

    STARTUP = "startup"
    FIRST_STEP = "first_step"
    STEP = "step"
    CALL = "call"
    STALL = "stall"
    CRASHED = "crashed"
    EXITED = "exited"
    STICKY_ERROR = "sticky_error"
    SILENT_OUTPUT = "silent_output"
    LEAK = "leak"
    UNREADABLE = "heartbeat_unreadable"
    UNINSTRUMENTED = "uninstrumented"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and the one fact it rests on.

    ``word`` at ``offset`` of the heartbeat is that fact: while it still reads the same, the verdict stands.
    """

    verdict: Verdict
    detected_ns: int
    operation: str | None = None  # for CALL
    entered_ns: int | None = None
    deadline_ns: int | None = None  # the instant, not the length
    word: int | None = None
    offset: int | None = None
    stage: str | None = None
    pid: int | None = None
    tid: int | None = None
    detail: str = ""
    bisected: bool = False  # the worker synchronizes after each stage, so the stage is where it hung


# --- decided --------------------------------------------------------------------------------------------------------


class Phase(str, Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    OBSERVED = "observed"  # running, every verdict recorded, nothing signalled
    PAUSED = "paused"
    TERMINATING = "terminating"
    COLLECTING = "collecting"  # hung, and its evidence is taken; its kill follows
    KILLING = "killing"
    UNKILLABLE = "unkillable"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
