"""Children that run once: bounded in time, in what they print, and in what they leave behind."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from pathlib import Path

import pytest

from tests.helpers.running import gone, wait_until
from tests.process.conftest import Freezer, Running
from watchdogd.act.acting import Happening
from watchdogd.act.launching import Identities
from watchdogd.act.probing import Prober
from watchdogd.act.runs import STUCK_NS
from watchdogd.act.verdict_hook import VerdictHook
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import OpenIncident, Probe
from watchdogd.model import SECOND, Finding, HooksSettings, IncidentId, Verdict, WorkerSettings


def test_what_it_leaves_in_its_group_ends_with_it(running: Running, tmp_path: Path) -> None:
    running.start(f"sleep 60 & echo $! > {tmp_path}/pid")
    running.until(lambda: running.outcomes)
    wait_until(lambda: gone(int((tmp_path / "pid").read_text())))


def test_what_a_reboot_leaves_goes_on(running: Running, tmp_path: Path) -> None:
    running.start(f"sleep 60 & echo $! > {tmp_path}/pid", dies_with_us=False)
    running.until(lambda: running.outcomes)
    pid = int((tmp_path / "pid").read_text())
    try:
        with pytest.raises(AssertionError):
            wait_until(lambda: gone(pid), timeout=0.3)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("is_ours", "said"), [(False, ""), (True, "words")])
def test_only_the_errors_of_our_own_programs_are_printed(
    is_ours: bool, said: str, running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    running.start("echo lost; echo words >&2", is_ours=is_ours)
    running.until(lambda: running.outcomes)
    printed = capfd.readouterr()
    assert (printed.out, printed.err.strip()) == ("", said)


def test_what_sigkill_does_not_end_is_stuck_until_it_ends(running: Running, tmp_path: Path, freezer: Freezer) -> None:
    running.start(f"echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 60", seconds=0.5)
    wait_until((tmp_path / "pid").exists)
    try:
        freezer.freeze(int((tmp_path / "pid").read_text()))
        running.until(lambda: running.outcomes)
        assert not running.runs.stuck("it", time.monotonic_ns())  # it was killed just now
        assert running.runs.stuck("it", time.monotonic_ns() + STUCK_NS)
        assert not running.runs.stuck("other", time.monotonic_ns() + STUCK_NS)
    finally:
        freezer.thaw()
    running.until(lambda: not running.runs.stuck("it", time.monotonic_ns() + STUCK_NS))


def test_a_probe_that_has_nobody_to_run_as_knows_nothing(running: Running) -> None:
    happenings: deque[Happening] = deque()
    settings = WorkerSettings("a", ("a",), accelerator="gpu0", probe=("true",), user="no-such-user-here")
    Prober(running.runs, running.journal, happenings, Identities()).probe(Watched(settings), Probe(1), 7)
    assert [happening.usable for happening in happenings] == [None]


@pytest.mark.parametrize("detail", ["\U0001d11e" * 500, "\udc80" * 500, "\x01" * 500])
def test_the_hook_is_told_whatever_a_detail_is_made_of(detail: str, running: Running, tmp_path: Path) -> None:
    settings = HooksSettings(("sh", "-c", f"cat > {tmp_path}/told"), 20 * SECOND)
    hook = VerdictHook(settings, running.runs, running.journal, str(tmp_path))
    finding = Finding(Verdict.CALL, time.monotonic_ns(), operation="sync", detail=detail)
    hook.tell(Watched(WorkerSettings("a", ("a",))), OpenIncident(IncidentId("i7"), finding), time.monotonic_ns())
    running.until(lambda: running.runs.pids() == set())
    assert (tmp_path / "told").read_bytes().startswith(b'{"schema": 1, "event": "verdict"')
