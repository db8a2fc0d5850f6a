"""What the kernel lets us do: real time, locked memory, pidfds, looking at processes, the kernel log, cgroups.

Invariant: a right is tried, not deduced; the child that tried it ends with what it got.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from watchdogd.act import privileges
from watchdogd.doctor.words import Machine, Outcome, degraded, missing, ok
from watchdogd.model import WorkerSettings
from watchdogd.observe.sources import kmsg
from watchdogd.observe.sources.child import Unavailable

CAP_IPC_LOCK, CAP_SYS_PTRACE, CAP_SYS_NICE = 14, 19, 23


def realtime(machine: Machine) -> Outcome:
    priority = machine.settings.supervisor.realtime_priority if machine.settings else 1
    priorities = [priority, *(_priority(worker.scheduling) for worker in _workers(machine))]
    highest = max(priorities)
    if highest == 0:
        return ok("switched off (realtime_priority = 0)")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(highest))
    except PermissionError:
        limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
        why, remedy = f"RLIMIT_RTPRIO is {limit}, no CAP_SYS_NICE", f"LimitRTPRIO={highest} in the unit, or run as root"
        if has_capability(machine, CAP_SYS_NICE):
            why, remedy = "CAP_SYS_NICE is there, so a control group forbids it", "give its cpu group cpu.rt_runtime_us"
        # Measured, two busy cores: docs/DESIGN.md.
        lost = "on a busy machine hangs are found late: p99 85 ms in place of 0.3 ms"
        return missing(f"SCHED_FIFO {highest} is refused ({why})", lost=lost, remedy=remedy)
    return ok(f"SCHED_FIFO {highest} is granted")


def _workers(machine: Machine) -> tuple[WorkerSettings, ...]:
    return machine.settings.workers if machine.settings else ()


def _priority(scheduling: str | None) -> int:
    """Of ``fifo:10``: 10."""
    number = (scheduling or "").partition(":")[2]
    return int(number) if number else 0


def memory_lock(machine: Machine) -> Outcome:
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    lost = "where memory is short, a tick may wait for a page to be read from the disk; workers can pin little memory"
    remedy = "LimitMEMLOCK=infinity in the unit (or CAP_IPC_LOCK)"
    if soft != resource.RLIM_INFINITY and not has_capability(machine, CAP_IPC_LOCK):
        return degraded(f"at most {soft // 1024} KiB may be locked", lost=lost, remedy=remedy)
    became = privileges.lock_memory()
    if became != "locked":
        return degraded(became, lost=lost, remedy=remedy)
    return ok("unlimited" if soft == resource.RLIM_INFINITY else "unlimited, by CAP_IPC_LOCK")


def pidfd(_machine: Machine) -> Outcome:
    lost = "no process can be killed without a risk of killing another: watchdogd does not run"
    try:
        descriptor = os.pidfd_open(os.getpid())
        signal.pidfd_send_signal(descriptor, 0)
        os.waitid(os.P_PIDFD, os.pidfd_open(_ended_child()), os.WEXITED)
    except OSError as error:
        remedy = "Linux 5.4 or later (JetPack 5); in a container, a seccomp profile that allows pidfd_open"
        return missing(f"refused: {error.strerror}", lost=lost, remedy=remedy)
    return ok("opened, signalled and waited for")


def _ended_child() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    return child


def processes(machine: Machine) -> Outcome:
    """Whether ``/proc`` shows what a verdict asks of a worker of another user: how its threads were scheduled."""
    mount = next((m for m in mounts(machine) if m.place == "/proc" and m.kind == "proc"), None)
    hidden = next((o for o in (mount.options if mount else ()) if o.startswith("hidepid=")), "")
    if hidden.partition("=")[2] not in ("", "0", "off") and not has_capability(machine, CAP_SYS_PTRACE):
        lost = "workers of other users cannot be examined: one that starved may be taken for one that hangs"
        remedy = "run as root, or in the group that /proc's gid= option names (SupplementaryGroups=)"
        return degraded(f"{hidden}: the processes of others are hidden", lost=lost, remedy=remedy)
    if machine.text("proc/self/schedstat") is None:
        lost = "a worker that the machine did not run gets no credit for it"
        remedy = "a kernel with CONFIG_SCHED_INFO (CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT); longer deadlines"
        return degraded("no schedstat", lost=lost, remedy=remedy)
    return ok("all processes are visible, with their scheduling")


def kernel_log(machine: Machine) -> Outcome:
    lost = "what the driver says of a fault (Xid, MMU fault, a DLA's time-out) is not shown beside a verdict"
    path = machine.root / kmsg.PATH.lstrip("/")
    try:
        os.close(kmsg.opened(str(path)))
    except Unavailable as error:
        found, _, remedy = str(error).rpartition(": ")
        return missing(found, lost=lost, remedy=remedy)
    return ok(f"{path} may be read")


def cgroups(machine: Machine) -> Outcome:
    kinds = {m.kind for m in mounts(machine)} & {"cgroup", "cgroup2"}
    unified = next((m.place for m in mounts(machine) if m.kind == "cgroup2"), None)
    lost = (
        "a descendant that left its worker's session and dropped its environment is not found when the worker is killed"
    )
    if unified is None:
        found = "v1 alone" if kinds else "none mounted"
        remedy = "systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
        return missing(f"{found}, so no cgroup.kill", lost=lost, remedy=remedy)
    found = "hybrid (v1 and v2)" if "cgroup" in kinds else "v2"
    own = f"{unified}/{_own_group(machine)}".rstrip("/")
    # The root group has no such file; every other has it, or none.
    groups = (machine.root / own.lstrip("/"), *machine.root.glob(f"{unified.lstrip('/')}/*"))
    if not any((group / "cgroup.kill").exists() for group in groups):
        return degraded(f"{found}, without cgroup.kill", lost=lost, remedy="Linux 5.14 or later (JetPack 6)")
    return ok(f"{found}, with cgroup.kill")


def _own_group(machine: Machine) -> str:
    lines = (machine.text("proc/self/cgroup") or "").splitlines()
    return next((line[4:] for line in lines if line.startswith("0::/")), "")


# --- what the checks share ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    place: str
    kind: str
    options: tuple[str, ...]  # the mount's and the file system's


def mounts(machine: Machine) -> Iterator[Mount]:
    for line in (machine.text("proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, system = before.split(" "), after.split(" ")
        if len(fields) > 5 and len(system) > 2:
            yield Mount(fields[4].replace("\\040", " "), system[0], tuple(f"{fields[5]},{system[2]}".split(",")))


def has_capability(machine: Machine, number: int) -> bool:
    lines = (machine.text("proc/self/status") or "").splitlines()
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> number & 1)
