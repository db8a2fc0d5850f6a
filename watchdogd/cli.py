"""The command line: parsing and printing only.

Invariant: what a program may read goes to standard output, what a person must do to standard error, and the exit status
says how it went: 0 fine, 1 unexpected, 2 usage, 3 supervisor not running, 4 something is not running as it should,
78 bad configuration. Each command imports what it needs, so that ``status`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import watchdogd
from watchdogd import control
from watchdogd.model import SupervisorSettings

if TYPE_CHECKING:
    from watchdogd.model import Settings

DEFAULT_CONFIG = "/etc/gpu-watchdogd/watchdogd.toml"
_DEFAULTS = SupervisorSettings()
RUNTIME_DIR = "WATCHDOGD_RUNTIME_DIR"
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_BAD_CONFIG = 78
WATCH_SECONDS = 0.5
CONTROL_SECONDS = 10.0
PORT_SECONDS = 1.0

_CHANGES = {
    "restart": "end a worker and start its next incarnation",
    "stop": "end a worker and leave it ended",
    "start": "start a stopped worker",
    "pause": "suspend a worker's deadlines, e.g. for a debugger",
    "resume": "enforce a paused worker's deadlines again",
    "reset": "give a quarantined worker its restart budget back and start it",
}
_START_IT = "start it with `watchdogd run`, or name its configuration with -c"
_EXAMPLES = f"""\
examples:
  watchdogd check-config -c vehicle.toml    every problem, or a summary
  watchdogd run -c vehicle.toml             supervise its workers
  watchdogd status --watch                  a table that redraws itself
  watchdogd status --json model_h           one worker, for a program
  watchdogd events --follow                 what happens, as it happens
  watchdogd reset model_h                   end a quarantine

