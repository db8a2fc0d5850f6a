"""Jobs of the keeper: forks of it, each with a deadline, whose results come back through a file in memory.

A fork and no exec: all that a job needs is imported already, and a disk or a driver that blocks it blocks nobody else.

Invariant: nothing here waits for a job. At its deadline it is killed with all that it started in its group, and one
that even SIGKILL does not end is left alone; whoever asked for it is told exactly once.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

MOST_BYTES = 32 << 20  # of a result, and of each file that a job writes
_FIRST = 1 << 16  # bytes in which the end of the first line is
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Result(NamedTuple):
    """What a job hands back: what the keeper looks at, and what it only passes on to another job."""

    told: dict[str, Any]
    payload: bytes = b""


class Ended(NamedTuple):
    outcome: str  # "ok" "timed out" "failed"
    detail: str
    result: Result | None  # with "ok"
    began_ns: int
    took_ns: int


Work = Callable[[], tuple[dict[str, Any], object]]
Done = Callable[[Ended], object]


class Job:
    def __init__(self, work: Work, deadline_ns: int, done: Done, most_bytes: int) -> None:
        """Raises OSError: no process."""
        self.deadline_ns = deadline_ns
        self.done = done
        self.began_ns = time.monotonic_ns()
        self._result = os.memfd_create("result")
        self.pid = 0
        parent = os.getpid()
        try:
            self.pid = os.fork()
            if self.pid == 0:
                _run(work, self._result, parent, most_bytes)
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.close(self._result)
            if self.pid:  # what nobody can watch would have no deadline
                self.kill()
                os.waitpid(self.pid, 0)
            raise

    def kill(self) -> None:
        """With what is in its group: it is ours and unreaped, so that the number is nobody else's."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # one that is too young to have a group of its own
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> Ended | None:
        """How, if it has; it is reaped then."""
        status = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        self.kill()  # what it has left behind in its group has no deadline
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        result = None
        if status.si_code == os.CLD_EXITED and status.si_status == 0:
            result = _read(self._result)
        os.close(self.pidfd)
        os.close(self._result)
        if result is not None:
            return self._told("ok", "", result)
        how = f"status {status.si_status}" if status.si_code == os.CLD_EXITED else f"signal {status.si_status}"
        return self._told("failed", f"ended with {how}")

    def timed_out(self) -> Ended:
        return self._told("timed out", "")

    def _told(self, outcome: str, detail: str, result: Result | None = None) -> Ended:
        return Ended(outcome, detail, result, self.began_ns, time.monotonic_ns() - self.began_ns)


class Jobs:
    def __init__(self) -> None:
        self._running: list[Job] = []
        self._abandoned: list[Job] = []  # told of, and not ended yet

    def start(self, work: Work, deadline_ns: int, done: Done, most_bytes: int = MOST_BYTES) -> Job | None:
        """None where there is no process to be had: ``done`` was told. ``most_bytes``: of each file that it writes."""
        try:
            job = Job(work, deadline_ns, done, most_bytes)
        except OSError as error:
            done(Ended("failed", f"cannot start: {error.strerror}", None, time.monotonic_ns(), 0))
            return None
        self._running.append(job)
        return job

    def descriptors(self) -> list[int]:
        """Readable once a job has ended."""
        return [job.pidfd for job in (*self._running, *self._abandoned)]

    def next_ns(self) -> int | None:
        return min((job.deadline_ns for job in self._running), default=None)

    @property
    def are_running(self) -> bool:
        return bool(self._running)

    def look(self) -> None:
        """Tell of those that have ended, or are past their deadline."""
        self._abandoned = [job for job in self._abandoned if job.ended() is None]
        for job in self._running.copy():
            ended = job.ended()
            if ended is None and time.monotonic_ns() >= job.deadline_ns:
                ended = self._give_up(job)
            elif ended is not None:
                self._running.remove(job)
            if ended is not None:
                job.done(ended)

    def _give_up(self, job: Job) -> Ended:
        job.kill()
        self._running.remove(job)
        self._abandoned.append(job)
        return job.timed_out()

    def drop(self, job: Job) -> None:
        """Nobody wants its result any more."""
        if job in self._running:
            self._give_up(job)


def _read(descriptor: int) -> Result | None:
    """None: it is not whole, which it is for a job that said that it was."""
    first, newline, _ = os.pread(descriptor, _FIRST, 0).partition(b"\n")
    try:
        told = json.loads(first)
        size = int(told.pop("payload"))
    except (ValueError, KeyError, AttributeError):
        return None
    payload = os.pread(descriptor, size, len(first) + len(newline))
    return Result(told, payload) if len(payload) == size else None


def _run(work: Work, result: int, parent: int, most_bytes: int) -> NoReturn:
    """In the child: never returns."""
    status = 1
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(status)
        _become_ordinary(result, most_bytes)
        told, payload = work()
        data = pickle.dumps(payload)
        line = json.dumps({**told, "payload": len(data)}).encode()
        if len(line) < _FIRST:
            left = memoryview(line + b"\n" + data)
            while left:
                left = left[os.write(result, left) :]
            status = 0
    finally:
        os._exit(status)  # whatever it raised is its failure, and this copy of the keeper must not go on


def _become_ordinary(result: int, most_bytes: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.closerange(3, result)
    os.closerange(result + 1, 2**20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))  # what floods is ended by it
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")  # before any worker
