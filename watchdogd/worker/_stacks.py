"""Has ``faulthandler`` write the stacks of all Python threads when a signal asks for them: no GIL, no tool is needed.

Before Python 3.11 it takes references to what it writes about, while other threads do so under the GIL that it has not:
a busy program on 3.10 crashed after 26, another after 158 dumps; 666, 2452 and 975 did no harm on 3.11, 3.12 and 3.13.
So the file says it, and there only who ends the process anyway asks.

Invariant: a program that handles or ignores that signal itself keeps it, and nothing here raises.
"""

from __future__ import annotations

import os
import sys

from watchdogd import stacks


def register() -> bool:
    """Whether it is registered by this call; for this process and those it forks."""
    descriptor = -1
    try:
        import faulthandler  # noqa: PLC0415 - a Python may be built without it
        import fcntl  # noqa: PLC0415 - with it

        if not _is_default():
            return False
        descriptor = os.memfd_create(stacks.NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # What is written goes to its end also after who asks has cut it.
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
        os.write(descriptor, stacks.header(descriptor, sys.version_info >= (3, 11)))
        faulthandler.register(stacks.SIGNAL, descriptor, all_threads=True, chain=False)
    except (ImportError, OSError, RuntimeError, ValueError):  # no /proc, no memfd, no descriptor left: no stacks then
        if descriptor >= 0:
            os.close(descriptor)
        return False
    return True


def _is_default() -> bool:
    """By the kernel, not by Python's table: a C library's handler is not in that."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        status = file.read()
    return not stacks.has(status, "SigCgt") and not stacks.has(status, "SigIgn")
