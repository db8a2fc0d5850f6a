"""Collectors of evidence that behave as their names say, for a keeper under test."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from watchdogd.incident import Thread
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target

SITE = Path(__file__).resolve().parent / "collecting"


def environment(root: Path, names: str) -> dict[str, str]:
    """For a supervisor whose keeper is to have these."""
    return {"PYTHONPATH": f"{SITE}:{root}", "WATCHDOGD_TEST_COLLECTORS": names}


def _works(target: Target) -> Evidence:
    with open(os.path.join(target.folder, "works.txt"), "w", encoding="ascii") as file:
        file.write("found")
    return Evidence(threads=tuple(Thread(pid, pid, "seen") for pid in target.pids), files=("works.txt",))


def _hangs(_target: Target) -> Evidence:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(600)
    return Evidence()


def _fails(_target: Target) -> Evidence:
    raise RuntimeError("as it was asked to")


def _floods(target: Target) -> Evidence:
    with open(os.path.join(target.folder, "flood"), "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))


def _dumps(_target: Target) -> Evidence:
    """What makes the hung call return: the worker waits for this file."""
    Path(os.environ["HERE"], "dumped").touch()
    time.sleep(0.05)
    return Evidence(files=())


def _dumps_and_hangs(target: Target) -> Evidence:
    _dumps(target)
    return _hangs(target)


def _reads_for_long(target: Target) -> Evidence:
    """As a debugger does that takes a core dump apart: the next incarnation is ready before."""
    time.sleep(1.5)
    return _works(target)


def _there() -> str | None:
    return None


COLLECTORS = {
    collector.name: collector
    for collector in (
        Collector("works", False, 1.0, _there, _works),
        Collector("hangs", False, 60.0, _there, _hangs),
        Collector("fails", False, 1.0, _there, _fails),
        Collector("floods", False, 60.0, _there, _floods),
        Collector("missing", False, 1.0, lambda: "install it", _works),
        Collector("dumps", True, 1.0, _there, _dumps),
        Collector("dumps-and-hangs", True, 60.0, _there, _dumps_and_hangs),
        Collector("afterwards", False, 1.0, _there, _works, afterwards=True),
        Collector("reads-for-long", False, 5.0, _there, _reads_for_long, afterwards=True),
    )
}
