"""A new configuration, or a new version of ourselves, without the loss of a worker: checked whole, then this process
executes itself anew and adopts what it had.

Invariant: what does not pass the check changes nothing; and no worker is left behind in the moment between its fork and
the word of who it is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from watchdogd.act import privileges
from watchdogd.act.process import Process
from watchdogd.act.runtime import Runtime
from watchdogd.act.spawning import Launch, launch
from watchdogd.model import SECOND, SupervisorSettings
from watchdogd.observe.loop import Loop
from watchdogd.publish.board import reserve
from watchdogd.publish.notify import Notifier
from watchdogd.supervisor import checked
from watchdogd.supervisor.publication import Publication

CHECK_NS = 10 * SECOND
DIRECTORIES = "WATCHDOGD_RELOADED_DIRECTORIES"  # in the environment of the new image: runtime and state directory
_WAIT = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))  # from one image to the next
LONGEST_PROBLEM = 2000  # bytes that are kept of what the check says


class Reload:
    """``file``: None = there is none. ``tell``: puts a change of the supervisor on record, with its reason."""

    def __init__(self, file: str | None, loop: Loop, publication: Publication, tell: Callable[..., None]) -> None:
        self._file = file
        self._loop = loop
        self._publication = publication
        self._tell = tell
        self.is_due = False  # the configuration is good, and this image is still the old one
        self._process: Process | None = None
        self._said: int | None = None
        self._checked_file: int | None = None  # what the check has read, for the new image
        self._again = False
        self.deadline_ns: int | None = None

    def ask(self, now_ns: int) -> None:
        """Begin to check; asked while a check runs, check once more after it: the file may have changed meanwhile."""
        if self._process is not None:
            self._again = True
            return
        self.is_due = False
        self._publication.reload("checking")
        if self._file is None:
            self._checked("`exec` has no configuration to load anew: end it, and start it with other options")
            return
        self._said, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._take_checked(os.memfd_create("checked configuration"))
            request = Launch(checked.command(self._file), os.environ, stdout=self._checked_file, stderr=write)
            self._process = launch(request)
        except OSError as error:
            os.close(self._said)
            self._checked(f"cannot check the configuration: {error.strerror}")
            return
        finally:
            os.close(write)
        self.deadline_ns = now_ns + CHECK_NS
        self._loop.listen(self._process.pidfd, self._ended)

    def _take_checked(self, descriptor: int) -> None:
        if self._checked_file is not None:
            os.close(self._checked_file)
        self._checked_file = descriptor

    def cancel(self) -> None:
        """The end was asked for: whatever the check says, this image stays."""
        self.is_due = False

    def watch(self, now_ns: int) -> None:
        """Give up a check that does not end."""
        if self._process is not None and self.deadline_ns is not None and now_ns >= self.deadline_ns:
            self._process.signal(signal.SIGKILL)
            self._close("the check of the configuration did not end in time", now_ns)

    def _ended(self, now_ns: int) -> None:
        status = None if self._process is None else self._process.exit_status()
        if status is None or self._said is None:
            return
        try:
            said = os.read(self._said, LONGEST_PROBLEM).decode("utf-8", "replace").strip()
        except BlockingIOError:
            said = ""
        self._close(None if status.code == 0 else said or f"the check of the configuration {status}", now_ns)

    def _close(self, problem: str | None, now_ns: int) -> None:
        if self._process is not None:
            self._loop.forget(self._process.pidfd)
            self._process.reap()
        if self._said is not None:
            os.close(self._said)
        self._process = self._said = self.deadline_ns = None
        if self._again:
            self._again = False
            self.ask(now_ns)
        else:
            self._checked(problem)

    def _checked(self, problem: str | None) -> None:
        self.is_due = problem is None
        if problem is not None:
            self._publication.reload("refused", problem)
            self._tell("reload refused", reason="; ".join(problem.splitlines()))

    def execute(
        self, runtime: Runtime, publish: Callable[[], object], let_go: Callable[[], None], notifier: Notifier
    ) -> None:
        """Only returns if it cannot be done, or is not due any more; then all goes on as before.

        What comes from the first line on waits for the new image; what came before is heard by this one.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAIT)
        try:
            self._loop.take_signals()
            if not self.is_due:
                return
            try:
                reserve(runtime.board, os.getpid())  # without a board the new image would end, and our workers with it
            except OSError as error:
                self._checked(f"no room for another board in {runtime.directory}: {error.strerror}")
                return
            self._tell("reloading")
            self._publication.changed()  # with the number of that event
            publish()
            notifier.reloading()
            let_go()
            try:
                _execute_anew(f"{runtime.directory}\n{runtime.state_directory}", self._checked_file)
            except OSError as error:
                self._checked(f"cannot execute {sys.executable}: {error.strerror}")
                notifier.ready()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def done(self) -> None:
        """By the image before this one, in the same process."""
        self._publication.reload("done")

    def pids(self) -> set[int]:
        return set() if self._process is None else {self._process.pid}


def kept_directories(settings: SupervisorSettings) -> tuple[SupervisorSettings, bool]:
    """Those of the image before this one, which its workers are in; whether the configuration now names others."""
    told = os.environ.pop(DIRECTORIES, "")
    if not told:
        return settings, False
    runtime_dir, state_dir = told.split("\n")
    kept = settings._replace(runtime_dir=runtime_dir, state_dir=state_dir)
    named = (os.path.realpath(settings.runtime_dir), os.path.realpath(settings.state_dir))
    return kept, named != (runtime_dir, state_dir)


def _execute_anew(directories: str, checked_file: int | None) -> NoReturn:
    """This process with its own command line, in the same pid. Raises OSError: then nothing has changed."""
    cpus = os.sched_getaffinity(0)
    if privileges.unpinned:  # what the new image starts from is what its workers get
        os.sched_setaffinity(0, privileges.unpinned)
    environment = {**os.environ, DIRECTORIES: directories}
    if checked_file is not None:
        os.set_inheritable(checked_file, True)
        environment[checked.DESCRIPTOR] = str(checked_file)
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    finally:
        os.sched_setaffinity(0, cpus)


def listening() -> None:
    """The new image has its handlers: what waited may come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAIT)
