"""Python stacks by ``faulthandler``, which the worker registered as it attached (``worker/_stacks.py``).

The signal's default action would end the process, so right before it is sent the process must have the file that proves
the registration and catch the signal. What remains is the instant in which a process executes another program between
that look and the signal. It goes to a thread that can take it: one in D state keeps a process's signals waiting.
A process whose Python may be harmed by it (``worker/_stacks.py``) is asked once its kill is committed (``LATE``).
Invariant: no other signal is sent, to nobody else; a file that is no memfd of that kind is neither read nor cut.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import stat
import time
from contextlib import suppress
from functools import partial

from watchdogd import stacks
from watchdogd.incident import Stack
from watchdogd.incidents.collectors import proc
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target

MOST_BYTES = 1 << 20  # of a process; faulthandler stops at 100 threads and 100 frames of each
MOST_PROCESSES = 8
LOOK_SECONDS = 0.001
SECONDS = 0.25
NOBODY = (
    "no Python process of this worker has registered it: that is done by watchdogd.worker.attach(), where the program"
    f" does not use signal {stacks.SIGNAL} itself; py-spy needs no registration"
)
ASKED = "none of its processes had to wait for the commit with it"
HARMFUL = (
    "its Python is older than 3.11 and may crash of it: asked for only where the kill is committed before"
    " (gpu_core_dump = true); py-spy reads them from outside"
)
_THREAD = re.compile(r"(Current thread|Thread) (0x[0-9a-f]+)(?: \[([^\]]*)\])? \(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_libc = ctypes.CDLL(None, use_errno=True)


class NoStacks(Exception):
    """Of one process; the message says why."""


def collect(is_committed: bool, target: Target) -> Evidence:
    """``is_committed``: of those that may be harmed by it, else of the others."""
    give_up = (target.until_ns or time.monotonic_ns() + int(SECONDS * 1e9)) - proc.RESERVE_NS
    found: list[Stack] = []
    problems: list[str] = []
    left_out = ""
    for pid in proc.family(target.pids)[:MOST_PROCESSES]:
        try:
            file = _opened(pid)
            if file is None:
                continue
            try:
                descriptor, is_harmless = _registration(file)
                if is_harmless == is_committed:
                    left_out = left_out if is_committed else HARMFUL
                    continue
                found += _stacks_of(pid, file, descriptor, give_up)
            finally:
                os.close(file)
        except NoStacks as error:
            problems.append(f"pid {pid}: {error}")
        except PermissionError as error:
            problems.append(f"pid {pid}: {error.strerror}: {proc.RIGHTS}")
        except OSError as error:  # it has ended meanwhile, or we have no descriptor left
            problems.append(f"pid {pid}: {error.strerror}")
    if not found and not problems:
        return Evidence("not asked for", left_out or (ASKED if is_committed else NOBODY))
    return Evidence("ok" if found else "failed", "; ".join(problems), stacks=tuple(found))


def _registration(file: int) -> tuple[int, bool]:
    """Raises NoStacks."""
    found = stacks.read_header(_header(file))
    if found is None:
        raise NoStacks("it has written over the line that says where it writes")
    return found


def _header(file: int) -> bytes:
    return os.pread(file, 256, 0).partition(b"\n")[0] + b"\n"


def _stacks_of(pid: int, file: int, descriptor: int, give_up: int) -> list[Stack]:
    """Raises NoStacks, OSError."""
    header = len(_header(file))
    # A program that closed all its descriptors may have another file at that number by now: it would be written to.
    if not os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), os.fstat(file)):
        raise NoStacks("it has closed the file that it would write to")
    os.ftruncate(file, header)
    tid = _taker(pid)
    if not stacks.catches(_status(f"/proc/{pid}")):
        raise NoStacks(f"it does not catch signal {stacks.SIGNAL}, which would end it")
    if _libc.tgkill(pid, tid, stacks.SIGNAL) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    while not _is_written(pid, tid, file, header):
        if time.monotonic_ns() > give_up:
            raise NoStacks(f"its thread {tid} did not write them in time")
        time.sleep(LOOK_SECONDS)
    return parse(os.pread(file, MOST_BYTES, header).decode("utf-8", "replace"), pid, tid)


def _taker(pid: int) -> int:
    """A thread that can take the signal, the first one if it can: a driver's thread is the last to be disturbed."""
    for tid in proc.tids(pid):
        status = _status(f"/proc/{pid}/task/{tid}")
        state = re.search(r"^State:\s+(\S)", status, re.MULTILINE)
        if state is not None and state[1] in "RSI" and not stacks.has(status, "SigBlk"):
            return tid
    raise NoStacks("all its threads stand in the kernel (D state), are stopped or block the signal")


def _is_written(pid: int, tid: int, file: int, header: int) -> bool:
    """The handler is done: while it runs, its own signal is blocked in its thread.

    Its size is looked at first: between the signal's leaving the queue and its being blocked neither shows it, and
    nothing is written.
    """
    has_begun = os.fstat(file).st_size > header
    status = _status(f"/proc/{pid}/task/{tid}")
    if not status:
        raise NoStacks("the thread that was asked has ended")
    return has_begun and not stacks.has(status, "SigBlk")


def _opened(pid: int) -> int | None:
    """A descriptor of the file that it writes to; None if it has none. Raises OSError."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{number}"
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path) == stacks.LINK:
                file = _checked(path)
                if file is not None:
                    return file
    return None


def _checked(path: str) -> int | None:
    """None if it is another file of that name. Only of a memfd that may be sealed are the seals known to be none."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        file = os.open(f"/proc/self/fd/{place}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(place)
    with suppress(OSError):  # EINVAL: no file in memory
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) == 0:
            return file
    os.close(file)
    return None


def _status(place: str) -> str:
    """Empty if it is gone."""
    try:
        with open(f"{place}/status", encoding="utf-8", errors="replace") as file:
            return file.read(proc.MOST_BYTES)
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parse(text: str, pid: int, asked: int) -> list[Stack]:
    """What ``faulthandler`` wrote. Of the threads only ``asked``, in which it ran, is known by its number.

    The main thread is the oldest, and so the last, unless there were too many to be written.
    """
    found: list[Stack] = []
    for block in re.split(r"^(?=Current thread |Thread )", text, flags=re.MULTILINE):
        head = _THREAD.match(block)
        if head is None:
            continue
        frames = tuple(
            f"{frame[3]} ({frame[1]}:{frame[2]})" for frame in map(_FRAME.match, block.splitlines()) if frame
        )
        tid = asked if head[1] == "Current thread" else None
        found.append(Stack(pid, tid, "python", frames, head[3] or f"thread {head[2]}"))
    if found and found[-1].tid is None and asked != pid and not text.rstrip().endswith("\n..."):
        found[-1] = Stack(pid, pid, "python", found[-1].frames, found[-1].name)
    return found


COLLECTOR = Collector(
    "python stacks", destructive=False, seconds=SECONDS, available=lambda: None, collect=partial(collect, False),
    after=("proc",),
)  # fmt: skip
LATE = COLLECTOR._replace(name="python stacks late", destructive=True, collect=partial(collect, True), after=())
