"""Which readers run, and how: ``[tegrastats]``, ``[nvml]``, ... and ``[kmsg]`` against what this machine has.

Invariant: nothing here opens a GPU, reads its load or imports its library; that may block when the GPU is sick.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping

from watchdogd import duration
from watchdogd.config.schema import NO_DEFAULT
from watchdogd.config.scope import Cell, Problems, Scope
from watchdogd.model import MILLISECOND, SECOND, KmsgSettings, SourceSettings
from watchdogd.observe.sources import nvdla, nvgpu
from watchdogd.observe.sources.child import Unavailable

_KERNEL_LOG = "dev/kmsg"
_NVML_DEVICE = "dev/nvidiactl"
_NVML_LIBRARIES = ("usr/lib/*/libnvidia-ml.so.1", "usr/lib64/libnvidia-ml.so.1", "usr/lib/wsl/lib/libnvidia-ml.so.1")
_TEGRASTATS_INTERVAL_NS = SECOND  # what tegrastats does when it is not told
_REFUSED = {
    "--stop": "ends every tegrastats of this machine",
    "--start": "leaves the one that we start, to run unread in the background",
    "--logfile": "sends the lines to a file instead of to us",
}


def sources(
    tables: Mapping[str, Scope], *, path: str, problems: Problems, root: str = "/"
) -> tuple[SourceSettings, ...]:
    """The readers that are on. ``root`` is where the machine's file tree begins."""
    first = _tegrastats(tables["tegrastats"], path, problems)
    found = (
        first,
        _reader("nvml", tables["nvml"], lambda: _has_pynvml() and has_nvml_driver(root), problems),
        _reader("nvgpu", tables["nvgpu"], lambda: first is None and has_nvgpu_load(root), problems),
        _reader("nvdla", tables["nvdla"], lambda: has_dla(root), problems),
    )
    return tuple(source for source in found if source is not None)


def _has_pynvml() -> bool:
    return importlib.util.find_spec("pynvml") is not None


def has_nvml_driver(root: str) -> bool:
    """Whether NVML could work here. A Jetson before JetPack 6 has neither file."""
    if os.path.exists(os.path.join(root, _NVML_DEVICE)):
        return True
    return any(glob.glob(os.path.join(glob.escape(root), pattern)) for pattern in _NVML_LIBRARIES)


def has_nvgpu_load(root: str) -> bool:
    """Whether the nvgpu driver offers a load. Looked for, not read: reading it wakes the GPU and can block."""
    try:
        nvgpu.find(os.path.join(root, "sys"))
    except (Unavailable, OSError):
        return False
    return True


def has_dla(root: str) -> bool:
    """Whether a DLA tells its power state."""
    try:
        nvdla.find(os.path.join(root, "sys"))
    except (Unavailable, OSError):
        return False
    return True


def kernel_log(scope: Scope, problems: Problems, *, root: str = "/") -> KmsgSettings:
    """Its reader, if it is on. That it may not be read is for the reader to say: a log too few is no clean log."""
    enabled, command = scope.get("enabled"), scope.get("command")
    if enabled is None or command is None:
        return KmsgSettings()
    if enabled.value and command.value == ():
        problems.note(command.path, "is empty although enabled is true", "remove one of the two")
    on = enabled.value
    if on is None:
        on = bool(command.value) if command.given else os.path.exists(os.path.join(root, _KERNEL_LOG))
    if not on:
        return KmsgSettings()
    built_in = (sys.executable, "-m", "watchdogd.observe.sources.kmsg")
    return KmsgSettings(built_in if command.value is NO_DEFAULT else command.value)


def _tegrastats(scope: Scope, path: str, problems: Problems) -> SourceSettings | None:
    command, frozen_after = scope.get("command"), scope.get("frozen_after")
    if command is None or not command.value:
        return None
    if shutil.which(command.value[0], path=path) is None:
        if not command.given:
            return None
        message = f'program "{command.value[0]}" is not an executable file, nor on PATH ({path}): no load is read'
        problems.warn(command.path, message, "install it, or write its whole path")
    for option, what in _REFUSED.items():
        if any(word.partition("=")[0] == option for word in command.value[1:]):
            problems.note(command.path, f'"{option}" {what}', "remove it")
    interval_ns = _tegrastats_interval(command, problems)
    if frozen_after is None or interval_ns is None:
        return None
    _check_frozen_after(frozen_after, interval_ns, command, problems)
    return SourceSettings("tegrastats", command.value, interval_ns, frozen_after.value)


def _tegrastats_interval(command: Cell, problems: Problems) -> int | None:
    words = iter(command.value[1:])
    for word in words:
        option, _, value = word.partition("=")
        if option == "--interval":
            value = value or next(words, "")
            if value.isascii() and value.isdigit() and 0 < len(value) < 8 and int(value) > 0:
                return int(value) * MILLISECOND
            problems.note(command.path, f'"--interval" is "{value}"', 'write milliseconds after it, such as "500"')
            return None
    return _TEGRASTATS_INTERVAL_NS


def _reader(name: str, scope: Scope, wanted: Callable[[], bool], problems: Problems) -> SourceSettings | None:
    enabled, interval = scope.get("enabled"), scope.get("interval")
    frozen_after, command = scope.get("frozen_after"), scope.get("command")
    if enabled is None or interval is None or frozen_after is None or command is None:
        return None
    if enabled.value and command.value == ():
        problems.note(command.path, "is empty although enabled is true", "remove one of the two")
    if enabled.value and not command.given and name == "nvml" and not _has_pynvml():
        problems.note(enabled.path, "is true, and this Python has no pynvml", "install nvidia-ml-py, or write false")
    on = enabled.value
    if on is None:
        on = bool(command.value) if command.given else wanted()
    if not on:
        return None
    _check_frozen_after(frozen_after, interval.value, interval, problems)
    words = command.value
    if words is NO_DEFAULT:
        seconds = f"{interval.value / SECOND:.9f}".rstrip("0").rstrip(".")
        words = (sys.executable, "-m", f"watchdogd.observe.sources.{name}", "--interval", seconds)
    return SourceSettings(name, words, interval.value, frozen_after.value)


def _check_frozen_after(frozen_after: Cell, interval_ns: int, interval: Cell, problems: Problems) -> None:
    if frozen_after.value < 2 * interval_ns:  # nothing can be seen not to change in a single sample
        text = duration.show(2 * interval_ns)
        problems.note(
            (frozen_after if frozen_after.given else interval).path,
            f'frozen_after "{duration.show(frozen_after.value)}" holds less than two samples',
            f'raise frozen_after to "{text}" or more, or sample more often',
        )
