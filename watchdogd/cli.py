"""The command line: parsing and printing only.

Invariant: what a program may read goes to standard output, what a person must do to standard error, and the exit status
says how it went (``exits.py``). Each command imports what it needs, so that ``status`` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import watchdogd
from watchdogd import exec_options, exits, incidents_command, places, report_command
from watchdogd.exits import Failed

if TYPE_CHECKING:
    from watchdogd.model import Settings
    from watchdogd.view.event_filter import EventFilter

WATCH_SECONDS = 0.5
CONTROL_SECONDS = 10.0
RELOAD_SECONDS = 20.0
DUMB_COLUMNS = 80  # a terminal that tells no size: a serial console
REPORT_COLUMNS = 100  # prose is not read any better on a wider one
UNLIMITED_COLUMNS = 1 << 30  # what is no terminal gets each row on one line

_CHANGES = {
    "restart": "end a worker and start its next incarnation",
    "stop": "end a worker and leave it ended",
    "start": "start a stopped worker",
    "pause": "suspend a worker's deadlines, e.g. for a debugger",
    "resume": "enforce a paused worker's deadlines again",
    "reset": "give a quarantined worker its restart budget back and start it",
}
_EXAMPLES = f"""\
examples:
  watchdogd check-config -c vehicle.toml    every problem, or a summary
  watchdogd doctor -c vehicle.toml          whether this machine has what it needs
  watchdogd run -c vehicle.toml             supervise its workers
  watchdogd status --watch                  a table that redraws itself
  watchdogd status --json model_h           one worker, for a program
  watchdogd events --follow                 what happens, as it happens
  watchdogd events --worker model_h --kind verdict --kind gone --since 10m
  watchdogd incidents show last             what hung last, why, and what to do next
  watchdogd report --since 7d               hangs, what they cost, and deadlines
  watchdogd reset model_h                   end a quarantine

The running supervisor is found by -c FILE, else by ${places.RUNTIME_DIR}, else in {places.DEFAULTS.runtime_dir}.

{exits.table()}"""


def _reserve_standard() -> None:
    """Where one was closed, the next file we open would be it, and get our words; and we would end without a status.

    A child gets /dev/null there, too.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - the lowest that is free: it
            os.set_inheritable(descriptor, True)


def main(arguments: Sequence[str] | None = None) -> int:
    _reserve_standard()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(arguments[0] if arguments[:1] in (["run"], ["exec"]) else None)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(
            f"unrecognized arguments: {' '.join(unknown)}; `watchdogd {options.name} --help` has those there are"
        )
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except Failed as failed:
        print(f"watchdogd: {failed}", file=sys.stderr)
        return failed.status
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has seen enough; the interpreter must not try to flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return status


