"""Status: what it reads, what it calls a fault, its JSON and its table."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_runtime import ACCELERATOR, MS, SECOND, SOURCE, FakeRuntime
from watchdogd import abi, places
from watchdogd.decide.escalation_orders import Stage
from watchdogd.model import Phase
from watchdogd.observe import procfs
from watchdogd.publish import events
from watchdogd.span import span
from watchdogd.view import status_detail
from watchdogd.view.status import StatusView, UnknownWorker, collect
from watchdogd.view.status_json import to_json
from watchdogd.view.status_table import table

OLD = 1  # a pid whose process is older than any tick of a test
INCIDENT = {
    "id": "20261121T040744Z-lane_dla-2733.1",
    "verdict": "call",
    "operation": "sync",
    "time": "2026-11-21T04:07:44.049200Z",
}


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


@pytest.fixture(scope="module")
def gone() -> int:
    """The pid of a process that has ended and was reaped."""
    process = subprocess.Popen(["true"])
    process.wait(10)
    return process.pid


def view(runtime: FakeRuntime, worker: str | None = None, later_ns: int = 0) -> StatusView:
    return collect(str(runtime.directory), time.monotonic_ns() + later_ns, worker)


def one(runtime: FakeRuntime) -> dict[str, Any]:
    workers: list[dict[str, Any]] = to_json(view(runtime))["workers"]
    (worker,) = workers
    return worker


def xid(ago_ns: int = 3 * SECOND, **changes: Any) -> dict[str, Any]:
    """What the kernel said, as the snapshot tells it."""
    told = {"about": "xid", "number": 109, "text": "NVRM: Xid (PCI:0000:02:00): 109, CTX SWITCH TIMEOUT"}
    return {**told, "at_ns": time.monotonic_ns() - ago_ns, "expected": False, **changes}


def held(**changes: Any) -> dict[str, Any]:
    """What a worker holds, as the snapshot tells it."""
    text = "descriptors 900, at most 300 in its first 1h"
    course = {"now": 900, "most": 300, "measured": True, "limit": 1500, "stands": True, "text": text}
    return {"descriptors": {**course, **changes}}


def shape(value: Any) -> Any:
    """The keys of an object and of what is in it."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) else None


# --- JSON -----------------------------------------------------------------------------------------------------------


SHIM = {"driver": "/usr/lib/libcuda.so.1", "loaded": True, "why": ""}


PROGRESS = {
    "kind": "metrics", "source": "metrics http://h/m", "value": 900.0, "moved_ns": 5, "pending": "3", "unknown": "",
    "pending_since_ns": 7, "silent_since_ns": None, "failed": "", "failing": False,
}  # fmt: skip


def test_the_json_has_exactly_the_documented_shape(runtime: FakeRuntime) -> None:
    incident = {"id": "i-1", "verdict": "call", "operation": "sync", "time": "2025-01-02T03:04:05.000006Z"}
    thread = {"pid": 7, "tid": 8, "since_ns": 9, "place": "uvm_spin_loop"}
    beat = runtime.incarnation(
        "model_h",
        3,
        last_incident=incident,
        kernel=xid(),
        blocked=[thread],
        growth=held(),
        shim=SHIM,
        progress=PROGRESS,
    )
    beat.enter(0, "sync", time.monotonic_ns())
    beat.driver(misuses=1)
    beat.context(0, owner=1 << 32 | 1)
    beat.stream(0, owner=1 << 32 | 1)
    beat.host_function(0, owner=1 << 32 | 1, queued_ns=1)
    runtime.accelerators = [{**ACCELERATOR, "kernel": xid()}]
    runtime.sources = [SOURCE]
    runtime.supervisor["escalation"] = ESCALATION
    runtime.holders = [
        {"pid": 7, "name": "nvidia-smi", "devices": ["/dev/nvidia0"], "worker": None, "blocked": [thread]}
    ]
    runtime.publish()
    said = dict.fromkeys(("about", "number", "text", "expected", "age_seconds"))
    blocked = [dict.fromkeys(("pid", "tid", "place", "seconds"))]
    assert shape(to_json(view(runtime))) == {
        "schema": None,
        "supervisor": {
            "pid": None,
            "uptime_seconds": None,
            "last_tick_age_seconds": None,
            "scheduling": None,
            "memory": None,
            "lateness_seconds": {"p50": None, "p99": None, "max": None},
        },
        "escalation": {
            "stage": None,
            "action": None,
            "dry_run": None,
            "causes": [None],
            "ways_out": [None],
            "refused": [None],
            "last": None,
            "age_seconds": None,
            "next": None,
            "next_in_seconds": None,
        },
        "incidents": None,
        "workers": [
            {
                "name": None,
                "phase": None,
                "pid": None,
                "incarnation": None,
                "restarts": None,
                "budget_left": None,
                "accelerator": None,
                "call": {"operation": None, "age_seconds": None, "deadline_seconds": None, "waits_for": None},
                "sync_seconds": {"p50": None, "p99": None, "count": None},
                "steps": None,
                "steps_dropped": None,
                "steps_redelivered": None,
                "outputs": dict.fromkeys(abi.OUTPUTS),
                "bad_outputs_in_a_row": None,
                "last_step_age_seconds": None,
                "bisect": {"now": None, "next": None},
                "last_incident": {"id": None, "verdict": None, "operation": None, "time": None},
                "kernel": said,
                "blocked": blocked,
                "uninstrumented": None,
                "shim": {
                    **dict.fromkeys(("driver", "loaded", "why", "version", "queued", "completed", "misuses")),
                    "misuse": dict.fromkeys(("pid", "tid", "expected", "found", "age_seconds")),
                    "contexts": [dict.fromkeys(("pid", "device", "handle"))],
                    "host_functions": [dict.fromkeys(("pid", "stream", "age_seconds"))],
                    "streams": [dict.fromkeys(("pid", "handle", "context", "queued", "completed", "age_seconds"))],
                },
                "progress": dict.fromkeys(("source", "value", "pending", "failing", "unknown", "moved_age_seconds")),
                "growth": {"descriptors": dict.fromkeys(("now", "most", "measured", "limit", "stands"))},
            }
        ],
        "accelerators": [
            {
                **dict.fromkeys(("name", "load_ratio", "power", "frozen", "source", "age_seconds")),
                "kernel": said,
            }
        ],
        "holders": [{"pid": None, "name": None, "devices": [None], "worker": None, "blocked": blocked}],
        "sources": [{"name": None, "up": None, "age_seconds": None}],
    }


