"""Runs the checks side by side, each in a child that can be given up.

Invariant: ``examine`` returns within ``TOTAL_SECONDS`` and the time its forks take, whatever any check does: nothing
waits for a child, and each is killed at its end with everything it started.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

from watchdogd.doctor.table import TOTAL_SECONDS
from watchdogd.doctor.words import Check, Machine, Outcome, State, unknown

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Result:
    check: Check
    outcome: Outcome
    needed_by: Sequence[str]  # of the configuration
    seconds: float

    @property
    def prevents(self) -> bool:
        """Whether the configuration cannot run for this."""
        return bool(self.needed_by) and self.outcome.state in (State.MISSING, State.UNKNOWN)


class _Look:
    """A check that is being made."""

    def __init__(self, check: Check, machine: Machine, give_up: float) -> None:
        self.check = check
        self.began = time.monotonic()
        self.give_up = min(self.began + check.seconds, give_up)
        self.told = b""
        self.ended = 0.0
        self.pipe, write_end = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _look(check, machine, write_end, parent)
        os.close(write_end)

    def read(self) -> bool:
        """False once there is no more."""
        data = os.read(self.pipe, 65536)
        self.told += data
        return bool(data)

    def close(self) -> None:
        """End it, with its descendants. By number, and safe: the child is ours and not reaped."""
        self.ended = time.monotonic()
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):  # its group is not made yet, or it is gone
                kill(self._pid, signal.SIGKILL)
        os.close(self.pipe)
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG)  # one that stays goes when we do

    def outcome(self) -> Outcome:
        lost, remedy = self.check.silence
        if not self.told:
            late = self.ended >= self.give_up
            found = f"no answer within {self.give_up - self.began:.1f} s" if late else "it crashed while it looked"
            return unknown(found, lost=lost, remedy=remedy)
        told = json.loads(self.told)
        return Outcome(State(told.pop("state")), **told)


def examine(machine: Machine, checks: Sequence[Check]) -> list[Result]:
    give_up = time.monotonic() + TOTAL_SECONDS
    looks = [_Look(check, machine, give_up) for check in checks]
    waiting = {look.pipe: look for look in looks}
    while waiting:
        now = time.monotonic()
        rest = min(look.give_up for look in waiting.values()) - now
        readable = select.select(list(waiting), [], [], max(0.0, rest))[0]
        now = time.monotonic()
        for pipe, look in list(waiting.items()):
            more = look.read() if pipe in readable else now < look.give_up
            if not more:
                del waiting[pipe]
                look.close()
    settings = machine.settings
    return [
        Result(look.check, look.outcome(), look.check.needed(settings) if settings else (), look.ended - look.began)
        for look in looks
    ]


def _look(check: Check, machine: Machine, write_end: int, parent: int) -> NoReturn:
    """In the child: a group of its own, silent, gone with its parent."""
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(null, descriptor)
            os.write(write_end, json.dumps(asdict(_outcome(check, machine))).encode())
    finally:
        os._exit(0)


def _outcome(check: Check, machine: Machine) -> Outcome:
    try:
        return check.look(machine)
    except Exception as error:  # noqa: BLE001 - one check that fails must not hide what the others found
        lost, remedy = check.silence
        return unknown(f"{type(error).__name__}: {error}", lost=lost, remedy=remedy)
