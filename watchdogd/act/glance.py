"""A look at something that may not answer, in a forked child: its findings come through a pipe, or they do not.

Invariant: nothing here waits; a child that did not return by ``ABANDON_NS`` is killed and forgotten, and while one is
looking there is no second one.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from watchdogd.act.sweep import reap_later
from watchdogd.model import SECOND

ABANDON_NS = 5 * SECOND
MOST_BYTES = 1 << 16  # a pipe takes so much at once; what is longer is cut off, and is no finding


class Glance:
    """One such look. Raises OSError where no process is to be had."""

    def __init__(self, look: Callable[[], object], now_ns: int) -> None:
        self.began_ns = now_ns
        self._receive, send = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.pid = os.fork()
        except OSError:
            os.close(self._receive)
            os.close(send)
            raise
        if self.pid == 0:
            _run(look, send)
        reap_later(self.pid)
        os.close(send)

    def result(self, now_ns: int) -> tuple[bool, Any]:
        """Whether it is over, and what it found; None if that is nothing that can be read."""
        try:
            raw = os.read(self._receive, MOST_BYTES)
        except BlockingIOError:
            if now_ns - self.began_ns < ABANDON_NS:
                return False, None
            self.abandon()
            return True, None
        os.close(self._receive)
        with suppress(ValueError):
            return True, json.loads(raw)
        return True, None

    def abandon(self) -> None:
        """Kill it and forget it. It may be stuck in the kernel, so it is not waited for."""
        try:
            os.read(self._receive, 1)  # of one that has ended the number may be somebody else's by now
        except BlockingIOError:  # it alone has the other end, so it is there; and nobody but this thread reaps it
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._receive)


def _run(look: Callable[[], object], send: int) -> NoReturn:
    try:
        # Nothing of the supervisor's may stay open in a child that may outlive it: its lock, sockets, pidfds.
        os.dup2(send, 0)
        os.closerange(3, 2**20)
        os.write(0, json.dumps(look()).encode())
    finally:
        os._exit(0)
