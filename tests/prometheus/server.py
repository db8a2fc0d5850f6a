"""Debian's real Prometheus for one test: started on a free port with the project's rules, asked over its API.

Invariant: at the end of the ``with`` it has ended and its data are gone.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.helpers.running import ROOT, free_port, wait_until

CONFIG = ROOT / "config" / "prometheus"
RULES = CONFIG / "watchdogd.rules.yml"
UNPACKED = ROOT / ".venv" / "debian" / "usr" / "bin"  # where `make test-packages` puts it


def program(name: str) -> str:
    """``prometheus`` or ``promtool``; skips the test where there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    if found is None:
        pytest.skip(f"no {name} on PATH or in {UNPACKED}: `make test-packages` gets it as root, on Debian or Ubuntu")
    return found


def rules() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


class Prometheus:
    """Scrapes ``target`` under the shipped configuration, with other intervals, and the given rules."""

    def __init__(self, directory: Path, target: str, rule_groups: dict[str, Any], interval: str) -> None:
        config = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": interval, "evaluation_interval": interval}
        (scrape,) = config["scrape_configs"]
        (static,) = scrape["static_configs"]
        static["targets"] = [target]
        (directory / "watchdogd.rules.yml").write_text(yaml.safe_dump(rule_groups))
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._port = free_port()
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [
                program("prometheus"), "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{self._port}",
                "--storage.tsdb.path=data", "--log.level=warn", "--enable-feature=exemplar-storage",
            ],
            cwd=directory, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self._directory = directory

    def __enter__(self) -> Prometheus:
        wait_until(lambda: self._process.poll() is not None or self._ready(), what=self.log)
        assert self._process.poll() is None, self.log()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.close()
        shutil.rmtree(self._directory / "data", ignore_errors=True)

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def _ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == 200
        except ConnectionRefusedError:
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, what: str, **parameters: str | float) -> Any:
        """``data`` of an answer of its API."""
        status, body = self._get(f"/api/v1/{what}?{urlencode(parameters)}")
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), (what, parameters, answer)
        return answer["data"]

    def samples(self, query: str) -> list[dict[str, Any]]:
        """Of an instant query."""
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def alerts(self, name: str) -> set[str]:
        """The states in which an alert now is."""
        return {alert["state"] for alert in self.ask("alerts")["alerts"] if alert["labels"]["alertname"] == name}
