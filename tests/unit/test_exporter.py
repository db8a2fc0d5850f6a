"""The exporter without its server: metric names and values, totals over incarnations, health."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tests.helpers.fake_runtime import ACCELERATOR, KERNEL, MS, SECOND, SOURCE, FakeHeartbeat, FakeRuntime
from watchdogd import abi
from watchdogd.decide.escalation_orders import Stage
from watchdogd.exporter import health
from watchdogd.exporter.buckets import LATENESS_NS, WITHOUT_DEADLINE_NS, around
from watchdogd.exporter.collector import Exposition
from watchdogd.exporter.text import render
from watchdogd.histogram import EDGES_NS
from watchdogd.model import KernelKind, Phase, Verdict
from watchdogd.publish.snapshot import HANG_KEYS

DOCUMENTED = {
    "watchdogd_worker_phase": ("gauge", {"worker", "phase"}),
    "watchdogd_worker_restarts_total": ("counter", {"worker", "reason"}),
    "watchdogd_outputs_total": ("counter", {"worker", "kind"}),
    "watchdogd_hangs_total": ("counter", {"worker", "operation"}),
    "watchdogd_near_misses_total": ("counter", {"worker"}),
    "watchdogd_call_duration_seconds": ("histogram", {"worker", "operation"}),
    "watchdogd_call_in_flight_seconds": ("gauge", {"worker", "operation"}),
    "watchdogd_call_deadline_seconds": ("gauge", {"worker", "operation"}),
    "watchdogd_detection_lateness_seconds": ("histogram", set()),
    "watchdogd_recovery_duration_seconds": ("histogram", {"worker"}),
    "watchdogd_steps_total": ("counter", {"worker"}),
    "watchdogd_steps_dropped_total": ("counter", {"worker"}),
    "watchdogd_steps_redelivered_total": ("counter", {"worker"}),
    "watchdogd_last_step_timestamp_seconds": ("gauge", {"worker"}),
    "watchdogd_worker_start_time_seconds": ("gauge", {"worker"}),
    "watchdogd_worker_resident_memory_bytes": ("gauge", {"worker"}),
    "watchdogd_worker_open_fds": ("gauge", {"worker"}),
    "watchdogd_worker_device_memory_bytes": ("gauge", {"worker"}),
    "watchdogd_worker_growth": ("gauge", {"worker", "resource"}),
    "watchdogd_worker_progress_up": ("gauge", {"worker"}),
    "watchdogd_worker_progress_failing": ("gauge", {"worker"}),
    "watchdogd_worker_threads": ("gauge", {"worker"}),
    "watchdogd_accelerator_load_ratio": ("gauge", {"accelerator", "source"}),
    "watchdogd_accelerator_frozen": ("gauge", {"accelerator"}),
    "watchdogd_accelerator_ghost_load": ("gauge", {"accelerator"}),
    "watchdogd_accelerator_blocked": ("gauge", {"accelerator"}),
    "watchdogd_accelerator_info": ("gauge", {"accelerator", "uuid", "name"}),
    "watchdogd_source_up": ("gauge", {"source"}),
    "watchdogd_kernel_messages_total": ("counter", {"about"}),
    "watchdogd_kernel_lines_lost_total": ("counter", set()),
    "watchdogd_tick_duration_seconds": ("histogram", set()),
    "watchdogd_last_tick_timestamp_seconds": ("gauge", set()),
    "watchdogd_build_info": ("gauge", {"version"}),
    "watchdogd_wakeup_lateness_seconds": ("histogram", set()),
    "watchdogd_escalation_stage": ("gauge", {"stage"}),
    "watchdogd_worker_held": ("gauge", {"worker"}),
    "watchdogd_would_have_killed_total": ("counter", {"worker"}),
}


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


@pytest.fixture
def beat(runtime: FakeRuntime) -> FakeHeartbeat:
    """Of model_h, in its third incarnation."""
    beat = runtime.incarnation("model_h", 3)
    runtime.publish()
    return beat


class Scraper:
    """Scrapes one exporter again and again."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.exposition = Exposition(str(runtime.directory))

    def families(self) -> dict[str, Metric]:
        text = render(self.exposition.registry).decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, sample: str, **labels: str) -> float | None:
        found = [s.value for f in self.families().values() for s in f.samples if (s.name, s.labels) == (sample, labels)]
        assert len(found) < 2
        return found[0] if found else None

    def samples(self, sample: str) -> dict[str, float]:
        """By the values of all labels but the worker's."""
        return {
            ",".join(value for name, value in s.labels.items() if name != "worker"): s.value
            for f in self.families().values()
            for s in f.samples
            if s.name == sample
        }


