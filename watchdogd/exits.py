"""Exit statuses of the command line: one table for the code, ``--help`` and the README.

Invariant: a status means the same whichever command ends with it.
"""

from __future__ import annotations

from watchdogd.model import Exit

FINE = 0
REFUSED = 1
USAGE = 2
NOT_RUNNING = 3
NOT_AS_IT_SHOULD = 4
SERVICE_FAIL = 69  # EX_UNAVAILABLE
BAD_CONFIG = 78  # EX_CONFIG of sysexits.h
VERDICT = 124  # as timeout(1) does
CANNOT_EXECUTE, NOT_FOUND = 126, 127  # as a shell does
SIGNALLED = 128
INTERRUPTED = 130  # as a shell counts: 128 + SIGINT

MEANINGS = {
    FINE: "fine",
    REFUSED: "refused by the supervisor, or failed; the message says why and what to do",
    USAGE: "wrong usage: an option, a value, or a worker or incident that there is not",
    NOT_RUNNING: "no supervisor ticks: it has ended or is stuck; `status` still shows the last known rows",
    NOT_AS_IT_SHOULD: "`status`: a required worker, or the one asked for, does not run as it should; `doctor`: what the"
    " configuration needs is missing here, or does not answer",
    SERVICE_FAIL: "`run`: an escalation ended the service on purpose; `watchdogd events --kind escalation` says why",
    BAD_CONFIG: "the configuration has problems; all of them are listed",
    VERDICT: 'a verdict ended the program of `exec`, or a worker of `run` with `on_verdict = "exit"`',
    CANNOT_EXECUTE: "`exec`: the program is there and cannot be executed",
    NOT_FOUND: "`exec`: there is no such program",
    INTERRUPTED: "ended by Ctrl-C; `run` ends its workers in order then, and with 0",
}


class Failed(Exception):
    """Ends the command: what is wrong and what to do, and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


_OF_ALL = {FINE, USAGE, BAD_CONFIG, INTERRUPTED}
_OF_COMMAND = {
    "run": {*_OF_ALL, REFUSED, SERVICE_FAIL, VERDICT},
    "exec": {REFUSED, USAGE, VERDICT, CANNOT_EXECUTE, NOT_FOUND},
    "status": {*_OF_ALL, REFUSED, NOT_RUNNING, NOT_AS_IT_SHOULD},
    "events": {*_OF_ALL, REFUSED},
    "incidents": {*_OF_ALL, REFUSED},
    "report": {*_OF_ALL, REFUSED},
    "check-config": _OF_ALL,
    "doctor": {*_OF_ALL, NOT_AS_IT_SHOULD},
}
_OF_REQUESTS = {*_OF_ALL, REFUSED, NOT_RUNNING}  # to a supervisor, as restart


def of(ended: Exit) -> int:
    """As a shell says it: 128 and its number for a signal."""
    return ended.code or 0 if ended.signal is None else SIGNALLED + ended.signal


def table(command: str | None = None) -> str:
    """For ``--help``: those that this command ends with, or all."""
    own = MEANINGS if command is None else _OF_COMMAND.get(command, _OF_REQUESTS)
    rows = (f"  {status:>3}  {meaning}\n" for status, meaning in MEANINGS.items() if status in own)
    return "exit status:\n" + "".join(rows)
