"""A transient systemd scope for each worker: a cgroup of its own, outside the service's.

So a restart of the service leaves its workers alone, and one write ends a worker with every descendant, whatever
session or environment it has made for itself. Invariant: only the launched child waits for systemd, never the
supervisor; a worker that gets no scope runs all the same, and says why.
"""

from __future__ import annotations

import os
import time

DEADLINE_SECONDS = 2.0
POLL_SECONDS = 0.0005
UNIFIED = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # cgroup v2 alone, or beside v1


class NoScope(Exception):
    """The message says why."""


def available(slice_name: str) -> tuple[str | None, str]:
    """The slice to use, None = there can be no scopes; and what is to be told of it."""
    if not slice_name:
        return None, "none (switched off)"
    if not os.path.isdir("/run/systemd/system"):  # systemd's own test, sd_booted(3)
        return None, "none (systemd does not run this machine)"
    if os.geteuid() != 0:
        return None, "none (only root may have systemd make them)"
    try:
        import jeepney.io.blocking  # noqa: F401, PLC0415 - here, so that no child pays for it
    except ImportError:
        return None, "none (the Python package jeepney is missing: install watchdogd[systemd])"
    return slice_name, slice_name


def unit_name(worker: str, incarnation: int, supervisor: int) -> str:
    return f"watchdogd-{worker}-{supervisor}-{incarnation}.scope"


def enter(unit: str, slice_name: str) -> str:
    """Move this process into a new scope; its cgroup's directory. Raises NoScope."""
    from jeepney import DBusAddress, MessageType, new_method_call  # noqa: PLC0415 - only the child that moves pays
    from jeepney.auth import AuthenticationError  # noqa: PLC0415 - as above
    from jeepney.io.blocking import open_dbus_connection  # noqa: PLC0415 - as above

    give_up = time.monotonic() + DEADLINE_SECONDS
    manager = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")
    properties = [
        ("PIDs", ("au", [os.getpid()])),
        ("Slice", ("s", slice_name)),
        ("Description", ("s", "worker of gpu-watchdogd")),
        ("CollectMode", ("s", "inactive-or-failed")),  # forgotten once it is empty
        ("Before", ("as", ["gpu-watchdogd.service"])),  # so that a shutdown stops the supervisor first, in its order
    ]
    request = new_method_call(manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", properties, []))
    try:
        with open_dbus_connection(bus="SYSTEM") as connection:
            reply = connection.send_and_get_reply(request, timeout=DEADLINE_SECONDS)
    except (OSError, AuthenticationError, RuntimeError) as error:  # RuntimeError: jeepney's, for an odd answer
        raise NoScope(f"no answer from systemd: {error}") from None
    if reply.header.message_type is MessageType.error:
        raise NoScope(f"systemd refused a scope: {' '.join(map(str, reply.body))}")
    while (directory := own_cgroup()) is None or not directory.endswith(f"/{unit}"):  # the job is queued, not done
        if time.monotonic() > give_up:
            raise NoScope("systemd made no scope in time")
        time.sleep(POLL_SECONDS)
    return directory


def own_cgroup() -> str | None:
    """Directory of this process's cgroup in the unified hierarchy; None where there is none."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    if path is None:
        return None
    return next((f"{mount}{path}" for mount in UNIFIED if os.path.exists(f"{mount}/cgroup.controllers")), None)


def kill(directory: str) -> bool:
    """SIGKILL everything in the cgroup, also what is being forked. False where the kernel (before 5.14) cannot."""
    try:
        descriptor = os.open(f"{directory}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # the cgroup is gone, or the kernel is too old
        return not os.path.exists(directory)
    try:
        os.write(descriptor, b"1")
    finally:
        os.close(descriptor)
    return True


def processes(directory: str) -> list[int]:
    """Pids of everything in it and below; none once it is gone."""
    found: list[int] = []
    for place, _, _ in os.walk(directory):
        try:
            with open(f"{place}/cgroup.procs", encoding="ascii") as file:
                found += map(int, file.read().split())
        except (FileNotFoundError, OSError):  # it went while we looked (ENODEV)
            continue
    return found