def test_the_json_holds_the_values(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("model_h", 3)
    beat.record(0, "sync", 5 * MS, times=98)
    beat.record(1, "sync", 90 * MS, times=2)
    beat.lane(0, steps_done=40)
    beat.lane(1, steps_done=2)
    for lateness in (30_000, 40_000, 70_000):
        runtime.board.count("wakeup_lateness", lateness)
    runtime.publish()
    status = to_json(view(runtime))
    assert status["supervisor"]["pid"] == os.getpid()
    assert 90 <= status["supervisor"]["uptime_seconds"] < 100
    assert 0 <= status["supervisor"]["last_tick_age_seconds"] < 1
    # A bucket's upper bound, but never above the largest.
    assert status["supervisor"]["lateness_seconds"] == {"p50": 4.1e-05, "p99": 7e-05, "max": 7e-05}
    (worker,) = status["workers"]
    assert (worker["restarts"], worker["budget_left"], worker["incarnation"]) == (3, 4, 3)
    assert worker["sync_seconds"] == {"p50": 0.005243, "p99": 0.100663, "count": 100}
    assert (worker["steps"], worker["call"], worker["last_incident"]) == (42, None, None)


def test_what_was_never_measured_is_null_and_not_zero(runtime: FakeRuntime) -> None:
    runtime.worker("model_h")
    runtime.accelerators = [{**ACCELERATOR, "load_ratio": None}]
    runtime.sources = [{**SOURCE, "up": False}]
    runtime.publish()
    status = to_json(view(runtime))
    assert status["supervisor"]["lateness_seconds"] == {"p50": None, "p99": None, "max": None}
    assert (one(runtime)["steps"], one(runtime)["pid"]) == (None, None)
    assert one(runtime)["sync_seconds"] == {"p50": None, "p99": None, "count": 0}
    assert (status["accelerators"][0]["load_ratio"], status["accelerators"][0]["age_seconds"]) == (None, None)
    assert status["sources"][0]["age_seconds"] is None


def test_one_worker_can_be_asked_for_and_an_unknown_one_names_those_there_are(runtime: FakeRuntime) -> None:
    for name in ("model_a", "model_b"):
        runtime.worker(name)
    runtime.publish()
    assert [worker.name for worker in view(runtime, "model_b").workers] == ["model_b"]
    with pytest.raises(UnknownWorker, match="'model_x'; there are: model_a, model_b"):
        view(runtime, "model_x")


# --- the call in flight ---------------------------------------------------------------------------------------------


def test_the_call_in_flight_is_the_oldest_of_all_lanes_and_levels(runtime: FakeRuntime) -> None:
    now_ns = time.monotonic_ns()
    beat = runtime.incarnation("model_h", 3)
    beat.enter(0, "copy", now_ns - 50 * MS)
    beat.enter(1, "other", now_ns - 40 * MS)
    beat.enter(1, "sync", now_ns - 150 * MS, level="inner")
    runtime.publish()
    call = one(runtime)["call"]
    assert (call["operation"], call["deadline_seconds"]) == ("sync", 0.2)
    assert 0.15 <= call["age_seconds"] < 5


def test_a_call_without_a_deadline_has_none(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3).enter(0, "copy", time.monotonic_ns())
    runtime.publish()
    assert one(runtime)["call"]["deadline_seconds"] is None


def test_a_call_entered_after_now_was_read_is_fresh(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3).enter(0, "sync", time.monotonic_ns() + SECOND // 2)
    runtime.publish()
    assert one(runtime)["call"]["age_seconds"] == 0


@pytest.mark.parametrize(
    "word",
    [
        abi.stamp(1 * SECOND, abi.OPERATION["sync"]),  # before the spawn (of a machine that is up for longer)
        abi.stamp(1 << 62, abi.OPERATION["sync"]),  # far in the future
        200,  # no operation
    ],
)
def test_a_word_that_cannot_be_a_call_is_none(runtime: FakeRuntime, word: int) -> None:
    runtime.incarnation("model_h", 3).lane(0, outer=word)
    runtime.publish()
    assert one(runtime)["call"] is None


def test_a_worker_that_is_gone_is_in_no_call(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("model_h", 3)
    beat.enter(0, "sync", time.monotonic_ns())
    beat.lane(0, steps_done=6)
    runtime.workers["model_h"] |= {"pid": None, "phase": "backoff"}
    runtime.publish()
    assert (one(runtime)["call"], one(runtime)["steps"]) == (None, 6)


def test_an_unreadable_heartbeat_is_told_and_hides_no_other_worker(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("model_a", 1)
    os.truncate(beat.path, 10)
    runtime.incarnation("model_b", 1).lane(0, steps_done=5)
    runtime.worker("model_c", pid=1, heartbeat=str(runtime.directory / "gone"))
    runtime.publish()
    broken, fine, missing = view(runtime).workers
    assert (broken.steps, fine.steps, missing.steps) == (None, 5, None)
    assert (broken.heartbeat_error or "").endswith("truncated") and (missing.heartbeat_error or "").endswith("missing")
    assert fine.heartbeat_error is None


# --- the supervisor itself ------------------------------------------------------------------------------------------


def test_a_supervisor_that_ticks_is_no_fault(runtime: FakeRuntime) -> None:
    runtime.publish()
    assert (view(runtime).fault, view(runtime).exit_status) == (None, 0)


def test_a_supervisor_that_is_gone_is_not_running_from_that_moment(tmp_path: Path, gone: int) -> None:
    runtime = FakeRuntime(tmp_path, pid=gone)
    runtime.publish()
    seen = view(runtime)
    assert seen.fault is not None and seen.fault.startswith(f"NOT RUNNING - pid {gone} is gone, last tick ")
    assert seen.exit_status == 3


def test_a_supervisor_that_was_stopped_says_so(tmp_path: Path, gone: int) -> None:
    runtime = FakeRuntime(tmp_path, pid=gone)
    runtime.supervisor["stopping"] = True
    runtime.publish()
    assert f"pid {gone} was stopped, last tick " in (view(runtime).fault or "")


def test_a_supervisor_that_does_not_tick_is_stuck(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=OLD)
    runtime.publish()
    seen = view(runtime, later_ns=12 * SECOND)
    assert seen.fault is not None and seen.fault.startswith(f"STUCK - pid {OLD} is alive (state ")
    assert seen.fault.endswith("last tick 12 s ago")
    assert seen.exit_status == 3


def test_a_supervisor_that_meant_to_sleep_is_not_stuck(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=OLD)
    runtime.publish()
    now_ns = time.monotonic_ns()
    runtime.board.tick(now_ns - 12 * SECOND, 80_000, now_ns - SECOND)
    assert view(runtime).fault is None


def test_a_supervisor_that_has_yet_to_tick_is_not_stuck(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=OLD)
    seen = view(runtime)
    assert seen.published.ticks == 0 and seen.last_tick_age_ns is None
    runtime.supervisor["started_ns"] = time.monotonic_ns()
    runtime.board.publish(b'{"supervisor": {"started_ns": %d}}' % time.monotonic_ns())
    assert view(runtime).fault is None
    assert (view(runtime, later_ns=5 * SECOND).fault or "").startswith("STUCK")


def test_another_process_with_the_supervisors_pid_is_not_the_supervisor(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as young:
        runtime = FakeRuntime(tmp_path, pid=young.pid)
        runtime.publish()
        runtime.tick(ago_ns=60 * SECOND)
        assert f"pid {young.pid} is gone" in (view(runtime).fault or "")
        runtime.tick()
        assert view(runtime).fault is None
        young.kill()


def test_a_board_of_an_earlier_boot_is_not_a_running_supervisor(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, boot_id=procfs.boot_id() ^ 1)
    runtime.publish()
    assert "before the last boot" in (view(runtime).fault or "")
    assert to_json(view(runtime))["supervisor"]["last_tick_age_seconds"] is None


def in_a_call(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("model_h", 3)
    beat.enter(0, "sync", time.monotonic_ns() - 150 * MS)
    beat.close()
    runtime.accelerators = [{**ACCELERATOR, "sample_ns": time.monotonic_ns()}]
    runtime.publish()


def test_nothing_of_a_worker_ages_after_its_supervisor_is_gone(tmp_path: Path, gone: int) -> None:
    runtime = FakeRuntime(tmp_path, pid=gone)
    in_a_call(runtime)
    told, later = (to_json(view(runtime, later_ns=ns)) for ns in (0, 3600 * SECOND))
    assert told["workers"] == later["workers"] and 0.15 <= later["workers"][0]["call"]["age_seconds"] < 5
    assert told["supervisor"]["uptime_seconds"] == later["supervisor"]["uptime_seconds"]
    # What is a fact about now goes on.
    assert later["supervisor"]["last_tick_age_seconds"] >= 3600
    assert later["accelerators"][0]["age_seconds"] >= 3600


def test_a_call_goes_on_ageing_while_its_supervisor_is_stuck(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=OLD)
    in_a_call(runtime)
    assert to_json(view(runtime, later_ns=12 * SECOND))["workers"][0]["call"]["age_seconds"] >= 12


def test_a_quarantined_worker_is_shown_with_no_restart_left_and_the_command_that_ends_it(runtime: FakeRuntime) -> None:
    runtime.worker("model_h", phase="quarantined", budget_left=0)
    runtime.publish()
    text = table(view(runtime), 80, colour=False)
    assert "3 (0 left)" in text and "`watchdogd reset model_h`" in text


@pytest.mark.parametrize("width", [80, 200])
def test_what_is_to_be_typed_names_the_configuration_that_was_named(runtime: FakeRuntime, width: int) -> None:
    runtime.worker("model_h", phase="quarantined", budget_left=0)
    runtime.publish()
    text = table(view(runtime), width, colour=False, config="/etc/my vehicle.toml")
    assert "`watchdogd reset -c '/etc/my vehicle.toml' model_h`" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width


def test_a_worker_that_waits_for_its_restart_is_shown_with_those_left(runtime: FakeRuntime) -> None:
    runtime.worker("model_h", phase="backoff", budget_left=5)
    runtime.publish()
    text = table(view(runtime), 80, colour=False)
    assert "3 (5 left)" in text and "watchdogd reset" not in text


# --- exit status ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", list(Phase))
def test_a_required_worker_is_as_it_should_be_in_three_phases(runtime: FakeRuntime, phase: Phase) -> None:
    runtime.worker("model_h", phase=phase.value)
    runtime.publish()
    fine = phase in {Phase.RUNNING, Phase.OBSERVED, Phase.STARTING}
    assert view(runtime).exit_status == (0 if fine else 4)


def test_a_worker_whose_kill_waits_is_not_as_it_should_be(runtime: FakeRuntime) -> None:
    runtime.worker("model_h", held="model_a has an older call")
    runtime.publish()
    assert view(runtime).exit_status == 4


def test_a_worker_that_is_not_required_counts_only_when_asked_for(runtime: FakeRuntime) -> None:
    runtime.worker("model_a")
    runtime.worker("model_b", required=False, phase="quarantined")
    runtime.publish()
    assert view(runtime).exit_status == 0
    assert view(runtime, "model_b").exit_status == 4


def test_outputs_are_told_by_kind_and_in_a_row(runtime: FakeRuntime) -> None:
    beat = runtime.incarnation("model_h", 3)
    beat.header(bad_outputs=abi.run_of_bad(time.monotonic_ns(), 3, "stale"))
    beat.put(abi.OUTPUT_COUNTS_OFFSET + abi.OUTPUT["stale"] * abi.WORD, 3)
    runtime.publish()
    assert one(runtime)["outputs"] == {**dict.fromkeys(abi.OUTPUTS, 0), "stale": 3}
    assert one(runtime)["bad_outputs_in_a_row"] == 3


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.fixture
def troubled(runtime: FakeRuntime) -> Iterator[FakeRuntime]:
    beat = runtime.incarnation("model_a", 2)
    beat.enter(0, "sync", time.monotonic_ns() - 130 * MS)
    beat.record(0, "sync", 5 * MS, times=3)
    incident = {"id": "i-77", "verdict": "call", "operation": "sync", "time": "2025-01-02T03:04:05.000006Z"}
    runtime.worker("model_b", phase="quarantined", last_incident=incident)
    runtime.worker("model_c", phase="backoff", next_start_ns=time.monotonic_ns() + 4 * SECOND)
    runtime.worker("model_d", uninstrumented=True, note="evil \x1b[2J name")
    runtime.worker("model_e", held="model_b has an older call")
    runtime.accelerators = [
        {**ACCELERATOR, "sample_ns": time.monotonic_ns()},
        {**ACCELERATOR, "name": "dla0", "load_ratio": None, "device": None},
        {**ACCELERATOR, "name": "dla1", "frozen": True, "blocked_by": "model_x"},
        {**ACCELERATOR, "name": "gpu9", "ghost": True},
    ]
    runtime.sources = [{**SOURCE, "name": "nvml", "up": False, "note": "driver not loaded"}]
    runtime.events["error"], runtime.events["dropped"] = "No space left on device", 8
    runtime.publish()
    yield runtime
    beat.close()


def test_a_blocked_worker_is_probed_again_and_not_started(runtime: FakeRuntime) -> None:
    later = time.monotonic_ns() + 4 * SECOND
    runtime.worker("model_a", phase="backoff", next_start_ns=later, unusable=2)
    runtime.publish()
    text = table(view(runtime), 200, colour=False)
    (line,) = (line for line in text.splitlines() if "probed again in" in line)
    assert line.endswith("; `watchdogd start model_a` starts it without")
    assert "starts again" not in text


def test_the_table_says_what_is_wrong_and_what_to_do(troubled: FakeRuntime) -> None:
    text = table(view(troubled), 200, colour=False)
    lines = text.splitlines()
    (running,) = (line for line in lines if line.startswith("model_a"))
    assert running.split()[:2] == ["model_a", "running"]
    assert "/ 200 ms" in running and "5.24 ms / 5.24 ms" in running and "3 (4 left)" in running
    assert "  ! out of restarts: `watchdogd status model_b`, then `watchdogd reset model_b`" in lines
    assert "  last incident: call sync at 2025-01-02T03:04:05.000006Z [i-77]" in lines
    assert any(line.startswith("  ! starts again in ") for line in lines)
    assert "  ! a verdict stands, its kill waits: model_b has an older call" in lines
    assert any("none of its calls is stamped" in line for line in lines)
    assert any(line.startswith("gpu0  load 42%") for line in lines)
    assert any(line.startswith("dla0  load unknown") for line in lines)
    assert any(line.startswith("dla1") and "FROZEN" in line and "BLOCKED by model_x" in line for line in lines)
    assert [line.split()[0] for line in lines if "GHOST LOAD" in line] == ["gpu9"]
    assert "source nvml: has never told anything; driver not loaded" in lines
    assert "  events cannot be recorded (No space left on device), 8 lost" in lines


def kernel_and_d_state(runtime: FakeRuntime, **changes: Any) -> list[str]:
    """The table's lines that tell of either."""
    now_ns = time.monotonic_ns()
    message = xid(ago_ns=3 * SECOND, **changes) if "ago_ns" not in changes else xid(**changes)
    thread = {"pid": 7, "tid": 8, "since_ns": now_ns - 12 * SECOND, "place": "uvm_spin_loop"}
    runtime.worker("model_h", kernel=message, blocked=[thread])
    runtime.accelerators = [{**ACCELERATOR, "name": "dla0", "load_ratio": None, "power": "active", "kernel": message}]
    runtime.holders = [
        {"pid": 7, "name": "nvidia-smi", "devices": ["/dev/nvidia0"], "worker": None, "blocked": [thread]},
        {"pid": 9, "name": "helper", "devices": ["/dev/nvhost-gpu"], "worker": "model_h", "blocked": []},
    ]
    runtime.publish()
    text = table(view(runtime), 200, colour=False)
    return [line.strip() for line in text.splitlines() if any(w in line for w in ("kernel", "D state", "held", "dla0"))]


def test_what_the_kernel_says_and_who_is_in_d_state_stands_beside_those_it_is_about(runtime: FakeRuntime) -> None:
    said = "! kernel, 3 s ago: xid 109: NVRM: Xid (PCI:0000:02:00): 109, CTX SWITCH TIMEOUT"
    stands = "! thread 8 of pid 7 in D state for 12 s at uvm_spin_loop"
    told = [line for line in kernel_and_d_state(runtime) if "model_h  running" not in line]
    assert told[:2] == [stands, said]
    assert told[2].startswith("dla0  load unknown  active  ")
    assert told[3:] == [
        said,
        "held by pid 7 nvidia-smi (no worker's)  /dev/nvidia0",
        stands,
        "held by pid 9 helper (of model_h)  /dev/nvhost-gpu",
    ]


@pytest.mark.parametrize("changes", [{"expected": True}, {"ago_ns": 601 * SECOND}], ids=["expected", "long ago"])
def test_what_the_kernel_said_is_no_news_for_ever_nor_after_our_own_kill(
    runtime: FakeRuntime, changes: dict[str, Any]
) -> None:
    assert not any("kernel" in line for line in kernel_and_d_state(runtime, **changes))
    assert one(runtime)["kernel"]["number"] == 109  # a program may still ask


def test_without_a_supervisor_neither_is_told_as_if_it_were_so_now(tmp_path: Path, gone: int) -> None:
    told = kernel_and_d_state(FakeRuntime(tmp_path, pid=gone))
    assert not any("kernel" in line or "held" in line or "D state" in line for line in told)


def test_a_dead_supervisor_is_the_first_line_of_the_table(tmp_path: Path, gone: int) -> None:
    runtime = FakeRuntime(tmp_path, pid=gone)
    runtime.publish()
    runtime.worker("model_b", phase="quarantined")
    runtime.publish()
    text = table(view(runtime), 120, colour=False)
    assert text.startswith(f"supervisor: NOT RUNNING - pid {gone} is gone, last tick ")
    assert "last known ones" in text and "`watchdogd run -c watchdogd.toml` starts it" in text
    assert "watchdogd reset" not in text  # nobody would hear it


def test_a_dead_service_is_systemds_to_start(tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "UNIT_DIRECTORIES", (str(tmp_path),))
    runtime = FakeRuntime(tmp_path, pid=gone)
    runtime.supervisor["config"] = [places.DEFAULT_CONFIG]
    runtime.publish()
    by_hand = table(view(runtime), 120, colour=False)
    assert "`watchdogd run -c /etc" in by_hand and "systemctl" not in by_hand  # no unit is installed
    (tmp_path / places.UNIT).touch()
    service = table(view(runtime), 120, colour=False)
    assert "`systemctl start gpu-watchdogd`" in service and "`watchdogd check-config`" in service
    assert "watchdogd run" not in service
    runtime.supervisor["config"] = ["/home/me/trial.toml"]
    runtime.publish()
    for named in (None, "/home/me/trial.toml"):
        assert "`watchdogd run -c /home/me/trial.toml`" in table(view(runtime), 120, colour=False, config=named)


def test_a_stuck_supervisor_is_told_apart_and_its_workers_still_have_advice(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=OLD)
    runtime.worker("model_b", phase="quarantined")
    runtime.publish()
    text = table(view(runtime, later_ns=12 * SECOND), 120, colour=False)
    assert text.startswith(f"supervisor: STUCK - pid {OLD} is alive")
    assert "systemctl restart" in text and "last known ones" not in text and "watchdogd reset model_b" in text


@pytest.mark.parametrize("width", [80, 100, 120, 1 << 30])
def test_nothing_is_lost_on_a_narrow_terminal(troubled: FakeRuntime, width: int) -> None:
    troubled.incarnation("lane_dla", 4, pid=4194304, last_incident=INCIDENT).record(0, "sync", 5 * MS, times=3)
    troubled.publish()
    seen = view(troubled)
    text = table(seen, width, colour=False)
    assert set(table(seen, 1 << 30, colour=False).split()) <= set(text.split())
    for told in ("4194304", INCIDENT["id"], INCIDENT["time"], "3 (4 left)", "/ 200 ms", "5.24 ms / 5.24 ms"):
        assert any(told in line for line in text.splitlines()), told  # whole, to be copied
    assert max(map(len, text.splitlines())) <= width


def test_a_wide_terminal_gets_each_worker_on_one_row_and_a_narrow_one_the_call_first(troubled: FakeRuntime) -> None:
    def row(width: int) -> str:
        return next(line for line in table(view(troubled), width, colour=False).splitlines() if "model_a" in line)

    assert "/ 200 ms" in row(120) and "5.24 ms / 5.24 ms" in row(120)
    assert "/ 200 ms" in row(80) and "5.24 ms / 5.24 ms" not in row(80)
    below = table(view(troubled), 80, colour=False).splitlines()
    assert any(line.startswith("  SYNC p50 / p99 5.24 ms / 5.24 ms  STEPS ") for line in below)


def test_an_id_is_left_whole_on_a_terminal_narrower_than_itself(runtime: FakeRuntime) -> None:
    runtime.worker("model_h", last_incident=INCIDENT)
    runtime.publish()
    assert f"[{INCIDENT['id']}]" in table(view(runtime), 20, colour=False)


def test_a_starting_worker_is_shown_against_its_startup_deadline_alone(runtime: FakeRuntime) -> None:
    now_ns = time.monotonic_ns()
    beat = runtime.incarnation("model_h", 3, phase="starting", phase_since_ns=now_ns - 4 * SECOND)
    beat.enter(0, "sync", now_ns - SECOND)
    runtime.publish()
    text = table(view(runtime), 200, colour=False)
    assert "startup 4" in text and "/ 1 m 00 s" in text and "200 ms" not in text
    assert one(runtime)["call"]["deadline_seconds"] == 0.2  # the length configured, armed or not


@pytest.mark.parametrize(("phase", "shown"), [("running", "200 ms"), ("killing", "200 ms"), ("paused", "-")])
def test_a_call_is_shown_against_its_deadline_unless_that_is_suspended(
    runtime: FakeRuntime, phase: str, shown: str
) -> None:
    runtime.incarnation("model_h", 3, phase=phase).enter(0, "sync", time.monotonic_ns() - SECOND)
    runtime.publish()
    (row,) = (line for line in table(view(runtime), 200, colour=False).splitlines() if line.startswith("model_h"))
    assert f" s / {shown} " in row and "startup" not in row


# --- one worker -----------------------------------------------------------------------------------------------------


def detailed(runtime: FakeRuntime) -> str:
    seen = view(runtime, "lane_dla")
    return table(seen, 200, False, status_detail.collect(seen, seen.workers[0]))


@pytest.fixture
def ended(runtime: FakeRuntime) -> FakeRuntime:
    """A worker whose last incident is over; the record tells of others, too."""
    (runtime.directory / "state/log").mkdir(parents=True)
    record = b""
    endings = [("i-1", "exited with status 3"), (INCIDENT["id"], "killed by signal 9"), (None, "exited with status 0")]
    begun = {"in_flight": 3, "requests": [17, 18], "to_redeliver": 2, "dropped": 1}
    for seq, (incident, ending) in enumerate(endings):
        record += events.encode(
            events.EventKind.GONE, boot_id=7, seq=seq, wall_ns=8, monotonic_ns=9, worker="lane_dla", incarnation=3,
            incident=incident, pid=11, exit=ending, **(begun if incident == INCIDENT["id"] else {}),
        )  # fmt: skip
    (runtime.directory / "state" / events.FILE_NAME).write_bytes(record)
    runtime.worker("lane_dla", last_incident=INCIDENT)
    runtime.publish()
    return runtime


def test_one_worker_is_told_how_its_last_incident_ended_and_where_its_output_is(ended: FakeRuntime) -> None:
    log = ended.directory / "state/log/lane_dla.log"
    log.touch()
    lines = detailed(ended).splitlines()
    assert "  its process: killed by signal 9, 3 steps in flight (requests 17, 18)" in lines
    assert f"  its output: {log}" in lines
    assert f"  its story: `watchdogd events --incident {INCIDENT['id']}`" in lines


@pytest.mark.parametrize("keeps", [True, False])
def test_one_worker_is_told_where_to_read_what_its_incident_was_if_they_are_kept(
    ended: FakeRuntime, keeps: bool
) -> None:
    ended.incidents = {"kept": 1, "bytes": 7, "error": None, "last": None, "tools": {}, "unfinished": 0, "lost": 0}
    ended.incidents = ended.incidents if keeps else None
    ended.publish()
    told = f"  what it was: `watchdogd incidents show {INCIDENT['id']}`"
    assert (told in detailed(ended).splitlines()) is keeps


@pytest.mark.parametrize("error", [None, "more than the quota is kept (3, 7 bytes)"])
def test_what_is_wrong_with_keeping_incidents_is_told_and_nothing_where_nothing_is(
    runtime: FakeRuntime, error: str | None
) -> None:
    runtime.incidents = {"kept": 3, "bytes": 7, "error": error, "last": None, "tools": {}, "unfinished": 0, "lost": 0}
    runtime.publish()
    assert to_json(view(runtime))["incidents"] == runtime.incidents
    lines = [line for line in table(view(runtime), 200, colour=False).splitlines() if "incidents" in line]
    assert lines == ([f"  incidents: {error}"] if error else [])


def test_what_one_worker_does_not_have_is_not_told(ended: FakeRuntime) -> None:
    ended.worker("lane_dla")
    ended.publish()
    assert "  its " not in detailed(ended)  # no incident, and no file of output


def test_a_record_that_may_not_be_read_is_said(ended: FakeRuntime) -> None:
    record = ended.directory / "state" / events.FILE_NAME
    record.unlink()
    record.symlink_to(record)  # stands for what root may not open either
    text = detailed(ended)
    assert f"cannot read {record}: " in text and "its process" not in text


def test_text_from_outside_cannot_steer_the_terminal(troubled: FakeRuntime) -> None:
    text = table(view(troubled), 200, colour=False)
    assert "evil ?[2J name" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_colour_marks_what_is_wrong_and_nothing_else(troubled: FakeRuntime) -> None:
    lines = table(view(troubled), 200, colour=True).splitlines()
    tones = {line.split("m", 1)[1].split()[0]: line.split("m")[0] for line in lines if line.startswith("\033")}
    assert {name: tones.get(name) for name in ("model_b", "model_d")} == {"model_b": "\033[1;31", "model_d": "\033[33"}
    assert any(line.startswith("model_a") for line in lines)


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (41_000, "41 us"),
        (1_500_000, "1.5 ms"),
        (12 * SECOND, "12 s"),
        (182 * SECOND, "3 m 02 s"),
        (15_000 * SECOND, "4 h 10 m"),
        (442_800 * SECOND, "5 d 03 h"),
    ],
)
def test_a_span_is_short(value_ns: int | None, text: str) -> None:
    assert span(value_ns) == text


# --- escalation -----------------------------------------------------------------------------------------------------

ESCALATION = {
    "stage": "awaiting", "since_ns": 1, "deadline_ns": None, "action": "reboot", "dry_run": False,
    "consent_file": "/run/stands", "causes": ["h: SIGKILL did not take", "d is in quarantine"],
    "ways_out": ["watchdogd reset d"], "refused": ["b is in quarantine"],
    "last": "service-fail done at 2025-01-02T03:04:05.000006Z: d is in quarantine",
}  # fmt: skip


def escalating(runtime: FakeRuntime, stage: str, left_ns: int | None) -> StatusView:
    """In that stage for 2 s."""
    now_ns = time.monotonic_ns()
    told = {**ESCALATION, "stage": stage, "since_ns": now_ns - 2 * SECOND}
    runtime.supervisor["escalation"] = told | {"deadline_ns": None if left_ns is None else now_ns + left_ns}
    runtime.publish()
    return collect(str(runtime.directory), now_ns)


@pytest.mark.parametrize(
    ("stage", "left_ns", "words", "step", "seconds"),
    [
        ("waiting", 90 * SECOND, "waiting for 2 s, asks once min_interval is over, in 1 m 30 s", "ask", 90.0),
        ("asking", 7 * SECOND, "asking for 2 s, 7 s left to consent, then reboot", "action", 7.0),
        ("awaiting", -SECOND, "awaiting for 2 s, 0 s left for /run/stands, then reboot", "action", 0.0),
        ("backoff", 10 * SECOND, "backoff for 2 s, no consent or no success, asks again in 10 s", "ask", 10.0),
        ("noting", SECOND, "noting for 2 s, reboot comes next", "action", 1.0),
        ("acting", SECOND, "acting for 2 s, reboot is under way", None, 1.0),
        ("done", None, "done for 2 s, nothing more is done", None, None),
    ],
)
def test_an_escalation_says_how_far_it_is_why_what_comes_next_and_what_ends_it(
    runtime: FakeRuntime, stage: str, left_ns: int | None, words: str, step: str | None, seconds: float | None
) -> None:
    shown = escalating(runtime, stage, left_ns)
    causes = "h: SIGKILL did not take; d is in quarantine; `watchdogd reset d` ends its cause"
    assert f"  escalation (reboot): {words}: {causes}; see `watchdogd events`\n" in table(shown, 300, colour=False)
    body = to_json(shown)["escalation"]
    assert (body["stage"], body["age_seconds"], body["next"], body["next_in_seconds"]) == (stage, 2.0, step, seconds)
    assert {key: body[key] for key in ("causes", "action", "dry_run", "ways_out", "refused", "last")} == {
        key: ESCALATION[key] for key in ("causes", "action", "dry_run", "ways_out", "refused", "last")
    }


def test_every_stage_of_an_escalation_has_its_words(runtime: FakeRuntime) -> None:
    for stage in Stage:
        shown = table(escalating(runtime, stage.value, None), 300, colour=False)
        assert stage is Stage.IDLE or ", : h:" not in shown


def test_the_last_escalation_is_in_the_table_too(runtime: FakeRuntime) -> None:
    lines = table(escalating(runtime, "awaiting", None), 200, colour=False).splitlines()
    assert "  last escalation: service-fail done at 2025-01-02T03:04:05.000006Z: d is in quarantine" in lines


def test_a_cause_that_was_refused_is_shown_as_long_as_it_stands(runtime: FakeRuntime) -> None:
    told = {
        **ESCALATION,
        "stage": "idle",
        "causes": [],
        "ways_out": [],
        "refused": ["d is in quarantine"],
        "last": None,
    }
    runtime.supervisor["escalation"] = told
    runtime.publish()
    (line,) = [line for line in table(view(runtime), 300, colour=False).splitlines() if "escalation" in line]
    assert line.startswith("  escalation (reboot): refused, nothing will be done: d is in quarantine; it had")


@pytest.mark.parametrize("told", [None, {**ESCALATION, "causes": [], "refused": [], "last": None}])
def test_where_nothing_calls_for_an_escalation_none_is_shown(runtime: FakeRuntime, told: object) -> None:
    runtime.supervisor["escalation"] = told
    runtime.publish()
    assert "escalation" not in table(view(runtime), 200, colour=False)
    assert (to_json(view(runtime))["escalation"] is None) == (told is None)


@pytest.mark.parametrize(
    ("rule", "length", "note"),
    [
        (0, 12, "12 bad outputs in a row, the last one all zero, for 3 s; not replaced for that: outputs.bad_in_a_row"),
        (20, 12, "12 bad outputs in a row, the last one all zero, for 3 s; 20 lead to a verdict"),
        (20, 0, "none of its outputs is looked at"),
    ],
)
def test_bad_outputs_and_a_rule_that_cannot_find_any_are_told(
    runtime: FakeRuntime, rule: int, length: int, note: str
) -> None:
    beat = runtime.incarnation("model_h", 3, bad_in_a_row=rule)
    beat.lane(0, steps_done=10)
    if length:
        beat.header(bad_outputs=abi.run_of_bad(time.monotonic_ns() - 3 * SECOND, length, "zero"))
    runtime.publish()
    assert f"  ! {note}" in table(view(runtime), 200, colour=False)


def test_good_outputs_and_no_rule_are_nothing_to_tell(runtime: FakeRuntime) -> None:
    watched = runtime.incarnation("model_h", 3, bad_in_a_row=20)
    watched.put(abi.OUTPUT_COUNTS_OFFSET, 5)
    for beat in (watched, runtime.incarnation("model_a", 3)):
        beat.lane(0, steps_done=10)
    runtime.publish()
    assert "  !" not in table(view(runtime), 200, colour=False)


# --- bisect ---

UNTIL_OFF = "until `watchdogd bisect model_h off` and its next start"


@pytest.mark.parametrize(
    ("word", "by", "note"),
    [
        (0, "operator", "bisected from its next start on; at once: `watchdogd restart model_h`"),
        (0, "bisect_after", "bisected from its next start on, by bisect_after; at once: `watchdogd restart model_h`"),
        (1, "operator", f"bisected {UNTIL_OFF}, but nothing in it synchronizes after a stage; see the worker API"),
        (2, "operator", f"bisected {UNTIL_OFF}: it synchronizes after each stage, and is slower for that"),
        (2, "bisect_after", "bisected until its next hang: it synchronizes after each stage, and is slower for that"),
        (2, None, "bisected until its next start: it synchronizes after each stage, and is slower for that"),
    ],
)
def test_who_is_slower_for_being_bisected_or_will_be_is_told(
    runtime: FakeRuntime, word: int, by: str | None, note: str
) -> None:
    beat = runtime.incarnation("model_h", 3, bisect={"next": by, "now": bool(word)})
    beat.header(bisect=word)
    beat.lane(0, steps_done=10)
    runtime.publish()
    assert f"  ! {note}\n" in table(view(runtime), 200, colour=False)
    assert one(runtime)["bisect"] == {"now": abi.BISECTS[word], "next": by}


def test_what_has_no_process_is_told_to_be_bisected_and_not_to_be_restarted(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3, bisect={"next": "operator", "now": True}).header(bisect=2)
    runtime.workers["model_h"]["pid"] = None
    runtime.publish()
    assert "  ! bisected from its next start on\n" in table(view(runtime), 200, colour=False)
    assert one(runtime)["bisect"] == {"now": "off", "next": "operator"}


@pytest.mark.parametrize("word", [0, 3, 1 << 63])
def test_who_is_not_bisected_is_not_told_to_be(runtime: FakeRuntime, word: int) -> None:
    """Nor by words that cannot be; a supervisor of before says nothing at all."""
    runtime.incarnation("model_h", 3).header(bisect=word)
    runtime.publish()
    assert "bisect" not in table(view(runtime), 200, colour=False)
    assert one(runtime)["bisect"] == {"now": "off", "next": None}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"stage": "plugin", "bisected": True}, "call sync in stage plugin, synchronized after each stage, at"),
        ({"stage": None, "bisected": True}, "call sync in no stage, synchronized after each stage, at"),
        ({"stage": "plugin"}, "call sync in stage plugin at"),
        ({"stage": "sync"}, "call sync at"),
        ({"stage": None}, "call sync at"),
        ({}, "call sync at"),
    ],
)
def test_an_incident_says_in_which_stage_where_that_says_more_than_the_operation(
    runtime: FakeRuntime, told: dict[str, Any], words: str
) -> None:
    incident = {"id": "i-1", "verdict": "call", "operation": "sync", "time": "2025-01-02T03:04:05.000006Z", **told}
    runtime.worker("model_h", last_incident=incident)
    runtime.publish()
    assert f"last incident: {words} 2025" in table(view(runtime), 200, colour=False)


