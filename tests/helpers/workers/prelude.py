"""What a test's worker program begins with: attached to its heartbeat, and able to talk with the test through files.

Invariant: importing this attaches, and nothing more; ready, steps and calls are the program's own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import watchdogd.worker as wd
from watchdogd import abi

__all__ = [
    "HEARTBEAT", "HERE", "INCARNATION", "abi", "frame", "hang", "os", "serve", "serve_until", "signal", "sys", "tell",
    "threading", "time", "wait_for", "worker",
]  # fmt: skip

HERE = Path(os.environ["HERE"])
HEARTBEAT = os.environ[abi.ENVIRONMENT]
INCARNATION = int(HEARTBEAT.rsplit(".", 1)[1])
LONG_SECONDS = 60.0  # no test lasts so long; a worker that nobody ends does not last for ever

worker = wd.attach()


def hang() -> None:
    """Does not return while the test lasts."""
    time.sleep(LONG_SECONDS)


def wait_for(name: str) -> None:
    """Until the test has touched the file."""
    give_up = time.monotonic() + LONG_SECONDS
    while not (HERE / name).exists():
        if time.monotonic() > give_up:
            sys.exit(f"nobody touched {name}")
        time.sleep(0.002)


def tell(name: str, text: object = "") -> None:
    """Writes the file whole: the test never sees half of it."""
    part = HERE / f".{name}.{os.getpid()}"
    part.write_text(str(text))
    part.rename(HERE / name)


def frame() -> None:
    """A healthy one."""
    with worker.step(), worker.call("sync"):
        time.sleep(0.002)
    time.sleep(0.008)


def serve_until(name: str) -> None:
    """Healthy frames until the test has touched the file."""
    worker.ready()
    while not (HERE / name).exists():
        frame()


def serve() -> NoReturn:
    """Healthy frames until it is ended."""
    worker.ready()
    while True:
        frame()
