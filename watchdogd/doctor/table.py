"""Every check, who of a configuration needs it, and how long it may take.

Invariant: the names never change, and the longest deadline is well below ``TOTAL_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Sequence

from watchdogd.doctor import accelerators, evidence, files, rights, shim, system
from watchdogd.doctor.words import Check
from watchdogd.model import Settings

TOTAL_SECONDS = 2.2  # and 3 with the start of Python, on a machine that is busy


def _accelerated(settings: Settings) -> Sequence[str]:
    return [worker.name for worker in settings.workers if worker.accelerator]


def _on_dla(settings: Settings) -> Sequence[str]:
    return [worker.name for worker in settings.workers if (worker.accelerator or "").startswith("dla")]


def _real_time(settings: Settings) -> Sequence[str]:
    return [worker.name for worker in settings.workers if (worker.scheduling or "").startswith(("fifo", "rr"))]


def _journal(settings: Settings) -> Sequence[str]:
    asked = ["log_format"] if settings.supervisor.log_format == "journal" else []
    return asked + [worker.name for worker in settings.workers if worker.output == "journal"]


def _supervisor(_settings: Settings) -> Sequence[str]:
    return ["the supervisor"]


def _tegrastats(settings: Settings) -> Sequence[str]:
    return [f"[{source.name}]" for source in settings.sources if source.name == "tegrastats"]


def _nvml(settings: Settings) -> Sequence[str]:
    return _built_in(settings, "nvml")


def _nvgpu(settings: Settings) -> Sequence[str]:
    return _built_in(settings, "nvgpu")


def _shimmed(settings: Settings) -> Sequence[str]:
    return [worker.name for worker in settings.workers if worker.instrument == "driver"]


def _built_in(settings: Settings, name: str) -> Sequence[str]:
    """A reader of somebody's own needs whatever it needs."""
    ours = f"watchdogd.observe.sources.{name}"
    return [f"[{name}]" for source in settings.sources if source.name == name and ours in source.command]


_SICK = "see the kernel log (dmesg); if it stays so, restart the machine once that is safe"
_ACCELERATORS, _RIGHTS, _SYSTEM, _FILES = "Accelerators", "Rights", "System", "Directories"

CHECKS = (
    Check(
        "cuda_driver", _ACCELERATORS, "CUDA driver", accelerators.driver, _accelerated, 2.0,
        ("no worker can use a GPU or a DLA while the driver does not answer", f"{_SICK}; on a large machine run"
         " nvidia-persistenced, without which every cuInit takes seconds"),
    ),
    Check("cuda_bindings", _ACCELERATORS, "cuda-python", accelerators.bindings),
    Check("driver_shim", _ACCELERATORS, "driver shim", shim.shim, _shimmed, 1.5,
          (shim.LOST, "see the kernel log (dmesg) for the errors of the disk with the driver, or with the state_dir")),
    Check("dla", _ACCELERATORS, "DLA", accelerators.dla, _on_dla),
    Check("tegrastats", _ACCELERATORS, "tegrastats", accelerators.tegrastats_load, _tegrastats, 2.0),
    Check("nvml", _ACCELERATORS, "NVML", accelerators.nvml, _nvml, 2.0, (accelerators.NO_LOAD, _SICK)),
    Check("nvgpu_load", _ACCELERATORS, "nvgpu load file", accelerators.nvgpu_load, _nvgpu, 1.5,
          (accelerators.NO_LOAD, f"the driver waits for a GPU that does not answer: {_SICK}")),
    Check("realtime", _RIGHTS, "real time", rights.realtime, _real_time),
    Check("memory_lock", _RIGHTS, "locked memory", rights.memory_lock),
    Check("pidfd", _RIGHTS, "pidfd", rights.pidfd, _supervisor),
    Check("processes", _RIGHTS, "/proc", rights.processes),
    Check("kernel_log", _RIGHTS, "kernel log", rights.kernel_log),
    Check("cgroups", _RIGHTS, "cgroups", rights.cgroups),
    Check("runtime_dir", _FILES, "runtime_dir", files.runtime_directory, _supervisor, 1.5),
    Check("state_dir", _FILES, "state_dir", files.state_directory, _supervisor, 1.8,
          ("no event is recorded while the disk does not answer", "see the kernel log (dmesg) for the disk's errors")),
    Check("systemd", _SYSTEM, "systemd", system.systemd),
    Check("bus", _SYSTEM, "D-Bus", system.bus, seconds=1.5),
    Check("journal", _SYSTEM, "journal", system.journal, _journal),
    Check("clock", _SYSTEM, "clock", system.clock),
    Check("python", _SYSTEM, "Python", system.python, seconds=1.5),
    Check("other_program", _SYSTEM, "command", system.other_program),
    Check("evidence", _SYSTEM, "debug tools", system.evidence),
    Check("incidents", _SYSTEM, "incidents", evidence.evidence),
)  # fmt: skip
