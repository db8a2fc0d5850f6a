"""The readers that ask workers how they get on: one child each, started anew where it ends or hangs.

Invariant: one that is silent says nothing of its worker; what it printed is stamped with its arrival.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from watchdogd import abi
from watchdogd.act import launching
from watchdogd.act.children import Child
from watchdogd.act.watched import Watched
from watchdogd.model import SECOND
from watchdogd.observe.sources import lines

STALE_INTERVALS = 3
FIRST_NS = SECOND // 5  # after the first look at adopted workers, and after those whom they run as were looked up
REPLACE_NS = 10 * SECOND  # silent for longer, it is killed and started again


class ProgressReader:
    def __init__(self, watched: Watched, child: Child, now_ns: int) -> None:
        self.watched = watched
        self._made_ns = now_ns
        self.child = child
        self._interval_ns = watched.settings.progress_interval_ns
        self._buffer = lines.LineBuffer()
        self._bad = ""
        self._heard_ns: int | None = None
        self._since_ns = 0  # of its start
        self._made_ns = now_ns

    def started(self, now_ns: int) -> None:
        self._buffer = lines.LineBuffer()
        self._since_ns = now_ns

    def feed(self, data: bytes, now_ns: int) -> None:
        for line in self._buffer.feed(data):
            try:
                sample = lines.progress(line)
            except lines.BadLine as error:
                self._bad = f"; last bad line: {error}"
                continue
            self._heard_ns = now_ns
            self.watched.progressing.take(sample, self.watched.state, now_ns)
            self.watched.changed()

    def watch(self, now_ns: int) -> bool | None:
        """Whether it tells something again, or nothing any more; None: that has not changed."""
        last_ns = max(self._since_ns, self._heard_ns or 0)
        if now_ns - last_ns > max(REPLACE_NS, 10 * self._interval_ns):
            self._since_ns = now_ns
            self.child.kill()
        patience_ns = max(STALE_INTERVALS * self._interval_ns, SECOND)
        if self._heard_ns is None and now_ns - self._made_ns <= patience_ns:
            return None  # it is being started, or at its first attempt
        up = self._heard_ns is not None and now_ns - self._heard_ns <= patience_ns
        silent = "" if up else f"its reader is silent; {self.child.note or 'no line'}{self._bad}"
        before, self.watched.progressing.silent = self.watched.progressing.silent, silent
        if before == silent:
            return None
        self.watched.changed()
        return up


def readers(watched: Sequence[Watched], identities: launching.Identities) -> list[ProgressReader]:
    """Of those whose source is asked; what the driver shim tells is in the heartbeat."""
    now_ns = time.monotonic_ns()
    return [ProgressReader(w, _child(w, identities, now_ns), now_ns) for w in watched if w.progressing.is_asked]


def _child(watched: Watched, identities: launching.Identities, now_ns: int) -> Child:
    """Under the worker's own user, which may do with it what it may with the worker; with its variables."""
    settings = watched.settings
    source = settings.progress
    words = [sys.executable, "-m", "watchdogd.observe.sources.progress"]
    words += ["--interval", f"{settings.progress_interval_ns / SECOND:.9f}"]
    if settings.progress_counter is not None and settings.progress_pending is not None:
        words += ["--counter", settings.progress_counter, "--pending", settings.progress_pending]
    words += [] if source is None else [source.kind, *source.target]
    environment = launching.environment(settings, "", os.environ)
    del environment[abi.ENVIRONMENT]  # it is no worker
    child = Child(
        f"progress {settings.name}", tuple(words), environment, stdin=False, stdout=True,
        ids=lambda: identities.of(settings),
    )  # fmt: skip
    child.next_start_ns = now_ns + FIRST_NS
    return child
