"""The recorder as a process: rotation, a full disk, torn lines, and the last words of a supervisor that was killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import wait_until
from watchdogd.publish import events

TIMEOUT = 20.0


def line(seq: int, padding: int = 0) -> bytes:
    return json.dumps({"seq": seq, "kind": "phase", "padding": "x" * padding}).encode() + b"\n"


def seqs(path: Path) -> list[int]:
    return [event["seq"] for event in events.read_file(str(path))]


class Recorder:
    """A recorder process and what it says of itself."""

    def __init__(
        self, path: Path, max_bytes: int = 1 << 20, keep: int = 4, wrapper: Sequence[str] = (), echo: str = "none",
        bounds: Mapping[str, int] = {},
    ):  # fmt: skip
        command = [*wrapper, sys.executable, "-m", "watchdogd.publish.recorder", "--file", str(path)]
        command += ["--max-bytes", str(max_bytes), "--keep", str(keep), "--echo", echo]
        command += ["--bounds", json.dumps(bounds)]
        pipe = subprocess.PIPE
        errors = None if echo == "none" else pipe
        # Unbuffered: ``select`` knows nothing of what a buffer holds.
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, bufsize=0)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.said: list[dict[str, Any]] = []

    def tell(self, *lines: bytes) -> None:
        assert self.stdin.write(data := b"".join(lines)) == len(data)

    def state(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until it says something that is ``wanted``."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline and select.select([self.stdout], [], [], deadline - time.monotonic())[0]:
            self.said.append(json.loads(self.stdout.readline()))
            if wanted(self.said[-1]):
                return self.said[-1]
        raise AssertionError(f"the recorder only said {self.said}")

    def end(self) -> int:
        self.stdin.close()
        code = self.process.wait(TIMEOUT)
        self.stdout.close()
        return code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / events.FILE_NAME


@pytest.fixture
def recorders() -> Iterator[Callable[..., Recorder]]:
    started: list[Recorder] = []

    def start(*args: Any, **kwargs: Any) -> Recorder:
        started.append(Recorder(*args, **kwargs))
        return started[-1]

    yield start
    for recorder in started:
        recorder.process.kill()
        recorder.process.wait(TIMEOUT)


def test_lines_are_appended_and_the_end_of_input_ends_it(path: Path, recorders: Callable[..., Recorder]) -> None:
    path.write_bytes(line(1))
    recorder = recorders(path)
    recorder.tell(line(2), line(3)[:10])
    recorder.tell(line(3)[10:])
    assert recorder.state(lambda s: s["written"] == 2) == {"written": 2, "dropped": 0, "error": None}
    assert recorder.end() == 0
    assert path.read_bytes() == line(1) + line(2) + line(3)


def test_the_torn_last_line_of_a_previous_life_stays_one_bad_line(
    path: Path, recorders: Callable[..., Recorder]
) -> None:
    path.write_bytes(line(1) + line(2)[:-10])
    recorder = recorders(path)
    recorder.tell(line(3))
    assert recorder.end() == 0
    bad: list[bytes] = []
    assert [event["seq"] for event in events.read_file(str(path), bad.append)] == [1, 3]
    assert bad == [line(2)[:-10] + b"\n"]


def test_files_rotate_by_size_and_the_oldest_goes(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path, max_bytes=1000, keep=2)
    recorder.tell(*(line(seq, padding=400) for seq in range(9)))
    assert recorder.end() == 0
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.1", f"{path.name}.2"]
    assert seqs(path) == [4, 5, 6, 7, 8]
    assert all(p.stat().st_size <= 1000 for p in path.parent.iterdir())


def test_a_line_longer_than_a_file_is_recorded_alone(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path, max_bytes=100)
    recorder.tell(line(1, padding=300), line(2))
    assert recorder.end() == 0
    assert (seqs(path), path.read_bytes()) == ([1, 2], line(2))


def test_nothing_but_the_end_of_input_ends_it(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path, wrapper=["env", "--default-signal"])
    recorder.tell(line(1))
    recorder.state(lambda s: s["written"] == 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        recorder.process.send_signal(number)
    recorder.tell(line(2))
    recorder.state(lambda s: s["written"] == 2)
    assert recorder.end() == 0


SUPERVISOR = """
import os, signal, subprocess, sys
command = [sys.executable, "-m", "watchdogd.publish.recorder", "--file", sys.argv[1], "--max-bytes", "100000"]
command += ["--keep", "2", "--echo", "none", "--bounds", "{}"]
recorder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
recorder.stdout.readline()  # it runs
print(recorder.pid, flush=True)
for seq in range(300):
    recorder.stdin.write(b'{"seq": %d, "kind": "phase"}\\n' % seq)
