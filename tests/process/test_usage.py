"""What real processes hold, and what is unknown of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.running import wait_until
from watchdogd.observe import usage

HELD = """
import mmap, os, sys, threading
print(flush=True); sys.stdin.readline()
{take}
print(flush=True); sys.stdin.readline()
"""


@contextmanager
def process(take: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that takes it when it is given a line, and says when it has."""
    command = [sys.executable, "-c", HELD.format(take=take)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as popen:
        assert popen.stdout is not None
        popen.stdout.readline()
        try:
            yield popen
        finally:
            popen.kill()


def before_and_after(take: str) -> tuple[usage.Holdings, usage.Holdings]:
    with process(take) as popen:
        assert popen.stdin is not None and popen.stdout is not None
        before = usage.holdings(popen.pid)
        popen.stdin.write(b"\n")
        popen.stdin.flush()
        popen.stdout.readline()
        after = usage.holdings(popen.pid)
    assert before is not None and after is not None
    return before, after


def grown(take: str) -> tuple[int, int, int]:
    """MiB, descriptors and threads."""
    before, after = before_and_after(take)
    memory, descriptors, threads = ((b or 0) - (a or 0) for a, b in zip(before, after, strict=True))
    return round(memory / (1 << 20)), descriptors, threads


def test_each_figure_is_that_of_the_process() -> None:
    assert grown("held = b'x' * (40 << 20)") == (40, 0, 0)
    assert grown("held = mmap.mmap(-1, 40 << 20); held.write(b'x' * (40 << 20))")[0] >= 40  # shared
    assert grown("held = [os.dup(0) for _ in range(50)]") == (0, 50, 0)
    waits = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert grown(f"for _ in range(7): {waits}")[2] == 7


def test_a_file_that_is_mapped_is_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "recording"
    file.write_bytes(b"x" * (40 << 20))
    mapped = f"held = mmap.mmap(os.open({str(file)!r}, os.O_RDONLY), 0, prot=mmap.PROT_READ); sum(held[::4096])"
    assert grown(mapped)[0] == 0


def test_descriptors_are_counted_alike_where_the_kernel_does_not_count_them() -> None:
    with process("") as popen:
        held = usage.holdings(popen.pid)
        assert held is not None and held.descriptors == usage.listed_descriptors(popen.pid) == 3


def test_a_tree_and_a_session_are_summed_and_strangers_are_not() -> None:
    child = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']{})"
    with process("") as stranger, process(child.format(", start_new_session=True")) as popen:
        alone = usage.look({"a": popen.pid})["a"]
        assert alone["pids"] == [popen.pid] and (alone["descriptors"], alone["threads"]) == (3, 1)
        assert popen.stdin is not None
        popen.stdin.write(b"\n")
        popen.stdin.flush()
        wait_until(lambda: len(usage.look({"a": popen.pid})["a"]["pids"]) == 2)
        both = usage.look({"a": popen.pid, "b": stranger.pid, "gone": 2**22 - 1})
        assert both.keys() == {"a", "b"} and both["a"]["threads"] == 2 and both["b"]["pids"] == [stranger.pid]
        assert both["a"]["memory"] > both["b"]["memory"] > 0
        os.kill(next(pid for pid in both["a"]["pids"] if pid != popen.pid), 9)


def test_of_a_worker_with_too_many_processes_no_part_is_told_for_the_whole() -> None:
    forks = f"for _ in range({usage.MOST_PIDS}): os.fork() or __import__('time').sleep(60)"
    with process(forks) as popen:
        assert popen.stdin is not None
        popen.stdin.write(b"\n")
        popen.stdin.flush()
        try:
            wait_until(lambda: (usage.look({"a": popen.pid})["a"]["threads"] or 0) > usage.MOST_PIDS)
            assert usage.look({"a": popen.pid})["a"]["pids"] == []
        finally:
            os.killpg(popen.pid, 9)


def test_a_process_that_was_left_behind_in_its_session_is_found() -> None:
    orphan = "os.fork() or (os.fork() and os._exit(0)) or __import__('time').sleep(60)"
    with process(orphan) as popen:
        assert popen.stdin is not None
        popen.stdin.write(b"\n")
        popen.stdin.flush()
        wait_until(lambda: len(usage.look({"a": popen.pid}).get("a", {"pids": ()})["pids"]) == 2)
        left = next(pid for pid in usage.look({"a": popen.pid})["a"]["pids"] if pid != popen.pid)
        os.kill(left, 9)


def test_a_process_that_has_ended_holds_nothing() -> None:
    with process("") as popen:
        popen.kill()
        os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        assert usage.look({"a": popen.pid}) == {}  # a zombie
    assert usage.holdings(popen.pid) is None