@pytest.fixture
def scraper(runtime: FakeRuntime) -> Scraper:
    return Scraper(runtime)


def everything(runtime: FakeRuntime) -> FakeHeartbeat:
    """Publish a state in which every metric has a sample, but for the time of a step."""
    growth = {"device_memory": {"now": 7 << 20, "stands": False}, "threads": {"now": 90, "stands": True}}
    shim, progress = {"driver": None, "loaded": True, "why": ""}, {"unknown": "", "failing": False}
    beat = runtime.incarnation("model_h", 3, growth=growth, shim=shim, progress=progress)
    beat.enter(0, "sync", time.monotonic_ns())
    now_ns = time.monotonic_ns()
    runtime.accelerators = [{**ACCELERATOR, "sample_ns": now_ns, "uuid": "GPU-1"}]
    runtime.sources = [{**SOURCE, "sample_ns": now_ns}]
    runtime.supervisor["escalation"] = {"stage": "asking"}
    runtime.kernel = KERNEL
    runtime.publish()
    return beat


# --- names ----------------------------------------------------------------------------------------------------------


def test_every_documented_metric_is_there_with_its_type_and_labels(runtime: FakeRuntime, scraper: Scraper) -> None:
    beat = everything(runtime)
    scraper.exposition.look()
    beat.lane(0, steps_done=1)
    found = {}
    for family in scraper.families().values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.samples, name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert {name: found.get(name) for name in DOCUMENTED} == DOCUMENTED


@pytest.mark.parametrize(
    ("told", "up", "failing"),
    [
        (None, None, None),
        ({"unknown": "", "failing": False}, 1, 0),
        ({"unknown": "", "failing": True}, 1, 1),
        ({"unknown": "its reader is silent", "failing": False}, 0, 0),
    ],
)
def test_progress_that_nobody_knows_is_down_and_a_worker_without_a_source_has_no_sample(
    runtime: FakeRuntime, scraper: Scraper, told: dict[str, object] | None, up: int | None, failing: int | None
) -> None:
    runtime.incarnation("model_h", 3, progress=told)
    runtime.publish()
    for name, value in (("up", up), ("failing", failing)):
        samples = scraper.samples(f"watchdogd_worker_progress_{name}")
        assert list(samples.values()) == ([] if value is None else [value])


def test_growth_has_a_sample_for_each_resource_and_unknown_memory_of_a_device_has_none(
    runtime: FakeRuntime, scraper: Scraper
) -> None:
    everything(runtime)
    told = {"memory": 0.0, "device_memory": 0.0, "descriptors": 0.0, "threads": 1.0}
    assert scraper.samples("watchdogd_worker_growth") == told
    assert scraper.value("watchdogd_worker_device_memory_bytes", worker="model_h") == 7 << 20
    for growth in ({"device_memory": {"now": None, "stands": False}}, {}):
        runtime.worker("model_h", growth=growth)
        runtime.publish()
        assert scraper.samples("watchdogd_worker_growth") == dict.fromkeys(told, 0.0)
        assert scraper.samples("watchdogd_worker_device_memory_bytes") == {}


def test_messages_of_the_kernel_are_counted_by_kind_and_those_of_our_own_kills_apart(
    runtime: FakeRuntime, scraper: Scraper
) -> None:
    everything(runtime)
    counted = scraper.samples("watchdogd_kernel_messages_total")
    assert (counted["xid"], counted["expected"], counted["mmu_fault"]) == (3, 2, 0)
    assert counted.keys() == {*(kind.value for kind in KernelKind), "expected"}
    assert scraper.value("watchdogd_kernel_lines_lost_total") == 8


def test_without_a_kernel_log_nothing_is_counted_as_if_it_were_clean(runtime: FakeRuntime, scraper: Scraper) -> None:
    runtime.publish()
    assert scraper.samples("watchdogd_kernel_messages_total") == {}
    assert scraper.value("watchdogd_kernel_lines_lost_total") is None


