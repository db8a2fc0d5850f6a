"""Every verdict, with a real supervisor and a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from tests.simulator.control import SimulatedDevice
from watchdogd import abi
from watchdogd.cuda_results import STICKY_EXIT

MS = 1_000_000
DEADLINES = {"startup": "20s", "sync": "80ms"}


def once(body: str) -> str:
    """The first incarnation does it when the test says go; its successors are healthy."""
    return f"if INCARNATION == 1:\n    serve_until('go')\n    {body}\nserve()"


def go(supervised: Supervised, name: str = "a") -> None:
    supervised.wait_phase(name, "running", 1)
    supervised.touch("go")


@pytest.mark.parametrize("operation", abi.OPERATIONS[1:])
def test_a_call_past_its_deadline_is_a_hang_and_the_worker_is_replaced(operation: str) -> None:
    hanging = worker(
        once(f"with worker.stage('enqueue'), worker.call('{operation}'): hang()"),
        deadlines={"startup": "20s", operation: "80ms"},
    )
    with Supervised({"a": hanging}) as supervised:
        first = supervised.wait_phase("a", "running", 1)["pid"]
        go(supervised)
        supervised.wait_phase("a", "running", 2)
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["operation"], verdict["stage"]) == ("call", operation, "enqueue")
        assert (verdict["pid"], verdict["incarnation"]) == (first, 1)
        assert verdict["deadline_ns"] == verdict["entered_ns"] + 80 * MS
        assert 0 <= verdict["detected_ns"] - verdict["deadline_ns"] < 500 * MS
        assert verdict["detected_ns"] <= verdict["published_ns"] <= supervised.wait_event("signal")["monotonic_ns"]
        body = supervised.worker("a")
        assert (body["hangs"][operation], body["restarts"]) == (1, {"call": 1})
        assert body["last_incident"]["id"] == verdict["incident"]
        assert supervised.wait_event("ready", "a", 2)["recovery_seconds"] > 0.08
        assert gone(first)


def test_a_call_of_another_thread_is_watched_too() -> None:
    body = once("""def stuck():
        with worker.call("sync"): hang()
    threading.Thread(target=stuck, daemon=True).start()
    serve()""")
    with Supervised({"a": worker(body, deadlines=DEADLINES)}) as supervised:
        go(supervised)
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["tid"] != verdict["pid"]
        supervised.wait_phase("a", "running", 2)


def test_an_overdue_outer_call_is_not_hidden_by_fresh_inner_ones() -> None:
    body = once("""with worker.call("other"):
        while True:
            with worker.call("sync"): time.sleep(0.002)""")
    deadlines = {"startup": "20s", "sync": "10s", "other": "100ms"}
    with Supervised({"a": worker(body, deadlines=deadlines)}) as supervised:
        go(supervised)
        assert supervised.wait_event("verdict", "a")["operation"] == "other"
        supervised.wait_phase("a", "running", 2)


def test_a_step_past_its_deadline_is_a_hang() -> None:
    with Supervised({"a": worker(once("with worker.step(): hang()"), deadlines={"step": "100ms"})}) as supervised:
        go(supervised)
        supervised.wait_phase("a", "running", 2)
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["operation"]) == ("step", None)
        assert supervised.worker("a")["hangs"]["step"] == 1


def test_a_first_step_has_a_deadline_of_its_own() -> None:
    body = """worker.ready()
if INCARNATION == 1:
    with worker.step(): hang()
