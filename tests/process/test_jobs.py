"""Jobs of the keeper: real forks that work, fail, hang and flood, of which none is waited for."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import gone, wait_until
from watchdogd.incidents.jobs import Ended, Jobs
from watchdogd.model import SECOND


def told(jobs: Jobs, work: Any, seconds: float = 20.0) -> Ended:
    """How it ended."""
    found: list[Ended] = []
    began = time.monotonic()
    jobs.start(work, time.monotonic_ns() + round(seconds * SECOND), found.append)
    assert time.monotonic() - began < 1.0

    def looked() -> bool:
        jobs.look()
        return bool(found)

    wait_until(looked)
    jobs.look()
    assert len(found) == 1
    return found[0]


def is_left_alone(jobs: Jobs) -> bool:
    """All have ended, also those that nobody waited for."""
    jobs.look()
    return not jobs.descriptors()


def test_a_job_hands_back_what_it_tells_and_what_it_found() -> None:
    ended = told(Jobs(), lambda: ({"outcome": "ok"}, b"x" * 1_000_000))
    assert (ended.outcome, ended.result is not None) == ("ok", True)
    assert ended.result is not None
    assert ended.result.told == {"outcome": "ok"}
    assert len(ended.result.payload) > 1_000_000


def test_one_that_raises_or_is_killed_has_failed() -> None:
    raised = told(Jobs(), lambda: 1 / 0)
    assert (raised.outcome, raised.detail, raised.result) == ("failed", "ended with status 1", None)
    killed = told(Jobs(), lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert (killed.outcome, killed.detail) == ("failed", "ended with signal 9")


def test_one_that_hangs_is_killed_at_its_deadline_with_what_it_started(tmp_path: Path) -> None:
    told_of = tmp_path / "child"

    def hangs() -> None:
        child = os.fork()
        if child:
            told_of.write_text(str(child))
        time.sleep(600)

    jobs = Jobs()
    ended = told(jobs, hangs, 0.5)
    assert (ended.outcome, ended.result) == ("timed out", None)
    assert 0.5 * SECOND <= ended.took_ns < 5 * SECOND
    wait_until(lambda: gone(int(told_of.read_text())))
    wait_until(lambda: is_left_alone(jobs))


def test_one_that_floods_is_ended_by_that() -> None:
    assert told(Jobs(), lambda: ({}, b"x" * (40 << 20))).outcome == "failed"


def test_one_that_nobody_wants_any_more_is_ended_and_not_told_of() -> None:
    jobs, found = Jobs(), list[Ended]()
    job = jobs.start(lambda: time.sleep(600), time.monotonic_ns() + 20 * SECOND, found.append)  # type: ignore[arg-type,return-value]  # it never returns
    assert job is not None
    jobs.drop(job)
    wait_until(lambda: is_left_alone(jobs))
    assert (found, jobs.are_running) == ([], False)
    assert gone(job.pid)


def test_a_job_that_cannot_be_watched_is_not_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last descriptor was taken by its result: it would have no deadline, and nobody would reap it."""

    def refuse(_pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text().split()
    monkeypatch.setattr(os, "pidfd_open", refuse)
    ended = told(Jobs(), lambda: time.sleep(600))
    assert (ended.outcome, ended.detail) == ("failed", "cannot start: Too many open files")
    assert set(children.read_text().split()) <= set(before)
