"""`watchdogd incidents`: its options, and from the folders to what is printed.

Invariant: no running supervisor is needed, nothing but `prune` changes what is kept, and whoever may not read it is
told how he may.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from watchdogd import exits, places
from watchdogd.exits import Failed
from watchdogd.model import Verdict
from watchdogd.report_command import days
from watchdogd.span import size

if TYPE_CHECKING:
    from watchdogd.incidents.folders import Kept, Listing
    from watchdogd.view.incident_list import Wanted

REPORT_COLUMNS = 120  # prose is not read any better on a wider terminal
UNLIMITED_COLUMNS = 1 << 30  # what is no terminal gets each line whole
_DIRECTORY = "where they are kept, if not in the state_dir: of `exec --incidents`"
_WHICH = "its id, a beginning or an end of it, or `last`"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", metavar="DIR", help=_DIRECTORY)
    _add_filters(parser)
    parser.set_defaults(deed=_list)
    deeds = parser.add_subparsers(metavar="[list|show|export|prune]", title="what to do with them")

    def deed(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = deeds.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.add_argument("-c", "--config", metavar="FILE", default=argparse.SUPPRESS, help="configuration")
        added.add_argument("--directory", metavar="DIR", default=argparse.SUPPRESS, help=_DIRECTORY)
        added.set_defaults(deed=function)
        return added

    _add_filters(deed("list", _list, "one a line, the newest last; so without a word, too"), default=argparse.SUPPRESS)
    show = deed("show", _show, "one on one screen: what it was, what was done, what to do next")
    show.add_argument("incident", metavar="ID", help=_WHICH)
    show.add_argument("--json", action="store_true", help="the whole document")
    export = deed("export", _export, "one as one file with a README, for a bug report to the vendor of the GPU")
    export.add_argument("incident", metavar="ID", help=_WHICH)
    export.add_argument("-o", "--output", metavar="FILE", help="default: ID.tar.zst here; ID.tar.gz where zstd is not")
    prune = deed("prune", _prune, "remove the oldest, never one that is open or the last of its signature")
    prune.add_argument("--keep", type=_count, metavar="N", help="so many stay")
    prune.add_argument("--keep-bytes", type=_size, metavar="SIZE", help='so much stays, e.g. "64MiB"')
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _add_filters(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    verdicts = [verdict.value for verdict in Verdict]

    def add(name: str, text: str, **how: Any) -> None:
        parser.add_argument(name, default=default, help=text, **how)

    add("--worker", "of this worker alone (may be repeated)", action="append", metavar="NAME")
    add("--verdict", "of this verdict alone (may be repeated)", action="append", choices=verdicts, metavar="VERDICT")
    add("--signature", "those that are the same; its beginning does", metavar="HASH")
    add("--since", 'no older than that, e.g. "12h" or "7d"', type=days, metavar="DURATION")
    parser.add_argument("--json", action="store_true", default=default or False, help="one document a line, in brief")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _size(text: str) -> int:
    from watchdogd.config import values

    try:
        return 0 if text == "0" else values.read_size(int(text) if text.isascii() and text.isdigit() else text)
    except values.Invalid as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {error.remedy}") from None


def run(options: argparse.Namespace) -> int:
    """Raises Failed."""
    status: int = options.deed(options)
    return status


# --- what is kept ---------------------------------------------------------------------------------------------------


def _root(options: argparse.Namespace) -> str:
    from watchdogd.incidents import folders

    if options.directory is not None:
        root, below = os.path.abspath(options.directory), os.path.join(options.directory, folders.DIRECTORY)
        return os.path.abspath(below) if os.path.isdir(below) else root  # a state_dir was named
    return f"{places.state_dir(options.config)}/{folders.DIRECTORY}"


@contextmanager
def _readable(root: str) -> Iterator[None]:
    """Raises Failed for what may not be read or changed."""
    try:
        yield
    except BrokenPipeError:
        raise
    except FileNotFoundError as error:
        raise Failed(f"{error.filename or root} does not exist", exits.REFUSED) from None
    except PermissionError as error:
        path = str(error.filename or root)
        raise Failed(f"{path}: {error.strerror}; {places.how_to_read(path)}", exits.REFUSED) from None
    except OSError as error:
        raise Failed(f"{error.filename or root}: {error.strerror}", exits.REFUSED) from None


def _listing(options: argparse.Namespace) -> tuple[str, Listing]:
    from watchdogd.incidents import folders

    root = _root(options)
    with _readable(root):
        try:
            os.stat(root)
        except FileNotFoundError:
            hint = "" if options.config or options.directory else ", or it is elsewhere: name the configuration with -c"
            raise Failed(f"{root} does not exist: no incident was kept yet{hint}", exits.REFUSED) from None
        return root, folders.listing(root)


def _skipped(told: Iterable[str]) -> None:
    for line in told:
        print(f"watchdogd: left out: {line}", file=sys.stderr)


def _find(options: argparse.Namespace) -> Kept:
    from watchdogd.view import incident_list

    root, listing = _listing(options)
    try:
        found = incident_list.find(options.incident, [one.incident for one in listing.kept])
    except (incident_list.NothingSuch, incident_list.Ambiguous) as error:
        _skipped(listing.skipped)
        raise Failed(f"{error} (in {root})", exits.USAGE) from None
    return next(one for one in listing.kept if one.incident.id == found.id)


# --- the deeds ------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from watchdogd.view import incident_list

    root, listing = _listing(options)
    wanted = _wanted(options)
    incidents = [one.incident for one in listing.kept]
    try:
        incident_list.check(wanted, incidents, places.workers(options.config))
    except incident_list.NothingSuch as error:
        raise Failed(str(error), exits.USAGE) from None
    chosen = [incident for incident in incidents if wanted.wants(incident)]
    if options.json:
        import json

        from watchdogd.incidents import codec

        for incident in chosen:
            print(json.dumps(codec.to_json(incident)))
    elif chosen:
        print(incident_list.table(chosen), end="")
    else:
        print(f"no incident is kept in {root}" if not incidents else f"none of the {len(incidents)} that are kept")
    _skipped(listing.skipped)
    return exits.FINE


def _wanted(options: argparse.Namespace) -> Wanted:
    from watchdogd.view.incident_list import Wanted

    since = None if options.since is None else time.time_ns() - options.since
    return Wanted(tuple(options.worker or ()), tuple(options.verdict or ()), options.signature or "", since)


def _show(options: argparse.Namespace) -> int:
    from watchdogd.incidents import codec, folders
    from watchdogd.view import incident_show

    kept = _find(options)
    with _readable(kept.path):
        try:
            incident = folders.read(kept.path)
        except folders.BadFolder as error:  # it was read a moment ago
            raise Failed(f"{kept.path}: {error}", exits.REFUSED) from None
    if options.json:
        import json

        print(json.dumps(codec.to_json(incident), indent=1))
    else:
        where = _where(options)  # the events of `exec` are gone with it
        told = incident_show.text(incident, kept.path, _columns(), where=where, has_events=options.directory is None)
        print(told, end="")
    return exits.FINE


def _where(options: argparse.Namespace) -> str:
    """What another command needs to find what this one did."""
    if options.directory is not None:
        return f" --directory {shlex.quote(options.directory)}"
    return f" -c {shlex.quote(options.config)}" if options.config else ""


def _columns() -> int:
    told = shutil.get_terminal_size((0, 0)).columns  # $COLUMNS first: `watch` sets it
    return min(told, REPORT_COLUMNS) if told else REPORT_COLUMNS if sys.stdout.isatty() else UNLIMITED_COLUMNS


def _export(options: argparse.Namespace) -> int:
    from watchdogd.incidents import export, folders
    from watchdogd.view import incident_show

    kept = _find(options)
    target = options.output or f"{kept.incident.id}{export.method()}"
    with _readable(kept.path):
        try:
            export.write(kept.path, target, incident_show.first_lines(folders.read(kept.path)))
        except (export.CannotExport, folders.BadFolder) as error:
            raise Failed(str(error), exits.REFUSED) from None
    print(target)
    if not target.endswith(".gz") and export.method() == export.GZIP:
        print(f"watchdogd: {target} is compressed by gzip; {_NO_ZSTD}", file=sys.stderr)
    elif options.output is None and target.endswith(export.GZIP):
        print(f"watchdogd: {_NO_ZSTD}", file=sys.stderr)
    return exits.FINE


_NO_ZSTD = "there is no zstd here; install the program zstd, or `pip install zstandard`"


def _prune(options: argparse.Namespace) -> int:
    from watchdogd.incidents import quota

    if options.keep is None and options.keep_bytes is None:
        raise Failed("say what is to stay: --keep N, --keep-bytes SIZE or both", exits.USAGE)
    root, listing = _listing(options)
    with _readable(root):
        if options.dry_run:
            done = quota.plan(listing.kept, options.keep_bytes, options.keep)
        else:
            done = quota.enforce(root, listing, options.keep_bytes, options.keep)
    _told_removed(done.removed, "would be removed" if options.dry_run else "removed")
    print(f"{len(done.kept)} kept, {size(done.size)}")
    for problem in done.problems:
        print(f"watchdogd: {problem}", file=sys.stderr)
    _skipped(listing.skipped)
    if done.failed:
        raise Failed(f"{len(done.failed)} could not be removed; use sudo", exits.REFUSED)
    return exits.FINE


def _told_removed(removed: Sequence[Kept], how: str) -> None:
    for one in removed:
        print(f"{how}: {one.incident.id} ({size(one.size)})")
