"""Whether the supervisor ticks (``/healthz``) and whether its workers may take work (``/readyz``).

Invariant: a load source never makes ``/healthz`` fail, and whatever is not good is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from watchdogd.publish import board
from watchdogd.view import status, status_json

Answer = tuple[bool, dict[str, Any]]
Judge = Callable[[str, int], Answer]


def healthz(runtime_dir: str, now_ns: int) -> Answer:
    """200 while ticks complete."""
    try:
        published = board.read(os.path.join(runtime_dir, board.FILE_NAME))
    except board.BoardError as error:
        return False, {"ok": False, "last_tick_age_seconds": None, "reason": str(error)}
    fault = status.fault(published, now_ns)
    age = status_json.seconds(status.age(now_ns, published.last_tick_ns or None))
    return fault is None, {"ok": fault is None, "last_tick_age_seconds": age, "reason": fault}


def readyz(runtime_dir: str, now_ns: int) -> Answer:
    """200 while every required worker runs and every source of a load is fresh."""
    try:
        view = status.collect(runtime_dir, now_ns)
    except board.BoardError as error:
        return False, {"ok": False, "reasons": [str(error)]}
    reasons = unready(view)
    return not reasons, {"ok": not reasons, "reasons": reasons}


def unready(view: status.StatusView) -> list[str]:
    """Why work should not be given to the workers; nothing if it may."""
    reasons = [f"supervisor: {view.fault}"] if view.fault else []
    if "supervisor" not in view.published.body:
        reasons.append("supervisor: has not published anything yet")
    for worker in view.workers:
        if worker.body["required"] and worker.phase not in status.MAY_TAKE_WORK:
            reasons.append(f"worker {worker.name}: {worker.phase.value}")
        elif worker.body["required"] and worker.body["held"]:
            reasons.append(f"worker {worker.name}: a verdict stands, its kill waits")
    # Without the kernel log there is less evidence; without a load, work may go to an accelerator that is stuck.
    reasons += [f"source {source['name']}: silent" for source in view.sources if source["load"] and not source["up"]]
    return reasons
