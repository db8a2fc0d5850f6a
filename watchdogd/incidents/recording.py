"""The keeper's part in the history of calls: it looks at the workers every few seconds and has lines written by a job.

Invariant: nothing here waits for the disk; lines that could not be written are written with the next ones, as far as
``MOST_WAITING`` of them go.
"""

from __future__ import annotations

import time

from watchdogd.incidents import history
from watchdogd.incidents.jobs import Ended, Jobs
from watchdogd.model import SECOND

LOOK_NS = 5 * SECOND  # an incarnation that lives longer than this is not missed
WRITE_NS = 10 * SECOND
MOST_WAITING = 256


class Recording:
    """``state_dir``: None where there is no place for a history, as with `exec`."""

    def __init__(self, jobs: Jobs, runtime_dir: str, state_dir: str | None, now_ns: int) -> None:
        self._jobs = jobs
        self._state_dir = state_dir
        self._follower = history.Follower(runtime_dir, now_ns)
        self._waiting: list[bytes] = []
        self._is_writing = False
        self.next_ns = now_ns if state_dir is not None else 1 << 63  # to look

    def look(self, now_ns: int) -> None:
        if now_ns >= self.next_ns:
            self.next_ns = now_ns + LOOK_NS
            self._write(self._follower.look(now_ns, time.time_ns()))

    def end(self) -> None:
        """No more is looked at: what was done since the last line is written."""
        self.next_ns = 1 << 63
        if self._state_dir is not None:
            self._write(self._follower.last(time.monotonic_ns(), time.time_ns()))

    def _write(self, lines: list[bytes]) -> None:
        self._waiting = [*self._waiting, *lines][-MOST_WAITING:]
        state_dir = self._state_dir
        if not self._waiting or self._is_writing or state_dir is None:
            return
        written, self._waiting, self._is_writing = self._waiting, [], True

        def work() -> tuple[dict[str, bool], None]:
            history.append(state_dir, written)
            return {}, None

        def done(ended: Ended) -> None:
            self._is_writing = False
            if ended.outcome == "ok":
                self._write([])  # what came meanwhile
            else:
                self._waiting = [*written, *self._waiting][-MOST_WAITING:]

        self._jobs.start(work, time.monotonic_ns() + WRITE_NS, done)
