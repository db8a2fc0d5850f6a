"""systemd and its journal, the clock, this Python, other programs.

Invariant: programs are looked for on the PATH of the environment that was given; of them only ``systemctl --version``
is run.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

from watchdogd.doctor.words import Machine, Outcome, degraded, missing, ok, unknown
from watchdogd.publish import journald

BUS = "run/dbus/system_bus_socket"
BUS_SECONDS = 0.8
# What jumps, wraps or takes microseconds to read; Orin has arch_sys_counter, a PC tsc.
POOR_CLOCKS = frozenset({"acpi_pm", "hpet", "jiffies", "refined-jiffies", "pit"})
# For people; what collects evidence by itself is looked at in ``evidence``.
TOOLS = {"gdb": "a look by hand into a hung worker", "perf": "what keeps a CPU busy"}
_OURS = (b"watchdogd.cli", b"-m watchdogd")


def systemd(machine: Machine) -> Outcome:
    if not (machine.root / "run/systemd/system").is_dir():  # sd_booted(3)
        lost = "nobody restarts the supervisor, and nobody notices when it is stuck"
        remedy = "run it under systemd (make install), or under another service manager that restarts it"
        return missing("this machine was not booted with systemd", lost=lost, remedy=remedy)
    program = shutil.which("systemctl", path=machine.environ.get("PATH", os.defpath))
    told = b""
    if program is not None:
        told = subprocess.run([program, "--version"], capture_output=True, timeout=0.8, check=False).stdout
    version = re.match(rb"systemd (\d+)", told)
    return ok(f"booted, version {version[1].decode()}" if version else "booted, version not known")


def bus(machine: Machine) -> Outcome:
    """Whether a bus answers, by its authentication; nothing is asked of systemd."""
    lost = "no scope of its own for each worker: a restart of the service ends the workers"
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(BUS_SECONDS)
            client.connect(str(machine.root / BUS))
            client.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
            answer = client.recv(256)
    except TimeoutError:
        return unknown("the system bus does not answer", lost=lost, remedy="systemctl status dbus")
    except OSError as error:
        remedy = "install dbus; in a container share /run/dbus"
        return missing(f"no system bus (/{BUS}: {error.strerror})", lost=lost, remedy=remedy)
    if not answer.startswith(b"OK "):
        return missing("the system bus refuses this user", lost=lost, remedy="run as root, or change the bus's policy")
    if not is_installed("jeepney"):
        return degraded("answers, but this Python has no jeepney", lost=lost, remedy="pip install 'watchdogd[systemd]'")
    return ok("the system bus answers, jeepney is installed")


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def journal(machine: Machine) -> Outcome:
    there = (machine.root / journald.SOCKET.lstrip("/")).is_socket()
    lost = "log entries have no fields to search by"
    if not there:
        found, remedy = f"no {journald.SOCKET}", 'nothing to do: log_format "text" or "json" goes to standard error'
        return missing(found, lost=lost, remedy=remedy)
    if not journald.can_send():
        remedy = "apt install libsystemd-dev, then pip install 'watchdogd[systemd]'"
        lost = f"{lost}; Type=notify cannot be used"
        return degraded("journald runs, but this Python has no systemd-python", lost=lost, remedy=remedy)
    return ok("journald runs, systemd-python is installed")


def clock(machine: Machine) -> Outcome:
    source = machine.text("sys/devices/system/clocksource/clocksource0/current_clocksource")
    resolution_ns = round(time.clock_getres(time.CLOCK_MONOTONIC) * 1e9)
    lost, remedy = "deadlines are met late, and a stamp costs microseconds", "see dmesg for why the kernel chose it"
    found = f"{source or 'source not told'}, resolution {resolution_ns} ns"
    if source in POOR_CLOCKS or resolution_ns > 1000:
        return degraded(found, lost=lost, remedy=f"{remedy} (clocksource=tsc, high-resolution timers)")
    return ok(found) if source else unknown(found, lost=lost, remedy="mount /sys")


def python(_machine: Machine) -> Outcome:
    version = f"{platform.python_implementation()} {platform.python_version()}"
    try:
        from watchdogd import _native  # noqa: PLC0415 - whether it can be is the question
    except ImportError as error:
        lost = "a guard costs its worker 0.7 to 0.8 us in place of 0.16, and waits for a lock when it claims its lane"
        remedy = "install a C compiler and Python's headers, then watchdogd again; or the wheel of this architecture"
        return degraded(f"{version}, pure Python ({error})", lost=lost, remedy=remedy)
    return ok(f"{version}, with the native part ({os.path.basename(_native.__file__)})")


def other_program(machine: Machine) -> Outcome:
    programs = list(_on_path(machine, "watchdogd"))
    others = [program for program in programs if not _is_ours(program)]
    if others:
        first = "and is found first" if programs[0] == others[0] else "after ours"
        lost = "`watchdogd` in a script may be the other one"
        remedy = "remove it, or call ours gpu-watchdogd"
        return degraded(f"{others[0]} is another program, {first}", lost=lost, remedy=remedy)
    if not programs:
        remedy = "make install, or add the bin directory of its environment to PATH"
        return missing("no watchdogd on PATH", lost="it must be called as python -m watchdogd", remedy=remedy)
    return ok(f"{programs[0]}, and no other")


def _on_path(machine: Machine, name: str) -> Iterator[str]:
    for directory in dict.fromkeys(machine.environ.get("PATH", os.defpath).split(os.pathsep)):
        path = os.path.join(directory, name)
        if directory and os.path.isfile(path) and os.access(path, os.X_OK):
            yield path


def _is_ours(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return any(mark in head for mark in _OURS)


def evidence(machine: Machine) -> Outcome:
    found = {name: next(_on_path(machine, name), None) for name in TOOLS}
    absent = [name for name, path in found.items() if path is None]
    there = ", ".join(name for name, path in found.items() if path) or "none"
    if absent:
        lost = "; ".join(TOOLS[name] for name in absent)
        remedy = f"install {', '.join(absent)} (apt install gdb linux-perf)"
        look = missing if len(absent) == len(TOOLS) else degraded
        return look(f"{there}; no {', '.join(absent)}", lost=lost, remedy=remedy)
    if (machine.text("proc/sys/kernel/yama/ptrace_scope") or "0") not in ("0", "1", "2"):
        lost = "nobody may look into another process, not even root"
        return degraded(f"{there}, but ptrace is forbidden", lost=lost, remedy="kernel.yama.ptrace_scope = 2 or less")
    return ok(there)
