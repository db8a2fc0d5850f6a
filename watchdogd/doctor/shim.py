"""Whether a shim can stand in front of the CUDA driver of workers whose code is not changed.

Invariant: the driver is looked for as a worker's start does, and not loaded; nothing is made that stays.
"""

from __future__ import annotations

import os

from watchdogd.act.launching import environment
from watchdogd.doctor.files import nearest
from watchdogd.doctor.words import Machine, Outcome, missing, ok
from watchdogd.instrument import driver, elf, place, words
from watchdogd.model import SupervisorSettings, WorkerSettings

_ANY = WorkerSettings("any", ("any",), instrument="driver")
LOST = 'workers with instrument = "driver" run unwatched: no hang of theirs is found'


def shim(machine: Machine) -> Outcome:
    try:
        with open(words.SHIM, "rb") as file:
            library = elf.of_bytes(file.read())
    except (OSError, elf.BadObject) as error:
        return missing(f"{words.SHIM}: {error}", lost=LOST, remedy="install the package anew")
    found = []
    workers = machine.settings.workers if machine.settings else ()
    for worker in [worker for worker in workers if worker.instrument == "driver"] or [_ANY]:
        try:
            directory = worker.working_directory or os.getcwd()
            found.append(driver.find(environment(worker, "", machine.environ), directory, library.machine).path)
        except driver.NoDriver as error:
            said, _, remedy = str(error).rpartition("; ")
            whose = "" if worker is _ANY else f"for {worker.name}: "
            return missing(f"{whose}{said}", lost=LOST, remedy=remedy)
    settings = machine.settings.supervisor if machine.settings else SupervisorSettings()
    problems = []
    for directory in map(nearest, (settings.state_dir, settings.runtime_dir)):
        try:
            place.try_directory(directory)
        except OSError as error:
            problems.append(f"{directory}: {error.strerror}")
        else:
            return ok(f"can stand in front of {', '.join(dict.fromkeys(found))}, put into {directory}")
    remedy = "name a supervisor.state_dir on a file system that is not mounted noexec"
    return missing("; ".join(problems), lost=LOST, remedy=remedy)
