"""`watchdogd report`: its options, and from the record to what is printed.

Invariant: nothing is written, and no running supervisor is needed.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from watchdogd import duration, exits, places
from watchdogd.exits import Failed

if TYPE_CHECKING:
    from watchdogd.view import report_source

_DAY_NS = 24 * duration.UNITS["h"]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=days, default=7 * _DAY_NS, metavar="DURATION", help='"7d" (default), "12h" ...')
    parser.add_argument("--worker", metavar="NAME", help="of this worker alone")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object")
    how.add_argument("--suggest-deadlines", action="store_true", help="a part of a configuration, to look at and copy")


def days(text: str) -> int:
    """As ``duration.parse``, and days."""
    whole = text.removesuffix("d")
    try:
        is_days = text.endswith("d") and whole.isascii() and whole.isdigit() and len(whole) < 4
        return int(whole) * _DAY_NS if is_days else duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{error}; write it as "7d", "12h" or "90m"') from None


def run(options: argparse.Namespace) -> int:
    """Raises Failed."""
    from watchdogd.view import report, report_source

    state_dir = places.state_dir(options.config)
    try:
        os.listdir(state_dir)
    except FileNotFoundError:
        hint = "" if options.config else ", or it is elsewhere; name the configuration with -c"
        raise Failed(f"{state_dir} does not exist: nothing was recorded yet{hint}", exits.REFUSED) from None
    except OSError as error:
        raise Failed(f"{state_dir}: {error.strerror}; {places.how_to_read(state_dir)}", exits.REFUSED) from None
    record = report_source.read(state_dir, places.runtime_dir(options.config))
    _check(options, record)
    now_ns = time.time_ns()
    made = report.make(
        record.ended, record.near, record.snapshots, record.problems, now_ns - options.since, now_ns, options.worker
    )
    if options.json:
        import json

        print(json.dumps(report.to_json(made)))
    else:
        print(report.toml(made) if options.suggest_deadlines else report.text(made), end="")
    return exits.FINE


def _check(options: argparse.Namespace, record: report_source.Record) -> None:
    """A slip of the finger must not look like "nothing happened". Raises Failed."""
    known = set(places.workers(options.config))
    known |= record.workers()
    if options.worker is not None and options.worker not in known:
        told = ", ".join(sorted(known)) or "none yet"
        raise Failed(f"no worker is called {options.worker!r}; there are: {told}", exits.USAGE)