# --- the last step --------------------------------------------------------------------------------------------------


def test_the_age_of_the_last_step_is_told_by_name_and_in_json(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3).header(last_step_ns=time.monotonic_ns() - 3 * SECOND)
    runtime.publish()
    assert one(runtime)["last_step_age_seconds"] == pytest.approx(3, abs=1)
    detailed = table(view(runtime, "model_h"), 200, colour=False, detail=status_detail.Detail())
    assert "  last step ended 3" in detailed
    assert "last step" not in table(view(runtime), 200, colour=False)


@pytest.mark.parametrize("counts", [(13, 14), (0, 0), None])
def test_steps_in_flight_at_ends_are_told_by_name_and_in_json(
    runtime: FakeRuntime, counts: tuple[int, int] | None
) -> None:
    runtime.incarnation("model_h", 3)
    body = runtime.workers["model_h"]
    dropped, back = body.pop("steps_dropped"), body.pop("steps_redelivered")
    assert dropped != back
    if counts:  # else the supervisor is one of before
        body |= {"steps_dropped": counts[0], "steps_redelivered": counts[1]}
    runtime.publish()
    assert (one(runtime)["steps_dropped"], one(runtime)["steps_redelivered"]) == (counts or (0, 0))
    shown = table(view(runtime, "model_h"), 200, colour=False, detail=status_detail.Detail())
    assert ("  steps in flight at its ends: 13 dropped, 14 given back" in shown) == (counts == (13, 14))
    assert "at its ends" not in table(view(runtime), 200, colour=False)


