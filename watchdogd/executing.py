"""`watchdogd exec`: from its options to a supervisor of one program, and back to an exit status.

Invariant: the options are keys of the configuration and pass through its parser, so that every check and default holds;
no file of a configuration is read.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import stat
import sys
from typing import Any

from watchdogd import exits
from watchdogd.act.private import Private, is_in_memory
from watchdogd.act.runtime import CannotStart
from watchdogd.config import ConfigError, Problem, check_port, settings_of
from watchdogd.config.files import Tree
from watchdogd.config.scope import Problems
from watchdogd.exec_options import DURATIONS
from watchdogd.exits import Failed
from watchdogd.model import Settings
from watchdogd.supervisor.foreground import Foreground, Signals

SOURCE = "the command line"  # where the settings come from
# Readers of loads and of the kernel's log corroborate, and would be processes more: a configuration can have them.
_OFF: dict[str, dict[str, Any]] = {
    "tegrastats": {"command": []},
    "nvml": {"enabled": False},
    "nvgpu": {"enabled": False},
    "nvdla": {"enabled": False},
    "kmsg": {"enabled": False},
}
_TEXTS = ("accelerator", "progress", "progress_counter", "progress_pending")
_OPTIONS = {
    **{key: option for option, (key, _) in DURATIONS.items()},
    **{key: key.replace("_", "-") for key in (*_TEXTS, "progress_kills", "observe_only", "instrument")},
    "restart.before_exit": "restart",
    "metrics.listen": "metrics",
}  # by their keys
_SETTING = re.compile(r"\b(instrument|progress) = \"([^\"]*)\"")  # in a message: KEY = "VALUE"
_AT_ONCE = "1ms"
_EVENTS_BYTES = 1 << 20  # of each of five files, in memory


def run(options: argparse.Namespace) -> int:
    """Raises Failed: nothing was started then."""
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not program:
        raise Failed("no program to execute: watchdogd exec [OPTIONS] -- PROGRAM [ARGUMENTS]", exits.USAGE)
    _check_program(program[0])
    signals = Signals()  # what comes from here on is the program's
    try:
        private = Private(os.environ)
    except CannotStart as error:
        raise Failed(str(error), exits.REFUSED) from None
    try:
        settings = _settings(options, program, private)
        if not is_in_memory(home := os.path.dirname(private.run)):
            _say(f"{home} is on a disk, which may delay the program: mount a tmpfs on /dev/shm or /tmp")
        if options.verbose:
            _say(f"pid {os.getpid()}; WATCHDOGD_RUNTIME_DIR={settings.supervisor.runtime_dir} watchdogd status")
        try:
            foreground = Foreground(settings, signals)
        except (CannotStart, OSError) as error:
            raise Failed(str(error), exits.REFUSED) from None
        status = foreground.run()
        if status == exits.VERDICT and options.incidents is not None:
            _say(f"what it was: `watchdogd incidents --directory {shlex.quote(options.incidents)} show last`")
        return status
    finally:
        private.remove()


def _say(text: str) -> None:
    try:
        print(f"watchdogd: {text}", file=sys.stderr, flush=True)
    except OSError:  # whoever read us has gone: that is no reason not to start, nor for another status at the end
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process


def _check_program(name: str) -> None:
    if shutil.which(name) is not None:
        return
    places = [name] if "/" in name else [os.path.join(place, name) for place in os.get_exec_path()]
    if any(os.path.lexists(place) for place in places):
        why = "it is a directory, or lacks the permission (chmod +x)"
        raise Failed(f"{name} cannot be executed: {why}", exits.CANNOT_EXECUTE)
    remedy = "; options come before --" if name.startswith("-") else ""
    raise Failed(f"{name}: no such program{remedy}", exits.NOT_FOUND)


def _settings(options: argparse.Namespace, program: list[str], private: Private) -> Settings:
    """Raises Failed."""
    tree = Tree()
    name = re.sub(r"[^A-Za-z0-9_-]", "_", os.path.basename(program[0]))[:40] or "program"
    tree.add(SOURCE, {**_OFF, **_tables(options, private), "workers": {name: _worker(options, program)}})
    try:
        problems = Problems(tree, [])
        settings = settings_of(tree, problems, environ=os.environ)
        if (taken := check_port(settings)) is not None:
            raise ConfigError([taken])
    except ConfigError as error:
        raise Failed("\n".join(_as_option(problem, name) for problem in error.problems), exits.USAGE) from None
    for doubt in problems.warnings:
        if (key := _key(doubt, name)) == "deadlines":
            _say(f"warning: {name} {doubt.message}; give --sync at least")
        elif key in _OPTIONS:
            _say(f"warning: {_as_option(doubt, name)}")
    file = None if options.json_events is None else _events_file(options.json_events)
    supervisor = settings.supervisor._replace(log_format="brief", events_file=file)
    directory = None if options.incidents is None else _incidents_directory(options.incidents)
    return settings._replace(
        incidents=settings.incidents._replace(directory=directory),
        supervisor=supervisor,
        workers=tuple(worker._replace(foreground=True) for worker in settings.workers),
    )


def _tables(options: argparse.Namespace, private: Private) -> dict[str, dict[str, Any]]:
    return {
        "supervisor": {
            "runtime_dir": private.run,
            "state_dir": private.state,
            "events_max_bytes": _EVENTS_BYTES,
            "worker_slice": "",
        },
        "metrics": {"listen": options.metrics},
        "incidents": {} if options.incidents is not None else {"max_count": 0},
    }


def _worker(options: argparse.Namespace, program: list[str]) -> dict[str, Any]:
    table: dict[str, Any] = {
        "command": program,
        "output": "inherit",
        "on_verdict": "exit",
        "observe_only": options.observe_only,
        "progress_kills": options.progress_kills,
        "restart": {"before_exit": options.restart, "budget": max(options.restart, 1)},
        "deadlines": {"startup": "never"},
        "instrument": options.instrument or "driver",
        "nvtx": options.nvtx,
    }
    if table["instrument"] == "driver" and options.startup is None:
        table["ready_after"] = _AT_ONCE
    table |= {key: value for key in _TEXTS if (value := getattr(options, key)) is not None}
    for option, (key, _) in DURATIONS.items():
        value = getattr(options, option.replace("-", "_"))
        if value is not None:
            _set(table, key, value)
    return table


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    outer, _, inner = key.rpartition(".")
    (table.setdefault(outer, {}) if outer else table)[inner] = value


def _key(problem: Problem, name: str) -> str:
    return problem.key.removeprefix(f"workers.{name}.")


def _as_option(problem: Problem, name: str) -> str:
    """A problem of a key as one of the option that gave it."""
    key = _key(problem, name)
    return f"--{_OPTIONS.get(key, key.rpartition('.')[2])}: {_in_options(problem)}"


def _in_options(problem: Problem) -> str:
    """What it says, with the options in place of the keys. A key that is one plain word may be meant as a word."""
    text = _SETTING.sub(r"--\1 \2", f"{problem.message}; {problem.remedy}")
    for key in sorted((key for key in _OPTIONS if "." in key or "_" in key), key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(key)}(?![\w.])", f"--{_OPTIONS[key]}", text)
    return text


def _incidents_directory(directory: str) -> str:
    path = os.path.realpath(directory)
    try:
        os.makedirs(path, 0o750, exist_ok=True)
        refused = None if os.access(path, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        refused = error.strerror
    if refused is not None:
        raise Failed(f"--incidents: cannot keep anything in {directory}: {refused}", exits.REFUSED)
    return path


def _events_file(file: str) -> str:
    path = os.path.realpath(file)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise Failed(f"--json-events: cannot write {file}: {error.strerror}", exits.REFUSED) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Failed(
                f"--json-events: {file} is not a plain file; name one, or one that is not there yet", exits.REFUSED
            )
    finally:
        os.close(descriptor)
    return path