recorder.stdin.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_last_events_of_a_killed_supervisor_are_in_the_file(path: Path) -> None:
    supervisor = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, str(path)], stdout=subprocess.PIPE, timeout=TIMEOUT, check=False
    )
    assert supervisor.returncode == -signal.SIGKILL
    recorder = int(supervisor.stdout)
    deadline = time.monotonic() + TIMEOUT
    while os.path.exists(f"/proc/{recorder}") and time.monotonic() < deadline:
        if b") Z" in Path(f"/proc/{recorder}/stat").read_bytes():
            break  # ended; nobody reaps here
        time.sleep(0.01)
    assert seqs(path) == list(range(300))


def test_a_missing_directory_is_counted_and_recovered_from(tmp_path: Path, recorders: Callable[..., Recorder]) -> None:
    path = tmp_path / "state" / events.FILE_NAME
    recorder = recorders(path)
    recorder.tell(line(1), line(2))
    state = recorder.state(lambda s: s["dropped"] == 2)
    assert (state["written"], state["error"]) == (0, "No such file or directory")
    path.parent.mkdir()
    recorder.tell(line(3))
    assert recorder.state(lambda s: s["error"] is None)["written"] == 1
    assert recorder.end() == 0
    assert seqs(path) == [3]


def test_a_file_that_was_removed_is_made_again(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path)
    recorder.tell(line(1))
    recorder.state(lambda s: s["written"] == 1)
    path.unlink()
    recorder.tell(line(2))
    assert recorder.end() == 0
    assert seqs(path) == [2]


def test_a_symlink_in_its_place_is_not_written_through(path: Path, recorders: Callable[..., Recorder]) -> None:
    target = path.parent / "precious"
    target.write_bytes(b"keep")
    path.symlink_to(target)
    recorder = recorders(path)
    recorder.tell(line(1))
    assert recorder.state(lambda s: s["dropped"] == 1)["error"] == "Too many levels of symbolic links"
    assert target.read_bytes() == b"keep"


