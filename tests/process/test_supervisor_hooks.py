"""The on_verdict hook: told before the kill, bounded, and heard only where it may veto."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from watchdogd.act.verdict_hook import MOST_RUNNING

MS = 1_000_000
DEADLINES = {"sync": "100ms"}
HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): tell('in'); hang()\nserve()"
RETURNS = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): wait_for('return')\nserve()"
SAY = 'cat > "$HERE/.stdin"; env > "$HERE/.env"; mv "$HERE/.stdin" "$HERE/stdin"; mv "$HERE/.env" "$HERE/env"; '


def hook(script: str, **keys: Any) -> dict[str, Any]:
    return {"on_verdict": ["sh", "-c", script], **keys}


def told(supervised: Supervised) -> tuple[dict[str, Any], dict[str, str]]:
    """Standard input and environment of the hook."""
    given = json.loads(supervised.wait_file("stdin"))
    lines = supervised.wait_file("env").splitlines()
    return given, dict(line.split("=", 1) for line in lines if line.startswith("WATCHDOGD_"))


def test_a_hook_is_told_of_the_verdict_before_the_kill_and_of_everything_that_is_known() -> None:
    hanging = worker(HANG, deadlines=DEADLINES, accelerator="dla0")
    with Supervised({"a": hanging}, hooks=hook(SAY + "exit 3")) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        given, variables = told(supervised)
        assert given == {
            "schema": 1, "event": "verdict", "worker": "a", "accelerator": "dla0", "incarnation": 1, "pid": pid,
            "incident": verdict["incident"], "verdict": "call", "operation": "sync", "stage": None,
            "detail": verdict["detail"], "observe_only": False,
            **{key: verdict[key] for key in ("entered_ns", "deadline_ns", "detected_ns")},
        }  # fmt: skip
        assert variables["WATCHDOGD_INCIDENT"] == verdict["incident"]
        assert (variables["WATCHDOGD_WORKER"], variables["WATCHDOGD_VERDICT"]) == ("a", "call")
        assert (variables["WATCHDOGD_OPERATION"], variables["WATCHDOGD_OBSERVE_ONLY"]) == ("sync", "")
        assert "WATCHDOGD_HEARTBEAT" not in variables
        answered = supervised.wait_event("hook", "a")
        assert (answered["hook"], answered["status"], answered["veto"]) == ("on_verdict", 3, False)
        assert answered["incident"] == verdict["incident"]
        (kill,) = supervised.events("signal", "a")
        assert verdict["detected_ns"] <= answered["told_ns"] < kill["monotonic_ns"]
        assert answered["told_ns"] - verdict["detected_ns"] < 100 * MS


def test_without_a_veto_the_kill_does_not_wait_for_the_hook_which_is_killed_at_its_deadline() -> None:
    slow = hook('echo $$ > "$HERE/.pid"; mv "$HERE/.pid" "$HERE/pid"; exec sleep 60', on_verdict_deadline="700ms")
    with Supervised({"a": worker(HANG, deadlines=DEADLINES)}, hooks=slow) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        pid = int(supervised.wait_file("pid"))
        supervised.wait_phase("a", "running", 2)
        answered = supervised.wait_event("hook", "a")
        assert (answered["status"], answered["reason"]) == (None, "did not end in time and was killed")
        (verdict,), (kill,) = supervised.events("verdict", "a"), supervised.events("signal", "a")
        assert kill["monotonic_ns"] - verdict["detected_ns"] < 400 * MS
        assert 700 * MS <= answered["monotonic_ns"] - verdict["detected_ns"] < 2000 * MS
        wait_until(lambda: gone(pid))
        wait_until(lambda: not Path(f"/proc/{pid}").exists())  # reaped, too


def test_status_75_delays_no_kill_where_it_may_not_veto() -> None:
    with Supervised({"a": worker(HANG, deadlines=DEADLINES)}, hooks=hook("exit 75", veto_max="30s")) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_phase("a", "running", 2)
        assert supervised.events("verdict", "a")[0]["held"] is None
        assert supervised.wait_event("hook", "a")["veto"] is False


def test_a_veto_delays_the_kill_for_a_bounded_time_and_says_so() -> None:
    vetoes = hook("exit 75", veto=True, veto_max="900ms", on_verdict_deadline="600ms")
    with Supervised({"a": worker(HANG, deadlines=DEADLINES)}, hooks=vetoes) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["held"] == "vetoed by the on_verdict hook")
        assert supervised.events("signal", "a") == []
        supervised.wait_phase("a", "running", 2)
        (verdict,), (kill,) = supervised.events("verdict", "a"), supervised.events("signal", "a")
        assert verdict["held"] == "the on_verdict hook is asked"
        assert 900 * MS <= kill["monotonic_ns"] - verdict["detected_ns"] < 2000 * MS
        assert supervised.wait_event("hook", "a")["veto"] is True


def test_the_late_answer_to_an_earlier_verdict_ends_no_veto() -> None:
    late = 'case $WATCHDOGD_INCARNATION in 1) until test -e "$HERE/answer"; do sleep 0.02; done;; 2) exit 75;; esac'
    vetoes = hook(late, veto=True, veto_max="3s", on_verdict_deadline="1500ms")
    second = "if INCARNATION == 2:\n    with worker.call('sync'): hang()\nserve()"
    body = f"serve_until('go')\nif INCARNATION == 1: os._exit(3)\n{second}"
    with Supervised({"a": worker(body, deadlines=DEADLINES)}, hooks=vetoes) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["held"] == "vetoed by the on_verdict hook")
        supervised.touch("answer")
        supervised.wait_event("hook", "a", incident=supervised.wait_event("verdict", "a")["incident"])
        supervised.wait_phase("a", "running", 3)
        verdict, (kill,) = supervised.events("verdict", "a")[1], supervised.events("signal", "a")
        assert kill["monotonic_ns"] - verdict["detected_ns"] >= 3000 * MS


def test_a_call_that_returns_during_a_veto_is_not_killed_for_it() -> None:
    vetoes = hook("exit 75", veto=True, veto_max="30s", on_verdict_deadline="5s")
    with Supervised({"a": worker(RETURNS, deadlines=DEADLINES)}, hooks=vetoes) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: supervised.worker("a")["held"] == "vetoed by the on_verdict hook")
        supervised.touch("return")
        supervised.wait_event("near_miss", "a")
        wait_until(lambda: supervised.worker("a")["held"] is None)
        assert (supervised.events("signal"), supervised.worker("a")["incarnation"]) == ([], 1)


@pytest.mark.parametrize("script", ["exit 0", "kill -SEGV $$", "exec /nonexistent/program"])
def test_any_other_answer_lets_the_kill_come_at_once(script: str) -> None:
    asked = hook(script, veto=True, veto_max="60s", on_verdict_deadline="30s")
    with Supervised({"a": worker(HANG, deadlines=DEADLINES)}, hooks=asked) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_phase("a", "running", 2)
        (verdict,), (kill,) = supervised.events("verdict", "a"), supervised.events("signal", "a")
        assert kill["monotonic_ns"] - verdict["detected_ns"] < 1000 * MS


def test_a_hook_is_told_of_what_is_only_observed_and_of_a_crash() -> None:
    workers = {
        "seen": worker(HANG, deadlines=DEADLINES, observe_only=True),
        "crashed": worker("serve_until('go')\nif INCARNATION == 1: os._exit(3)\nserve()"),
    }
    say = 'env > "$HERE/.$WATCHDOGD_WORKER"; mv "$HERE/.$WATCHDOGD_WORKER" "$HERE/of-$WATCHDOGD_WORKER"'
    with Supervised(workers, hooks=hook(say)) as supervised:
        supervised.wait_phase("seen", "observed")
        supervised.wait_phase("crashed", "running")
        supervised.touch("go")
        assert "WATCHDOGD_OBSERVE_ONLY=1" in supervised.wait_file("of-seen").splitlines()
        assert "WATCHDOGD_VERDICT=crashed" in supervised.wait_file("of-crashed").splitlines()
        supervised.wait_event("hook", "seen")
        assert supervised.phase("seen") == "observed"


def test_a_hook_that_hangs_does_not_keep_the_supervisor_from_ending() -> None:
    slow = hook('echo $$ > "$HERE/.pid"; mv "$HERE/.pid" "$HERE/pid"; exec sleep 60', on_verdict_deadline="1m")
    with Supervised({"a": worker(HANG, deadlines=DEADLINES)}, hooks=slow) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        pid = int(supervised.wait_file("pid"))
        supervised.wait_phase("a", "running", 2)
        assert supervised.stop() == 0
        assert gone(pid)


def test_no_more_hooks_run_at_once_than_a_sick_worker_may_cost() -> None:
    """Only observed, it has a verdict a call; what they are told takes its time."""
    slow = (
        "worker.ready()\nwhile not (HERE / 'enough').exists():\n    with worker.call('sync'): time.sleep(0.03)\nhang()"
    )
    seen = worker(slow, deadlines={"sync": "10ms"}, observe_only=True)
    asked = hook('echo x >> "$HERE/hooks"; exec sleep 60', on_verdict_deadline="30s")
    with Supervised({"a": seen}, hooks=asked) as supervised:
        refused = supervised.wait_event("hook", "a", reason=f"not run: {MOST_RUNNING} of them are running")
        supervised.touch("enough")
        assert (refused["status"], refused["veto"]) == (None, False)
        hooks = supervised.directory / "hooks"
        wait_until(lambda: len(hooks.read_text().splitlines()) == MOST_RUNNING)
        supervised.let_pass(0.2)
        assert len(hooks.read_text().splitlines()) == MOST_RUNNING