with worker.step(): time.sleep(0.12)  # as long as no later step may take
serve()"""
    deadlines = {"first_step": "400ms", "step": "60ms"}
    with Supervised({"a": worker(body, deadlines=deadlines)}) as supervised:
        wait_until(lambda: (supervised.snapshot()["workers"][0]["incarnation"]) == 2)
        supervised.wait_phase("a", "running", 2)
        supervised.touch("go")
        [verdict] = supervised.events("verdict", "a")
        assert verdict["verdict"] == "first_step"
        pid = supervised.worker("a")["pid"]
        wait_until(lambda: (supervised.view("a")["steps"] or 0) > 10)
        assert supervised.worker("a")["pid"] == pid


def test_a_worker_that_never_attaches_is_caught_by_its_startup_deadline() -> None:
    sleeper = {"command": ["sleep", "60"], "deadlines": {"startup": "150ms"}}
    with Supervised({"a": sleeper}) as supervised:
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["detail"]) == ("startup", "never attached to its heartbeat")
        assert supervised.wait_event("gone", "a")["pid"] == verdict["pid"]
        assert supervised.worker("a")["hangs"]["startup"] == 1


def test_a_worker_that_attaches_and_is_never_ready_is_caught_by_its_startup_deadline() -> None:
    with Supervised({"a": worker("hang()", deadlines={"startup": "500ms"})}) as supervised:
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["detail"]) == ("startup", "attached, but not ready")


def test_a_long_call_before_ready_is_only_the_startup_s_matter() -> None:
    body = "with worker.call('sync'): wait_for('built')\nserve()"
    with Supervised({"a": worker(body, deadlines=DEADLINES)}) as supervised:
        wait_until(lambda: (supervised.view("a")["call"] or {}).get("age_seconds", 0) > 0.2)
        supervised.touch("built")
        supervised.wait_phase("a", "running", 1)
        assert supervised.events("verdict") == supervised.events("near_miss") == []


def test_a_crash_is_an_incident_with_its_signal() -> None:
    with Supervised({"a": worker(once("os.kill(os.getpid(), signal.SIGSEGV)"))}) as supervised:
        go(supervised)
        supervised.wait_phase("a", "running", 2)
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["detail"]) == ("crashed", "killed by signal 11")
        assert supervised.events("signal") == []
        assert supervised.worker("a")["restarts"] == {"crashed": 1}


def test_a_status_above_zero_is_a_crash() -> None:
    with Supervised({"a": worker(once("sys.exit(3)"))}) as supervised:
        go(supervised)
        verdict = supervised.wait_event("verdict", "a")
        assert (verdict["verdict"], verdict["detail"]) == ("crashed", "exited with status 3")
        supervised.wait_phase("a", "running", 2)


def test_an_unasked_exit_with_status_zero_is_told_apart_from_a_crash() -> None:
    with Supervised({"a": worker(once("sys.exit(0)"))}) as supervised:
        go(supervised)
        supervised.wait_phase("a", "running", 2)
        assert supervised.wait_event("verdict", "a")["verdict"] == "exited"
        assert supervised.worker("a")["restarts"] == {"exited": 1}


def test_a_sticky_cuda_error_replaces_a_worker_that_lives_on() -> None:
    with Supervised({"a": worker(once("worker.error(700); serve()"))}) as supervised:
        go(supervised)
        supervised.wait_phase("a", "running", 2)
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["verdict"] == "sticky_error"
        assert "700" in verdict["detail"]
        wait_until(lambda: supervised.worker("a")["last_error"] is None)


def test_an_exit_after_a_sticky_cuda_error_is_a_sticky_error() -> None:
    with Supervised({"a": worker(once("worker.error(719); os._exit(1)"))}) as supervised:
        go(supervised)
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["verdict"] == "sticky_error"
        assert "719" in verdict["detail"]
        supervised.wait_phase("a", "running", 2)


STICKY = """from watchdogd.worker import cuda
context = cuda.Context()
stream, buffer = context.stream(), context.alloc(4)
kernel = context.module(b"").kernel("sim_add_one")
def faulty():
    stream.launch(kernel, 1, 1, (buffer, 1000))
    try:
        stream.synchronize()
    finally:
        hang()  # as tidying up after such an error may
