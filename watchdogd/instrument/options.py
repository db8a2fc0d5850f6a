"""What the driver shim of a worker is asked to do, as the supervisor writes it into the header of its heartbeat.

Invariant: settings in, one word out; a worker that stamps itself gets 0.
"""

from __future__ import annotations

from watchdogd.abi_driver import OPTION
from watchdogd.model import WorkerSettings


def asked(settings: WorkerSettings) -> int:
    """The header's word ``driver``."""
    if settings.instrument != "driver":
        return 0
    names = {"ready_on_sync": ready_on_sync(settings), "check_context": settings.check_context}
    word = sum(OPTION[name] for name, on in names.items() if on)
    return word if settings.sync_mode is None else word | OPTION[f"sync_{settings.sync_mode}"]


def ready_on_sync(settings: WorkerSettings) -> bool:
    """Whether its first completed synchronize makes it ready: the one place where that is decided.

    A probe knows better: a program may synchronize long before it serves.
    """
    probed = settings.progress is not None and settings.progress.is_probe
    return settings.instrument == "driver" and not probed
