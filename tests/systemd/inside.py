"""Runs in the booted container, on the installed package: one scenario after the other.

``/mnt`` is shared with the test outside: ``bundle/``, ``tests/`` and ``wanted`` come in, ``results.json`` goes out,
anew after each scenario, so that a container that is ended late has told what it knows. Invariant: every scenario
begins with no supervisor, no worker and an empty state directory.
"""

from __future__ import annotations

import importlib
import json
import time
import traceback
from pathlib import Path
from typing import Any

from tests.systemd.service import Service

SHARED = Path("/mnt")


def perform(name: str) -> dict[str, Any]:
    """One scenario, by ``MODULE.FUNCTION``; its outcome."""
    module, _, function = name.rpartition(".")
    service = Service()
    started = time.monotonic()
    problem: str | None = None
    try:
        service.clear()
        getattr(importlib.import_module(f"tests.systemd.scenarios.{module}"), function)(service)
    except Exception:  # noqa: BLE001 - whatever it is, it is this scenario's outcome
        problem = f"{traceback.format_exc()}\n{service.log()}"
    return {"problem": problem, "seconds": round(time.monotonic() - started, 2), "facts": service.facts}


def main() -> None:
    results: dict[str, dict[str, Any]] = {}
    for name in (SHARED / "wanted").read_text().split():
        results[name] = perform(name)
        tell(results)


def tell(results: dict[str, dict[str, Any]]) -> None:
    part = SHARED / "results.part"
    part.write_text(json.dumps(results))
    part.rename(SHARED / "results.json")


if __name__ == "__main__":
    main()
