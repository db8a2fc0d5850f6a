"""The metric families: names, help and samples, from one reading of everything.

Invariant: what is unknown has no sample; every label has a bounded set of values; a counter has its sample from the
start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

import watchdogd
from watchdogd import abi
from watchdogd.decide.escalation_orders import Stage
from watchdogd.decide.orders import ASKED_FOR
from watchdogd.exporter.buckets import LATENESS_NS, WITHOUT_DEADLINE_NS, around
from watchdogd.exporter.history import Totals
from watchdogd.exporter.text import Pairs, cumulated, histogram, plain
from watchdogd.model import SECOND, Phase, Usage, Verdict
from watchdogd.publish.board import Published
from watchdogd.publish.snapshot import HANG_KEYS, RECOVERY_BOUNDS_NS

PHASES = tuple(phase.value for phase in Phase)
STAGES = tuple(stage.value for stage in Stage)
REASONS = (*(verdict.value for verdict in Verdict), *sorted(ASKED_FOR))


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """Sums over a worker's processes; None = could not be read."""

    resident_bytes: int | None
    descriptors: int | None
    threads: int | None


@dataclass(frozen=True, slots=True)
class Worker:
    body: Mapping[str, Any]
    totals: Totals
    in_flight: Mapping[str, int]  # age in ns, by operation
    started_at: float | None
    last_step_at: float | None
    processes: ProcessSample | None

    @property
    def name(self) -> str:
        return str(self.body["name"])


def _rows(label: str, values: Iterable[tuple[str, float | None]]) -> Iterator[tuple[Pairs, float | None]]:
    """Samples that differ in one label."""
    return ((((label, of),), value) for of, value in values)


def _by_any(accelerators: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[str, float]]:
    """1 where any of an accelerator's sources tells so: there may be two of them."""
    for name in dict.fromkeys(accelerator["name"] for accelerator in accelerators):
        yield name, any(accelerator[key] for accelerator in accelerators if accelerator["name"] == name)


def build_info() -> Metric:
    return plain("build_info", "gauge", "Version of watchdogd.", _rows("version", [(watchdogd.__version__, 1)]))


def supervisor_up(up: bool) -> Metric:
    return plain("supervisor_up", "gauge", "1 while the supervisor completes its ticks, else 0.", [((), up)])


def of_supervisor(published: Published, now_ns: int, wall_seconds: float) -> Iterator[Metric]:
    def unix(then_ns: int | None) -> float | None:
        return wall_seconds - (now_ns - then_ns) / SECOND if then_ns else None

    text = "When the supervisor last completed a tick (Unix time)."
    yield plain("last_tick_timestamp_seconds", "gauge", text, [((), unix(published.last_tick_ns))])
    for name, text in (
        ("tick_duration", "How long the supervisor's ticks take."),
        ("wakeup_lateness", "How late the supervisor woke up after the moment it had chosen."),
        ("detection_lateness", "From a deadline's moment to the verdict."),
    ):
        yield histogram(f"{name}_seconds", text, [((), LATENESS_NS, published.histograms[name])])
    events = published.body.get("events", {})
    yield plain("events_written", "counter", "Events recorded.", [((), events.get("written", 0))])
    yield plain("events_dropped", "counter", "Events that could not be recorded.", [((), events.get("dropped", 0))])
    text = "Events that a storm had too many of to be recorded."
    yield plain("events_suppressed", "counter", text, [((), events.get("suppressed", 0))])

    reload = published.body.get("supervisor", {}).get("reload", {})
    text = "0 if the last configuration asked to be loaded was refused, else 1."
    yield plain("config_last_reload_successful", "gauge", text, [((), reload.get("outcome") != "refused")])

    escalation = published.body.get("supervisor", {}).get("escalation")
    stages = ((stage, stage == escalation["stage"]) for stage in STAGES) if escalation else ()
    yield plain("escalation_stage", "gauge", "1 for the stage the escalation is in.", _rows("stage", stages))

    sources = published.body.get("sources", [])
    for name, kind, text, value in (
        ("up", "gauge", "1 while a load source delivers samples in time.", lambda s: s["up"]),
        ("last_sample_timestamp_seconds", "gauge", "Its last sample (Unix time).", lambda s: unix(s["sample_ns"])),
        ("restarts", "counter", "Restarts of a load source's reader.", lambda s: s["restarts"]),
        ("bad_lines", "counter", "Lines of a load source that could not be understood.", lambda s: s["bad_lines"]),
    ):
        yield plain(f"source_{name}", kind, text, _rows("source", ((s["name"], value(s)) for s in sources)))

    said = published.body.get("kernel") or {"messages": {}, "lost": None}
    text = "Messages of the kernel about accelerators, by what they are about; expected: after our own kill."
    yield plain("kernel_messages", "counter", text, _rows("about", said["messages"].items()))
    text = "Lines of the kernel log that came too fast to be read."
    yield plain("kernel_lines_lost", "counter", text, [((), said["lost"])])
    accelerators = published.body.get("accelerators", [])
    up = {source["name"] for source in sources if source["up"]}
    text = "Load from 0 to 1, while its source is up and tells one."
    loads = (
        ((("accelerator", a["name"]), ("source", a["source"])), a["load_ratio"])
        for a in accelerators
        if a["source"] in up
    )
    yield plain("accelerator_load_ratio", "gauge", text, loads)
    text = "1 while a load is constant although work is outstanding."
    yield plain("accelerator_frozen", "gauge", text, _rows("accelerator", _by_any(accelerators, "frozen")))
    text = "1 while an accelerator is busy although none of its workers is there."
    yield plain("accelerator_ghost_load", "gauge", text, _rows("accelerator", _by_any(accelerators, "ghost")))
    text = "1 while an accelerator is blocked: by an unkillable worker, or its probe says that it is not usable."
    yield plain("accelerator_blocked", "gauge", text, _rows("accelerator", _by_any(accelerators, "blocked_by")))
    devices = (
        ((("accelerator", a["name"]), ("uuid", a["uuid"] or ""), ("name", a["device"] or "")), 1)
        for a in accelerators
        if a["device"] or a["uuid"]
    )
    yield plain("accelerator_info", "gauge", "Which device an accelerator is.", devices)


