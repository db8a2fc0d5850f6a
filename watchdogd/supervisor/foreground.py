"""One program in the foreground (`exec`): the same supervisor, with the program's exit status and signals.

The program stays in our session and process group, so that it has the terminal: what the terminal sends (Ctrl-C, a new
size) reaches it without us, and what somebody sends to us is passed on. Invariant: of one signal it never gets two.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

from watchdogd import abi, exits
from watchdogd.act.runtime import CannotStart, Runtime
from watchdogd.decide.orders import ALIVE
from watchdogd.model import Phase, Settings
from watchdogd.publish.notify import Notifier
from watchdogd.supervisor.tick import Supervisor

# Ours: of children, of the terminal's job control (we stop and go on with the program), and what only an error raises.
_NOT_PASSED_ON = frozenset(
    (
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE,
        signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT,
        signal.SIGTRAP, signal.SIGSYS,
    )
)  # fmt: skip
# Between two lives of the program there is nobody to pass them on to: who sends one wants it all to end.
_ENDS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP))
_THERE = ALIVE | {Phase.TERMINATING, Phase.COLLECTING}
_BY_THE_KERNEL = 0x80  # SI_KERNEL: of a terminal, to its whole foreground process group
_SIZE = 128  # of signalfd_siginfo, and of sigset_t
_libc = ctypes.CDLL(None, use_errno=True)


class Signals:
    """What is sent to us from here on, in order. Raises OSError."""

    def __init__(self) -> None:
        ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
        passed_on = signal.valid_signals() - _NOT_PASSED_ON - ignored
        signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
        mask = sum(1 << number - 1 for number in passed_on).to_bytes(_SIZE, "little")  # a sigset_t
        self.descriptor: int = _libc.signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"signalfd: {os.strerror(code)}")

    def take(self) -> list[tuple[int, bool]]:
        """Each one that has come, and whether it came from a terminal."""
        try:
            raw = os.read(self.descriptor, 64 * _SIZE)
        except BlockingIOError:
            return []
        told = (struct.unpack_from("=Iii", raw, at) for at in range(0, len(raw), _SIZE))
        return [(number, code == _BY_THE_KERNEL) for number, _error, code in told]


class Foreground:
    def __init__(self, settings: Settings, signals: Signals) -> None:
        """Raises CannotStart, OSError."""
        os.environ.pop(abi.ENVIRONMENT, None)  # a worker's, if it started us: ours is none of its descendants
        self._signals = signals
        self._ended_by = 0  # the signal that came while no program was there
        self._runtime = Runtime(settings.supervisor)
        self._supervisor = Supervisor(settings, self._runtime, Notifier(speaks=False))  # the program may have to
        self._supervisor.loop.listen(signals.descriptor, lambda _now_ns: self._pass_on())

    def run(self) -> int:
        """Until the program has ended for good; the exit status to end with."""
        supervisor = self._supervisor
        if early := signal.sigpending() & _ENDS:  # a terminal does not send it again to a program that comes later
            supervisor.close()
            return exits.SIGNALLED + int(min(early))
        try:
            supervisor.run()
        except BaseException:
            supervisor.abandon()
            raise
        try:
            supervisor.close()
        except (OSError, CannotStart) as error:  # what is left, the next one clears; the status is the program's
            print(f"watchdogd: cannot clear away: {error}", file=sys.stderr)
        if supervisor.actor.left is not None:
            return supervisor.exit_status
        watched = supervisor.watched[0]
        if watched.ended is None or (self._ended_by and not watched.state.by_itself):
            return exits.SIGNALLED + (self._ended_by or signal.SIGTERM)
        return exits.of(watched.ended)

    def _pass_on(self) -> None:
        watched = self._supervisor.watched[0]
        for number, of_terminal in self._signals.take():
            process, stopping = watched.process, self._supervisor.stopping
            if watched.state.phase not in _THERE and number in _ENDS and not stopping:
                self._ended_by = number
                self._supervisor.stop(signal.Signals(number).name)
            elif of_terminal and process is not None and _shares_our_group(process.pid):
                continue  # it has it
            elif number == signal.SIGTERM and not stopping:
                self._supervisor.stop("SIGTERM")  # it is asked to end, and made to after its grace
            elif process is not None:
                process.signal(number, alone=True)


def _shares_our_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return False
