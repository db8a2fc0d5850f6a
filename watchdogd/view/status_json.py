"""Status as a program reads it: ``watchdogd status --json``.

Invariant: pure, and what is not known is null, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from watchdogd.model import SECOND
from watchdogd.view import escalation, progress, shim
from watchdogd.view.status import StatusView, WorkerView, age

SCHEMA = 1


def seconds(value_ns: int | None) -> float | None:
    return None if value_ns is None else round(value_ns / SECOND, 6)


def to_json(view: StatusView) -> dict[str, Any]:
    """The documented object of ``watchdogd status --json``.

    A call's ``deadline_seconds`` is the length configured for its operation, whether it is armed or not: what is armed
    follows from ``phase`` (all in ``running`` and ``observed``, ``startup`` alone in ``starting``, nothing elsewhere).
    Without a supervisor, ages of calls and its uptime end with its last tick.
    """
    return {
        "schema": SCHEMA,
        "supervisor": {
            "pid": view.published.pid,
            "uptime_seconds": seconds(age(view.as_of_ns, view.supervisor.get("started_ns"))),
            "last_tick_age_seconds": seconds(view.last_tick_age_ns),
            "scheduling": view.supervisor.get("scheduling"),
            "memory": view.supervisor.get("memory"),
            "lateness_seconds": {
                "p50": seconds(view.lateness_ns(0.5)),
                "p99": seconds(view.lateness_ns(0.99)),
                "max": seconds(view.lateness_ns(1.0)),
            },
        },
        "escalation": escalation.to_json(view.supervisor.get("escalation"), view.as_of_ns),
        "incidents": view.published.body.get("incidents"),  # None: none are kept
        "workers": [_worker_json(worker, view) for worker in view.workers],
        "accelerators": [
            {
                "name": accelerator["name"],
                "load_ratio": accelerator["load_ratio"],
                "power": accelerator["power"],
                "frozen": accelerator["frozen"],
                "kernel": _said(accelerator["kernel"], view),
                "source": accelerator["source"],
                "age_seconds": seconds(view.since(accelerator["sample_ns"])),
            }
            for accelerator in view.accelerators
        ],
        "holders": [{**holder, "blocked": _blocked(holder["blocked"], view)} for holder in view.holders],
        "sources": [
            {
                "name": source["name"],
                "up": source["up"],
                "age_seconds": seconds(view.since(source["sample_ns"])),
            }
            for source in view.sources
        ],
    }


def _said(message: Mapping[str, Any] | None, view: StatusView) -> dict[str, Any] | None:
    """What the kernel said last."""
    if message is None:
        return None
    told = {key: message[key] for key in ("about", "number", "text", "expected")}
    return told | {"age_seconds": seconds(view.since(message["at_ns"]))}


def _blocked(threads: list[dict[str, Any]], view: StatusView) -> list[dict[str, Any]]:
    return [
        {key: thread[key] for key in ("pid", "tid", "place")} | {"seconds": seconds(view.since(thread["since_ns"]))}
        for thread in threads
    ]


def _worker_json(worker: WorkerView, view: StatusView) -> dict[str, Any]:
    call = worker.call
    return {
        **{key: worker.body[key] for key in ("name", "phase", "pid", "incarnation")},
        "restarts": sum(worker.body["restarts"].values()),
        "budget_left": worker.body["budget_left"],
        "accelerator": worker.body["accelerator"],
        "call": call
        and {
            "operation": call.operation,
            "age_seconds": seconds(call.age_ns),
            "deadline_seconds": seconds(call.deadline_ns),
            "waits_for": None if call.object is None else hex(call.object),
        },
        "sync_seconds": {
            "p50": seconds(worker.sync.quantile_ns(0.5)),
            "p99": seconds(worker.sync.quantile_ns(0.99)),
            "count": worker.sync.count,
        },
        "steps": worker.steps,
        "steps_dropped": worker.body.get("steps_dropped", 0),  # a supervisor of before tells none
        "steps_redelivered": worker.body.get("steps_redelivered", 0),
        "outputs": worker.looked_at,
        "bad_outputs_in_a_row": 0 if worker.bad is None else worker.bad.length,
        "last_step_age_seconds": seconds(age(view.as_of_ns, worker.last_step_ns)),
        "bisect": {"now": worker.bisect, "next": worker.body.get("bisect", {}).get("next")},
        "last_incident": worker.body["last_incident"],
        "kernel": _said(worker.body["kernel"], view),
        "blocked": _blocked(worker.body["blocked"], view),
        "uninstrumented": worker.body["uninstrumented"],
        "shim": shim.to_json(worker, view.as_of_ns),
        "progress": progress.to_json(worker, view.as_of_ns),
        "growth": {
            resource: {key: course[key] for key in ("now", "most", "measured", "limit", "stands")}
            for resource, course in worker.growth.items()
        },
    }
