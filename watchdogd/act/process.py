"""One process: held by a pidfd, signalled through it, reaped last.

Invariant: a child stays unreaped until ``reap``, so neither its pid nor its process group can be anybody else's while
it may be signalled. A process of an earlier supervisor (``adopt``) is not ours to reap: it is signalled through its
pidfd alone, and nobody can know how it ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from watchdogd.model import Exit
from watchdogd.observe import procfs
from watchdogd.observe.procfs import Identity


class Process:
    """A launched child, or one that was adopted; without a pidfd, one that had ended by then."""

    def __init__(self, identity: Identity, pidfd: int = -1, errors: int = -1, *, is_child: bool = False) -> None:
        self.identity = identity
        self.pidfd = pidfd
        self.errors = errors  # read end of the exec pipe; -1 once it is known
        self.is_child = is_child

    @property
    def pid(self) -> int:
        return self.identity.pid

    def launch_error(self) -> str | None:
        """Why the exec failed, if that is known by now. Does not block."""
        if self.errors < 0:
            return None
        try:
            raw = os.read(self.errors, 4096)
        except BlockingIOError:
            return None
        os.close(self.errors)
        self.errors = -1
        return raw.decode("utf-8", "replace") or None  # nothing written: the exec closed it

    def signal(self, number: int, *, alone: bool = False) -> OSError | None:
        """Signal the process and its group. A refusal is returned, to be shown; "already gone" is not one.

        ``alone``: not its group, which may know nothing of this signal.

        Of an adopted one only itself: once its leader is reaped by init, the group's number may be anybody's.
        """
        if self.pidfd < 0:
            return None
        try:
            # Safe although by number: the leader is ours and unreaped, so the number is still its group's.
            if self.is_child and not alone and self._signal_group(number) and number != signal.SIGKILL:
                return None  # a second one would run the leader's handler again
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return None
        except OSError as error:
            return error
        return None

    def _signal_group(self, number: int) -> bool:
        """False if the group is not made yet, or gone."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def exit_status(self) -> Exit | None:
        """How it ended, None while it runs. It stays unreaped."""
        if self.pidfd < 0:
            return Exit()
        if not self.is_child:
            return Exit() if select.select([self.pidfd], [], [], 0)[0] else None
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return Exit()
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return Exit(code=result.si_status)
        return Exit(signal=result.si_status)

    def reap(self) -> None:
        """Let go of an ended process: from here on its pid may be anybody's."""
        if self.is_child:
            with contextlib.suppress(ChildProcessError):  # reaped already; the descriptors are still ours
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        self.close()

    def close(self) -> None:
        for descriptor in (self.pidfd, self.errors):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = self.errors = -1


def hold(pid: int, errors: int = -1) -> Process:
    """A child of ours, or whatever has that pid. Raises ProcessLookupError, OSError (no descriptors)."""
    if pid <= 0:
        raise ValueError(f"refusing pid {pid}")
    pidfd = os.pidfd_open(pid)
    found = procfs.stat(pid)
    if found is None:
        os.close(pidfd)
        raise ProcessLookupError(pid)
    return Process(Identity(pid, found.start_ticks), pidfd, errors, is_child=found.parent == os.getpid())


def adopt(identity: Identity) -> Process:
    """The process, if it is still that one (looked at after its pidfd was opened); else one that has ended."""
    try:
        process = hold(identity.pid)
    except ProcessLookupError:
        return Process(identity)
    if process.identity != identity:
        process.close()
        return Process(identity)
    return process
