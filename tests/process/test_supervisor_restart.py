"""Restarts: when, how often, and who has the last word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.running import Supervised, wait_until, worker

MS = 1_000_000
CRASHES = {"command": ["false"]}


def starts(supervised: Supervised, name: str = "a") -> list[int]:
    """Instants."""
    return [event["monotonic_ns"] for event in supervised.events("phase", name, phase="starting")]


def ends(supervised: Supervised, name: str = "a") -> list[int]:
    return [event["monotonic_ns"] for event in supervised.events("gone", name)]


def waits(supervised: Supervised) -> list[int]:
    """From each end to the next start."""
    return [start - end for end, start in zip(ends(supervised), starts(supervised)[1:], strict=False)]


def test_the_first_restart_is_immediate_the_others_wait_longer_and_longer_until_the_budget_is_spent() -> None:
    restart = {"backoff": "100ms", "backoff_max": "1m", "budget": 4, "window": "1m"}
    with Supervised({"a": {**CRASHES, "restart": restart}}) as supervised:
        body = supervised.wait_phase("a", "quarantined")
        assert (body["incarnation"], body["restarts"]) == (5, {"crashed": 4})
        wait_until(lambda: supervised.worker("a")["budget_left"] == 0)
        supervised.wait_event("phase", "a", phase="quarantined")
        first, *rest = waits(supervised)
        assert first < 50 * MS
        for wait, nominal in zip(rest, (100, 200, 400), strict=True):
            assert 0.8 * nominal * MS <= wait < 1.5 * nominal * MS + 100 * MS
        assert len({event["incident"] for event in supervised.events("verdict", "a")}) == 5


def test_backoff_does_not_grow_beyond_its_cap() -> None:
    restart = {"backoff": "50ms", "backoff_max": "80ms", "budget": 5, "window": "1m"}
    with Supervised({"a": {**CRASHES, "restart": restart}}) as supervised:
        supervised.wait_phase("a", "quarantined")
        supervised.wait_event("phase", "a", phase="quarantined")
        assert all(wait < 200 * MS for wait in waits(supervised))


def test_a_quarantined_worker_stays_ended_until_it_is_reset() -> None:
    body = "if not (HERE / 'repaired').exists(): sys.exit(1)\nserve()"
    restart = {"backoff": "10ms", "budget": 2, "window": "1m"}
    with Supervised({"a": worker(body, restart=restart)}) as supervised:
        quarantined = supervised.wait_phase("a", "quarantined")
        supervised.touch("repaired")
        supervised.let_pass(0.3)
        assert supervised.worker("a")["incarnation"] == quarantined["incarnation"]
        supervised.ask("reset", "a")
        supervised.wait_phase("a", "running", quarantined["incarnation"] + 1)
        wait_until(lambda: supervised.worker("a")["budget_left"] == 2)


def test_retry_slowly_goes_on_at_the_longest_backoff() -> None:
    restart = {"backoff": "10ms", "backoff_max": "150ms", "budget": 1, "window": "1m", "when_spent": "retry-slowly"}
    with Supervised({"a": {**CRASHES, "restart": restart}}) as supervised:
        wait_until(lambda: supervised.worker("a")["incarnation"] >= 4)
        supervised.wait_event("gone", "a", 4)
        assert supervised.events("phase", "a", phase="quarantined") == []
        assert all(wait >= 120 * MS for wait in waits(supervised)[1:3])


def test_the_budget_comes_back_with_time() -> None:
    body = "serve_until(f'end {INCARNATION}')\nsys.exit(1)"
    restart = {"backoff": "10ms", "budget": 1, "window": "1s"}
    with Supervised({"a": worker(body, restart=restart)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("end 1")
        supervised.wait_phase("a", "running", 2)
        wait_until(lambda: supervised.worker("a")["budget_left"] == 0)
        wait_until(lambda: supervised.worker("a")["budget_left"] == 1)
        supervised.touch("end 2")
        supervised.wait_phase("a", "running", 3)


def test_no_restart_fires_while_the_operator_asked_for_stop() -> None:
    restart = {"backoff": "400ms", "backoff_max": "400ms", "budget": 9}
    with Supervised({"a": {**CRASHES, "restart": restart}}) as supervised:
        supervised.wait_phase("a", "backoff")
        supervised.ask("stop", "a")
        stopped = supervised.wait_phase("a", "stopped")
        supervised.let_pass(0.6)
        body = supervised.worker("a")
        assert (body["phase"], body["incarnation"]) == ("stopped", stopped["incarnation"])


def test_a_start_that_is_asked_for_does_not_wait_for_the_backoff() -> None:
    restart = {"backoff": "30s", "backoff_max": "30s", "budget": 9}
    with Supervised({"a": {**CRASHES, "restart": restart}}) as supervised:
        incarnation = supervised.wait_phase("a", "backoff")["incarnation"]
        supervised.ask("start", "a")
        wait_until(lambda: supervised.worker("a")["incarnation"] == incarnation + 1)


@pytest.mark.parametrize("obstacle", ["program", "directory", "log"])
def test_a_worker_that_can_no_longer_be_started_is_a_crash_with_its_reason(obstacle: str, tmp_path: Path) -> None:
    """Without a process there is no session and no descendant to clear away: only others' could be hit."""
    program, directory = tmp_path / "model_h", tmp_path / "directory"
    program.symlink_to("/bin/true")
    directory.mkdir()
    keys = {"command": [str(program)], "working_directory": str(directory)}
    workers = {"a": {**keys, "restart": {"budget": 1}, "autostart": False}, "b": worker("serve()")}
    with Supervised(workers) as supervised:
        supervised.wait_phase("b", "running")
        if obstacle == "program":
            program.unlink()
        elif obstacle == "directory":
            directory.rmdir()
        else:
            supervised.state.joinpath("log", "a.log").mkdir()
        supervised.ask("start", "a")
        supervised.wait_phase("a", "quarantined")
        for count in (1, 2):
            verdict = supervised.wait_event("verdict", "a", count)
            assert verdict["verdict"] == "crashed"
            missing = "Is a directory" if obstacle == "log" else "No such file or directory"
            assert missing in verdict["detail"]
        assert supervised.worker("b")["incarnation"] == 1
        assert supervised.events("signal") == []
        assert {event["descendants_killed"] for event in supervised.events("gone")} == {0}
