"""The configuration: TOML files to frozen settings, or everything that is wrong with them.

``python -m watchdogd.config --markdown`` prints the table of every key, its default and meaning.

Invariant: settings come out whole and consistent or not at all; whatever the files hold, the only exception is
``ConfigError``, and it names file, key and remedy of every problem found.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from watchdogd.config import checks, doubts, files
from watchdogd.config.files import ConfigError, Problem, Tree
from watchdogd.config.readers import kernel_log, sources
from watchdogd.config.schema import CALLS, EVERY_WORKER, OF_EACH_WORKER_ALONE, TABLES
from watchdogd.config.scope import Problems, Scope, suggestion
from watchdogd.config.values import host_and_port, type_name
from watchdogd.model import (
    Deadlines,
    EscalationSettings,
    GrowthSettings,
    HooksSettings,
    IncidentSettings,
    MetricsSettings,
    OutputSettings,
    RestartSettings,
    Settings,
    SupervisorSettings,
    WorkerSettings,
)

__all__ = ["ConfigError", "Problem", "check", "check_port", "host_and_port", "is_strangers_port", "load"]

MOST_WORKERS = 1024
_LISTENS = "0A"  # a socket's state in /proc/net/tcp
_WORKER_KEYS = TABLES["workers.NAME"]
_DEFAULT_KEYS = {name: key for name, key in _WORKER_KEYS.items() if name != OF_EACH_WORKER_ALONE}
_SINGLE_TABLES = [name for name in TABLES if name != "workers.NAME"]


def load(path: str | os.PathLike[str], *, environ: Mapping[str, str]) -> Settings:
    """The settings of the file ``path`` and its drop-ins ``<path>.d/*.toml``. Raises ``ConfigError``.

    ``environ`` is what workers will inherit: their programs are looked for on its PATH.
    """
    return check(path, environ=environ)[0]


def check(path: str | os.PathLike[str], *, environ: Mapping[str, str]) -> tuple[Settings, tuple[Problem, ...]]:
    """As ``load``, and with the settings the warnings: what can run, and is likely not what was meant."""
    tree, unread = files.read(path)
    problems = Problems(tree, unread)
    settings = settings_of(tree, problems, environ=environ)
    return settings, tuple(problems.warnings)


def settings_of(tree: Tree, problems: Problems, *, environ: Mapping[str, str]) -> Settings:
    """The settings that ``tree`` says. Where a file could not be read, the values of the others are still
    checked, but nothing is found missing: it may stand in that file."""
    unread = bool(problems)
    root = tree.root
    single = {name: Scope(root.get(name, {}), (name,), TABLES[name], problems) for name in _SINGLE_TABLES}
    defaults = Scope(root.get(EVERY_WORKER, {}), (EVERY_WORKER,), _DEFAULT_KEYS, problems)
    workers = _workers(root.get("workers", {}), defaults, problems)
    known = {*_SINGLE_TABLES, EVERY_WORKER, "workers"}
    for name in root.keys() - known:
        problems.note((name,), "is not a table of this configuration", suggestion(name, known))
    if unread:
        raise ConfigError(problems)

    search_path = environ.get("PATH", os.defpath)
    readers = sources(single, path=search_path, problems=problems)
    log = kernel_log(single["kmsg"], problems)
    checks.check_directories(single["supervisor"], problems)
    checks.check_journal(single["supervisor"], workers.values(), problems)
    checks.check_hooks(single["hooks"], search_path, problems)
    checks.check_escalation(single["escalation"], search_path, problems)
    checks.check_incidents(single["incidents"], search_path, problems)
    checks.check_names(workers, problems)
    for scope in workers.values():
        checks.check_worker(scope, workers, search_path, problems)
    checks.check_order(workers, problems)
    if not root.get("workers"):
        problems.note(("workers",), "has no worker", "add a table such as [workers.detector] with its command")
    if problems:
        raise ConfigError(problems)

    supervisor = SupervisorSettings(**single["supervisor"].fields())
    settings = Settings(
        supervisor=supervisor,
        metrics=MetricsSettings(**single["metrics"].fields()),
        sources=readers,
        workers=tuple(_worker_settings(name, scope, supervisor, workers) for name, scope in workers.items()),
        files=tuple(tree.files),
        hooks=HooksSettings(**single["hooks"].fields()),
        escalation=EscalationSettings(**single["escalation"].fields()),
        kmsg=log,
        incidents=IncidentSettings(**single["incidents"].fields()),
    )
    doubts.note(settings, workers, problems)
    return settings


def _workers(table: Any, defaults: Scope, problems: Problems) -> dict[str, Scope]:
    if not isinstance(table, dict):
        problems.note(("workers",), f"is {type_name(table)}, not a table", "write [workers.NAME] for each worker")
        return {}
    if len(table) > MOST_WORKERS:  # they are compared with each other
        problems.note(("workers",), f"has {len(table)} workers", f"keep it to {MOST_WORKERS}")
        return {}
    return {name: Scope(worker, ("workers", name), _WORKER_KEYS, problems, defaults) for name, worker in table.items()}


def _worker_settings(
    name: str, scope: Scope, supervisor: SupervisorSettings, workers: Mapping[str, Scope]
) -> WorkerSettings:
    deadlines = scope.fields("deadlines.")
    calls = (None, *(deadlines.pop(f"{call}_ns") for call in CALLS))
    fields = {"stop_timeout_ns": supervisor.stop_timeout_ns} | scope.fields()
    group = fields["restart_with"]
    if isinstance(group, str):
        fields["restart_with"] = tuple(other for other in _members(group, workers) if other != name)
    return WorkerSettings(
        name=name,
        deadlines=Deadlines(**deadlines, calls_ns=calls),
        restart=RestartSettings(**scope.fields("restart.")),
        outputs=OutputSettings(**scope.fields("outputs.")),
        growth=GrowthSettings(**scope.fields("growth.")),
        **fields,
    )


def _members(group: str, workers: Mapping[str, Scope]) -> Iterator[str]:
    cells = ((name, scope.get("restart_with")) for name, scope in workers.items())
    return (name for name, cell in cells if cell is not None and cell.value == group)


def check_port(settings: Settings) -> Problem | None:
    """What keeps the exporter from listening, found by binding to its address for a moment."""
    error = _not_bound(settings)
    if error is None:
        return None
    what = f'cannot listen on "{settings.metrics.listen}": {error.strerror}'
    remedy = "end what listens there, or choose another address or port (0: any free one)"
    return Problem(_file_that_says(settings, "metrics", "listen"), "metrics.listen", what, remedy)


def is_strangers_port(settings: Settings) -> bool:
    """Whether the port is taken, and by nobody who is root or us. What does not listen there shows no owner."""
    error = _not_bound(settings)
    if error is None or error.errno != errno.EADDRINUSE:
        return False
    port = f":{host_and_port(settings.metrics.listen)[1]:04X}"
    owners = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError), open(table, encoding="ascii") as file:  # without IPv6 there is no tcp6
            sockets = [line.split() for line in file.readlines()[1:]]
            owners |= {int(entry[7]) for entry in sockets if entry[1].endswith(port) and entry[3] == _LISTENS}
    return not owners & {0, os.geteuid()}


def _not_bound(settings: Settings) -> OSError | None:
    if not settings.metrics.listen:
        return None
    host, port = host_and_port(settings.metrics.listen)
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As the exporter does: connections of a predecessor that linger in TIME_WAIT are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


def _file_that_says(settings: Settings, *key: str) -> str:
    tree, _ = files.read(settings.files[0])
    return tree.file_of(key)
