"""What an incident says of each worker, and of what the kernel said, as ``incidents.spool`` describes it.

Invariant: nothing is read here; it is what the supervisor knows already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from watchdogd.act.watched import Watched
from watchdogd.decide.kernel import Told
from watchdogd.decide.suspicion import coupled


def distance(
    watched: Watched, victims: Sequence[Watched], names: set[str], accelerators: set[str | None]
) -> int:  # fmt: skip
    """How far its evidence is from the hang: the victims, their accelerator, what they may have frozen, the others."""
    if watched.settings.name in names:
        return 0
    if watched.settings.accelerator in accelerators:
        return 1
    return 2 if any(coupled(watched.settings, victim.settings) for victim in victims) else 3


def worker(watched: Watched, unread: str | None) -> dict[str, Any]:
    settings, state = watched.settings, watched.state
    return {
        "name": settings.name, "phase": state.phase.value, "incarnation": state.incarnation,
        "accelerator": settings.accelerator, "pid": watched.process.pid if watched.process else None,
        "coupled_with": settings.coupled_with, "spawned_ns": state.spawned_ns, "ready_ns": state.ready_ns,
        "unread": unread, "orphaned": sorted(watched.examination.orphaned),
    }  # fmt: skip


def kernel_line(told: Told) -> dict[str, Any]:
    message = told.message
    return {
        "at_ns": told.at_ns, "about": message.kind.value, "text": message.text, "number": message.number,
        "worker": told.worker, "accelerator": told.accelerator, "pid": message.pid, "expected": told.expected,
    }  # fmt: skip
