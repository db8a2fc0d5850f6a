"""The exporter as a process: many scrapers, slow ones, a taken port, and the end of its parent."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.fake_runtime import SOURCE, FakeRuntime
from tests.helpers.running import wait_until
from watchdogd.exporter import server

TIMEOUT = 20.0


class Exporter:
    """An exporter process on a free port."""

    def __init__(self, directory: Path) -> None:
        self.process = start(directory, "127.0.0.1:0")
        path = directory / "exporter.address"
        wait_until(lambda: path.exists() or self.process.poll() is not None)
        host, _, port = path.read_text().strip().rpartition(":")
        self.address = (host, int(port))

    def ask(self, path: str = "/metrics", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        with socket.create_connection(self.address, TIMEOUT) as client:
            client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: test\r\n\r\n".encode())
            return answer(client)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)
        for pipe in (self.process.stdin, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def usage(self) -> psutil.Process:
        return psutil.Process(self.process.pid)


def start(directory: Path, listen: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "watchdogd.exporter", "--runtime-dir", str(directory), "--listen", listen]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the server ends the connection."""
    data = b""
    while received := client.recv(1 << 20):
        data += received
    if not data:
        raise ConnectionResetError("ended without an answer")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(body) in (int(headers["Content-Length"]), 0)
    return int(first.split()[1]), headers, body


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    runtime = FakeRuntime(tmp_path)
    for number in range(8):
        runtime.incarnation(f"model_{number}", 3).lane(0, steps_done=number)
    runtime.sources = [SOURCE]
    runtime.publish()
    return runtime


@pytest.fixture
def exporter(runtime: FakeRuntime) -> Iterator[Exporter]:
    exporter = Exporter(runtime.directory)
    yield exporter
    exporter.end()


def test_a_scrape_parses_and_tells_of_every_worker(exporter: Exporter) -> None:
    status, headers, body = exporter.ask()
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    steps = {sample.labels["worker"]: sample.value for sample in families["watchdogd_steps"].samples}
    assert steps == {f"model_{number}": number for number in range(8)}


def test_health_and_readiness_answer_in_json_and_by_their_status(exporter: Exporter, runtime: FakeRuntime) -> None:
    runtime.tick()
    assert exporter.ask("/healthz")[0] == 200
    status, headers, body = exporter.ask("/readyz")
    assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", {"ok": True, "reasons": []})
    runtime.workers["model_5"]["phase"] = "quarantined"
    runtime.publish()
    assert exporter.ask("/healthz")[0] == 200
    status, _, body = exporter.ask("/readyz")
    assert (status, json.loads(body)["reasons"]) == (503, ["worker model_5: quarantined"])


def test_health_turns_bad_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as supervisor:
        runtime = FakeRuntime(tmp_path, pid=supervisor.pid)
        runtime.publish()
        exporter = Exporter(tmp_path)
        runtime.tick()
        assert exporter.ask("/healthz")[0] == 200
        supervisor.kill()
    status, _, body = exporter.ask("/healthz")
    assert (status, json.loads(body)["ok"]) == (503, False)
    assert "is gone" in json.loads(body)["reason"]
    assert exporter.ask("/metrics")[0] == 200
    exporter.end()


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/other", "GET", 404),
        ("/", "GET", 200),
        ("/metrics", "POST", 405),
        ("/metrics?x=1", "GET", 200),
        ("/metrics", "HEAD", 200),
    ],
)
def test_other_requests_get_their_status(exporter: Exporter, path: str, method: str, status: int) -> None:
    told, headers, body = exporter.ask(path, method)
    assert told == status
    assert (len(body) > 0) == (method != "HEAD") and int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("request_", [b"garbage\r\n\r\n", b"GET /" + b"x" * 20_000 + b"\r\n\r\n"])
def test_what_is_not_http_gets_an_error_and_the_exporter_goes_on(exporter: Exporter, request_: bytes) -> None:
    with socket.create_connection(exporter.address, TIMEOUT) as client:
        client.sendall(request_)
        status, _, _ = answer(client)
    assert status == 400
    assert exporter.ask()[0] == 200


def test_a_hundred_scrapes_at_once_are_all_answered_by_one_thread(exporter: Exporter) -> None:
    exporter.ask()
    before = exporter.usage().memory_info().rss
    with ThreadPoolExecutor(100) as pool:
        answers = [future.result() for future in [pool.submit(exporter.ask) for _ in range(100)]]
    assert {status for status, _, _ in answers} == {200}
    assert all(len(body) == int(headers["Content-Length"]) for _, headers, body in answers)
    usage = exporter.usage()
    assert usage.num_threads() == 1
    assert usage.memory_info().rss - before < 16 << 20


