"""The configuration's keys: name, kind, default and meaning of each, in one table that parsing and README share.

Invariant: every default of a field of ``watchdogd.model`` is read from that field; none is written here again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from watchdogd import abi, duration, model
from watchdogd.config import progress, values
from watchdogd.config.values import Kind, choice_kind, duration_kind, integer_kind

TEGRASTATS_COMMAND = ("tegrastats", "--interval", "500")
CALLS = abi.OPERATIONS[1:]
EVERY_WORKER = "defaults"  # the table whose keys every worker starts from
OF_EACH_WORKER_ALONE = "command"

NO_DEFAULT: Any = object()  # of a key that must be given, or whose default is worked out

_ANY_SOURCE, _ANY_WORKER = model.SourceSettings("", ()), model.WorkerSettings("", ())
_DURATION = duration_kind()
_DURATION_OR_ZERO = duration_kind(zero=True)
_DURATION_OR_UNSET = _DURATION._replace(none="unset")
# A wake-up is late by 50 us, in bad times by 300 us: below 1 ms it is the wake-up that would be judged, not the worker.
_DEADLINE = duration_kind(never=True, least_ns=model.MILLISECOND)


class Key(NamedTuple):
    """One key. A dotted name is a key of a table within the table."""

    name: str
    kind: Kind
    meaning: str
    default: Any = NO_DEFAULT  # as the settings hold it
    shown: str | None = None  # the default in the README where ``default`` does not tell it

    def default_text(self) -> str:
        """The default as one would write it in the file."""
        return _as_toml(self.default, self.kind) if self.shown is None else self.shown


def _as_toml(value: Any, kind: Kind) -> str:
    if value is NO_DEFAULT:
        return "required"
    if value is None:
        return kind.none
    if kind.suffix == "_ns":
        return f'"{duration.show(value)}"'
    if kind is values.SIZE:
        return f'"{value >> 20}MiB"'
    if kind is values.ENVIRONMENT:
        return "{}"
    return json.dumps(value)


def _table(defaults: object, rows: Iterable[tuple[str, Kind, str]], prefix: str = "") -> list[Key]:
    """Keys whose defaults are the fields of ``defaults``."""
    return [Key(prefix + name, kind, text, getattr(defaults, name + kind.suffix)) for name, kind, text in rows]


_SUPERVISOR = _table(
    model.SupervisorSettings(),
    [
        ("runtime_dir", values.DIRECTORY, "heartbeats, snapshot and control socket; emptied by a reboot"),
        ("state_dir", values.DIRECTORY, "events, incidents, counts of calls, the workers' output; survives a reboot"),
        ("stop_timeout", _DURATION_OR_ZERO, "SIGTERM to SIGKILL in an orderly stop"),
        ("kill_grace", _DURATION, "SIGKILL to the verdict that it did not take (`unkillable`)"),
        ("max_kills", integer_kind(1), "kills of all workers together in `max_kills_window`; more are only reported"),
        ("max_kills_window", _DURATION, "the window of `max_kills`"),
        ("observe_only", values.BOOLEAN, "reach and record every verdict, signal nobody"),
        (
            "realtime_priority",
            integer_kind(0, 99),
            "SCHED_FIFO priority of the supervisor alone, if permitted; 0: none",
        ),
        ("cpu_affinity", values.CPUS, 'CPUs of the supervisor alone: `[0]` or `"0-1"`; `[]`: all'),
        ("late_margin", _DURATION, "later than this, a look at the clock (one each so often) tells of a stall"),
        ("hold_max", _DURATION_OR_ZERO, "longest deferral of a kill in favour of a coupled worker that hung earlier"),
        ("events_max_bytes", values.SIZE, "size at which the events file is rotated"),
        (
            "log_format",
            choice_kind("auto", "text", "json", "journal"),
            "the log: lines on standard error, or entries of systemd's journal; auto: journal where standard error is"
            " that, else text",
        ),
        (
            "worker_slice",
            values.SLICE,
            'systemd slice in which each worker gets a scope of its own; `""`: they stay in the supervisor\'s cgroup',
        ),
    ],
)
_METRICS = _table(
    model.MetricsSettings(),
    [("listen", values.LISTEN, 'where the exporter listens; `""`: no exporter; port 0: any free port')],
)
_HOOKS = _table(
    model.HooksSettings(),
    [
        ("on_verdict", values.COMMAND, "program told of each verdict, before the kill; `[]`: none"),
        ("on_verdict_deadline", _DURATION, "verdict to its SIGKILL"),
        ("veto", values.BOOLEAN, "let it delay the kill: exit status 75; the kill then waits for its answer"),
        ("veto_max", _DURATION, "longest such delay, from the verdict on"),
    ],
)
_INCIDENTS = _table(
    model.IncidentSettings(),
    [
        ("max_bytes", values.SIZE, "of all incidents that are kept; the oldest go first"),
        ("max_count", integer_kind(0), "incidents that are kept; 0: none, and no evidence is taken"),
        ("export_hook", values.COMMAND, "program given the folder of each incident that is closed; `[]`: none"),
        ("export_hook_deadline", _DURATION, "its start to its SIGKILL"),
        (
            "redact",
            values.STRINGS,
            'variables and options whose values are not kept, such as `["*_URL"]`, besides those that look secret',
        ),
    ],
)
_ESCALATION = _table(
    model.EscalationSettings(),
    [
        ("action", choice_kind("none", "service-fail", "reboot"), "what is done in the end; see docs/ESCALATION.md"),
        ("ask", values.COMMAND, "program that asks the vehicle for its safe state; exit status 0: it consents"),
        ("consent_file", values.DIRECTORY, "file that must be there for consent, such as one that says it stands"),
        ("consent_timeout", _DURATION, "longest wait for consent; without it nothing is done, and asked again later"),
        ("hangs", integer_kind(0), "hangs on one accelerator within `window` that call for it; 0: none do"),
        ("window", _DURATION, "the window of `hangs`"),
        ("min_interval", _DURATION, "between two escalations, restarts and reboots in between or not"),
        ("reboot_command", values.WORKER_COMMAND, "what reboots"),
        ("dry_run", values.BOOLEAN, "ask nobody, do nothing, record what would be done"),
    ],
)
_FROZEN_AFTER = ("frozen_after", _DURATION, "a load that did not change for so long, with work pending, is frozen")


def _reader(name: str, on_if: str) -> list[Key]:
    return [
        Key("enabled", values.AUTO, f"whether to read {name}; auto: {on_if}", None, '"auto"'),
        *_table(_ANY_SOURCE, [("interval", _DURATION, "time between two samples"), _FROZEN_AFTER]),
        Key("command", values.COMMAND, "the reader to run in place of the built-in one; `[]`: none", shown="built in"),
    ]


_DEADLINES = [
    *_table(
        model.Deadlines(),
        [
            ("startup", _DEADLINE, "spawn to `ready()`"),
            (
                "first_step",
                _DEADLINE,
                "the first step of a process, which may load and compile; `step` holds for the later ones",
            ),
            ("step", _DEADLINE, "every later step; time between two steps is not watched"),
            (
                "progress",
                duration_kind(never=True, least_ns=100 * model.MILLISECOND),
                "work pending with no progress, as `progress` tells; or its probe failing",
            ),
        ],
        "deadlines.",
    ),
    *(
        Key(
            f"deadlines.{call}",
            _DEADLINE,
            f"one blocking `{call}` call",
            model.Deadlines().calls_ns[abi.OPERATION[call]],
        )
        for call in CALLS
    ),
]
_RESTART = _table(
    model.RestartSettings(),
    [
        ("backoff", _DURATION, "wait before the second restart in a row; doubles with each (the first is immediate)"),
        ("backoff_max", _DURATION, "longest wait before a restart"),
        ("budget", integer_kind(1), "restarts in `restart.window`"),
        ("window", _DURATION, "the window of `restart.budget`"),
        (
            "when_spent",
            choice_kind("quarantine", "retry-slowly"),
            "budget spent: wait for `watchdogd reset`, or go on at `backoff_max`",
        ),
        (
            "bisect_after",
            integer_kind(0),
            "kills for hangs whose stage does not tell where, to turn on `watchdogd bisect` until the next; 0: never",
        ),
        (
            "before_exit",
            integer_kind(0),
            'with `on_verdict = "exit"`: restarts after verdicts before the supervisor ends; 0: none',
        ),
    ],
    "restart.",
)
_IN_A_ROW = integer_kind(0, abi.MOST_IN_A_ROW)
_BAD_IN_A_ROW = "outputs in a row that the worker itself found bad, for which it is replaced; 0: none"
_OUTPUTS = _table(model.OutputSettings(), [("bad_in_a_row", _IN_A_ROW, _BAD_IN_A_ROW)], "outputs.")
_GROWTH = _table(
    model.GrowthSettings(),
    [
        (
            "baseline",
            duration_kind(never=True, least_ns=model.SECOND),
            "what it holds is measured against the most of so long after `ready()`; never: it is not looked at",
        ),
        ("factor", values.FACTOR, "growth is what is beyond so many times that most,"),
        ("memory", values.SIZE, "and above it by so much memory (its own, or of a GPU),"),
        ("descriptors", integer_kind(1), "by so many open descriptors,"),
        ("threads", integer_kind(1), "or by so many threads"),
        ("leak", values.BOOLEAN, "growth that has doubled since it was told of is the verdict `leak`"),
    ],
    "growth.",
)
_WORKER = [
    Key("command", values.WORKER_COMMAND, "program and arguments; no shell"),
    *_table(
        _ANY_WORKER,
        [
            (
                "accelerator",
                values.ACCELERATOR_NAME,
                'what it runs on: `"gpuN"` or `"dlaN"`, as NVML and tegrastats count',
            ),
            (
                "instrument",
                choice_kind("worker", "driver"),
                "who stamps its calls: the worker's own code, or a shim before the CUDA driver (no change of code)",
            ),
            (
                "check_context",
                values.BOOLEAN,
                "with the shim: count calls whose context is not the one that their thread used before",
            ),
            (
                "sync_mode",
                choice_kind("spin", "yield", "blocking"),
                "with the shim: how its synchronizes wait, set as a context is made; unset: as the program asks",
            ),
            (
                "nvtx",
                values.BOOLEAN,
                "with the shim: the innermost open NVTX range of a thread is its stage; takes the place of a profiler",
            ),
            (
                "coupled_with",
                values.STRINGS,
                "accelerators or workers that a hang of this one can freeze, or the other way round;"
                " those of one accelerator are coupled anyway",
            ),
            (
                "redundancy",
                values.GROUP,
                "group of workers that do the same work: no two are down together by our hand",
            ),
        ],
    ),
    *_DEADLINES,
    *_table(
        _ANY_WORKER,
        [
            (
                "progress",
                progress.PROGRESS,
                'what tells that it gets on, without its code: `"sync"` (the driver shim), `"metrics:URL"`,'
                ' or a probe: `"http://..."`, `"command:PROGRAM ARGUMENTS"`',
            ),
            ("progress_counter", progress.SERIES, "with `metrics:`: the series that grows with its work"),
            ("progress_pending", progress.SERIES, "with `metrics:`: the gauge of its work in hand; 0: it is idle"),
            ("progress_interval", _DURATION, "time between two attempts, and the longest that one may take"),
            ("progress_kills", values.BOOLEAN, "replace it for a probe that fails; false: only tell of it"),
            ("ready_after", _DURATION_OR_UNSET, "so long after its spawn it counts as ready, if it does not before"),
            ("soft", values.FRACTION, "fraction of a deadline from which a call counts as slow"),
            (
                "on_verdict",
                choice_kind("restart", "exit"),
                "exit: once a verdict (or it itself) has ended it, the supervisor ends the others and itself, with"
                " status 124 (or its); whoever owns it (kubelet, ros2 launch, systemd) starts all again",
            ),
        ],
    ),
    *_RESTART,
    *_OUTPUTS,
    *_GROWTH,
    *_table(
        _ANY_WORKER,
        [
            (
                "evidence",
                choice_kind("memory", "full"),
                "of a hang, before its kill: what shared memory says, or what collectors get within `evidence_budget`",
            ),
            ("evidence_budget", _DURATION, 'with `"full"`: the verdict to the kill'),
            (
                "gpu_core_dump",
                values.BOOLEAN,
                'with `"full"`: a core dump of the GPU, which names the kernel that hangs; see docs/INCIDENTS.md',
            ),
            (
                "probe",
                values.PROBE,
                "what finds out, after a kill or a crash, if its accelerator is usable; `[]`: nothing",
            ),
            ("probe_deadline", _DURATION, "longest such probe; later it is not usable"),
            (
                "redeliver",
                values.BOOLEAN,
                "give requests in flight at its end back to its successor, once each; false: count them as dropped",
            ),
            ("required", values.BOOLEAN, "whether `/readyz` needs it"),
            ("observe_only", values.BOOLEAN, "reach and record its verdicts, never signal it"),
            ("autostart", values.BOOLEAN, "start it with the supervisor"),
            ("after", values.STRINGS, "workers to be ready before it is started with the supervisor, or late by then"),
            (
                "restart_with",
                values.COMPANY,
                "workers restarted one by one when it was, or a group that does so mutually",
            ),
        ],
    ),
    Key(
        "stop_timeout",
        _DURATION_OR_ZERO,
        "SIGTERM to SIGKILL in an orderly stop of this worker",
        shown="the supervisor's",
    ),
    *_table(
        _ANY_WORKER,
        [
            ("user", values.TEXT, "run as this user (the supervisor must be root)"),
            ("group", values.TEXT, "run as this group (the supervisor must be root)"),
            ("environment", values.ENVIRONMENT, "variables added to the supervisor's own"),
            ("working_directory", values.DIRECTORY, "where it starts; unset: where the supervisor did"),
            ("cpu_affinity", values.CPUS, 'CPUs it may use, of those that exist: `[0, 1]` or `"0-3,5"`; `[]`: all'),
            ("nice", integer_kind(-20, 19), "its nice value"),
            ("scheduling", values.SCHEDULING, '`"other"` `"batch"` `"idle"` `"fifo:10"` `"rr:10"`'),
            ("oom_score_adj", integer_kind(-1000, 1000), "how soon the kernel kills it when memory is short"),
            ("cuda_visible_devices", values.TEXT, "its `CUDA_VISIBLE_DEVICES`"),
            ("output", choice_kind("file", "journal", "inherit", "null"), "where its standard output and error go"),
            ("output_max_bytes", values.SIZE, "size at which its output file is rotated"),
            (
                "on_supervisor_exit",
                choice_kind("kill", "keep"),
                "what becomes of it when the supervisor dies",
            ),
        ],
    ),
]

TABLES: dict[str, dict[str, Key]] = {
    table: {key.name: key for key in keys}
    for table, keys in {
        "supervisor": _SUPERVISOR,
        "metrics": _METRICS,
        "hooks": _HOOKS,
        "escalation": _ESCALATION,
        "incidents": _INCIDENTS,
        "tegrastats": [
            Key(
                "command",
                values.COMMAND,
                "the program and its arguments, `--interval` among them; `[]`: off",
                TEGRASTATS_COMMAND,
                _as_toml(TEGRASTATS_COMMAND, values.COMMAND) + " if it is on PATH, else `[]`",
            ),
            *_table(_ANY_SOURCE, [_FROZEN_AFTER]),
        ],
        "nvml": _reader("the load from NVML", "pynvml and an NVIDIA driver are there"),
        "nvgpu": _reader("the load from the nvgpu driver's `load` file", "there is one, and tegrastats is off"),
        "nvdla": _reader("the power state of the DLAs", "there is one"),
        "kmsg": [
            Key("enabled", values.AUTO, "whether to read the kernel log; auto: /dev/kmsg is there", None, '"auto"'),
            Key(
                "command",
                values.COMMAND,
                'what prints it, in place of the built-in reader, such as `["journalctl", "-kf", "-n0", "-o", "cat"]`;'
                " `[]`: none",
                shown="built in",
            ),
        ],
        "workers.NAME": _WORKER,
    }.items()
}


def markdown() -> str:
    """The README's table of every key."""
    lines = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    for table, keys in TABLES.items():
        lines.append(f"| **`[{table}]`** | | | |")
        for key in keys.values():
            kind, default = (text if "`" in text else f"`{text}`" for text in (key.kind.name, key.default_text()))
            lines.append(f"| `{key.name}` | {kind} | {default} | {key.meaning} |")
    return "\n".join(lines) + "\n"
