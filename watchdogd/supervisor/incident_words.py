"""What an incident says of each worker, and of what the kernel said, as ``incidents.spool`` describes it.

Invariant: it is what the supervisor knows already, but for the name of a thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from watchdogd.act.watched import Watched
from watchdogd.decide.kernel import Told
from watchdogd.decide.suspicion import coupled
from watchdogd.model import Finding
from watchdogd.observe import procfs


def distance(
    watched: Watched, victims: Sequence[Watched], names: set[str], accelerators: set[str | None]
) -> int:  # fmt: skip
    """How far its evidence is from the hang: the victims, their accelerator, what they may have frozen, the others."""
    if watched.settings.name in names:
        return 0
    if watched.settings.accelerator in accelerators:
        return 1
    return 2 if any(coupled(watched.settings, victim.settings) for victim in victims) else 3


def worker(watched: Watched, unread: Mapping[str, str], killed: Mapping[str, int]) -> dict[str, Any]:
    """By name: ``unread``, why nothing could be read; ``killed``, when the last kill for a verdict began."""
    settings, state, name = watched.settings, watched.state, watched.settings.name
    return {
        "name": name, "phase": state.phase.value, "incarnation": state.incarnation,
        "accelerator": settings.accelerator, "pid": watched.process.pid if watched.process else None,
        "coupled_with": settings.coupled_with, "spawned_ns": state.spawned_ns, "ready_ns": state.ready_ns,
        "killed_ns": killed.get(name), "unread": unread.get(name), "orphaned": sorted(watched.examination.orphaned),
    }  # fmt: skip


def thread_named(finding: Finding, pids: Sequence[int]) -> list[dict[str, Any]]:
    """What the thread in the overdue call calls itself, where its ids are ids here as well: it may tell whose call."""
    if finding.operation is None or not finding.tid or finding.pid is None or finding.pid not in pids:
        return []
    name = procfs.name(finding.pid, finding.tid)
    return [{"pid": finding.pid, "tid": finding.tid, "name": name}] if name else []


def kernel_line(told: Told) -> dict[str, Any]:
    message = told.message
    return {
        "at_ns": told.at_ns, "about": message.kind.value, "text": message.text, "number": message.number,
        "worker": told.worker, "accelerator": told.accelerator, "pid": message.pid, "expected": told.expected,
    }  # fmt: skip
