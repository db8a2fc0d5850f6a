"""What the demo is made of: which stories there are, and the camera that counts their frames."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.demo import frames
from tests.demo.__main__ import STORIES
from tests.demo.story import ROOT

PERIOD_NS = 1_000_000


def test_an_unknown_story_is_refused_with_those_there_are() -> None:
    line = [sys.executable, "-m", "tests.demo", "--story", "moon"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ran.returncode == 2
    assert all(name in ran.stderr for name in STORIES)


def test_make_passes_the_name_on() -> None:
    ran = subprocess.run(
        ["make", "--dry-run", "--assume-old=packages", "demo", "STORY=zero-output"],
        cwd=ROOT, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert '--story "zero-output"' in ran.stdout


@pytest.mark.parametrize(("queue", "lost"), [(0, 40), (3, 37)])
def test_what_was_due_while_nobody_took_it_is_lost_but_for_the_queue(tmp_path: Path, queue: int, lost: int) -> None:
    path = tmp_path / "frames"
    frames.make(path)
    first = frames.paced(path, PERIOD_NS)
    next(first)
    next(first)
    before = frames.Count(path)
    assert (before.done, len(before.ends_ns)) == (1, 1)
    first.close()  # it is killed, and replaced some time later
    time.sleep(40 * PERIOD_NS / 1e9)
    next(frames.paced(path, PERIOD_NS, queue))
    assert lost - 1 <= frames.Count(path).lost - before.lost <= lost + 40  # the machine may be busy


def test_frames_are_counted_by_the_time_at_which_they_ended(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    frames.make(path)
    began_ns = time.monotonic_ns()
    taken = frames.paced(path, PERIOD_NS)
    for _ in range(5):
        next(taken)
    count, now_ns = frames.Count(path), time.monotonic_ns()
    assert (count.done, count.between(began_ns, now_ns), count.between(0, began_ns)) == (4, 4, 0)
    assert count.longest_gap_ns(began_ns, now_ns) >= PERIOD_NS
    assert count.longest_gap_ns(now_ns, now_ns + 7) == 7