# --- workers --------------------------------------------------------------------------------------------------------

_Value = Callable[[Worker], float | None]
_Values = Callable[[Worker], Iterable[tuple[str, float]]]


def _process(name: str) -> _Value:
    return lambda worker: getattr(worker.processes, name, None)


def _growth(worker: Worker, resource: str, key: str) -> float | None:
    value: float | None = worker.body.get("growth", {}).get(resource, {}).get(key)
    return value


def _gets_on(key: str) -> _Value:
    """Of those that have such a source."""

    def value(worker: Worker) -> float | None:
        told = worker.body.get("progress")
        return None if told is None else bool(told[key]) ^ (key == "unknown")

    return value


def _in_flight_at_an_end(then: str) -> _Value:
    return lambda worker: worker.body.get(f"steps_{then}", 0)  # a supervisor of before tells none


def _work(place: int) -> _Value:
    """Of workers with a driver shim alone."""
    return lambda worker: worker.totals.work[place] if worker.body.get("shim") is not None else None


_SIMPLE: tuple[tuple[str, str, str, _Value], ...] = (
    ("near_misses", "counter", "Overdue calls that returned before the kill.", lambda w: w.body["near_misses"]),
    ("soft_exceeded", "counter", "Deadlines of which the soft part was used up.", lambda w: w.body["soft_exceeded"]),
    ("would_have_killed", "counter", "Verdicts on an observed worker.", lambda w: w.body["would_have_killed"]),
    ("steps", "counter", "Steps done, over all incarnations.", lambda w: w.totals.steps),
    ("steps_dropped", "counter", "Steps in flight at an end, not given back.", _in_flight_at_an_end("dropped")),
    ("steps_redelivered", "counter", "Steps in flight at an end, given back.", _in_flight_at_an_end("redelivered")),
    ("laneless_threads", "counter", "Threads that found no lane: not watched.", lambda w: w.totals.laneless),
    ("last_step_timestamp_seconds", "gauge", "When its last step ended (Unix time).", lambda w: w.last_step_at),
    ("worker_start_time_seconds", "gauge", "When its process was spawned (Unix time).", lambda w: w.started_at),
    ("worker_resident_memory_bytes", "gauge", "Resident memory of its processes.", _process("resident_bytes")),
    ("worker_open_fds", "gauge", "Open descriptors of its processes.", _process("descriptors")),
    ("worker_threads", "gauge", "Threads of its processes.", _process("threads")),
    (
        "worker_device_memory_bytes",
        "gauge",
        "Memory of GPUs that its processes hold, where NVML tells.",
        lambda w: _growth(w, "device_memory", "now"),
    ),
    ("worker_restart_budget_left", "gauge", "Restarts left until quarantine.", lambda w: w.body["budget_left"]),
    ("worker_held", "gauge", "1 while a verdict stands and its kill waits.", lambda w: w.body["held"] is not None),
    ("worker_uninstrumented", "gauge", "1 while no call is stamped.", lambda w: w.body["uninstrumented"]),
    ("work_queued", "counter", "Launches and asynchronous copies that its driver shim saw.", _work(0)),
    ("work_completed", "counter", "Waits for work that returned success, as its driver shim saw.", _work(1)),
    ("context_misuses", "counter", "Calls with another context than the thread used before.", _work(2)),
    ("worker_progress_up", "gauge", "1 while its source of progress tells, 0 if nobody knows.", _gets_on("unknown")),
    ("worker_progress_failing", "gauge", "1 while its probe fails, for which it is not ended.", _gets_on("failing")),
    ("worker_heartbeat_up", "gauge", "0 if it cannot be believed.", lambda w: w.body["heartbeat_error"] is None),
)
_LABELLED: tuple[tuple[str, str, str, str, _Values], ...] = (
    (
        "worker_phase",
        "gauge",
        "1 for the phase a worker is in, 0 for the others.",
        "phase",
        lambda w: ((phase, phase == w.body["phase"]) for phase in PHASES),
    ),
    (
        "worker_restarts",
        "counter",
        "Restarts by what led to them.",
        "reason",
        lambda w: ((reason, w.body["restarts"].get(reason, 0)) for reason in REASONS),
    ),
    (
        "hangs",
        "counter",
        "Deadlines missed, by the call's operation or the kind of deadline.",
        "operation",
        lambda w: ((key, w.body["hangs"].get(key, 0)) for key in HANG_KEYS),
    ),
    (
        "outputs",
        "counter",
        "Outputs that the worker looked at, by what they were.",
        "kind",
        lambda w: w.totals.outputs.items(),
    ),
    (
        "worker_growth",
        "gauge",
        "1 while it holds more than its limit, which follows from its first hour, and was told of for it.",
        "resource",
        lambda w: ((resource, bool(_growth(w, resource, "stands"))) for resource in Usage._fields),
    ),
    (
        "call_in_flight_seconds",
        "gauge",
        "Age of the oldest call in flight.",
        "operation",
        lambda w: ((name, age_ns / SECOND) for name, age_ns in w.in_flight.items()),
    ),
    (
        "call_deadline_seconds",
        "gauge",
        "How long a call (or startup, a step) may take, where that is limited.",
        "operation",
        lambda w: w.body["deadlines"].items(),
    ),
)


