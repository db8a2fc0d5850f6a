"""From a worker's settings to a ``Launch``: its identity, environment and output.

Invariant: a worker's output never passes through the supervisor; it goes to a file, the journal, or where ours goes.
"""

from __future__ import annotations

import grp
import os
import pwd
import zlib
from collections.abc import Iterable, Mapping

from watchdogd import abi
from watchdogd.act.runtime import CannotStart
from watchdogd.act.spawning import Launch
from watchdogd.instrument import options, words
from watchdogd.model import WorkerSettings

NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


Identity = tuple[int, int, tuple[int, ...]]  # uid, gid and supplementary groups to run under


class Identities:
    """Whom workers run as, looked up once: behind a name there may be a network that does not answer."""

    def __init__(self) -> None:
        self._known: dict[str, Identity | None] = {}

    def look_up(self, workers: Iterable[WorkerSettings]) -> None:
        """For the start. Raises CannotStart (an unknown name)."""
        for settings in workers:
            self.of(settings)

    def of(self, settings: WorkerSettings) -> Identity | None:
        """None = the supervisor's own. Raises CannotStart."""
        try:
            if settings.name not in self._known:
                self._known[settings.name] = _identity(settings)
        except KeyError as error:
            raise CannotStart(
                f"worker {settings.name} has nobody to run as: {error.args[0]}; "
                f"create that account, or name another in [workers.{settings.name}]"
            ) from None
        return self._known[settings.name]


def _identity(settings: WorkerSettings) -> Identity | None:
    if settings.user is None and settings.group is None:
        return None
    if settings.user is None:
        group = grp.getgrnam(settings.group or "").gr_gid
        return os.getuid(), group, (group,)
    user = pwd.getpwnam(settings.user)
    gid = grp.getgrnam(settings.group).gr_gid if settings.group else user.pw_gid
    return user.pw_uid, gid, tuple(os.getgrouplist(settings.user, gid))


def fingerprint(settings: WorkerSettings) -> str:
    """Of everything that a running worker cannot take on: if it is another, the worker must be started anew."""
    launched = (
        settings.command, settings.user, settings.group, sorted(settings.environment), settings.working_directory,
        settings.cpu_affinity, settings.nice, settings.scheduling, settings.oom_score_adj,
        settings.cuda_visible_devices, settings.output, settings.on_supervisor_exit,
        *((options.asked(settings),) if settings.instrument == "driver" else ()),
        *(("nvtx",) if settings.instrument == "driver" and settings.nvtx else ()),
        *(("dump",) if _dumps(settings) else ()),
    )  # fmt: skip
    text = repr(launched).encode("utf-8", "surrogateescape")
    return f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}"  # hashlib takes 10 ms to import, at each adoption


def environment(settings: WorkerSettings, heartbeat: str, base: Mapping[str, str]) -> dict[str, str]:
    result = {name: value for name, value in base.items() if settings.foreground or name not in NOT_FOR_WORKERS}
    result |= dict(settings.environment)
    if settings.cuda_visible_devices is not None:
        result["CUDA_VISIBLE_DEVICES"] = settings.cuda_visible_devices
    result[abi.ENVIRONMENT] = heartbeat
    result["WATCHDOGD_WORKER"] = settings.name
    return result


def log_path(settings: WorkerSettings, logs: str) -> str:
    return f"{logs}/{settings.name}.log"


def open_output(settings: WorkerSettings, logs: str) -> int | None:
    """A descriptor for the worker's standard output and error; None = where ours goes. Raises OSError."""
    if settings.output == "null":
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    if settings.output == "journal":
        from systemd import journal  # noqa: PLC0415 - only where the journal is asked for

        with journal.stream(f"watchdogd-{settings.name}") as stream:
            return os.dup(stream.fileno())
    if settings.output == "file":
        # Without O_NONBLOCK a FIFO planted there would hold up the supervisor until somebody reads it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(log_path(settings, logs), flags, 0o640)
        os.set_blocking(descriptor, True)
        return descriptor
    return None


def _shim(settings: WorkerSettings, roots: tuple[str, ...]) -> words.Request | None:
    if settings.instrument != "driver":
        return None
    return words.Request(roots, nvtx=words.NVTX if settings.nvtx else None)


def _dumps(settings: WorkerSettings) -> bool:
    return settings.gpu_core_dump and settings.evidence == "full"


def request(
    settings: WorkerSettings, heartbeat: str, birth: str, output: int | None, base: Mapping[str, str],
    ids: Identity | None, scope: tuple[str, str] | None = None, roots: tuple[str, ...] = (),
    dump: str | None = None,
) -> Launch:  # fmt: skip
    """``roots``: where a shim for its driver may be put. ``dump``: the folder for core dumps of its GPU."""
    scheduling = None
    if settings.scheduling is not None:
        name, _, priority = settings.scheduling.partition(":")
        scheduling = (name, int(priority or 0))
    return Launch(
        command=settings.command,
        environment=environment(settings, heartbeat, base),
        stdin=0 if settings.foreground else None,
        stdout=output if output is not None else 1,
        stderr=output,
        directory=settings.working_directory,
        ids=ids,
        affinity=settings.cpu_affinity,
        nice=settings.nice,
        scheduling=scheduling,
        oom_score_adj=settings.oom_score_adj,
        die_with_parent=settings.on_supervisor_exit == "kill",
        birth=birth,
        scope=scope,
        foreground=settings.foreground,
        shim=_shim(settings, roots),
        dump=dump if _dumps(settings) else None,
    )