cuda.exit_on_sticky()
"""


def test_a_worker_that_ends_itself_on_a_sticky_error_is_replaced_under_the_errors_name(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    with SimulatedDevice(tmp_path / "device") as device:
        body = worker(STICKY + once("faulty()"), environment=device.environment("a"))
        with Supervised({"a": body}) as supervised:
            go(supervised)
            supervised.wait_phase("a", "running", 2)
            verdict = supervised.wait_event("verdict", "a")
            assert verdict["verdict"] == "sticky_error"
            assert "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in verdict["detail"]
            ended = supervised.wait_event("gone", "a")["exit"]
            assert ended in (f"exited with status {STICKY_EXIT}", "killed by signal 9")  # whoever was first
            log = supervised.state.joinpath("log", "a.log").read_text()
            assert "CUDA_ERROR_ILLEGAL_ADDRESS (700); of earlier asynchronous work, last queued: sim_add_one" in log


def test_a_cuda_error_that_is_not_sticky_is_shown_and_kills_nobody() -> None:
    with Supervised({"a": worker(once("worker.error(2); serve()"))}) as supervised:
        go(supervised)
        wait_until(lambda: supervised.worker("a")["last_error"] == 2)
        assert supervised.events("verdict") == []


SPOILT = {
    "os.truncate(HEARTBEAT, 0)": "truncated",
    "os.truncate(HEARTBEAT, abi.HOT_OFFSET + 8)": "truncated",
    "os.pwrite(os.open(HEARTBEAT, os.O_RDWR), b'!' * 8, 0)": "bad magic",
    "os.pwrite(os.open(HEARTBEAT, os.O_RDWR), b'!' * 8, 8)": "made by a newer version",
    "os.pwrite(os.open(HEARTBEAT, os.O_RDWR), b'!' * 8, abi.H['lanes_used_cas'] * 8)": "impossible lane count",
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_spoilt_heartbeat_is_shown_and_takes_neither_worker_nor_supervisor_down(spoil: str) -> None:
    """The worker itself does not touch its mapping again: what SIGBUS does to it is its own affair."""
    workers = {
        "a": worker(once(f"{spoil}; tell('spoilt'); hang()"), deadlines={"step": "100ms", "sync": "80ms"}),
        "b": worker("serve_until('hang')\nwith worker.call('sync'): hang()", deadlines=DEADLINES),
    }
    with Supervised(workers) as supervised:
        supervised.wait_phase("b", "running", 1)
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        go(supervised)
        wait_until(lambda: supervised.worker("a")["heartbeat_error"] == SPOILT[spoil], what=supervised.log)
        assert supervised.wait_event("verdict", "a")["verdict"] == "heartbeat_unreadable"
        supervised.touch("hang")  # the other one is watched as before
        supervised.wait_event("gone", "b")
        assert (supervised.worker("a")["pid"], supervised.phase("a")) == (pid, "running")
        assert not gone(pid)


def test_impossible_words_are_shown_and_condemn_nobody() -> None:
    spoil = "os.pwrite(os.open(HEARTBEAT, os.O_RDWR), b'\\1' * 4096, abi.HOT_OFFSET)"
    with Supervised({"a": worker(once(f"{spoil}; hang()"), deadlines={"step": "60ms", "sync": "60ms"})}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        go(supervised)
        wait_until(lambda: supervised.worker("a")["heartbeat_error"] is not None, what=supervised.log)
        assert "impossible" in supervised.worker("a")["heartbeat_error"]
        assert supervised.worker("a")["pid"] == pid
        assert supervised.events("signal") == []


def test_a_worker_whose_calls_are_not_stamped_is_uninstrumented_not_idle() -> None:
    body = "worker.ready()\nwhile True:\n    with worker.step(): time.sleep(0.003)"
    with Supervised({"a": worker(body, deadlines=DEADLINES)}) as supervised:
        wait_until(lambda: supervised.worker("a")["uninstrumented"])
        assert supervised.wait_event("verdict", "a")["verdict"] == "uninstrumented"
        assert supervised.phase("a") == "running"
        assert supervised.events("signal") == []


def test_a_worker_whose_calls_are_stamped_is_not_uninstrumented() -> None:
    with Supervised({"a": worker("serve()", deadlines=DEADLINES)}) as supervised:
        wait_until(lambda: (supervised.view("a")["steps"] or 0) > 60)  # two rounds of housekeeping
        assert not supervised.worker("a")["uninstrumented"]
        assert supervised.events("verdict") == []
