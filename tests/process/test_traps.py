"""The traps that other watchdogs fell into, and the test that keeps this one out of each.

Those whose story needs a running supervisor of a kind that no other test has are below; the others are named in
``TRAPS``, which is tested.
"""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

import watchdogd
from tests.helpers.running import Supervised, wait_until, worker

TRAPS = {
    "overdue outer stage hidden by a fresh inner stage": (
        "supervisor_detection:test_an_overdue_outer_call_is_not_hidden_by_fresh_inner_ones",
    ),
    "deleting from the dict being scanned: only the first hung worker is killed": (
        "supervisor_kill:test_all_hung_workers_are_killed_not_only_the_first",
    ),
    "dead telemetry reader spins at 100 % CPU and repeats the last value": (
        "supervisor_life:test_a_child_that_keeps_dying_does_not_make_the_supervisor_spin",
        "supervisor_sources:"
        "test_a_source_that_is_silent_for_three_intervals_is_stale_and_its_load_is_not_repeated_as_fresh",
    ),
    "process that hangs before its first beat is never caught": (
        "supervisor_detection:test_a_worker_that_never_attaches_is_caught_by_its_startup_deadline",
        "supervisor_detection:test_a_worker_that_attaches_and_is_never_ready_is_caught_by_its_startup_deadline",
    ),
    "supervisor blocks in join()/waitpid on an unkillable child": (
        "supervisor_kill:test_an_unkillable_worker_is_shown_and_stops_nobody_else",
        "supervisor_kill:test_an_unkillable_worker_does_not_keep_the_supervisor_from_ending",
    ),
    "wall clock in deadlines": ("traps:test_no_deadline_is_measured_by_the_wall_clock",),
    "SIGABRT to SIGKILL gap collapses when another event wakes the loop": (
        "traps:test_the_gap_between_sigterm_and_sigkill_does_not_collapse_when_other_events_wake_the_loop",
    ),
    "watchdog enabled but client never connected: looks stuck, or looks fine": (
        "supervisor_detection:test_a_worker_that_never_attaches_is_caught_by_its_startup_deadline",
        "supervisor_detection:test_a_worker_whose_calls_are_not_stamped_is_uninstrumented_not_idle",
    ),
    "JIT build, first-shape tuning mistaken for a hang": (
        "supervisor_detection:test_a_long_call_before_ready_is_only_the_startup_s_matter",
        "supervisor_detection:test_a_first_step_has_a_deadline_of_its_own",
    ),
    "restart fires while operator asked for stop": (
        "supervisor_restart:test_no_restart_fires_while_the_operator_asked_for_stop",
        "supervisor_kill:test_a_worker_stopped_while_its_kill_was_pending_is_not_restarted",
    ),
    "PID -1": (
        "process:test_no_process_has_a_pid_below_one",
        "sweep:test_a_worker_without_a_process_has_no_members_session_0_is_init_s",
        "supervisor_restart:test_a_worker_that_can_no_longer_be_started_is_a_crash_with_its_reason",
    ),
    "mutex in shared memory left locked by a dead worker": (
        "traps:test_a_lock_left_by_a_dead_process_or_held_by_a_living_one_blocks_nobody",
    ),
    "asyncio or threads + fork: dead-lock in the supervisor": (
        "supervisor_life:test_the_supervisor_has_one_thread_and_touches_no_gpu",
    ),
    "anyone local can beat for another pid": ("traps:test_nobody_else_can_write_a_worker_s_heartbeat",),
    "gauge of last error that never clears": ("traps:test_the_last_error_goes_with_the_process_that_had_it",),
    "liveness probe restarts the monitor onto the same blocked call": (
        "supervisor_notify:test_a_source_that_stands_still_does_not_stop_the_feed",
        "supervisor_notify:test_a_hung_worker_does_not_stop_the_feed",
    ),
    "shared container: one node's flags or hang affect all": (
        "supervisor_isolation:test_a_worker_gets_its_own_session_closed_descriptors_and_what_it_was_configured",
        "supervisor_kill:test_an_unkillable_worker_is_shown_and_stops_nobody_else",
    ),
    "a reader that maps what a worker truncates dies of SIGBUS": (
        "supervisor_detection:test_a_spoilt_heartbeat_is_shown_and_takes_neither_worker_nor_supervisor_down",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_has_the_tests_that_the_table_names(trap: str) -> None:
    for place in TRAPS[trap]:
        name, _, function = place.partition(":")
        tree = ast.parse((Path(__file__).parent / f"test_{name}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# Where wall time is for people: records, incidents and their ids, the history of calls, the exporter's timestamps.
FOR_PEOPLE = {
    "cli.py", "supervisor/judging.py", "view/status_table.py", "exporter/families.py", "exporter/sections.py",
    "exporter/collector.py",
    "act/acting.py", "act/escalating.py", "publish/events.py", "publish/journal.py",
    "supervisor/incidents.py", "incidents/recording.py", "incidents_command.py", "report_command.py",
    "view/report_source.py",
}  # fmt: skip
WALL_CLOCKS = {"time", "time_ns", "gmtime", "localtime", "strftime", "CLOCK_REALTIME", "now", "utcnow", "today"}


def test_no_deadline_is_measured_by_the_wall_clock() -> None:
    package = Path(watchdogd.__file__).parent
    for path in package.rglob("*.py"):
        if str(path.relative_to(package)) in FOR_PEOPLE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                clock = node.value.id in ("time", "datetime", "date") and node.attr in WALL_CLOCKS
                assert not clock, f"{path.name}:{node.lineno}: {node.value.id}.{node.attr}"


def test_the_gap_between_sigterm_and_sigkill_does_not_collapse_when_other_events_wake_the_loop() -> None:
    stubborn = worker("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()", stop_timeout="600ms")
    with Supervised({"a": stubborn, "b": worker("serve()")}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.wait_phase("b", "running")
        supervised.ask("stop", "a")
        while supervised.phase("a") != "stopped":
            supervised.ask("pause", "b")
            supervised.ask("resume", "b")
        supervised.wait_event("signal", "a", signal="SIGKILL")
        term, kill = supervised.events("signal", "a")
        # The events are stamped after the fact, each a little later than the tick that the grace counts from.
        assert 590_000_000 <= kill["monotonic_ns"] - term["monotonic_ns"] < 2_000_000_000


def test_a_lock_left_by_a_dead_process_or_held_by_a_living_one_blocks_nobody() -> None:
    body = """import fcntl
def lock():
    fcntl.lockf(os.open(HEARTBEAT, os.O_RDWR), fcntl.LOCK_EX, 1)
if INCARNATION == 1:
    dead = os.fork()
    if dead == 0:
        lock()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(dead, 0)
    serve_until('lock')  # claims its lanes under that lock
    if os.fork() == 0:
        lock()
        tell('locked')
        hang()
    wait_for('locked')
    with worker.call('sync'): hang()
serve()"""
    pure = worker(body, environment={"WATCHDOGD_PURE_PYTHON": "1"}, deadlines={"sync": "150ms"})
    with Supervised({"a": pure}) as supervised:
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: (supervised.view("a")["steps"] or 0) > 3)
        supervised.touch("lock")
        supervised.wait_phase("a", "running", 2)
        assert supervised.wait_event("verdict", "a")["operation"] == "sync"


def test_nobody_else_can_write_a_worker_s_heartbeat() -> None:
    with Supervised({"a": worker("serve()")}) as supervised:
        path = Path(supervised.wait_phase("a", "running")["heartbeat"])
        told = path.stat()
        assert stat.S_IMODE(told.st_mode) & (stat.S_IWGRP | stat.S_IRWXO) == 0
        assert told.st_uid == os.geteuid()
        assert path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) == 0  # nor put another in its place


def test_the_last_error_goes_with_the_process_that_had_it() -> None:
    body = "if INCARNATION == 1:\n    serve_until('go')\n    worker.error(2)\n    serve()\nwait_for('second')\nserve()"
    with Supervised({"a": worker(body)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["last_error"] == 2)
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "starting", 2)
        wait_until(lambda: supervised.worker("a")["last_error"] is None)  # before it is ready, too
        supervised.touch("second")