def test_a_kernel_log_that_cannot_be_read_does_not_keep_work_away(runtime: FakeRuntime) -> None:
    runtime.worker("model_h")
    runtime.sources = [{**SOURCE, "name": "kmsg", "load": False, "up": False}]
    runtime.publish()
    assert health.readyz(str(runtime.directory), time.monotonic_ns())[0]
    runtime.sources = [{**SOURCE, "up": False}]
    runtime.publish()
    assert not health.readyz(str(runtime.directory), time.monotonic_ns())[0]


def test_names_keep_the_rules_of_promtool(runtime: FakeRuntime, scraper: Scraper) -> None:
    everything(runtime)
    for family in scraper.families().values():
        assert re.fullmatch(r"watchdogd_[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation and family.documentation.endswith(".")
        # Base units, last in the name; no type in it; _total for counters alone (the parser took it off).
        assert not re.search(r"(_ms|_us|_ns|milliseconds|minutes|hours|_kb|percent)(_|$)", family.name)
        assert not re.search(r"_(gauge|counter|histogram|count|sum|bucket|total)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert ("le" in sample.labels) == sample.name.endswith("_bucket")
            assert math.isfinite(sample.value)


def test_the_text_is_what_prometheus_client_would_write(runtime: FakeRuntime, scraper: Scraper) -> None:
    everything(runtime)
    last = {"id": 'an "id"', "verdict": "call", "operation": "sync", "time": "2026-11-21T04:13:20.104000Z"}
    runtime.worker("model_b", last_incident=last)
    runtime.worker('odd "name"\\ of\na worker')
    runtime.publish()
    once = list(scraper.exposition.registry.collect())

    class Once(Collector):
        def collect(self) -> list[Metric]:
            return once

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    assert render(registry) == generate_latest(registry)
    assert render(registry, openmetrics=True) == openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # of the library


def test_histograms_have_at_most_14_buckets_and_they_only_grow(runtime: FakeRuntime, scraper: Scraper) -> None:
    everything(runtime)
    buckets: dict[tuple[str, ...], list[float]] = {}
    for family in scraper.families().values():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                others = tuple(value for label, value in sample.labels.items() if label != "le")
                buckets.setdefault((sample.name, *others), []).append(sample.value)
    assert len(buckets) == 3 + 7 + 1
    assert all(len(counts) <= 14 and counts == sorted(counts) for counts in buckets.values())


# --- bounds ---------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=1, max_value=1 << 60))
def test_bounds_around_a_deadline_are_edges_that_enclose_it(deadline_ns: int) -> None:
    bounds = around(deadline_ns)
    assert len(bounds) == 13 and list(bounds) == sorted(set(bounds)) and set(bounds) <= set(EDGES_NS)
    if 1 << 19 <= deadline_ns <= 1 << 36:
        assert bounds[0] < deadline_ns / 128 and deadline_ns <= bounds[10] < deadline_ns * 1.25
        assert bounds[9] < deadline_ns


def test_fixed_bounds_are_edges() -> None:
    assert {*WITHOUT_DEADLINE_NS, *LATENESS_NS} <= set(EDGES_NS)


def test_durations_are_counted_around_the_deadline(beat: FakeHeartbeat, scraper: Scraper) -> None:
    beat.record(0, "sync", 150 * MS, times=3)
    beat.record(0, "sync", 450 * MS, times=2)  # of a deadline of 200 ms
    buckets = scraper.samples("watchdogd_call_duration_seconds_bucket")
    sync = [(float(key.split(",")[0]), count) for key, count in buckets.items() if key.endswith(",sync")]
    assert [count for le, count in sync if le <= 0.15] == [0] * 9
    assert [count for le, count in sync if 0.16 < le < 0.41] == [3] * 4
    assert sync[-1] == (math.inf, 5)
    labels = {"worker": "model_h", "operation": "sync"}
    assert scraper.value("watchdogd_call_duration_seconds_sum", **labels) == pytest.approx(1.35)


# --- values ---------------------------------------------------------------------------------------------------------


def test_counters_exist_from_the_start(beat: FakeHeartbeat, scraper: Scraper) -> None:
    assert beat.path.exists()
    hangs = scraper.samples("watchdogd_hangs_total")
    assert hangs == {key: {"sync": 7, "startup": 1}.get(key, 0) for key in HANG_KEYS}
    reasons = scraper.samples("watchdogd_worker_restarts_total")
    reasons_known = [*(verdict.value for verdict in Verdict), "operator", "restart_with", "supervisor"]
    assert reasons == {key: {"call": 2, "operator": 1}.get(key, 0) for key in reasons_known}
    calls = scraper.samples("watchdogd_call_duration_seconds_count")
    assert calls == dict.fromkeys(abi.OPERATIONS[1:], 0)
    assert scraper.samples("watchdogd_outputs_total") == dict.fromkeys(abi.OUTPUTS, 0)


def test_outputs_are_counted_over_both_kinds_of_writers_and_all_incarnations(
    beat: FakeHeartbeat, runtime: FakeRuntime, scraper: Scraper
) -> None:
    def count(of: FakeHeartbeat, kind: str, cas: int, locked: int) -> None:
        for writers, number in enumerate((cas, locked)):
            at = abi.OUTPUT_COUNTS_OFFSET + (writers * abi.OUTPUT_COUNTS + abi.OUTPUT[kind]) * abi.WORD
            of.put(at, number)

    count(beat, "zero", 3, 4)
    count(beat, "canary", 0, 1)
    assert scraper.samples("watchdogd_outputs_total") == {**dict.fromkeys(abi.OUTPUTS, 0), "zero": 7, "canary": 1}
    following = runtime.incarnation("model_h", 4)
    runtime.publish()
    count(following, "zero", 5, 0)
    assert scraper.value("watchdogd_outputs_total", worker="model_h", kind="zero") == 12


def test_the_phase_is_a_state_set(beat: FakeHeartbeat, runtime: FakeRuntime, scraper: Scraper) -> None:
    assert beat.path.exists()
    runtime.workers["model_h"]["phase"] = "quarantined"
    runtime.publish()
    phases = scraper.samples("watchdogd_worker_phase")
    assert phases == {phase.value: float(phase is Phase.QUARANTINED) for phase in Phase}


def test_unknown_gauges_are_absent(runtime: FakeRuntime, scraper: Scraper) -> None:
    runtime.worker("model_h", deadlines={})
    runtime.accelerators = [{**ACCELERATOR, "load_ratio": None, "device": None}]
    runtime.sources = [SOURCE]
    runtime.publish()
    for name in (
        "watchdogd_call_in_flight_seconds",
        "watchdogd_call_deadline_seconds",
        "watchdogd_last_step_timestamp_seconds",
        "watchdogd_worker_start_time_seconds",
        "watchdogd_worker_resident_memory_bytes",
        "watchdogd_accelerator_load_ratio",
        "watchdogd_accelerator_info",
        "watchdogd_source_last_sample_timestamp_seconds",
    ):
        assert scraper.samples(name) == {}, name


def test_the_load_of_a_silent_source_is_absent_and_a_true_zero_is_not(runtime: FakeRuntime, scraper: Scraper) -> None:
    runtime.accelerators = [{**ACCELERATOR, "load_ratio": 0.0}, {**ACCELERATOR, "name": "gpu1", "source": "nvml"}]
    runtime.sources = [SOURCE, {**SOURCE, "name": "nvml", "up": False}]
    runtime.publish()
    assert scraper.samples("watchdogd_accelerator_load_ratio") == {"gpu0,tegrastats": 0}


def test_times_are_unix_times(beat: FakeHeartbeat, scraper: Scraper) -> None:
    assert beat.path.exists()
    tick = scraper.value("watchdogd_last_tick_timestamp_seconds")
    start = scraper.value("watchdogd_worker_start_time_seconds", worker="model_h")
    assert tick == pytest.approx(time.time(), abs=2)
    assert start == pytest.approx(time.time() - 5, abs=2)
    assert start == scraper.value("watchdogd_worker_start_time_seconds", worker="model_h")  # does not wander


def test_the_last_step_is_known_once_a_step_was_seen(beat: FakeHeartbeat, scraper: Scraper) -> None:
    beat.lane(0, steps_done=500)
    name = "watchdogd_last_step_timestamp_seconds"
    assert scraper.value(name, worker="model_h") is None  # before we looked: nobody knows when
    beat.lane(0, steps_done=501)
    seen = scraper.value(name, worker="model_h")
    assert seen == pytest.approx(time.time(), abs=2)
    assert scraper.value(name, worker="model_h") == seen


def test_the_last_step_is_known_at_the_first_look_where_the_worker_says_it(
    beat: FakeHeartbeat, scraper: Scraper
) -> None:
    beat.lane(0, steps_done=500)
    beat.header(last_step_ns=time.monotonic_ns() - 3 * SECOND)
    name = "watchdogd_last_step_timestamp_seconds"
    seen = scraper.value(name, worker="model_h")
    assert seen == pytest.approx(time.time() - 3, abs=1)
    assert scraper.value(name, worker="model_h") == seen


def test_recoveries_come_from_the_board(beat: FakeHeartbeat, scraper: Scraper) -> None:
    assert beat.path.exists()
    buckets = scraper.samples("watchdogd_recovery_duration_seconds_bucket")
    assert (buckets["0.05"], buckets["0.1"], buckets["0.2"], buckets["+Inf"]) == (0, 2, 3, 3)
    assert scraper.value("watchdogd_recovery_duration_seconds_sum", worker="model_h") == 0.37


def test_a_launcher_is_counted_with_the_process_that_claimed_a_lane(runtime: FakeRuntime, scraper: Scraper) -> None:
    script = "sleep 60 & echo $!; wait"
    launcher = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert launcher.stdout is not None
    child = int(launcher.stdout.readline())
    beat = runtime.incarnation("model_h", 3, pid=launcher.pid)
    runtime.publish()
    assert scraper.value("watchdogd_worker_threads", worker="model_h") == 1
    beat.lane(0, owner=child << 32 | child)
    beat.lane(1, owner=os.getpid() << 32 | 1)  # of another session: not the worker's
    assert scraper.value("watchdogd_worker_threads", worker="model_h") == 2
    os.killpg(launcher.pid, 9)
    launcher.wait(10)
    launcher.stdout.close()


def test_a_process_that_is_gone_has_no_figures(runtime: FakeRuntime, scraper: Scraper) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait(10)
    runtime.incarnation("model_h", 3, pid=ended.pid)
    runtime.publish()
    assert scraper.value("watchdogd_worker_threads", worker="model_h") is None


# --- over incarnations ----------------------------------------------------------------------------------------------


def totals(scraper: Scraper) -> tuple[float | None, float | None]:
    labels = {"worker": "model_h", "operation": "sync"}
    calls = scraper.value("watchdogd_call_duration_seconds_count", **labels)
    return calls, scraper.value("watchdogd_steps_total", worker="model_h")


def test_totals_do_not_go_back_with_a_new_incarnation_and_the_last_counts_are_not_lost(
    beat: FakeHeartbeat, runtime: FakeRuntime, scraper: Scraper
) -> None:
    beat.record(0, "sync", 5 * MS, times=10)
    beat.lane(0, steps_done=4)
    assert totals(scraper) == (10, 4)
    beat.record(0, "sync", 5 * MS, times=2)  # its last, after the last scrape
    beat.lane(0, steps_done=5)
    beat.path.unlink()
    runtime.workers["model_h"] |= {"pid": None, "heartbeat": None, "phase": "backoff"}
    runtime.publish()
    assert totals(scraper) == (12, 5)
    successor = runtime.incarnation("model_h", 4)
    runtime.publish()
    assert totals(scraper) == (12, 5)
    successor.record(1, "sync", 5 * MS, times=7)
    successor.lane(1, steps_done=6)
    assert totals(scraper) == (19, 11)


def test_an_incarnation_between_two_scrapes_is_counted_if_somebody_looked(
    beat: FakeHeartbeat, runtime: FakeRuntime, scraper: Scraper
) -> None:
    beat.lane(0, steps_done=4)
    for number, steps in ((4, 30), (5, 200)):
        scraper.exposition.look()
        beat = runtime.incarnation("model_h", number)
        beat.lane(0, steps_done=steps)
        runtime.publish()
    assert totals(scraper) == (0, 234)


def test_a_heartbeat_of_another_incarnation_under_the_same_name_is_left_for_later(
    beat: FakeHeartbeat, runtime: FakeRuntime, scraper: Scraper
) -> None:
    beat.lane(0, steps_done=4)
    assert totals(scraper) == (0, 4)
    beat.path.unlink()
    early = FakeHeartbeat(beat.path, 5, time.monotonic_ns())  # the board still tells of the fourth
    early.lane(0, steps_done=50)
    runtime.workers["model_h"]["incarnation"] = 4
    runtime.publish()
    assert totals(scraper) == (0, 4)
    runtime.workers["model_h"]["incarnation"] = 5
    runtime.publish()
    assert totals(scraper) == (0, 54)


@pytest.mark.parametrize("damage", ["truncate", "zero"])
def test_a_worker_that_ruins_its_heartbeat_does_not_turn_totals_back(
    beat: FakeHeartbeat, scraper: Scraper, damage: str
) -> None:
    beat.record(0, "sync", 5 * MS, times=10)
    beat.lane(0, steps_done=4)
    assert totals(scraper) == (10, 4)
    if damage == "truncate":
        os.truncate(beat.path, 100)
    else:
        beat.lane(0, steps_done=0, calls=0)
    assert totals(scraper) == (10, 4)


# --- the page and health --------------------------------------------------------------------------------------------


def test_scrapes_at_the_same_time_share_one_rendering(beat: FakeHeartbeat, scraper: Scraper) -> None:
    assert beat.path.exists()
    assert scraper.exposition.page() is scraper.exposition.page()


def test_a_scrape_without_a_board_says_that_nothing_is_up(tmp_path: Path) -> None:
    page = Exposition(str(tmp_path)).page()
    assert page.status == 200
    assert b"watchdogd_supervisor_up 0.0\n" in page.body and b"watchdogd_build_info" in page.body


def now() -> int:
    return time.monotonic_ns()


def test_health_is_good_while_ticks_complete(runtime: FakeRuntime) -> None:
    runtime.sources = [{**SOURCE, "up": False}]  # a silent source is no reason
    runtime.publish()
    good, body = health.healthz(str(runtime.directory), now())
    assert good and body["ok"] and body["reason"] is None and body["last_tick_age_seconds"] < 1
    json.dumps(body)


def test_health_is_bad_once_ticks_stop(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=1)
    runtime.publish()
    good, body = health.healthz(str(tmp_path), now() + 12 * SECOND)
    assert not good and body["reason"].startswith("STUCK") and body["last_tick_age_seconds"] == pytest.approx(12, abs=1)


def test_health_and_readiness_are_bad_without_a_board(tmp_path: Path) -> None:
    for judge in (health.healthz, health.readyz):
        good, body = judge(str(tmp_path), now())
        assert not good and "does not exist" in json.dumps(body)


def test_readiness_is_good_while_required_workers_run_and_sources_are_fresh(runtime: FakeRuntime) -> None:
    runtime.worker("model_a")
    runtime.worker("model_b", phase="observed")
    runtime.worker("model_c", phase="quarantined", required=False)
    runtime.sources = [SOURCE]
    runtime.publish()
    assert health.readyz(str(runtime.directory), now()) == (True, {"ok": True, "reasons": []})


def test_readiness_names_everything_that_is_not(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path, pid=1)
    runtime.worker("model_a", phase="starting")
    runtime.worker("model_b", held="waits")
    runtime.sources = [{**SOURCE, "up": False}]
    runtime.publish()
    good, body = health.readyz(str(tmp_path), now() + 12 * SECOND)
    assert not good
    stuck, *reasons = body["reasons"]
    assert stuck.startswith("supervisor: STUCK")
    assert reasons == [
        "worker model_a: starting",
        "worker model_b: a verdict stands, its kill waits",
        "source tegrastats: silent",
    ]


def test_a_supervisor_that_has_published_nothing_is_not_ready(runtime: FakeRuntime) -> None:
    runtime.tick()
    assert not health.readyz(str(runtime.directory), now())[0]


def test_the_stage_of_the_escalation_is_one_of_all_and_absent_where_there_is_none(
    runtime: FakeRuntime, scraper: Scraper
) -> None:
    runtime.publish()
    assert scraper.samples("watchdogd_escalation_stage") == {}
    runtime.supervisor["escalation"] = {"stage": "backoff"}
    runtime.publish()
    stages = scraper.samples("watchdogd_escalation_stage")
    assert set(stages) == {stage.value for stage in Stage}
    assert [stage for stage, value in stages.items() if value] == ["backoff"]
