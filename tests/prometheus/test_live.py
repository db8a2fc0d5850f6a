"""A real Prometheus on a live supervisor: the first hang raises its alert, and every query of the dashboard has data.

What differs from the shipped configuration is time alone: scrapes and evaluations every half second, a rule's ``for``
a second and a half, its windows six seconds (``SHORTER``).
"""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import yaml

from tests.helpers.running import KEPT, ROOT, Supervised, wait_until, worker
from tests.prometheus.server import RULES, Prometheus
from tests.simulator.control import SimulatedDevice
from watchdogd.publish.snapshot import HANG_KEYS

INTERVAL = "500ms"
SHORTER: tuple[tuple[str, str, str], ...] = (("for", r"^.*$", "1500ms"), ("expr", r"\[\d+[mh]\]", "[6s]"))
DASHBOARD = ROOT / "config" / "grafana" / "watchdogd.json"
VARIABLES = {"$instance": ".*", "$worker": ".*", "$__rate_interval": "3s", "$__range": "30s"}
# In a call nearly all the time, so that a scrape finds it there; hangs once, when told to.
BUSY = """
worker.ready()
while True:
    with worker.step(), worker.call('sync'):
        if (HERE / 'hang').exists() and INCARNATION == 1: hang()
        time.sleep(0.02)
"""
# A busy machine that runs a call of 20 ms for 100 is no near miss here: it would raise an alert of its own.
TIMES: dict[str, Any] = {"deadlines": {"startup": "20s", "step": "500ms", "sync": "200ms"}, "soft": 0.95}


def shorter_rules() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for rule in (rule for group in loaded["groups"] for rule in group["rules"]):
        for key, pattern, instead in SHORTER:
            rule[key] = re.sub(pattern, instead, rule[key])
    return loaded


@dataclass(frozen=True)
class Vehicle:
    supervised: Supervised
    prometheus: Prometheus
    began: float

    def wait(self, predicate: Callable[[], object]) -> None:
        wait_until(predicate, 25.0, lambda: (self.prometheus.ask("alerts"), self.prometheus.log()))

    def alert_states(self, name: str) -> list[str]:
        """The states that Prometheus itself recorded for an alert, in the order in which they began."""
        found = self.prometheus.samples(f'ALERTS{{alertname="{name}"}}[5m]')
        return [series["metric"]["alertstate"] for series in sorted(found, key=lambda series: series["values"][0][0])]


@pytest.fixture(scope="module")
def vehicle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vehicle]:
    """On which a worker hung for the first time, was replaced, and the alert came and went."""
    directory = tmp_path_factory.mktemp("prometheus")
    with SimulatedDevice(directory / "device") as device:
        device.set_load("gpu", 37)
        reader = [sys.executable, str(ROOT / "tests/simulator/tegrastats.py"), "--state", str(device.path)]
        workers = {
            "lane_dla": worker(BUSY, accelerator="dla0", **TIMES),
            "detector": worker(BUSY.replace("'hang'", "'never'"), accelerator="gpu0", **TIMES),
        }
        with Supervised(
            workers,
            metrics={"listen": "127.0.0.1:0"},
            incidents=KEPT,
            tegrastats={"command": [*reader, "--interval", "100"]},
        ) as supervised:
            supervised.wait_phase("detector", "running")
            supervised.wait_phase("lane_dla", "running")
            address = supervised.runtime / "exporter.address"
            wait_until(address.exists, what=supervised.log)
            with Prometheus(directory, address.read_text().strip(), shorter_rules(), INTERVAL) as prometheus:
                vehicle = Vehicle(supervised, prometheus, time.time())
                vehicle.wait(lambda: prometheus.samples('count_over_time(up{job="watchdogd"}[30s]) >= 3'))
                yield vehicle


def test_every_counter_of_a_hang_is_there_before_the_first_one(vehicle: Vehicle) -> None:
    found = vehicle.prometheus.samples('watchdogd_hangs_total{worker="lane_dla"} == 0')
    assert {sample["metric"]["operation"] for sample in found} == set(HANG_KEYS)
    found = vehicle.prometheus.samples("count by (worker) (watchdogd_worker_restarts_total == 0)")
    assert {sample["metric"]["worker"] for sample in found} == {"lane_dla", "detector"}


def test_a_healthy_vehicle_raises_no_alert(vehicle: Vehicle) -> None:
    assert vehicle.prometheus.ask("alerts")["alerts"] == []


