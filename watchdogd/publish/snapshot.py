"""The body of a snapshot: what the supervisor knows, as one JSON object for the board.

Everything a reader can take from a heartbeat itself (the call in flight, histograms, steps) is not in here: readers
open the worker's ``heartbeat`` file. Times are ``_ns`` of CLOCK_MONOTONIC, to be compared with the board's
``last_tick_ns`` and ``now``.

::

    {"schema": 1,
     "supervisor": {"version", "started_ns", "observe_only", "runtime_dir", "state_dir", "config": [FILE, ...],
                    "metrics": "HOST:PORT" or null, "stopping": bool, "scheduling", "memory", "scopes",
                    "time_namespace": inode or null,   (whose CLOCK_MONOTONIC all times here are of)
                    "kills": [instants of those in ``max_kills_window``; for the next supervisor],
                    "reload": {"asked": count, "outcome": null, "checking", "refused" or "done",
                               "problem": text or null},
                    "escalation": {"stage", "since_ns", "deadline_ns" or null, "action", "dry_run": bool,
                                    "consent_file": FILE or null, "causes": [text, ...],
                                    "ways_out": [COMMAND, ...], "refused": [text, ...], "last": text or null,
                                    "remembered": {what only the next supervisor needs}} or null},
     "workers": [{"name", "phase", "phase_since_ns", "required", "observe_only", "accelerator", "note",
                  "pid" or null, "incarnation", "heartbeat": FILE or null, "spawned_ns" or null, "ready_ns" or null,
                  "restarts": {VERDICT, "operator", "supervisor" or "restart_with": count}, "budget_left" (0 in
                  quarantine), "next_start_ns" or null, "unusable" (probes in a row that said so),
                  "bisect": {"next": "operator", "bisect_after" or null (who wants its next incarnation to synchronize
                             after each stage), "now": bool (this one was asked to)},
                  "remembered": {what only the next supervisor needs, see ``memory``},
                  "deadlines": {"startup" "first_step" "step" "sync" ...: seconds, only those that are set},
                  "soft" or null, "bad_in_a_row": of outputs, for a verdict; 0 = none is,
                  "hangs": {OPERATION: count}, "would_have_killed", "near_misses", "soft_exceeded",
                  "uninstrumented": bool, "shim": {"driver": FILE or null, "loaded": bool, "why": text (what of its CUDA
                  cannot be seen) or ""} or null (it has none),
                  "heartbeat_error": text or null, "last_error": CUresult or null,
                  "held": text or null,   (a verdict stands, its kill waits; why)
                  "steps_dropped", "steps_redelivered" (in flight at an end, and given back to a successor or not),
                  "recovery": {"counts": [per RECOVERY_BOUNDS_NS, then the rest], "total_ns"},
                  "last_incident": {"id", "verdict", "operation" or null, "time": RFC 3339,
                                    "stage" where it was in one, "bisected": true where it synchronizes after each
                                    stage (then "stage" is there, or null),
                                    "outcome": as in ``orders.CloseIncident``, once it is over} or null,
                  "kernel": {"about", "number" or null, "text", "at_ns", "expected": bool} or null (what the kernel
                  said of it last), "blocked": [{"pid", "tid", "since_ns", "place" or null}] (threads in D state),
                  "growth": {RESOURCE: {"now" or null, "most" (of its first hour), "measured": bool (that is over),
                                        "limit", "stands": bool (told of, and not back), "times" (told of), "text",
                                        the rest as in ``decide.growth.Course``}},
                  "progress": {"kind", "source": text, "value" or null, "moved_ns" or null, "pending": text or null,
                               "pending_since_ns" or null, "unknown": why nobody knows, or "",
                               "silent_since_ns" or null (of its reader), "failed": of a probe, why, or "",
                               "failing": bool (for so long that it was told)} or null}],
     "accelerators": [{"name", "load_ratio" or null, "power": text or null, "frozen": bool, "source", "sample_ns",
                       "device" or null, "ghost": bool (busy, and no worker is there), "uuid" or null,
                       "blocked_by": worker or null, "kernel": as a worker's}],
     "kernel": {"messages": {count by kind, and "expected"}, "lost"} or null without a kernel log,
     "holders": [{"pid", "name", "devices": [path], "worker" or null,
                  "blocked": [as a worker's]}] (of an accelerator: in D state, or there while its load is a ghost),
     "sources": [{"name", "load": bool (false: the kernel log), "up": bool, "sample_ns" or null, "restarts",
                  "bad_lines", "note"}],
     "incidents": {"kept", "bytes", "error", "last", "tools": {COLLECTOR: null, or what to do about its absence} (each
                   null while nothing is known), "unfinished", "lost" (not kept, or not all of it)} or null (none is),
     "events": {"written", "dropped", "suppressed" (by a storm, see ``throttle.py``), "error" or null}}

``hangs`` counts verdicts startup, first_step, step, stall and call; its keys are the call's operation, or the verdict
for the others. Invariant: pure; equal inputs give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from watchdogd import abi
from watchdogd.model import MILLISECOND, SECOND, Deadlines

SCHEMA = 1
RECOVERY_BOUNDS_NS = tuple(
    ms * MILLISECOND for ms in (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 180_000)
)
HANG_KEYS = ("startup", "first_step", "step", "stall", *abi.OPERATIONS[1:])


def fragment(value: Mapping[str, Any]) -> str:
    """One worker's (or source's) object, encoded; kept and reused until it changes."""
    return json.dumps(value, separators=(",", ":"))


def body(
    supervisor: Mapping[str, Any],
    workers: Iterable[str],
    accelerators: Iterable[Mapping[str, Any]],
    sources: Iterable[Mapping[str, Any]],
    events: Mapping[str, Any],
    kernel: Mapping[str, Any] | None = None,
    holders: Iterable[Mapping[str, Any]] = (),
    incidents: Mapping[str, Any] | None = None,
) -> bytes:
    """The whole object from its parts; ``workers`` are fragments."""
    rest = fragment(
        {
            "schema": SCHEMA,
            "supervisor": supervisor,
            "accelerators": list(accelerators),
            "sources": list(sources),
            "events": events,
            "kernel": kernel,
            "holders": list(holders),
            "incidents": incidents,
        }
    )
    return f'{rest[:-1]},"workers":[{",".join(workers)}]}}'.encode()


def deadlines_seconds(deadlines: Deadlines) -> dict[str, float]:
    """Only those that are set, by their names in the configuration, in seconds."""
    named = {"startup": deadlines.startup_ns, "first_step": deadlines.first_step_ns, "step": deadlines.step_ns}
    named["progress"] = deadlines.progress_ns
    named |= {abi.OPERATIONS[code]: value for code, value in enumerate(deadlines.calls_ns)}
    return {name: value / SECOND for name, value in named.items() if value is not None}
