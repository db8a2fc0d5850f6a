"""The options of `watchdogd exec`, and the keys of the configuration that they are.

Invariant: nothing is imported here that the other commands do not need.
"""

from __future__ import annotations

import argparse

DURATIONS = {
    "startup": ("deadlines.startup", "its first completed work, or ready(), has to come within; never, if not given"),
    "sync": ("deadlines.sync", "longest a synchronize may block"),
    "event": ("deadlines.event", "longest a wait for an event may block"),
    "alloc": ("deadlines.alloc", "longest an allocation may block"),
    "free": ("deadlines.free", "longest a free may block"),
    "copy": ("deadlines.copy", "longest a copy or fill may block"),
    "launch": ("deadlines.launch", "longest a launch may block"),
    "other": ("deadlines.other", "longest any other call may block, such as the load of a module"),
    "stall": ("deadlines.progress", "longest it may go without progress while work is pending (with --progress)"),
    "ready-after": ("ready_after", "so long after its start all deadlines hold; at once, if there is no --startup"),
    "progress-interval": ("progress_interval", "time between two looks at what --progress names (default 1s)"),
    "grace": ("stop_timeout", "SIGTERM to SIGKILL"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "watchdogd exec [OPTIONS] -- PROGRAM [ARGUMENTS]"
    parser.description = (
        f"{parser.description} Ends with the program's own exit status (128 + n for signal n), or as below. "
        'D is a duration such as "500ms", "2s" or "1m". See docs/EXEC.md.'
    )
    for name, (_, text) in DURATIONS.items():
        parser.add_argument(f"--{name}", metavar="D", help=text)
    parser.add_argument(
        "--instrument",
        metavar="WHO",
        help="who stamps its calls: driver (a shim in front of libcuda; the default), or worker (its own code)",
    )
    parser.add_argument(
        "--progress", metavar="SPEC", help='what tells of progress: "sync", "metrics:URL", "http://...", "command:..."'
    )
    parser.add_argument(
        "--progress-counter", metavar="SERIES", help='with "metrics:URL": the series that grows with its work'
    )
    parser.add_argument(
        "--progress-pending", metavar="SERIES", help='with "metrics:URL": the gauge of its work in hand; 0: it is idle'
    )
    parser.add_argument(
        "--progress-kills", action="store_true", help="end it for a probe that fails; else that is only told"
    )
    parser.add_argument("--nvtx", action="store_true", help="its innermost open NVTX range is the stage of a verdict")
    parser.add_argument("--accelerator", metavar="NAME", help='what it runs on, for the record: "gpu0", "dla1"')
    parser.add_argument(
        "--restart", type=int, default=0, metavar="N", help="start it again after a verdict, so often (default 0)"
    )
    parser.add_argument("--observe-only", action="store_true", help="tell of verdicts, end nobody")
    parser.add_argument("--json-events", metavar="FILE", help="append what happens, one JSON object a line")
    parser.add_argument("--incidents", metavar="DIR", help="keep each hang, crash or silent output there, in a folder")
    parser.add_argument("--metrics", default="", metavar="HOST:PORT", help="serve /metrics and a page there")
    parser.add_argument("-v", "--verbose", action="store_true", help="say where `status` and others find it")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ...", help="and its arguments")
