"""The recorder: a child of the supervisor that appends event lines from standard input to a file.

A process of its own because a write to a disk can block for seconds, and the tick must not; that is why it also empties
the workers' logs that have outgrown their bounds. It prints its state on standard output, one JSON object a line:
``{"written": n, "dropped": n, "error": text or null}``, when the error changes and else at most once a second.

Invariant: standard input is always drained, whatever the disk does, and only its end ends this process: the last events
of a supervisor that was killed are written.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from watchdogd.publish.echo import echo

LONGEST_LINE = 64 * 1024
STATUS_INTERVAL_NS = 1_000_000_000
BOUND_INTERVAL_NS = 500_000_000


class RotatedFile:
    """Appends whole lines. At ``max_bytes`` the file becomes ``.1``, ``.1`` becomes ``.2``, and so on to ``keep``."""

    def __init__(self, path: str, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1

    def append(self, line: bytes) -> None:
        """Append one line with one write. Raises OSError; the next call looks anew at what is there."""
        size = self._open()
        if size and size + len(line) > self._max_bytes:
            self._rotate()
            size = self._open()
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            # Somebody died, or the disk filled up, in the middle of a line: that stays one bad line.
            line = b"\n" + line
        while line:
            line = line[os.write(self._descriptor, line) :]

    def _open(self) -> int:
        """Have the file open that the path names now (it may have been removed or renamed); its size."""
        if self._descriptor >= 0:
            mine = os.fstat(self._descriptor)
            try:
                named = os.lstat(self._path)
            except FileNotFoundError:
                named = None
            if named is not None and (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino):
                return mine.st_size
            os.close(self._descriptor)
            self._descriptor = -1
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o640)
        return os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        for index in range(self._keep, 0, -1):
            older = f"{self._path}.{index - 1}" if index > 1 else self._path
            if os.path.lexists(older):
                os.rename(older, f"{self._path}.{index}")


class Logs:
    """Workers' logs: bytes allowed, by path. Their writers append, so an emptied one goes on at its start."""

    def __init__(self, bounds: Mapping[str, int]) -> None:
        self._bounds = bounds
        self._next_ns = 0

    def due_ms(self, now_ns: int) -> int | None:
        """Milliseconds until they are to be looked at; None if there are none."""
        return _milliseconds_until(self._next_ns, now_ns) if self._bounds else None

    def bound(self, now_ns: int) -> None:
        self._next_ns = now_ns + BOUND_INTERVAL_NS
        for path, most in self._bounds.items():
            # Not there; or not to be truncated (append-only, a read-only disk): it grows, the record goes on.
            with suppress(OSError):
                if os.lstat(path).st_size > most:
                    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                    try:
                        os.ftruncate(descriptor, 0)
                    finally:
                        os.close(descriptor)


def _milliseconds_until(then_ns: int, now_ns: int) -> int:
    return max(0, -(-(then_ns - now_ns) // 1_000_000))


class Recorder:
    def __init__(self, file: RotatedFile, echo: Callable[[bytes], None]) -> None:
        self._file = file
        self._echo = echo
        self._written = self._dropped = 0
        self._error: str | None = None
        self._reported: tuple[int, int, str | None] | None = None
        self._reported_ns = 0
        self._buffer = b""

    def take(self, data: bytes) -> None:
        """Record the whole lines in what was read so far."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._record(line + b"\n")
        if len(self._buffer) > LONGEST_LINE:
            self._buffer = b""
            self._dropped += 1

    def _record(self, line: bytes) -> None:
        try:
            self._file.append(line)
        except OSError as error:
            self._dropped += 1
            self._error = error.strerror
        else:
            self._written += 1
            self._error = None
        self._echo(line)

    def due_ms(self, now_ns: int) -> int | None:
        """Milliseconds until there is something to report; None if there is nothing new."""
        state = (self._written, self._dropped, self._error)
        if state == self._reported:
            return None
        if self._reported is None or self._error != self._reported[2]:
            return 0
        return _milliseconds_until(self._reported_ns + STATUS_INTERVAL_NS, now_ns)

    def report(self, now_ns: int) -> bytes:
        self._reported = (self._written, self._dropped, self._error)
        self._reported_ns = now_ns
        return json.dumps({"written": self._written, "dropped": self._dropped, "error": self._error}).encode() + b"\n"


def run(recorder: Recorder, logs: Logs) -> None:
    """Until standard input ends."""
    inputs = select.poll()
    inputs.register(0, select.POLLIN)
    outputs = select.poll()
    outputs.register(1, select.POLLOUT)
    heard = True  # somebody reads our standard output
    data = b" "
    while data:
        now_ns = time.monotonic_ns()
        due_ms, logs_ms = recorder.due_ms(now_ns) if heard else None, logs.due_ms(now_ns)
        if due_ms == 0:
            heard = _print(recorder.report(now_ns), outputs)
        elif logs_ms == 0:
            logs.bound(now_ns)
        # None: nothing to say nor to look at, so only the next event or the end can matter.
        elif inputs.poll(min((ms for ms in (due_ms, logs_ms) if ms is not None), default=None)):
            data = os.read(0, LONGEST_LINE)
            recorder.take(data)
    if heard:
        _print(recorder.report(time.monotonic_ns()), outputs)


def _print(line: bytes, outputs: select.poll) -> bool:
    """False if nobody will ever read it. A slow reader misses the line: waiting for it would stop the drain."""
    ready = outputs.poll(0)
    if not ready:
        return True
    try:
        os.write(1, line)
    except BrokenPipeError:
        return False
    return True


def main(arguments: list[str]) -> int:
    # argparse would be a quarter of this process's memory.
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) != 10 or options.keys() != {"--file", "--max-bytes", "--keep", "--echo", "--bounds"}:
        # --bounds: of log files, {PATH: BYTES}
        usage = "--file FILE --max-bytes N --keep N --echo text|json|journal|brief|none --bounds JSON"
        print(f"usage: python -m watchdogd.publish.recorder {usage}", file=sys.stderr)
        return 2
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    file = RotatedFile(options["--file"], int(options["--max-bytes"]), int(options["--keep"]))
    run(Recorder(file, echo(options["--echo"])), Logs(json.loads(options["--bounds"])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
