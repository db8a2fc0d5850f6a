"""The collector: at a scrape, one reading of the board, the heartbeats and ``/proc``.

Invariant: scrapes that come close together share one rendering, so that their number costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.registry import Collector

from watchdogd.exporter import families
from watchdogd.exporter.history import Histories, processes
from watchdogd.exporter.server import Page, shared
from watchdogd.exporter.text import render
from watchdogd.publish import board
from watchdogd.view import status


class Exposition(Collector):
    def __init__(self, runtime_dir: str) -> None:
        self._path = os.path.join(runtime_dir, board.FILE_NAME)
        self.histories = Histories()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.page = shared(lambda: Page(200, CONTENT_TYPE_LATEST, render(self.registry)))
        self.openmetrics = shared(lambda: Page(200, OPENMETRICS_TYPE, render(self.registry, openmetrics=True)))

    def state_dir(self) -> str:
        """Of the supervisor that runs or ran last; empty where nobody knows."""
        try:
            return str(board.read(self._path).body.get("supervisor", {}).get("state_dir", ""))
        except board.BoardError:
            return ""

    def look(self) -> board.Published | None:
        """Follow the workers to their present incarnations; None without a board."""
        try:
            published = board.read(self._path)
        except board.BoardError:
            return None
        self.histories.look(published.body.get("workers", []), time.monotonic_ns(), time.time())
        return published

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not collect."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield families.build_info()
        published = self.look()
        now_ns = time.monotonic_ns()
        yield families.supervisor_up(published is not None and status.fault(published, now_ns) is None)
        if published is not None:
            yield from families.of_supervisor(published, now_ns, time.time())
            yield from families.of_workers([self._worker(body, now_ns) for body in published.body.get("workers", [])])

    def _worker(self, body: Mapping[str, Any], now_ns: int) -> families.Worker:
        history = self.histories[body["name"]]
        pid, pulse = body["pid"], history.pulse
        return families.Worker(
            body=body,
            totals=history.totals(),
            in_flight=status.calls_in_flight(pulse, now_ns) if pid is not None and pulse is not None else {},
            started_at=history.started_at,
            last_step_at=history.last_step_at,
            processes=None if pid is None else _sample(processes(pid, pulse)),
        )


def _sample(pids: list[int]) -> families.ProcessSample | None:
    """Sums over the processes that are still there; a figure that one of them does not tell us is unknown."""
    resident: int | None = 0
    descriptors: int | None = 0
    threads: int | None = 0
    found = False
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                resident = _sum(resident, process.memory_info().rss)
                threads = _sum(threads, process.num_threads())
                try:
                    descriptors = _sum(descriptors, process.num_fds())
                except psutil.AccessDenied:
                    descriptors = None
            found = True
        except psutil.NoSuchProcess:
            continue
    return families.ProcessSample(resident, descriptors, threads) if found else None


def _sum(total: int | None, value: int) -> int | None:
    return None if total is None else total + value