def silent(exporter: Exporter, count: int, sent: bytes) -> list[socket.socket]:
    """Clients that ask for a page, or begin to, and do not read."""
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(TIMEOUT)
        client.connect(exporter.address)
        client.sendall(sent)
        clients.append(client)
    return clients


@pytest.mark.parametrize("sent", [b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_slow_clients_delay_nobody_and_cost_little(exporter: Exporter, sent: bytes) -> None:
    exporter.ask()
    before = exporter.usage().memory_info().rss
    clients = silent(exporter, 200, sent)
    began = time.monotonic()
    for _ in range(5):
        assert exporter.ask()[0] == 200
    assert time.monotonic() - began < 5
    assert exporter.usage().memory_info().rss - before < 24 << 20
    assert exporter.usage().num_threads() == 1
    for client in clients:
        client.close()


def dropped(client: socket.socket) -> bool:
    """Whether it is, sooner or later."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_connections_are_bounded_and_make_room_again(exporter: Exporter) -> None:
    clients = silent(exporter, server.MOST_CONNECTIONS + 20, b"GET ")
    for client in clients[server.MOST_CONNECTIONS :]:
        assert dropped(client)
    assert select.select(clients[: server.MOST_CONNECTIONS], [], [], 0)[0] == []
    for client in clients:
        client.close()

    def served() -> bool:
        try:
            return exporter.ask()[0] == 200
        except ConnectionError:
            return False

    wait_until(served)


def test_a_client_that_does_not_finish_is_dropped(exporter: Exporter) -> None:
    (client,) = silent(exporter, 1, b"GET ")
    began = time.monotonic()
    assert dropped(client)
    assert server.LONGEST_SECONDS - 1 < time.monotonic() - began < server.LONGEST_SECONDS + 5


def test_it_ends_with_its_parents_end_of_the_pipe(exporter: Exporter) -> None:
    assert exporter.process.stdin is not None
    exporter.process.stdin.close()
    assert exporter.process.wait(TIMEOUT) == 0


def test_it_does_not_end_without_a_parent_to_follow(runtime: FakeRuntime) -> None:
    command = [sys.executable, "-m", "watchdogd.exporter", "--runtime-dir", str(runtime.directory)]
    process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL)
    wait_until((runtime.directory / "exporter.address").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    process.wait(TIMEOUT)


def test_a_taken_port_is_told_with_its_remedy(runtime: FakeRuntime) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(runtime.directory, address)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 75
    message = errors.decode()
    assert message.startswith(f"watchdogd exporter: cannot listen on {address}: ")
    assert "choose another metrics.listen" in message and message.count("\n") == 1
    assert not (runtime.directory / "exporter.address").exists()


def test_an_incarnation_between_two_scrapes_is_seen(exporter: Exporter, runtime: FakeRuntime) -> None:
    def steps() -> float:
        families: Any = text_string_to_metric_families(exporter.ask()[2].decode())
        return float(next(s.value for f in families for s in f.samples if s.labels.get("worker") == "model_7"
                          and s.name == "watchdogd_steps_total"))  # fmt: skip

    def holds(name: str) -> Callable[[], bool]:
        return lambda: any(file.path.endswith(name) for file in exporter.usage().open_files())

    assert steps() == 7
    runtime.incarnation("model_7", 4).lane(0, steps_done=100)
    runtime.publish()
    wait_until(holds("model_7.4.heartbeat"))
    os.unlink(runtime.directory / "model_7.4.heartbeat")
    runtime.incarnation("model_7", 5).lane(0, steps_done=1000)
    runtime.publish()
    wait_until(holds("model_7.5.heartbeat"))
    assert steps() == 1107


def test_it_is_small_and_idle_when_nobody_scrapes(exporter: Exporter) -> None:
    exporter.ask()
    began, before = time.monotonic(), sum(exporter.usage().cpu_times()[:2])
    wait_until(lambda: time.monotonic() - began > 3)
    spent = sum(exporter.usage().cpu_times()[:2]) - before
    assert spent <= 0.06  # 2 % of a core
    assert exporter.usage().memory_info().rss <= 60 << 20