@pytest.mark.parametrize("ago_seconds", [70, -60, None], ids=["before it was spawned", "to come", "not said"])
def test_a_last_step_that_cannot_be_is_not_told(runtime: FakeRuntime, ago_seconds: int | None) -> None:
    beat = runtime.incarnation("model_h", 3)
    if ago_seconds is not None:
        beat.header(last_step_ns=time.monotonic_ns() - ago_seconds * SECOND)
    runtime.publish()
    assert one(runtime)["last_step_age_seconds"] is None


# --- growth ---------------------------------------------------------------------------------------------------------


def test_growth_that_was_told_of_is_a_note_and_what_is_back_or_never_was_is_not(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3, growth=held())
    runtime.incarnation("model_a", 1, growth=held(stands=False))
    runtime.incarnation("model_b", 1)  # by a supervisor of before
    runtime.publish()
    notes = [line for line in table(view(runtime), 200, colour=False).splitlines() if "more and more" in line]
    assert notes == ["  ! holds more and more: descriptors 900, at most 300 in its first 1h"]
    growth = [worker["growth"] for worker in to_json(view(runtime))["workers"]]
    assert [told.get("descriptors", {}).get("stands") for told in growth] == [True, False, None]


@pytest.mark.parametrize(("measured", "end"), [(True, "first 1h"), (False, "first 1h (not over yet)")])
def test_what_it_holds_is_told_by_name_with_whether_there_is_a_measure(
    runtime: FakeRuntime, measured: bool, end: str
) -> None:
    runtime.incarnation("model_h", 3, growth=held(stands=False, measured=measured))
    runtime.publish()
    detailed = table(view(runtime, "model_h"), 200, colour=False, detail=status_detail.Detail())
    assert f"  descriptors 900, at most 300 in its {end}\n" in detailed
    assert "descriptors" not in table(view(runtime), 200, colour=False)


