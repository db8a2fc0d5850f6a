"""A child process launched without waiting for it.

Invariant: ``launch`` returns right after the fork; whether the exec worked is told by a pipe that the loop may read
later. What is the supervisor's alone (``privileges``) ends in the child, before the program begins.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, NoReturn

from watchdogd.act import birth, privileges, scope
from watchdogd.act.process import Process, hold
from watchdogd.instrument import core_dump, words
from watchdogd.observe import procfs

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

SCHEDULERS = {
    "other": os.SCHED_OTHER,
    "batch": os.SCHED_BATCH,
    "idle": os.SCHED_IDLE,
    "fifo": os.SCHED_FIFO,
    "rr": os.SCHED_RR,
}
NOT_FOUND, CANNOT_EXECUTE = 127, 126  # as a shell says it


class Launch(NamedTuple):
    """What to run and how. Descriptors are the parent's; all others are closed in the child."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    stdin: int | None = None  # None = /dev/null
    stdout: int | None = None
    stderr: int | None = None  # None = the parent's own
    directory: str | None = None
    ids: tuple[int, int, tuple[int, ...]] | None = None  # uid, gid, supplementary groups
    affinity: tuple[int, ...] = ()
    nice: int | None = None
    scheduling: tuple[str, int] | None = None  # name of SCHEDULERS, priority
    oom_score_adj: int | None = None
    die_with_parent: bool = True
    birth: str | None = None  # file in which the child says who it is (``birth``)
    scope: tuple[str, str] | None = None  # systemd scope to enter, and the slice it is in
    foreground: bool = False  # in our session and process group, with the descriptors and limits we were started with
    shim: words.Request | None = None  # what is to stand in front of its CUDA driver
    dump: str | None = None  # folder in which its driver may leave core dumps of the GPU


def launch(request: Launch) -> Process:
    """Start a child in a session and process group of its own (not in the foreground). Raises OSError: no process.

    A plain fork: the supervisor has one thread, so nothing else can hold a lock in the child, and unlike ``subprocess``
    this does not wait for the exec, which may sleep on a slow disk. Signals stay blocked until the child has let go of
    the parent's handlers and wake-up descriptor: one sent to the child must not look like one sent to the parent.
    """
    receive, send = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(request, parent, send)
    except OSError:
        os.close(receive)
        os.close(send)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(send)
    try:
        return hold(pid, receive)
    except OSError:  # no descriptor left: a child that cannot be held must not be
        os.close(receive)
        os.kill(pid, signal.SIGKILL)
        raise


def _become(request: Launch, parent: int, errors: int) -> NoReturn:
    """In the child: never returns, never runs the parent's handlers."""
    status = CANNOT_EXECUTE
    try:
        errors = fcntl.fcntl(errors, fcntl.F_DUPFD_CLOEXEC, 10)  # out of the way of 0 to 2
        environment = _prepare(request, parent, errors)
        os.execvpe(request.command[0], request.command, environment)
    except BaseException as error:  # noqa: BLE001 - whatever it is, this copy of the supervisor must not go on
        name = getattr(error, "filename", None)
        text = f"{request.command[0]}: {error}" if name is None else f"{error}{_remedy(error, name)}"
        os.write(errors, text.encode("utf-8", "replace")[:4000])
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE
    finally:
        os._exit(status)


def _remedy(error: BaseException, name: object) -> str:
    """Of a file that is there and that the kernel does not take for a program."""
    if isinstance(error, FileNotFoundError) and isinstance(name, str) and os.path.isfile(name):
        return "; it is there, but not the interpreter that its first line names, or its loader"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return "; it is a script without a first line such as #!/bin/sh, or for another machine"
    return ""


def _prepare(request: Launch, parent: int, errors: int) -> dict[str, str]:
    """With the environment for the program."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        if signal.getsignal(number) is not signal.SIG_IGN:  # what nohup(1) had us ignore
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python's own doing, as the next
    if not (request.foreground and _is_of_systemd(parent)):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # also what we block over an exec of our own: they must hear it
    if not request.foreground:
        os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in enumerate((request.stdin, request.stdout, request.stderr)):
        if source is None and target == 2:
            continue
        os.dup2(null if source is None else source, target, inheritable=True)
    if request.birth is not None:
        birth.tell(request.birth, *_enter_scope(request))
    environment = core_dump.prepare(request.dump, _with_shim(request), request.ids)
    if not request.foreground:  # else the exec closes ours, and leaves what somebody gave us for the program
        os.closerange(3, errors)
        os.closerange(errors + 1, 2**20)
    _limit(request)
    if request.ids is not None:
        uid, gid, groups = request.ids
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    if request.directory is not None:
        os.chdir(request.directory)
    if request.die_with_parent:
        # After setuid, which would clear it. A parent that died before this line is noticed by the next.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # After the birth was told: the next supervisor has seen it, or we see that ours is dead. Never two, never none.
    if os.getppid() != parent:
        os._exit(CANNOT_EXECUTE)
    return environment


def _is_of_systemd(supervisor: int) -> bool:
    """Which has its services ignore SIGPIPE; nothing else tells what was ignored before Python began."""
    there = procfs.stat(supervisor)
    return there is not None and procfs.name(there.parent) == "systemd"


def _enter_scope(request: Launch) -> tuple[str | None, str | None]:
    """The cgroup's directory, or why there is none."""
    if request.scope is None:
        return None, None
    unit, slice_name = request.scope
    try:
        return scope.enter(unit, slice_name), None
    except scope.NoScope as error:
        return None, str(error)


def _with_shim(request: Launch) -> dict[str, str]:
    """The environment, with the shim first where there can be one. Here, where a disk may take its time."""
    if request.shim is None:
        return dict(request.environment)
    from watchdogd.instrument import front, place  # noqa: PLC0415 - 5 ms that a supervisor without a shim never needs

    directory = request.directory or ""
    with suppress(FileNotFoundError):  # it has been removed: a program starts there all the same
        directory = os.path.join(os.getcwd(), directory)
    shim, environment = front.stand(request.shim, request.environment, directory, request.ids)
    if request.birth is not None:
        birth.add_shim(request.birth, shim)
        with suppress(OSError):  # what cannot be removed is in nobody's way
            place.sweep(request.shim.roots, birth.folders(os.path.dirname(request.birth)))
    return environment


def _limit(request: Launch) -> None:
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    resource.setrlimit(resource.RLIMIT_RTTIME, (hard, hard))  # the supervisor's own bound is not the worker's
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        # As the supervisor is; its children shall not be, unless they are told to.
        protected = int(file.read()) < 0 and not request.foreground
    if protected or request.oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(request.oom_score_adj or 0))
    if request.affinity or privileges.unpinned:
        os.sched_setaffinity(0, request.affinity or privileges.unpinned)
    if request.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, request.nice)
    if request.scheduling is not None:
        name, priority = request.scheduling
        os.sched_setscheduler(0, SCHEDULERS[name], os.sched_param(priority))
    elif not request.foreground:
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))  # the right to be real-time is the supervisor's alone
