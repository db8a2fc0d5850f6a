"""Whose a message of the kernel is, and whether it was to be expected. Evidence beside a verdict; never kills.

Invariant: pure, and a message condemns nobody: what is attributed to a worker is told beside it, no more. A pid that is
nobody's of ours is nobody's of ours, whatever name stands beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from watchdogd.model import SECOND, Finding, KernelKind, KernelMessage

# Said of the channels of a process that is gone: Xid 45, and nvgpu's notifier 43 (torn down by recovery).
_TORN_DOWN = {(KernelKind.XID, 45), (KernelKind.NOTIFIER, 43)}
KILLED_NS = 60 * SECOND  # how long a pid that we killed is remembered
BEFORE_NS = SECOND  # a fault may come shortly before the call that then hangs
MOST_TOLD = 4  # beside a verdict


@dataclass(frozen=True, slots=True)
class Party:
    """One worker, as far as the kernel may speak of it."""

    name: str
    accelerator: str | None = None
    pids: Collection[int] = ()  # of its process, and of those that have stamped
    names: Collection[str] = ()  # of their threads
    killed: Mapping[int, int] = field(default_factory=dict)  # pids, and when we killed them
    killed_names: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """A message, and whom it is about. ``accelerator``: as it says, or that of its worker."""

    message: KernelMessage
    at_ns: int
    worker: str | None = None
    accelerator: str | None = None
    expected: bool = False


def attribute(
    message: KernelMessage, parties: Sequence[Party], lineage: Collection[int], gpus: Mapping[str, str], now_ns: int
) -> Told:
    """``lineage``: its pid, and those of its ancestors, group and session, as far as it is still there.
    ``gpus``: accelerators by their place on the bus, where that is known."""
    whose, expected = _owner(message, parties, lineage, now_ns)
    accelerator = message.accelerator or gpus.get(message.device or "")
    if accelerator is None and message.kind is KernelKind.XID and whose is not None:
        accelerator = whose.accelerator
    return Told(message, now_ns, None if whose is None else whose.name, accelerator, expected)


def _owner(
    message: KernelMessage, parties: Sequence[Party], lineage: Collection[int], now_ns: int
) -> tuple[Party | None, bool]:
    """The worker it is about, and whether it only tells that we killed it."""
    # Of a channel that an earlier fault took down the driver says so: that fault was not our kill.
    torn_down = (message.kind, message.number) in _TORN_DOWN and "caused by previous Xid" not in message.text
    if message.pid is not None:
        for party in parties:
            if _recent(party.killed, {message.pid, *lineage}, now_ns):
                return party, torn_down
        return next((party for party in parties if set(lineage) & set(party.pids)), None), False
    if message.name is None:
        return None, False
    if torn_down:
        killed = [party for party in parties if _recent(party.killed_names, {message.name}, now_ns)]
        if len(killed) == 1:
            return killed[0], True
    named = [party for party in parties if message.name in party.names]
    return (named[0] if len(named) == 1 else None), False  # of two that are called so, neither


def _recent(killed: Mapping[int, int] | Mapping[str, int], keys: Collection[int | str], now_ns: int) -> bool:
    return any(key in keys and now_ns - at_ns <= KILLED_NS for key, at_ns in killed.items())


def beside(told: Sequence[Told], finding: Finding) -> list[str]:
    """What the kernel said while a verdict came about, newest last: for its record."""
    since_ns = (finding.entered_ns or finding.detected_ns) - BEFORE_NS
    recent = [item for item in told if item.at_ns >= since_ns and not item.expected]
    return [item.message.text for item in recent[-MOST_TOLD:]]
