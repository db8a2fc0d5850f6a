"""Asks a worker how it gets on, from outside: its health endpoint, a program, or its own Prometheus metrics.

One attempt every interval, which may take no longer than that; a JSON object a line for each, with its begin. The
supervisor stamps their arrival. Invariant: an attempt that does not end in time has failed; memory is bounded whatever
answers; where even that does not help (a name that is looked up for ever) the program is silent, and is replaced.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from watchdogd.decide.progress import Sample
from watchdogd.observe.sources import child

MOST_BYTES = 4 << 20  # of metrics; vLLM's are 60 KB
READ_BYTES = 1 << 16
MOST_REDIRECTS = 3
MOST_TEXT = 200  # characters of a reason
ACCEPT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
_PR_SET_PDEATHSIG = 1

Ask = Callable[[float], Sample]  # gets the seconds that it may take; raises Failed or Late


class Failed(Exception):
    """The worker did not answer as it should. The text says how."""


class Late(BaseException):
    """Its time is over; no handler of a library may take it for an error of its own."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Late in the block once so much time has passed."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- what is asked --------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = MOST_REDIRECTS


def _opener() -> urllib.request.OpenerDirector:
    """For http and https alone: no other scheme that a redirect names, and no proxy that the environment names."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), _Redirects(), urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


def fetch(url: str, most_bytes: int) -> bytes:
    """The body of what answers there with 2xx; one byte more than ``most_bytes`` where it is longer. Raises Failed."""
    try:
        with _opener().open(urllib.request.Request(url, headers={"Accept": ACCEPT, "Connection": "close"})) as answer:
            body = bytearray()
            while most_bytes and len(body) <= most_bytes:
                part = answer.read(min(READ_BYTES, most_bytes + 1 - len(body)))
                if not part:
                    if answer.length:
                        raise Failed(f"broke off {answer.length} bytes before the end of its answer")
                    break
                body += part
            return bytes(body)
    except urllib.error.HTTPError as error:
        error.close()
        raise Failed(f"answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise Failed(str(error.reason)) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise Failed(f"{type(error).__name__}: {error}") from None


def ask_http(url: str) -> Ask:
    def ask(seconds: float) -> Sample:
        with within(seconds):
            fetch(url, 0)
        return Sample(0, True)

    return ask


def ask_metrics(url: str, counter: str, pending: str) -> Ask:
    from prometheus_client.parser import text_string_to_metric_families as families  # noqa: PLC0415 - only for these

    def total(text: str, series: str) -> float | None:
        """The sum of the samples that it names; None where there is none."""
        [wanted] = [sample for family in families(f"{series} 0\n") for sample in family.samples]
        # Only its own lines: a program's thousand others cost 20 ms, and what is wrong in them is not our matter.
        lines = "\n".join(line for line in text.splitlines() if line.startswith(wanted.name))
        try:
            found = [sample for family in families(f"{lines}\n") for sample in family.samples]
        except (ValueError, IndexError, KeyError) as error:
            raise Failed(f"{wanted.name} cannot be read: {error}") from None
        labels = wanted.labels.items()
        values = [one.value for one in found if one.name == wanted.name and labels <= one.labels.items()]
        return float(sum(values)) if values else None

    def ask(seconds: float) -> Sample:
        with within(seconds):
            body = fetch(url, MOST_BYTES)
            if len(body) > MOST_BYTES:
                raise Failed(f"answers with more than {MOST_BYTES >> 20} MiB")
            text = body.decode("utf-8", "replace")
            if not text.endswith("\n"):  # the last number may be half a number
                raise Failed("broke off within a line")
            return Sample(0, True, counter=total(text, counter), pending=total(text, pending))

    return ask


def ask_command(command: Sequence[str]) -> Ask:
    """Exit status 0 is good. What its group has left behind is ended with it."""
    libc = ctypes.CDLL(None)
    left: list[subprocess.Popen[bytes]] = []  # that did not end by their SIGKILL yet; nobody waits for them

    def ask(seconds: float) -> Sample:
        left[:] = [process for process in left if process.poll() is None]
        if left:
            raise Failed("is still there from the last time")
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509 - one thread
            )  # fmt: skip
        except OSError as error:
            raise Failed(f"cannot start: {error}") from None
        pidfd = os.pidfd_open(process.pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            in_time = bool(poller.poll(seconds * 1000))
        finally:
            os.close(pidfd)
        with suppress(ProcessLookupError):  # unreaped yet, so the number is its group's and nobody else's
            os.killpg(process.pid, signal.SIGKILL)
        if not in_time:
            left.append(process)
            raise Late
        status = process.wait()
        if status:
            raise Failed(f"killed by signal {-status}" if status < 0 else f"exited with status {status}")
        return Sample(0, True)

    return ask


# --- the program ----------------------------------------------------------------------------------------------------


def attempt(ask: Ask, seconds: float) -> Sample:
    begun_ns = time.monotonic_ns()
    try:
        return ask(seconds)._replace(begun_ns=begun_ns)
    except Late:
        return Sample(begun_ns, False, f"no answer within {seconds:g} s")
    except Failed as error:
        return Sample(begun_ns, False, str(error)[:MOST_TEXT])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m watchdogd.observe.sources.progress", description="Ask a program how it gets on, and print it."
    )
    child.add_options(parser)
    parser.add_argument("--counter", metavar="SERIES")
    parser.add_argument("--pending", metavar="SERIES")
    parser.add_argument("kind", choices=("http", "metrics", "command"))
    parser.add_argument("target", nargs=argparse.REMAINDER, help="the URL, or the program and its arguments")
    options = parser.parse_args(arguments)
    if options.kind == "http":
        ask = ask_http(options.target[0])
    elif options.kind == "metrics":
        ask = ask_metrics(options.target[0], options.counter, options.pending)
    else:
        ask = ask_command(options.target)
    parent = os.getppid()
    reader_gone = select.poll()
    reader_gone.register(sys.stdout, 0)  # no event asked for: what remains is POLLERR, the other end closed
    with child.until_nobody_reads():
        while os.getppid() == parent:
            began = time.monotonic()
            print(json.dumps(attempt(ask, options.interval)._asdict()), flush=True)
            rest = options.interval - (time.monotonic() - began)
            if options.once or reader_gone.poll(max(0.0, rest) * 1000):
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
