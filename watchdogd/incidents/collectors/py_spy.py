"""Stacks by py-spy, where it is installed: Python's from outside, then with the native frames below.

Python's are read while the process runs (``--nonblocking``), in about 30 ms. For the native ones every thread is held
by ptrace; py-spy that is killed may leave the stop signal that ptrace sends behind, and the process would stay stopped:
also a healthy one, since the collector is killed as well where the call returns meanwhile. So a process that outlives
both has it go on. Invariant: a process that was stopped before is not touched by that.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import NoReturn

from watchdogd.incident import Stack
from watchdogd.incidents.collectors import proc, tool
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target

MOST_PROCESSES = 4
MOST_THREADS = 100
MOST_FRAMES = 100
REMEDY = "pip install 'watchdogd[evidence]' (py-spy), or put py-spy on the service's PATH"


def collect(native: bool, target: Target) -> Evidence:
    program = tool.find("py-spy")
    if program is None:
        return Evidence("missing tool", REMEDY)
    seconds = (NATIVE if native else COLLECTOR).seconds
    give_up = (target.until_ns or time.monotonic_ns() + int(seconds * 1e9)) - 2 * proc.RESERVE_NS
    command = [program, "dump", "--json", "--native" if native else "--nonblocking", "--pid"]
    found: list[Stack] = []
    problems: list[str] = []
    for pid in _pythons(target.pids):
        if native and _is_stopped(pid):
            problems.append(f"pid {pid} is stopped")
            continue
        try:
            ran = _held(pid, [*command, str(pid)], give_up) if native else tool.run([*command, str(pid)], give_up)
        except ProcessLookupError:
            problems.append(f"pid {pid} has ended")
            continue
        if ran.status == 0:
            found += parse(ran.output, "native" if native else "python")
        else:
            problems.append(f"pid {pid}: py-spy: {ran.said()}")
    if not found and not problems:
        return Evidence("not asked for", "none of its processes is a Python that we know by its name")
    return Evidence("ok" if found else "failed", "; ".join(problems), stacks=tuple(found))


def _held(pid: int, command: list[str], give_up: int) -> tool.Ran:
    """``tool.run``, after which the process goes on: also where py-spy is killed, and where we are."""
    process = os.pidfd_open(pid)
    end, held = os.pipe2(os.O_CLOEXEC)
    try:
        guard = os.fork()
        if guard == 0:
            _guard(process, end, held)
        os.setpgid(guard, guard)  # not ended with our group
        ran = tool.run(command, give_up, held=(held,))
        if ran.status is not None:
            os.write(held, b"1")  # it let go by itself
    finally:
        os.close(held)
        os.close(end)
        os.close(process)
    return ran


def _guard(process: int, end: int, held: int) -> NoReturn:
    """Who runs and who is run hold the other end of the pipe."""
    try:
        os.close(held)
        if not os.read(end, 1):
            signal.pidfd_send_signal(process, signal.SIGCONT)  # takes a stop signal that waits out of the queue, too
    finally:
        os._exit(0)


def _pythons(roots: tuple[int, ...]) -> list[int]:
    """The first process whatever it is called (Python may be embedded), of the others those called so."""
    pids = proc.family(roots)
    named = [pid for pid in pids if pid in roots[:1] or "python" in _program(pid)]
    return named[:MOST_PROCESSES]


def _program(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:  # gone, or not ours to see
        return ""


def _is_stopped(pid: int) -> bool:
    return (proc.status(f"/proc/{pid}") or {}).get("State", "")[:1] in ("T", "t")


def parse(raw: bytes, kind: str) -> list[Stack]:
    """What ``py-spy dump --json`` prints. What cannot be read of it is left out."""
    try:
        threads = json.loads(raw)
    except ValueError:
        return []
    found = []
    for thread in threads[:MOST_THREADS] if isinstance(threads, list) else []:
        with suppress(KeyError, TypeError, ValueError):
            frames = tuple(_frame(frame) for frame in thread["frames"][:MOST_FRAMES])
            tid = None if thread.get("os_thread_id") is None else int(thread["os_thread_id"])
            found.append(Stack(int(thread["pid"]), tid, kind, frames, str(thread.get("thread_name") or "")))
    return found


def _frame(frame: dict[str, object]) -> str:
    """``f (file:line)``; of a native one without line information ``f (library)``."""
    line = f":{frame['line']}" if frame["line"] else ""
    place = frame["filename"] if line else frame.get("short_filename") or frame["filename"]
    return f"{frame['name']} ({place}{line})"


def _available() -> str | None:
    return None if tool.find("py-spy") else REMEDY


COLLECTOR = Collector("py-spy", False, 0.2, _available, partial(collect, False), after=("proc",))
NATIVE = Collector("native stacks", False, 0.35, _available, partial(collect, True), after=("proc", "python stacks"))
