"""One child process: launched without waiting for it, held by a pidfd, signalled through it, reaped last.

Invariant: no call here waits for the child. ``launch`` returns right after the fork; whether the exec worked is told
by a pipe that the loop may read later. The child stays unreaped until ``reap``, so neither its pid nor its process
group can be anybody else's while it may be signalled. A process of an earlier supervisor (``adopt``) is not ours to
reap: it is signalled through its pidfd alone, and nobody can know how it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from watchdogd import procfs
from watchdogd.model import Exit
from watchdogd.procfs import Identity

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_libc = ctypes.CDLL(None, use_errno=True)
_unpinned: list[int] = []  # the CPUs that were ours before ``pin``

SCHEDULERS = {
    "other": os.SCHED_OTHER,
    "batch": os.SCHED_BATCH,
    "idle": os.SCHED_IDLE,
    "fifo": os.SCHED_FIFO,
    "rr": os.SCHED_RR,
}
EXEC_FAILED = 127
RUNAWAY_SECONDS = 1  # of CPU without a pause, at real-time priority: ended by SIGXCPU before it can starve a machine


@dataclass(frozen=True, slots=True)
class Launch:
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
    birth: str | None = None  # file in which the child says who it is, before it is anybody's but ours


def become_subreaper() -> None:
    """Orphans of our workers come to us instead of init. Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def become_realtime(priority: int) -> str:
    """SCHED_FIFO for this process alone: whatever it starts is scheduled normally. Returns what it has become."""
    if priority == 0:
        return "normal"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except PermissionError:
        return "normal (real-time priority was refused; CAP_SYS_NICE or LimitRTPRIO= allows it)"
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    resource.setrlimit(resource.RLIMIT_RTTIME, (RUNAWAY_SECONDS * 1_000_000, hard))
    return f"fifo:{priority}"


def pin(cpus: tuple[int, ...]) -> None:
    """Keep this process to these CPUs; whatever it launches may go where it could before. Raises OSError."""
    if cpus:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)
        _unpinned[:] = before


def lock_memory() -> str:
    """Keep what this process has touched in RAM, so that no tick waits for a disk. Returns what has become of that.

    Only where no limit holds: under one, an allocation past it would fail later, in the middle of a tick.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY and not _has_capability(_CAP_IPC_LOCK):
        return "not locked (CAP_IPC_LOCK or LimitMEMLOCK=infinity allows it)"
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"not locked ({os.strerror(ctypes.get_errno())})"
    return "locked"


def _has_capability(number: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)


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

    def signal(self, number: int) -> OSError | None:
        """Signal the process and its group. A refusal is returned, to be shown; "already gone" is not one.

        Of an adopted one only itself: once its leader is reaped by init, the group's number may be anybody's.
        """
        if self.pidfd < 0:
            return None
        try:
            # Safe although by number: the leader is ours and unreaped, so the number is still its group's.
            if self.is_child and self._signal_group(number) and number != signal.SIGKILL:
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


def read_birth(path: str) -> Identity | None:
    """Who a launched child said it is; None if it has not (yet), or not in these words."""
    try:
        with open(path, encoding="ascii") as file:
            pid, start_ticks = map(int, file.read().split())
    except (FileNotFoundError, ValueError):
        return None
    return Identity(pid, start_ticks) if pid > 0 else None


def launch(request: Launch) -> Process:
    """Start a child in a session and process group of its own. Raises OSError if there can be no new process.

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
            _become(request, parent, send, mask)
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


def _become(request: Launch, parent: int, errors: int, mask: set[int | signal.Signals]) -> NoReturn:
    """In the child: never returns, never runs the parent's handlers."""
    try:
        errors = fcntl.fcntl(errors, fcntl.F_DUPFD_CLOEXEC, 10)  # out of the way of 0 to 2
        _prepare(request, parent, errors, mask)
        os.execvpe(request.command[0], request.command, dict(request.environment))
    except BaseException as error:  # noqa: BLE001 - whatever it is, this copy of the supervisor must not go on
        name = getattr(error, "filename", None)
        text = f"{request.command[0]}: {error}" if name is None else f"{error}"
        os.write(errors, text.encode("utf-8", "replace")[:4000])
    finally:
        os._exit(EXEC_FAILED)


def _prepare(request: Launch, parent: int, errors: int, mask: set[int | signal.Signals]) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in enumerate((request.stdin, request.stdout, request.stderr)):
        if source is None and target == 2:
            continue
        os.dup2(null if source is None else source, target, inheritable=True)
    if request.birth is not None:
        _tell_birth(request.birth)
    os.closerange(3, errors)
    os.closerange(errors + 1, 2**20)
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    resource.setrlimit(resource.RLIMIT_RTTIME, (hard, hard))  # the supervisor's own bound is not the worker's
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        protected = int(file.read()) < 0  # as the supervisor is; its children shall not be, unless they are told to
    if protected or request.oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(request.oom_score_adj or 0))
    if request.affinity or _unpinned:
        os.sched_setaffinity(0, request.affinity or _unpinned)
    if request.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, request.nice)
    if request.scheduling is not None:
        name, priority = request.scheduling
        os.sched_setscheduler(0, SCHEDULERS[name], os.sched_param(priority))
    else:
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))  # the right to be real-time is the supervisor's alone
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
        os._exit(EXEC_FAILED)


def _tell_birth(path: str) -> None:
    """Before the child gives up its rights, so that no worker can forge it."""
    me = procfs.stat(os.getpid())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    os.write(descriptor, f"{os.getpid()} {me.start_ticks if me else 0}\n".encode())
    os.close(descriptor)