The running supervisor is found by -c FILE, else by ${RUNTIME_DIR}, else in {_DEFAULTS.runtime_dir}.
exit status: 0 fine, 1 unexpected error, 2 usage, 3 supervisor not running, 4 something is not running as it should,
78 bad configuration
"""


class _Failed(Exception):
    """Ends the command: what is wrong and what to do, and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except _Failed as failed:
        print(f"watchdogd: {failed}", file=sys.stderr)
        return failed.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us has seen enough; the interpreter must not try to flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="watchdogd",
        description="A deadline on every blocking GPU or DLA call, enforced from another process.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"watchdogd {watchdogd.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.add_argument("-c", "--config", metavar="FILE", help=f"configuration (default {DEFAULT_CONFIG})")
        added.set_defaults(command=function, name=name)
        return added

    command("run", _run, "supervise the workers of a configuration")
    status = command("status", _status, "show workers, calls in flight, loads and the supervisor itself")
    status.add_argument("worker", nargs="?", metavar="WORKER", help="this worker alone")
    status.add_argument("--json", action="store_true", help="one JSON object (with --watch one a line)")
    status.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    events = command("events", _events, "show what happened, oldest first")
    events.add_argument("--json", action="store_true", help="the lines as they were recorded")
    events.add_argument("--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    for name, text in _CHANGES.items():
        command(name, _change, text).add_argument("worker", metavar="WORKER")
    command("check-config", _check_config, "name every problem of a configuration, or sum it up")
    return parser


# --- the commands ---------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    settings = _load(options.config)
    from watchdogd import notify, runtime, supervisor  # noqa: PLC0415

    try:
        return supervisor.main(settings)
    except (runtime.CannotStart, notify.CannotNotify, control.ControlError) as error:
        raise _Failed(str(error), EXIT_UNEXPECTED) from None


def _status(options: argparse.Namespace) -> int:
    runtime_dir = _runtime_dir(options.config)
    if not options.watch:
        text, exit_status = _status_text(runtime_dir, options)
        sys.stdout.write(text)
        return exit_status
    redraw = sys.stdout.isatty() and not options.json
    while True:
        try:
            text, _ = _status_text(runtime_dir, options)
        except _Failed as failed:  # it may come back
            if failed.status == EXIT_USAGE:
                raise
            text = f"watchdogd: {failed}\n"
        sys.stdout.write(f"\033[H\033[2J{text}" if redraw else text)
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS if redraw else 1.0)


def _status_text(runtime_dir: str, options: argparse.Namespace) -> tuple[str, int]:
    from watchdogd import board, status  # noqa: PLC0415

    try:
        view = status.collect(runtime_dir, time.monotonic_ns(), options.worker)
    except board.BoardError as error:
        raise _Failed(f"{error}; {_START_IT}", EXIT_NOT_RUNNING) from None
    except status.UnknownWorker as error:
        raise _Failed(str(error), EXIT_USAGE) from None
    if options.json:
        import json  # noqa: PLC0415

        return json.dumps(status.to_json(view)) + "\n", view.exit_status
    from watchdogd.status_table import table  # noqa: PLC0415

    width = os.get_terminal_size(1).columns if sys.stdout.isatty() else 200
    return table(view, width, sys.stdout.isatty() and "NO_COLOR" not in os.environ), view.exit_status


def _events(options: argparse.Namespace) -> int:
    import json  # noqa: PLC0415

    from watchdogd import events  # noqa: PLC0415

    path = os.path.join(_state_dir(options.config), events.FILE_NAME)
    bad: list[bytes] = []
    try:
        if not options.follow and not os.path.exists(path):
            why = f"{path} does not exist: nothing was recorded yet, or it is elsewhere; name the configuration with -c"
            raise _Failed(why, EXIT_UNEXPECTED)
        for event in (events.follow if options.follow else events.read_file)(path, on_bad=bad.append):
            print(json.dumps(event) if options.json else events.describe(event), flush=options.follow)
    except BrokenPipeError:
        raise
    except OSError as error:
        why = f"{path}: {error.strerror}; use sudo, or join the group that may read it"
        raise _Failed(why, EXIT_UNEXPECTED) from None
    if bad:
        lines = "1 line" if len(bad) == 1 else f"{len(bad)} lines"
        print(f"watchdogd: {lines} of {path} left out: not an event", file=sys.stderr)
    return 0


def _change(options: argparse.Namespace) -> int:
    path = os.path.join(_runtime_dir(options.config), control.SOCKET_NAME)
    try:
        reply = control.ask(path, {"command": options.name, "worker": options.worker}, CONTROL_SECONDS)
    except control.NotRunning as error:
        raise _Failed(f"{error}; {_START_IT}", EXIT_NOT_RUNNING) from None
    except control.Refused as refused:
        raise _Failed("; ".join(filter(None, (str(refused), refused.remedy))), EXIT_UNEXPECTED) from None
    print(reply.get("message", "done"))
    return 0


def _check_config(options: argparse.Namespace) -> int:
    settings = _load(options.config)
    from watchdogd.snapshot import deadlines_seconds  # noqa: PLC0415

    print(f"{', '.join(settings.files)}: no problem found")
    for worker in settings.workers:
        limits = " ".join(f"{name} {value:g} s" for name, value in deadlines_seconds(worker.deadlines).items())
        print(f"worker {worker.name} on {worker.accelerator or 'no accelerator'}: {' '.join(worker.command)}")
        print(f"  deadlines: {limits or 'none'}{'; observed only' if worker.observe_only else ''}")
    print(f"load sources: {', '.join(source.name for source in settings.sources) or 'none'}")
    print(f"metrics: {settings.metrics.listen or 'none'}")
    return 0


# --- finding things -------------------------------------------------------------------------------------------------


def _load(config: str | None) -> Settings:
    from watchdogd.config import ConfigError, load  # noqa: PLC0415

    try:
        settings = load(Path(config or DEFAULT_CONFIG), environ=os.environ)
        _check_port(settings)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        message = f"{count} problem{'s' if count > 1 else ''} in the configuration"
        raise _Failed(message, EXIT_BAD_CONFIG) from None
    return settings


def _check_port(settings: Settings) -> None:
    """Raises ConfigError if somebody listens where the exporter shall, other than the exporter of these directories."""
    from watchdogd.config import ConfigError, check_port  # noqa: PLC0415

    give_up = time.monotonic() + PORT_SECONDS
    while (problem := check_port(settings)) is not None and not _runs(settings.supervisor.runtime_dir):
        if time.monotonic() > give_up:
            raise ConfigError([problem])
        time.sleep(0.05)  # the exporter of a supervisor that was killed ends within milliseconds


def _runs(runtime_dir: str) -> bool:
    from watchdogd import board, status  # noqa: PLC0415

    try:
        published = board.read(os.path.join(runtime_dir, board.FILE_NAME))
    except board.BoardError:
        return False
    return status.fault(published, time.monotonic_ns()) is None


def _directory(config: str, key: str, default: str) -> str:
    """One directory of a configuration, whose other problems do not matter to a reader."""
    from watchdogd.config import files as config_files  # noqa: PLC0415

    tree, problems = config_files.read(Path(config))
    if problems:
        raise _Failed("\n".join(str(problem) for problem in problems), EXIT_BAD_CONFIG)
    table = tree.root.get("supervisor")
    directory = table.get(key, default) if isinstance(table, dict) else default
    if not isinstance(directory, str):
        raise _Failed(f"{config}: supervisor.{key} is not a text; see `watchdogd check-config`", EXIT_BAD_CONFIG)
    return directory


def _runtime_dir(config: str | None) -> str:
    if config is not None:
        return _directory(config, "runtime_dir", _DEFAULTS.runtime_dir)
    return os.environ.get(RUNTIME_DIR) or _DEFAULTS.runtime_dir


def _state_dir(config: str | None) -> str:
    """As the configuration says, else as the supervisor says that runs or ran last, else the default."""
    if config is not None:
        return _directory(config, "state_dir", _DEFAULTS.state_dir)
    from watchdogd import board  # noqa: PLC0415

    try:
        supervisor = board.read(os.path.join(_runtime_dir(None), board.FILE_NAME)).body.get("supervisor", {})
    except board.BoardError:
        supervisor = {}
    return str(supervisor.get("state_dir", _DEFAULTS.state_dir))
