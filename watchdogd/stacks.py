"""How a Python worker and who asks for its stacks find each other: a signal, and a file in memory of a known name.

The worker has ``faulthandler`` write to the file at the signal, in C and without the GIL (``worker/_stacks.py``); who
asks finds the file among the process's descriptors (``incidents/collectors/stacks.py``). It is a memfd and no file
beside the heartbeat: a worker of another user may make none there, one in a container may have no such place, and a
memfd is known by what no other file can be made to look like (its seals), so that root may write to it and not be
tricked into writing to another.

Invariant: nobody sends the signal to a process that has not such a file, or does not catch the signal: its default
action would end the process.
"""

from __future__ import annotations

# SIGRTMAX - 7. The C library keeps 32 to 34 for itself; SIGRTMIN and a few above it are what garbage collectors and
# language runtimes take, and SIGRTMAX is valgrind's. SIGUSR1 and 2, SIGQUIT and SIGPROF belong to programs.
SIGNAL = 57
NAME = "watchdogd-stacks"
LINK = f"/memfd:{NAME} (deleted)"  # as /proc/PID/fd shows it


def header(descriptor: int, is_harmless: bool) -> bytes:
    """The file's first line: at which of its descriptors the process writes, and whether it may go on afterwards."""
    return b"%s 1 %d %d\n" % (NAME.encode(), descriptor, is_harmless)


def read_header(line: bytes) -> tuple[int, bool] | None:
    """What ``header`` was given; None if it is none."""
    words = line.split()
    if len(words) != 4 or words[:2] != [NAME.encode(), b"1"] or not (words[2].isdigit() and words[3].isdigit()):
        return None
    return int(words[2]), words[3] == b"1"


def catches(status: str, signal: int = SIGNAL) -> bool:
    """Whether the process has a handler, by the text of its ``/proc/PID/status``."""
    return has(status, "SigCgt", signal)


def has(status: str, mask: str, signal: int = SIGNAL) -> bool:
    """``mask``: SigCgt SigIgn SigBlk SigPnd ShdPnd."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == mask:
            return bool(int(value.strip(), 16) >> (signal - 1) & 1)
    return False
