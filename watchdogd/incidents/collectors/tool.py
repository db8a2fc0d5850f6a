"""Runs somebody else's program for a collector: bounded in time and in what it may say, and gone when we are.

Invariant: at the end of ``run`` the program has ended, or was killed and stands in the kernel.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

MOST_BYTES = 4 << 20
MOST_ERRORS = 4096
KILLED_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Ran(NamedTuple):
    status: int | None  # None: it was killed, for its time or for the length of what it said
    output: bytes
    why: str = ""  # it was killed
    errors: bytes = b""  # what it said on standard error, unless that is in ``output``

    def said(self) -> str:
        """Why it failed, for people: its first lines of errors, else the last of its output."""
        errors, output = ([line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
                          for said in (self.errors, self.output))  # fmt: skip
        said = " ".join(errors[:3] or output[-1:])
        return self.why or said[:200] or f"exit status {self.status}"


def find(name: str, path: str | None = None) -> str | None:
    """On PATH, or beside this Python: a service's PATH has not the environment that it was installed in."""
    return shutil.which(name, path=path) or shutil.which(name, path=os.path.dirname(sys.executable))


def run(command: Sequence[str], give_up_ns: int, *, both: bool = False, held: tuple[int, ...] = ()) -> Ran:
    """``both``: standard error in the output; ``held``: descriptors that it has, too. Raises OSError: no start."""
    errors = os.memfd_create("errors")
    try:
        ran = _run(command, give_up_ns, subprocess.STDOUT if both else errors, held)
        return ran._replace(errors=os.pread(errors, MOST_ERRORS, 0))
    finally:
        os.close(errors)


def _run(command: Sequence[str], give_up_ns: int, errors: int, held: tuple[int, ...]) -> Ran:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, pass_fds=held,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - a collector has one thread
    )  # fmt: skip
    assert process.stdout is not None
    output, why = bytearray(), ""
    try:
        while True:
            left = (give_up_ns - time.monotonic_ns()) / 1e9
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                why = "it did not end in time"
                break
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                process.wait(max(0.0, (give_up_ns - time.monotonic_ns()) / 1e9))
                return Ran(process.returncode, bytes(output))
            output += chunk
            if len(output) > MOST_BYTES:
                why = f"it said more than {MOST_BYTES} bytes"
                break
    except subprocess.TimeoutExpired:
        why = "it did not end in time"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # it is ours and unreaped: the number is its group's
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_SECONDS)
        process.stdout.close()
    return Ran(None, bytes(output[:MOST_BYTES]), why)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
