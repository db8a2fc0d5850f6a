"""The supervisor's own disposable children: load readers, the exporter, the recorder.

Invariant: one that dies is started again with backoff, one that hangs is killed and, if that does not take, left
alone; none of them is ever waited for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from watchdogd.act.launching import Identity
from watchdogd.act.process import Process
from watchdogd.act.runtime import CannotStart
from watchdogd.act.spawning import Launch, launch
from watchdogd.model import SECOND, Exit

BACKOFF_NS = SECOND // 5
BACKOFF_MAX_NS = 30 * SECOND
LASTING_NS = 60 * SECOND  # one that lived this long starts afresh with the shortest backoff
READ_BYTES = 1 << 16


class Child:
    """One helper process. ``descriptors()`` are to be polled; on any event call ``read`` and ``check``."""

    def __init__(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str], *, stdin: bool, stdout: bool,
        die_with_parent: bool = True, ids: Callable[[], Identity | None] = lambda: None,
    ) -> None:  # fmt: skip
        self.name = name
        self.command = command
        self.environment = dict(environment)
        self.process: Process | None = None
        self.stdin: int | None = None
        self.stdout: int | None = None
        self.starts = 0
        self.note = "not started"
        self.next_start_ns: int | None = 0
        self._pipes = (stdin, stdout)
        self._die_with_parent = die_with_parent
        self._ids = ids  # asked at each start, since it may take long; None: the supervisor's own
        self._started_ns = 0
        self._failures = 0

    def start(self, now_ns: int) -> None:
        """Start it now. A refused fork counts as a failure and is tried again later."""
        stdin_read = stdin_write = stdout_read = stdout_write = None
        try:
            if self._pipes[0]:
                stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
            if self._pipes[1]:
                stdout_read, stdout_write = os.pipe2(os.O_CLOEXEC)
            request = Launch(
                self.command, self.environment, stdin=stdin_read, stdout=stdout_write, stderr=None,
                die_with_parent=self._die_with_parent, ids=self._ids(),
            )  # fmt: skip
            self.process = launch(request)
        except (OSError, CannotStart) as error:
            self._failed(now_ns, f"cannot start: {error}")
            _close(stdin_write, stdout_read)
            return
        finally:
            _close(stdin_read, stdout_write)
        self.stdin, self.stdout = stdin_write, stdout_read
        for descriptor in (self.stdin, self.stdout):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
        self.starts += 1
        self._started_ns = now_ns
        self.next_start_ns = None
        self.note = ""

    def read(self) -> bytes:
        """What it has printed since the last time; empty if nothing."""
        if self.stdout is None:
            return b""
        try:
            raw = os.read(self.stdout, READ_BYTES)
        except BlockingIOError:
            return b""
        if not raw:
            os.close(self.stdout)
            self.stdout = None
        return raw

    def check(self, now_ns: int) -> Exit | None:
        """Notice that it ended; it is then started again at ``next_start_ns``."""
        if self.process is None:
            return None
        status = self.process.exit_status()
        if status is None:
            return None
        error = self.process.launch_error()
        self._drop()
        if now_ns - self._started_ns > LASTING_NS:
            self._failures = 0
        self._failed(now_ns, error or str(status))
        return status

    def kill(self) -> None:
        """End it. If SIGKILL does not take it stays where it is, unwaited for."""
        if self.process is not None:
            self.process.signal(signal.SIGKILL)

    def close_stdin(self) -> None:
        """Tell it that there is no more."""
        _close(self.stdin)
        self.stdin = None

    def forget(self) -> None:
        """Close our side: one that ends by end of input does so now."""
        self._drop()
        self.next_start_ns = None

    def _drop(self) -> None:
        _close(self.stdin, self.stdout)
        self.stdin = self.stdout = None
        if self.process is not None:
            self.process.reap()
            self.process = None

    def _failed(self, now_ns: int, note: str) -> None:
        self.note = note
        self.next_start_ns = now_ns + min(BACKOFF_NS << min(self._failures, 20), BACKOFF_MAX_NS)
        self._failures += 1


def start_due(children: list[Child], now_ns: int, started: Callable[[Child], None]) -> None:
    for child in children:
        if child.process is None and child.next_start_ns is not None and child.next_start_ns <= now_ns:
            child.start(now_ns)
            started(child)


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)