def of_workers(workers: Sequence[Worker]) -> Iterator[Metric]:
    for name, kind, text, value in _SIMPLE:
        yield plain(name, kind, text, _rows("worker", ((w.name, value(w)) for w in workers)))
    examples = dict(filter(None, map(_example, workers)))
    for name, kind, text, label, values in _LABELLED:
        rows = (((("worker", w.name), (label, of)), number) for w in workers for of, number in values(w))
        yield plain(name, kind, text, rows, examples if name == "hangs" else {})
    durations = (
        ((("worker", w.name), ("operation", operation)), _bounds(w, operation), w.totals.histograms[operation])
        for w in workers
        for operation in abi.OPERATIONS[1:]
    )
    text = "Durations of calls; the bounds lie around the operation's deadline."
    yield histogram("call_duration_seconds", text, durations)
    recoveries = (
        (
            (("worker", w.name),),
            RECOVERY_BOUNDS_NS,
            list(accumulate(w.body["recovery"]["counts"])),
            w.body["recovery"]["total_ns"],
        )
        for w in workers
    )
    text = "From the entry of the call that hung to its successor being ready."
    yield cumulated("recovery_duration_seconds", text, recoveries)


def _example(worker: Worker) -> tuple[Pairs, Exemplar] | None:
    """The labels of the counter that a worker's last hang is in, and its incident; never a label: each is new."""
    last = worker.body["last_incident"]
    if last is None:
        return None
    key = last["operation"] or last["verdict"]
    began = datetime.fromisoformat(str(last["time"]).replace("Z", "+00:00")).timestamp()
    example = Exemplar({"incident": str(last["id"])}, 1, began)
    return ((("worker", worker.name), ("operation", key)), example)


def _bounds(worker: Worker, operation: str) -> tuple[int, ...]:
    deadline = worker.body["deadlines"].get(operation)
    return WITHOUT_DEADLINE_NS if deadline is None else around(round(deadline * SECOND))