def test_the_first_hang_raises_its_alert_which_goes_pending_fires_and_is_resolved(vehicle: Vehicle) -> None:
    prometheus = vehicle.prometheus
    hung = time.monotonic()
    vehicle.supervised.touch("hang")
    vehicle.wait(lambda: prometheus.alerts("WatchdogdWorkerHung") == {"pending"})
    (first,) = prometheus.samples("increase(watchdogd_hangs_total[6s]) > 0")
    assert (first["metric"]["worker"], first["metric"]["operation"]) == ("lane_dla", "sync")
    vehicle.wait(lambda: prometheus.alerts("WatchdogdWorkerHung") == {"firing"})
    (alert,) = (a for a in prometheus.ask("alerts")["alerts"] if a["labels"]["alertname"] == "WatchdogdWorkerHung")
    assert alert["annotations"]["summary"] == "lane_dla hung in sync on vehicle-0001"
    vehicle.wait(lambda: prometheus.alerts("WatchdogdWorkerHung") == set())
    assert vehicle.alert_states("WatchdogdWorkerHung") == ["pending", "firing"]
    since = math.floor(time.monotonic() - hung)
    fired = prometheus.samples(f'ALERTS{{alertstate="firing"}}[{since}s]')
    assert {series["metric"]["alertname"] for series in fired} == {"WatchdogdWorkerHung"}


def test_the_hang_has_its_incident_as_an_exemplar_and_nothing_has_it_as_a_label(vehicle: Vehicle) -> None:
    verdict = vehicle.supervised.wait_event("verdict", "lane_dla")
    prometheus = vehicle.prometheus

    def found() -> list[dict[str, Any]]:
        query = 'watchdogd_hangs_total{worker="lane_dla"}'
        series = prometheus.ask("query_exemplars", query=query, start=vehicle.began, end=time.time())
        return [exemplar for one in series for exemplar in one["exemplars"]]

    vehicle.wait(found)
    assert {exemplar["labels"]["incident"] for exemplar in found()} == {verdict["incident"]}
    assert prometheus.samples('count({incident=~".+"})') == []


def queries() -> list[tuple[str, str]]:
    """Title and query of everything that the dashboard asks for."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(p["title"], target["expr"]) for p in dashboard["panels"] for target in p.get("targets", ())]
    found += [(annotation["name"], annotation["expr"]) for annotation in dashboard["annotations"]["list"]]
    assert sum(key == "expr" for key in keys(dashboard)) == len(found)
    return found


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys(inner)


def substituted(query: str) -> str:
    for name, instead in VARIABLES.items():
        query = query.replace(name, instead)
    assert "$" not in query, query
    return query


def test_every_query_of_the_dashboard_has_data(vehicle: Vehicle) -> None:
    prometheus = vehicle.prometheus
    assert len(queries()) > 30
    for title, query in queries():
        found = prometheus.ask(
            "query_range", query=substituted(query), start=vehicle.began, end=time.time(), step="500ms"
        )["result"]  # fmt: skip
        values = [float(value) for series in found for _, value in series["values"]]
        assert any(map(math.isfinite, values)), (title, query)


def test_every_variable_of_the_dashboard_has_values(vehicle: Vehicle) -> None:
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    for variable in (variable for variable in variables if variable["type"] == "query"):
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]  # None fails the test too
        assert vehicle.prometheus.ask(f"label/{label}/values", **{"match[]": substituted(series)})


def test_a_supervisor_that_stands_still_raises_an_alert_and_its_exporter_goes_on(vehicle: Vehicle) -> None:
    process = vehicle.supervised.process
    process.send_signal(signal.SIGSTOP)
    try:
        vehicle.wait(lambda: vehicle.prometheus.alerts("WatchdogdSupervisorStale") == {"firing"})
    finally:
        process.send_signal(signal.SIGCONT)
    vehicle.wait(lambda: vehicle.prometheus.alerts("WatchdogdSupervisorStale") == set())


def test_an_exporter_that_is_gone_raises_an_alert(vehicle: Vehicle) -> None:
    process = psutil.Process(vehicle.supervised.process.pid)
    exporter = next(child for child in process.children() if "watchdogd.exporter" in child.cmdline())
    exporter.kill()  # its successor takes another free port, where nobody looks for it
    vehicle.wait(lambda: vehicle.prometheus.alerts("WatchdogdExporterDown") == {"firing"})
    assert vehicle.prometheus.alerts("WatchdogdAbsent") == set()