def _parser(only: str | None) -> argparse.ArgumentParser:
    """Of all commands, or of ``run`` or ``exec`` alone: workers wait for these."""
    parser = argparse.ArgumentParser(
        prog="watchdogd",
        description="A deadline on every blocking GPU or DLA call, enforced from another process.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"watchdogd {watchdogd.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=exits.table(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name != "exec":
            added.add_argument(
                "-c", "--config", metavar="FILE", help=f"configuration (default {places.DEFAULT_CONFIG})"
            )
        added.set_defaults(command=function, name=name)
        return added

    if only != "exec":
        command("run", _run, "supervise the workers of a configuration")
    if only != "run":
        exec_options.add_options(command("exec", _exec, "supervise one program, unmodified and in the foreground"))
    if only is not None:
        return parser
    status = command("status", _status, "show workers, calls in flight, loads and the supervisor itself")
    status.add_argument("worker", nargs="?", metavar="WORKER", help="this worker alone")
    status.add_argument("--json", action="store_true", help="one JSON object (with --watch one a line)")
    status.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    events = command("events", _events, "show what happened, oldest first")
    events.add_argument("--json", action="store_true", help="the lines as they were recorded")
    events.add_argument("--follow", action="store_true", help="go on with what happens, until Ctrl-C")
    events.add_argument("--worker", action="append", metavar="NAME", help="of this worker alone (may be repeated)")
    events.add_argument("--kind", action="append", type=_kind, help="of this kind alone (may be repeated)")
    events.add_argument("--incident", metavar="ID", help="of this incident alone")
    events.add_argument(
        "--since", type=report_command.days, metavar="DURATION", help='no older than that, e.g. "10m" or "7d"'
    )
    incidents_command.add_options(command("incidents", incidents_command.run, "show what is kept of hangs and crashes"))
    report_command.add_options(command("report", report_command.run, "sum up hangs, what they cost, and deadlines"))
    for name, text in _CHANGES.items():
        command(name, _change, text).add_argument("worker", metavar="WORKER", help="one; for another, once more")
    bisect = command("bisect", _change, "have a worker synchronize after each stage, so that a hang tells in which")
    bisect.add_argument("worker", metavar="WORKER", help="from its next start on; at once: `watchdogd restart WORKER`")
    bisect.add_argument("switch", choices=("on", "off"), metavar="on|off", help="on until off; it is slower meanwhile")
    command("reload", _reload, "load the configuration anew; only workers that it changes are restarted")
    command("check-config", _check_config, "name every problem of a configuration, or sum it up")
    doctor = command("doctor", _doctor, "show what this machine offers and lacks, and whether a configuration can run")
    doctor.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _kind(text: str) -> str:
    from watchdogd.publish.events import EventKind

    kinds = [kind.value for kind in EventKind]
    if text not in kinds:
        raise argparse.ArgumentTypeError(f"no event is of kind {text!r}; there are: {', '.join(kinds)}")
    return text


# --- the commands ---------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    gc.disable()  # nothing that is made on the way to the first tick is garbage; the supervisor enables it then
    from watchdogd.supervisor import checked

    settings, warnings = checked.take() or places.load(options.config)
    from watchdogd.act import runtime
    from watchdogd.publish import notify
    from watchdogd.supervisor import start

    print(_introduction(settings, warnings), file=sys.stderr, flush=True)
    try:
        return start.main(settings)
    except (runtime.CannotStart, notify.CannotNotify) as error:
        raise Failed(str(error), exits.REFUSED) from None


def _exec(options: argparse.Namespace) -> int:
    gc.disable()  # as in ``_run``
    from watchdogd import executing

    return executing.run(options)


def _introduction(settings: Settings, warnings: list[str]) -> str:
    """What a person must know to find everything else: one line, in the form of the log that follows; then warnings."""
    where = {
        "version": watchdogd.__version__,
        "config": ", ".join(settings.files),
        "metrics": settings.metrics.listen or "none",
        "runtime": settings.supervisor.runtime_dir,
        "events": os.path.join(settings.supervisor.state_dir, "events.jsonl"),
        "logs": os.path.join(settings.supervisor.state_dir, "log"),
    }
    if settings.supervisor.log_format == "json":
        import json

        return json.dumps({**where, "warnings": warnings})
    told = "watchdogd " + "  ".join(f"{what} {value}" for what, value in where.items())
    return "\n".join([told, *(f"warning: {warning}" for warning in warnings)])


def _status(options: argparse.Namespace) -> int:
    runtime_dir = places.runtime_dir(options.config)
    if not options.watch:
        text, exit_status = _status_text(runtime_dir, options)
        sys.stdout.write(text)
        return exit_status
    redraw = sys.stdout.isatty() and not options.json
    while True:
        try:
            text, _ = _status_text(runtime_dir, options)
        except Failed as failed:  # it may come back
            if failed.status == exits.USAGE:
                raise
            text = f"watchdogd: {failed}\n"
        sys.stdout.write(f"\033[H\033[2J{text}" if redraw else text)
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS if redraw else 1.0)


def _status_text(runtime_dir: str, options: argparse.Namespace) -> tuple[str, int]:
    from watchdogd.publish import board
    from watchdogd.view import status

    try:
        view = status.collect(runtime_dir, time.monotonic_ns(), options.worker)
    except board.BoardDenied as error:
        how = places.how_to_read(os.path.join(runtime_dir, board.FILE_NAME))
        raise Failed(f"{error}; {how}", exits.REFUSED) from None
    except board.BoardError as error:
        raise Failed(f"{error}; {_start_it(options)}", exits.NOT_RUNNING) from None
    except status.UnknownWorker as error:
        raise Failed(str(error), exits.USAGE) from None
    if options.json:
        import json

        from watchdogd.view import status_json

        return json.dumps(status_json.to_json(view)) + "\n", view.exit_status
    from watchdogd.view import status_detail
    from watchdogd.view.status_table import table

    detail = status_detail.collect(view, view.workers[0]) if view.only else None
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return table(view, _columns(), colour, detail, options.config), view.exit_status


def _start_it(options: argparse.Namespace) -> str:
    if places.is_service(options.config):
        return f"`watchdogd check-config` says if it can start, `systemctl start {places.UNIT}` starts it"
    if options.config is not None:
        return f"start it with `watchdogd run -c {options.config}`"
    return "start it with `watchdogd run`, or name its configuration with -c"


def _columns() -> int:
    import shutil

    told = shutil.get_terminal_size((0, 0)).columns  # $COLUMNS first: `watch` sets it
    return told or (DUMB_COLUMNS if sys.stdout.isatty() else UNLIMITED_COLUMNS)


def _events(options: argparse.Namespace) -> int:
    import json

    from watchdogd.publish import event_text, events
    from watchdogd.view import event_filter

    path = os.path.join(places.state_dir(options.config), events.FILE_NAME)
    wanted = _wanted(options)
    bad: list[bytes] = []
    try:
        if not options.follow:
            os.stat(path)
        event_filter.check(wanted, path, places.workers(options.config))
        for event in (events.follow if options.follow else events.read_file)(path, on_bad=bad.append):
            if wanted.wants(event):
                print(json.dumps(event) if options.json else event_text.describe(event), flush=options.follow)
    except event_filter.NothingSuch as error:
        raise Failed(str(error), exits.USAGE) from None
    except BrokenPipeError:
        raise
    except FileNotFoundError:
        elsewhere = "" if options.config else ", or it is elsewhere; name the configuration with -c"
        raise Failed(f"{path} does not exist: nothing was recorded yet{elsewhere}", exits.REFUSED) from None
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}; {places.how_to_read(path)}", exits.REFUSED) from None
    if bad:
        lines = "1 line" if len(bad) == 1 else f"{len(bad)} lines"
        print(f"watchdogd: {lines} of {path} left out: not an event", file=sys.stderr)
    return exits.FINE


def _wanted(options: argparse.Namespace) -> EventFilter:
    from watchdogd.observe import procfs
    from watchdogd.publish import events
    from watchdogd.view.event_filter import EventFilter, Since

    since = None
    if options.since is not None:
        since = Since(
            boot_id=events.boot_id_text(procfs.boot_id()),
            monotonic_ns=time.monotonic_ns() - options.since,
            time=events.rfc3339(time.time_ns() - options.since),
        )
    return EventFilter(tuple(options.worker or ()), tuple(options.kind or ()), options.incident, since)


def _change(options: argparse.Namespace) -> int:
    from watchdogd.supervisor import control

    path = os.path.join(places.runtime_dir(options.config), control.SOCKET_NAME)
    command = f"{options.name} {options.switch}" if "switch" in options else options.name
    try:
        reply = control.ask(path, {"command": command, "worker": options.worker}, CONTROL_SECONDS)
    except control.NotRunning as error:
        raise Failed(f"{error}; {_start_it(options)}", exits.NOT_RUNNING) from None
    except control.Refused as refused:
        known = places.workers(options.config)
        exit_status = exits.USAGE if known and options.worker not in known else exits.REFUSED
        raise Failed("; ".join(filter(None, (str(refused), refused.remedy))), exit_status) from None
    print(reply.get("message", "done"))
    return exits.FINE


def _reload(options: argparse.Namespace) -> int:
    from watchdogd.supervisor import control

    runtime_dir = places.runtime_dir(options.config)
    before = _reloaded(runtime_dir, options)
    try:
        control.ask(
            os.path.join(runtime_dir, control.SOCKET_NAME), {"command": control.RELOAD, "worker": ""}, CONTROL_SECONDS
        )
    except control.NotRunning as error:
        raise Failed(f"{error}; {_start_it(options)}", exits.NOT_RUNNING) from None
    except control.Refused as refused:
        raise Failed("; ".join(filter(None, (str(refused), refused.remedy))), exits.REFUSED) from None
    give_up = time.monotonic() + RELOAD_SECONDS
    while time.monotonic() < give_up:
        started_ns, asked, outcome, problem = _reloaded(runtime_dir, options)
        if started_ns not in (None, before[0]):
            print("reloaded")
            return exits.FINE
        if asked != before[1] and outcome == "refused":
            raise Failed(f"refused, nothing has changed:\n{problem}", exits.BAD_CONFIG)
        time.sleep(0.02)
    raise Failed("no answer yet; see `watchdogd events --kind supervisor`", exits.REFUSED)


def _reloaded(runtime_dir: str, options: argparse.Namespace) -> tuple[object, object, object, object]:
    """When the supervisor (its image) began, how many reloads it was asked for, and what has become of the last one."""
    from watchdogd.publish import board

    try:
        published = board.read(os.path.join(runtime_dir, board.FILE_NAME))
    except board.BoardDenied as error:
        from watchdogd.supervisor import control

        raise Failed(f"{error}; {control.FOR_WHOM}", exits.REFUSED) from None
    except board.BoardError as error:
        raise Failed(f"{error}; {_start_it(options)}", exits.NOT_RUNNING) from None
    supervisor = published.body.get("supervisor", {})
    reload = supervisor.get("reload", {})
    began = supervisor.get("started_ns") if published.ticks else None  # before that it may not listen yet
    return began, reload.get("asked"), reload.get("outcome"), reload.get("problem")


def _check_config(options: argparse.Namespace) -> int:
    settings, warnings = places.load(options.config)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    from watchdogd.publish.snapshot import deadlines_seconds

    print(f"{', '.join(settings.files)}: no problem found")
    for worker in settings.workers:
        limits = " ".join(f"{name} {value:g} s" for name, value in deadlines_seconds(worker.deadlines).items())
        print(f"worker {worker.name} on {worker.accelerator or 'no accelerator'}: {' '.join(worker.command)}")
        print(f"  deadlines: {limits or 'none'}{'; observed only' if worker.observe_only else ''}")
    print(f"load sources: {', '.join(source.name for source in settings.sources) or 'none'}")
    print(f"metrics: {settings.metrics.listen or 'none'}")
    return exits.FINE


def _doctor(options: argparse.Namespace) -> int:
    given = options.config is not None or os.path.exists(places.DEFAULT_CONFIG)
    settings, warnings = places.load(options.config) if given else (None, [])
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    from watchdogd.doctor import command

    is_terminal = sys.stdout.isatty()
    width = min(_columns(), REPORT_COLUMNS if is_terminal else DUMB_COLUMNS)
    colour = is_terminal and "NO_COLOR" not in os.environ
    text, can_run = command.run(settings, as_json=options.json, width=width, colour=colour)
    print(text)
    return exits.FINE if can_run else exits.NOT_AS_IT_SHOULD
