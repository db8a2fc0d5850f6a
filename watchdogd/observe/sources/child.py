"""What the load readers share: they print samples until nobody wants them.

Invariant: a reader ends by itself, one interval at the latest after whoever reads it, or its parent, is gone. (One that
is stuck in the kernel cannot: that is why it is a program of its own.)
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from watchdogd.model import DeviceMemory, LoadSample

if TYPE_CHECKING:  # the supervisor imports this module, and parses no command line with it
    import argparse

EX_UNAVAILABLE = 69  # sysexits.h
Sample = LoadSample | DeviceMemory


class Unavailable(Exception):
    """This machine does not have the source, or no longer. The text ends with what to do about it."""


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Ends the block quietly when the reader of standard output is gone, and the program at Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end, and would complain about the same thing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every reader has."""
    parser.add_argument("--interval", type=seconds, default=0.5, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--once", action="store_true", help="print one sample of each accelerator and end")


def seconds(text: str) -> float:
    """A length of time from the command line. Raises ValueError."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError("neither zero, below it nor endless")
    return value


def run(open_source: Callable[[], Callable[[], Sequence[Sample]]], interval_seconds: float, once: bool) -> int:
    """Prints what the opened source reads, a JSON object a line, every interval. Returns the exit status."""
    parent = os.getppid()
    reader_gone = select.poll()
    reader_gone.register(sys.stdout, 0)  # no event asked for: what remains is POLLERR, the other end closed
    with until_nobody_reads():
        try:
            read = open_source()
            while True:
                for sample in read():
                    print(json.dumps(sample._asdict()))
                sys.stdout.flush()
                if once or reader_gone.poll(interval_seconds * 1000) or os.getppid() != parent:
                    return 0
        except Unavailable as error:
            print(f"watchdogd: {error}", file=sys.stderr)
            return EX_UNAVAILABLE
    return 0