@pytest.mark.parametrize(
    ("code", "done", "deadlines", "told"),
    [
        (abi.STEP_FIRST, 5, {"step": 1.0}, True),
        (abi.STEP_FIRST, 5, {"step": 1.0, "first_step": 9.0}, False),
        (abi.STEP_FIRST, 5, {"sync": 1.0}, False),
        (abi.STEP_FIRST, 0, {"step": 1.0}, False),
        (abi.STEP_LATER, 5, {"step": 1.0}, False),
    ],
    ids=["unbounded", "bounded", "no step is", "the first of all", "a later one"],
)
def test_a_step_that_the_worker_itself_made_unbounded_is_told(
    runtime: FakeRuntime, code: int, done: int, deadlines: dict[str, float], told: bool
) -> None:
    beat = runtime.incarnation("model_h", 3, deadlines=deadlines)
    beat.lane(0, step=abi.stamp(time.monotonic_ns(), code), steps_done=done)
    runtime.publish()
    assert ("its step is a first one" in table(view(runtime), 200, colour=False)) == told


# --- progress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "told", "note"),
    [
        ("running", {}, None),
        ("running", {"unknown": "its counter went back"}, "progress is unknown: its counter went back"),
        ("observed", {"unknown": "x"}, "progress is unknown: x"),
        ("starting", {"unknown": "refused"}, None),
        ("starting", {"failed": "refused"}, "not ready: metrics http://h/m: refused"),
        ("running", {"failed": "refused"}, None),
        (
            "running",
            {"failed": "refused", "failing": True},
            "its probe fails: metrics http://h/m: refused; not replaced for that: see progress_kills",
        ),
    ],
)
def test_progress_that_is_unknown_or_fails_is_a_note(
    runtime: FakeRuntime, phase: str, told: dict[str, object], note: str | None
) -> None:
    runtime.incarnation("model_h", 3, phase=phase, phase_since_ns=5, progress={**PROGRESS, **told})
    runtime.publish()
    lines = table(view(runtime), 200, colour=False).splitlines()
    assert [line for line in lines if line.startswith("  ! ")] == ([] if note is None else [f"  ! {note}"])


def test_a_reader_that_is_silent_is_said_to_be_since_when(runtime: FakeRuntime) -> None:
    silent = {"unknown": "its reader is silent; x", "silent_since_ns": time.monotonic_ns() - 90 * SECOND}
    runtime.incarnation("model_h", 3, progress={**PROGRESS, **silent})
    runtime.publish()
    assert "! progress is unknown for 1 m 30 s: its reader is silent; x" in table(view(runtime), 200, colour=False)


def test_a_worker_without_a_source_of_progress_has_no_words_of_it(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_h", 3, progress=None)
    runtime.publish()
    assert [worker["progress"] for worker in to_json(view(runtime))["workers"]] == [None]
    assert "progress" not in table(view(runtime), 200, colour=False)
