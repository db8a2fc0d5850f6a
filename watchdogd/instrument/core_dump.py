"""What the CUDA driver must be told before a worker starts, so that a core dump of its GPU may be asked for later.

It then makes a pipe for each process with a context, and writes the dump when something is written there. No cost to
launches or synchronizes was seen. Invariant: a worker starts whether or not the folder can be made; where its
environment speaks of core dumps of the GPU already, nothing is changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

PIPE, CORE = "pipe.", "core."  # and the pid, as the process itself knows it
ENABLE, PIPE_VARIABLE, FILE_VARIABLE = (
    "CUDA_ENABLE_USER_TRIGGERED_COREDUMP", "CUDA_COREDUMP_PIPE", "CUDA_COREDUMP_FILE",
)  # fmt: skip
FLAGS_VARIABLE = "CUDA_COREDUMP_GENERATION_FLAGS"
# Registers, where each warp is, and the code: 480 KiB in 0.26 s of a small kernel on an H200. Without the last, the
# process would abort.
FLAGS = (
    "skip_nonrelocated_elf_images,skip_global_memory,skip_shared_memory,skip_local_memory,skip_constbank_memory,"
    "skip_abort"
)
THEIRS = (ENABLE, PIPE_VARIABLE, FILE_VARIABLE, FLAGS_VARIABLE, "CUDA_ENABLE_LIGHTWEIGHT_COREDUMP")


def folder(state_directory: str, worker: str, incarnation: int) -> str:
    return f"{state_directory}/dumps/{worker}.{incarnation}"


def variables(place: str) -> dict[str, str]:
    return {
        ENABLE: "1",
        PIPE_VARIABLE: f"{place}/{PIPE}%p",
        FILE_VARIABLE: f"{place}/{CORE}%p",
        FLAGS_VARIABLE: FLAGS,
    }


def prepare(
    place: str | None, environment: Mapping[str, str], ids: tuple[int, int, tuple[int, ...]] | None
) -> dict[str, str]:
    """The worker's environment; ``place`` None: no dump is wanted.

    In its forked process, before it gives up our rights: a disk may take its time. Of a worker's folders the last two
    stay, since a dump is looked into after its process has ended.
    """
    if place is None or any(name in environment for name in THEIRS):
        return dict(environment)
    above, own = os.path.split(place)
    worker, _, incarnation = own.rpartition(".")
    try:
        os.makedirs(above, 0o751, exist_ok=True)
        for name in os.listdir(above):
            whose, _, number = name.rpartition(".")
            # A supervisor before this one counted from 1 as well.
            if whose == worker and number.isdecimal() and not int(incarnation) - 1 <= int(number) < int(incarnation):
                shutil.rmtree(f"{above}/{name}", ignore_errors=True)  # what cannot be removed is in nobody's way
        os.mkdir(place, 0o700)
        if ids is not None:
            os.chown(place, ids[0], ids[1])
    except OSError:
        return dict(environment)
    return {**environment, **variables(place)}