def test_a_file_that_may_not_grow_costs_lines_but_neither_the_process_nor_later_lines(
    path: Path, recorders: Callable[..., Recorder]
) -> None:
    recorder = recorders(path, wrapper=["prlimit", "--fsize=1000"])
    recorder.tell(*(line(seq, padding=300) for seq in range(6)))
    state = recorder.state(lambda s: s["written"] + s["dropped"] == 6)
    assert (state["written"], state["error"]) == (2, "File too large")
    path.unlink()
    recorder.tell(line(7))
    assert recorder.state(lambda s: s["error"] is None) == {"written": 3, "dropped": 4, "error": None}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_reported_never_fatal_and_recovered_from(
    small_disk: Path, recorders: Callable[..., Recorder]
) -> None:
    path = small_disk / events.FILE_NAME
    recorder = recorders(path)
    recorder.tell(*(line(seq, padding=1000) for seq in range(100)))
    full = recorder.state(lambda s: s["written"] + s["dropped"] == 100)
    assert full["error"] == "No space left on device"
    assert 30 < full["written"] < 70 and full["dropped"] == 100 - full["written"]
    os.truncate(path, path.stat().st_size // 2)  # as an operator frees some: in the middle of a line
    recorder.tell(line(101), line(102))
    assert recorder.state(lambda s: s["error"] is None)["dropped"] == full["dropped"]
    assert recorder.end() == 0
    assert seqs(path)[-2:] == [101, 102]


def test_a_supervisor_that_does_not_read_its_status_is_still_recorded(
    path: Path, recorders: Callable[..., Recorder]
) -> None:
    recorder = recorders(path)
    assert recorder.process.stdout is not None
    # Fill the pipe that it reports to.
    descriptor = os.open(f"/proc/{recorder.process.pid}/fd/1", os.O_WRONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(descriptor, b"x" * 4096)
    finally:
        os.close(descriptor)
    recorder.tell(*(line(seq) for seq in range(50)))
    assert recorder.end() == 0
    assert seqs(path) == list(range(50))


def test_an_endless_line_is_dropped_in_bounded_memory(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path)
    recorder.tell(b"x" * 1_000_000)
    assert recorder.state(lambda s: s["dropped"] > 0)["written"] == 0
    recorder.tell(b"\n", line(5))
    assert recorder.end() == 0
    assert seqs(path) == [5]
    assert path.stat().st_size < 200_000


def test_status_comes_at_most_once_a_second_while_nothing_changes_but_counts(
    path: Path, recorders: Callable[..., Recorder]
) -> None:
    recorder = recorders(path)
    began = time.monotonic()
    for seq in range(30):
        recorder.tell(line(seq % 10))
        size = (seq + 1) * len(line(0))
        wait_until(lambda size=size: path.exists() and path.stat().st_size == size)  # type: ignore[misc]  # the default binds the loop variable
    recorder.state(lambda s: s["written"] == 30)
    assert len(recorder.said) <= 2 + (time.monotonic() - began)


@pytest.mark.parametrize(
    ("echo", "expected"),
    [("json", b'{"seq": 7, "kind": "phase", "padding": ""}\n'), ("text", b"? - phase\n")],
)
def test_events_are_echoed_in_the_form_that_was_asked_for(
    path: Path, recorders: Callable[..., Recorder], echo: str, expected: bytes
) -> None:
    recorder = recorders(path, echo=echo)
    assert recorder.process.stderr is not None
    recorder.tell(line(7), b"garbage\n" if echo == "text" else b"")
    assert recorder.end() == 0
    assert recorder.process.stderr.read() == expected
    recorder.process.stderr.close()


def test_an_echo_that_nobody_reads_stops_nothing(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path, echo="json")
    recorder.tell(*(line(seq, padding=1000) for seq in range(500)))  # several pipes full
    assert recorder.end() == 0
    assert seqs(path) == list(range(500))
    assert recorder.process.stderr is not None
    recorder.process.stderr.close()


# --- the workers' logs ------------------------------------------------------------------------------------------------


def test_a_log_that_has_outgrown_its_bound_is_emptied_and_its_writer_goes_on(
    path: Path, recorders: Callable[..., Recorder]
) -> None:
    log = path.with_name("a.log")
    log.write_bytes(b"x" * 1001)
    with log.open("ab", buffering=0) as writer:
        recorders(path, bounds={str(log): 1000})
        wait_until(lambda: log.stat().st_size == 0)
        writer.write(b"further")
        assert log.read_bytes() == b"further"  # and no hole before it
        writer.write(b"y" * 1000)
        wait_until(lambda: log.stat().st_size == 0)  # again and again


def test_a_log_within_its_bound_is_left_alone(path: Path, recorders: Callable[..., Recorder]) -> None:
    logs = {path.with_name(f"{name}.log"): most for name, most in (("small", 1000), ("large", 999))}
    for log in logs:
        log.write_bytes(b"x" * 1000)
    recorder = recorders(path, bounds={str(log): most for log, most in logs.items()})
    small, large = logs
    wait_until(lambda: large.stat().st_size == 0)
    recorder.tell(line(1))
    assert recorder.end() == 0
    assert small.stat().st_size == 1000


def test_a_log_that_is_missing_or_cannot_be_emptied_stops_neither_the_others_nor_the_record(
    path: Path, recorders: Callable[..., Recorder]
) -> None:
    directory, link, target, good = (path.with_name(name) for name in ("directory", "link", "precious", "good"))
    directory.mkdir()  # as immune to truncation as an append-only file, for root too
    target.write_bytes(b"keep this")
    link.symlink_to(target)
    good.write_bytes(b"x")
    bounds = {str(place): 0 for place in (path.with_name("missing"), directory, link, good)}
    recorder = recorders(path, bounds=bounds)
    wait_until(lambda: good.stat().st_size == 0)
    recorder.tell(line(1))
    assert recorder.end() == 0
    assert (seqs(path), target.read_bytes()) == ([1], b"keep this")


def test_it_is_small(path: Path, recorders: Callable[..., Recorder]) -> None:
    recorder = recorders(path)
    recorder.tell(line(1))
    recorder.state(lambda s: s["written"] == 1)
    status = Path(f"/proc/{recorder.process.pid}/status").read_text()
    (resident,) = (int(row.split()[1]) for row in status.splitlines() if row.startswith("VmRSS"))
    assert resident < 20_000
    print(f"recorder RSS {resident} KiB")


def test_wrong_arguments_are_a_usage_error() -> None:
    command = [sys.executable, "-m", "watchdogd.publish.recorder", "--file", "x"]
    wrong = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False)
    assert (wrong.returncode, wrong.stderr[:6]) == (2, b"usage:")
