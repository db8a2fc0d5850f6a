"""Children that run once, each for a bounded time: hooks, probes, what an escalation does.

Invariant: none is waited for, and whoever asked for one is told of its end exactly once, at its deadline at the
latest. One that SIGKILL does not end is left where it is, and is counted: ``stuck``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from watchdogd.act.process import Process
from watchdogd.act.spawning import Launch, launch
from watchdogd.model import SECOND
from watchdogd.observe.loop import Loop

STUCK_NS = SECOND  # what SIGKILL has not ended by then it may never end
MOST_INPUT = 4096  # bytes: a pipe takes so many at once, however short the kernel is of memory for pipes


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int | None  # its exit status; None where it has none
    text: str  # for people
    late: bool = False  # it did not end by its deadline

    @property
    def good(self) -> bool:
        return self.code == 0


Done = Callable[[Outcome, int], None]  # gets the time now


@dataclass(slots=True)
class _Run:
    name: str
    process: Process
    deadline_ns: int
    done: Done
    dies_with_us: bool
    told: bool = False


class Runs:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._runs: list[_Run] = []

    def start(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str], deadline_ns: int, done: Done,
        now_ns: int, *, stdin: bytes = b"", ids: tuple[int, int, tuple[int, ...]] | None = None,
        dies_with_us: bool = True, is_ours: bool = False,
    ) -> None:  # fmt: skip
        """``name``: to ``count`` it by. ``stdin``: at most ``MOST_INPUT`` bytes.

        What it prints goes nowhere, as it might never end; but the errors of programs of our own go where ours go.
        """
        try:
            receive, null = _filled(stdin), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            try:
                errors = None if is_ours else null
                request = Launch(command, environment, receive, stderr=errors, ids=ids, die_with_parent=dies_with_us)
                process = launch(request)
            finally:
                os.close(receive)
                os.close(null)
        except OSError as error:
            done(Outcome(None, f"cannot start: {error}"), now_ns)
            return
        run = _Run(name, process, deadline_ns, done, dies_with_us)
        self._runs.append(run)
        self._loop.listen(process.pidfd, lambda now: self._on_event(run, now))

    def count(self, name: str) -> int:
        """Those of that name that have not ended, killed or not."""
        return sum(run.name == name for run in self._runs)

    def stuck(self, name: str, now_ns: int) -> bool:
        """Whether SIGKILL was sent to one of that name a while ago, and has not ended it."""
        return any(run.name == name and now_ns - run.deadline_ns > STUCK_NS for run in self._runs)

    def pids(self) -> set[int]:
        return {run.process.pid for run in self._runs}

    def next_ns(self) -> list[int]:
        return [run.deadline_ns for run in self._runs if not run.told]

    def check(self, now_ns: int) -> None:
        """Kill those that are past their deadline."""
        for run in self._runs.copy():
            if run.told or now_ns < run.deadline_ns or self._look(run, now_ns):
                continue
            run.told = True
            run.process.signal(signal.SIGKILL)
            run.done(Outcome(None, "did not end in time and was killed", late=True), now_ns)

    def _on_event(self, run: _Run, now_ns: int) -> None:
        self._look(run, now_ns)

    def _look(self, run: _Run, now_ns: int) -> bool:
        """Whether it has ended."""
        status = run.process.exit_status()
        if status is None:
            return False
        self._loop.forget(run.process.pidfd)
        error = run.process.launch_error()
        if run.dies_with_us:  # what it has left behind in its group has no deadline
            run.process.signal(signal.SIGKILL)
        run.process.reap()
        self._runs.remove(run)
        if not run.told:
            run.done(Outcome(None, error) if error else Outcome(status.code, str(status)), now_ns)
        return True

    def close(self) -> None:
        """Nobody is told any more; and the next image of this process would know none of them."""
        for run in self._runs:
            run.told = True
            run.process.signal(signal.SIGKILL)


def _filled(data: bytes) -> int:
    """The read end of a pipe that holds ``data``, and then its end."""
    if len(data) > MOST_INPUT:
        raise ValueError(f"{len(data)} bytes may not fit into a pipe")
    receive, send = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(send, data)
    finally:
        os.close(send)
    return receive
