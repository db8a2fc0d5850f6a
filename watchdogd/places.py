"""Where things are for a command: the configuration, the directories, the supervisor that runs or ran.

Invariant: a reader (``status``, ``events``, the control commands) needs no more of a configuration than the directory
it names, so that problems elsewhere in it do not blind anybody.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from watchdogd import exits
from watchdogd.exits import Failed
from watchdogd.model import SupervisorSettings

if TYPE_CHECKING:
    from watchdogd.config import Problem
    from watchdogd.model import Settings

DEFAULT_CONFIG = "/etc/gpu-watchdogd/watchdogd.toml"
DEFAULTS = SupervisorSettings()
RUNTIME_DIR = "WATCHDOGD_RUNTIME_DIR"
UNIT = "gpu-watchdogd.service"
UNIT_DIRECTORIES = tuple(f"{where}/systemd/system" for where in ("/etc", "/usr/local/lib", "/usr/lib", "/lib"))
PORT_SECONDS = 1.0


def load(config: str | None) -> tuple[Settings, list[str]]:
    """Settings without a problem, and the warnings. Raises Failed, the problems told on standard error."""
    from watchdogd.config import ConfigError, check

    try:
        settings, warnings = check(config or DEFAULT_CONFIG, environ=os.environ)
        warnings = (*warnings, *_check_port(settings))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        message = f"{count} problem{'s' if count > 1 else ''} in the configuration"
        raise Failed(message, exits.BAD_CONFIG) from None
    return settings, [str(warning) for warning in warnings]


def _check_port(settings: Settings) -> list[Problem]:
    """Raises ConfigError if somebody listens where the exporter shall, other than the exporter of these directories.

    Only a warning if that is neither us nor root: whoever may bind a port must not be able to keep workers unwatched.
    """
    from watchdogd.config import ConfigError, check_port, is_strangers_port

    give_up = time.monotonic() + PORT_SECONDS
    while (problem := check_port(settings)) is not None and not _runs(settings.supervisor.runtime_dir):
        if is_strangers_port(settings):
            return [problem]
        if time.monotonic() > give_up:
            raise ConfigError([problem])
        time.sleep(0.05)  # the exporter of a supervisor that was killed ends within milliseconds
    return []


def _runs(runtime_dir: str) -> bool:
    from watchdogd.publish import board
    from watchdogd.view import status

    try:
        published = board.read(os.path.join(runtime_dir, board.FILE_NAME))
    except board.BoardError:
        return False
    return status.fault(published, time.monotonic_ns()) is None


def _directory(config: str, key: str, default: str) -> str:
    from watchdogd.config import files as config_files

    tree, problems = config_files.read(config)
    if problems:
        raise Failed("\n".join(str(problem) for problem in problems), exits.BAD_CONFIG)
    table = tree.root.get("supervisor")
    directory = table.get(key, default) if isinstance(table, dict) else default
    if not isinstance(directory, str):
        raise Failed(f"{config}: supervisor.{key} is not a text; see `watchdogd check-config`", exits.BAD_CONFIG)
    return directory


def runtime_dir(config: str | None) -> str:
    if config is not None:
        return _directory(config, "runtime_dir", DEFAULTS.runtime_dir)
    return os.environ.get(RUNTIME_DIR) or DEFAULTS.runtime_dir


def state_dir(config: str | None) -> str:
    """As the configuration says, else as the supervisor says that runs or ran last, else the default."""
    if config is not None:
        return _directory(config, "state_dir", DEFAULTS.state_dir)
    return str(_published(None).get("supervisor", {}).get("state_dir", DEFAULTS.state_dir))


def is_service(config: str | None) -> bool:
    """Whether the supervisor of this configuration is systemd's to start."""
    named = DEFAULT_CONFIG if config is None else os.path.abspath(config)
    return named == DEFAULT_CONFIG and any(os.path.exists(f"{directory}/{UNIT}") for directory in UNIT_DIRECTORIES)


def how_to_read(path: str) -> str:
    """For somebody who may not: the group that may is that of the file, or of the directory that keeps him out."""
    import grp

    path = os.path.abspath(path)
    while True:
        try:
            group = os.stat(path).st_gid
            break
        except OSError:
            path = os.path.dirname(path)
    try:
        name = grp.getgrgid(group).gr_name
    except KeyError:
        name = str(group)
    return "use sudo" if group == 0 else f"use sudo, or join the group {name} (usermod -aG {name} USER)"


def workers(config: str | None) -> list[str]:
    """Of the supervisor that runs or ran last; none where there was none."""
    return [str(worker["name"]) for worker in _published(config).get("workers", ())]


def _published(config: str | None) -> dict[str, Any]:
    from watchdogd.publish import board

    try:
        return board.read(os.path.join(runtime_dir(config), board.FILE_NAME)).body
    except board.BoardError:
        return {}
