"""The two directories: where heartbeats are mapped, and where the record is kept.

Invariant: nothing is made there that stays; a directory that does not exist is judged by the one it would be made in.
"""

from __future__ import annotations

import os
import tempfile
import time

from watchdogd import abi_driver
from watchdogd.doctor.rights import mounts
from watchdogd.doctor.words import Machine, Outcome, degraded, missing, ok
from watchdogd.model import SupervisorSettings
from watchdogd.places import RUNTIME_DIR
from watchdogd.span import size

_IN_MEMORY = ("tmpfs", "ramfs")
_INCARNATIONS = 2  # of a worker, whose heartbeats are kept
_BOARD_BYTES = 1 << 20
_KEPT_FILES = 5


def runtime_directory(machine: Machine) -> Outcome:
    path = _supervisor(machine).runtime_dir
    if machine.settings is None:
        path = machine.environ.get(RUNTIME_DIR) or path
    place = nearest(path)
    refused = _refused(place)
    lost = "watchdogd cannot start"
    if refused:
        remedy = f"make {path} for its user (RuntimeDirectory= in the unit), or change supervisor.runtime_dir"
        return missing(f"{place} {refused}", lost=lost, remedy=remedy)
    kind, free = _file_system(machine, place), _free_bytes(place)
    found = f"{path} on {kind}, {size(free)} free"
    workers = len(machine.settings.workers) if machine.settings else 1
    need = workers * _INCARNATIONS * abi_driver.FILE_SIZE + _BOARD_BYTES
    if free < need:
        remedy = f"a larger tmpfs (mount -o remount,size=...), with {size(need)} free"
        return missing(f"{found}, {size(need)} needed", lost=lost, remedy=remedy)
    if kind not in _IN_MEMORY:
        lost = "every heartbeat is written back to that disk over and over, and a store into it may wait for the disk"
        return degraded(found, lost=lost, remedy="a directory under /run or /dev/shm as supervisor.runtime_dir")
    return ok(found)


def state_directory(machine: Machine) -> Outcome:
    settings = _supervisor(machine)
    path, place = settings.state_dir, nearest(settings.state_dir)
    refused = _refused(place)
    if refused:
        remedy = f"make {path} for its user (StateDirectory= in the unit), or change supervisor.state_dir"
        return missing(f"{place} {refused}", lost="watchdogd cannot start", remedy=remedy)
    if place == path:
        try:
            seconds = _write_and_sync(path)
        except OSError as error:
            remedy = "free some space there, or change supervisor.state_dir"
            return missing(f"{path}: {error.strerror}", lost="no event is recorded", remedy=remedy)
        synced = f", a write and fsync takes {seconds * 1e3:.0f} ms"
    else:
        synced = f", to be made in {place}"
    kind, free, need = _file_system(machine, place), _free_bytes(place), _KEPT_FILES * settings.events_max_bytes
    found = f"{path} on {kind}, {size(free)} free{synced}"
    if kind in _IN_MEMORY:
        lost = "the record does not survive a reboot"
        return degraded(found, lost=lost, remedy="a directory on a disk as supervisor.state_dir")
    if free < need:
        lost = f"the record may need {size(need)}: the last events may be lost"
        return degraded(found, lost=lost, remedy="free some space there, or lower supervisor.events_max_bytes")
    return ok(found)


def _supervisor(machine: Machine) -> SupervisorSettings:
    return machine.settings.supervisor if machine.settings else SupervisorSettings()


def nearest(path: str) -> str:
    """The path, or the directory above it that exists."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path.rstrip("/"))
    return path


def _refused(place: str) -> str | None:
    if not os.path.isdir(place):
        return "is not a directory"
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return "is on a read-only file system"
    return None if os.access(place, os.W_OK | os.X_OK) else "may not be written by this user"


def _file_system(machine: Machine, place: str) -> str:
    """Its type, by the deepest mount that holds it; the last one mounted there."""
    real = os.path.realpath(place)
    holding = [m for m in mounts(machine) if os.path.commonpath((m.place, real)) == m.place]
    deepest = max((len(m.place) for m in holding), default=0)
    return next((m.kind for m in reversed(holding) if len(m.place) == deepest), "an unknown file system")


def _free_bytes(place: str) -> int:
    usage = os.statvfs(place)
    return usage.f_bavail * usage.f_frsize


def _write_and_sync(directory: str) -> float:
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"watchdogd doctor\n")
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - began
