"""The program that asks a worker how it gets on, against real servers, good and bad, and real commands."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

from tests.helpers.endpoint import (
    Endpoint,
    answers,
    breaks_off,
    drips,
    floods,
    floods_the_head,
    hangs,
    is_silent_and_closes,
)
from tests.helpers.running import gone, wait_until
from watchdogd.decide.progress import Sample
from watchdogd.observe.sources import lines

READER = (sys.executable, "-m", "watchdogd.observe.sources.progress")
COUNTER, PENDING = "vllm:iteration_tokens_total_count", "vllm:num_requests_running"


def once(*words: str, interval: str = "5", **environment: str) -> Sample:
    ran = subprocess.run(
        [*READER, "--interval", interval, "--once", *words], env={**os.environ, **environment}, capture_output=True,
        text=True, check=True, timeout=30,
    )  # fmt: skip
    assert ran.stderr == ""
    (line,) = ran.stdout.splitlines()
    return lines.progress(line)


def metrics(url: str, counter: str = COUNTER, pending: str = PENDING, interval: str = "5") -> Sample:
    return once("--counter", counter, "--pending", pending, "metrics", url, interval=interval)


def vllm(steps: int, running: int, engines: int = 1) -> str:
    """What a vLLM server says, by the library that it uses."""
    registry = CollectorRegistry()
    labels = ["model_name", "engine"]
    tokens = Histogram("vllm:iteration_tokens_total", "Tokens per engine step.", labels, registry=registry)
    requests = Gauge(PENDING, "Requests in execution.", labels, registry=registry)
    Gauge("vllm:num_requests_waiting", "Requests that wait.", labels, registry=registry).labels("m", "0").set(9)
    for engine in range(engines):
        for _ in range(steps):
            tokens.labels("m", str(engine)).observe(17)
        requests.labels("m", str(engine)).set(running)
    return generate_latest(registry).decode()


# --- metrics --------------------------------------------------------------------------------------------------------


def test_counter_and_gauge_are_read_from_what_vllm_says() -> None:
    with Endpoint(answers(vllm(5, 2))) as endpoint:
        begun_ns = time.monotonic_ns()
        sample = metrics(endpoint.url)
        assert sample._replace(begun_ns=0) == Sample(0, True, "", 5.0, 2.0)
        assert begun_ns < sample.begun_ns < time.monotonic_ns()


def test_samples_of_a_name_are_summed_and_a_selector_chooses_some() -> None:
    with Endpoint(answers(vllm(5, 2, engines=3))) as endpoint:
        assert metrics(endpoint.url)[-2:] == (15.0, 6.0)
        chosen = metrics(endpoint.url, f'{COUNTER}{{engine="1"}}', f'{PENDING}{{engine="2",model_name="m"}}')
        assert chosen[-2:] == (5.0, 2.0)
        assert metrics(endpoint.url, f'{COUNTER}{{engine="7"}}')[-2:] == (None, 6.0)


def test_a_name_that_only_begins_alike_is_another_series() -> None:
    with Endpoint(answers("run 1\nrunning 7\nruns_total 8\n")) as endpoint:
        assert metrics(endpoint.url, "runs_total", "run")[-2:] == (8.0, 1.0)


def test_what_is_not_there_is_not_zero() -> None:
    with Endpoint(answers("other 1\n")) as endpoint:
        sample = metrics(endpoint.url)
        assert sample.ok and sample[-2:] == (None, None)


def test_a_value_that_is_no_number_comes_as_such() -> None:
    with Endpoint(answers("c NaN\np +Inf\n")) as endpoint:
        counter, pending = metrics(endpoint.url, "c", "p")[-2:]
        assert counter is not None and math.isnan(counter) and pending == math.inf


@pytest.mark.parametrize("line", ['c{a="b 1', "c", "c one", 'c{="b"} 1', "c{}} 1"])
def test_a_line_of_its_own_that_cannot_be_read_fails(line: str) -> None:
    with Endpoint(answers(f"{line}\np 1\n")) as endpoint:
        sample = metrics(endpoint.url, "c", "p")
        assert not sample.ok and sample.why.startswith("c cannot be read")


def test_a_line_of_others_that_cannot_be_read_is_not_its_matter() -> None:
    with Endpoint(answers("x{ one\nc 1\np 2\n\x00\xff\n")) as endpoint:
        assert metrics(endpoint.url, "c", "p")[-2:] == (1.0, 2.0)


@pytest.mark.parametrize("text", ["c 1\np 12", ""])
def test_an_answer_that_ends_within_a_line_fails(text: str) -> None:
    with Endpoint(answers(text)) as endpoint:
        assert metrics(endpoint.url, "c", "p").why == "broke off within a line"


# --- servers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (answers(status=503), "answers 503"),
        (answers(status=302, Location="/metrics"), "answers 302"),  # round and round
        (answers(status=302, Location="ftp://127.0.0.1/"), "unknown url type: ftp"),
        (answers(status=302, Location="file:///etc/passwd"), "answers 302"),
        (floods_the_head, "LineTooLong|HTTPException|BadStatusLine"),
        (is_silent_and_closes, "RemoteDisconnected"),
        (hangs, "no answer within 0.4 s"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "metrics"])
def test_a_server_that_does_not_answer_as_it_should_has_failed(behaviour: object, why: str, kind: str) -> None:
    with Endpoint(behaviour) as endpoint:  # type: ignore[arg-type]  # what parametrize hands in
        began = time.monotonic()
        sample = (
            metrics(endpoint.url, interval="0.4") if kind == "metrics" else once(kind, endpoint.url, interval="0.4")
        )
        assert time.monotonic() - began < 5
        assert not sample.ok and any(part in sample.why for part in why.split("|")), sample
        assert endpoint.asked <= 5


@pytest.mark.parametrize(("behaviour", "why"), [(drips, "no answer within 0.4 s"), (breaks_off, "broke off 990 bytes")])
def test_a_body_that_does_not_come_fails_metrics_and_no_health_endpoint(behaviour: object, why: str) -> None:
    with Endpoint(behaviour) as endpoint:  # type: ignore[arg-type]  # as above
        sample = metrics(endpoint.url, interval="0.4")
        assert not sample.ok and why in sample.why
        assert once("http", endpoint.url).ok  # its status is its word


def test_a_body_without_end_is_bounded() -> None:
    with Endpoint(floods) as endpoint:
        command = [*READER, "--interval", "20", "--once", "--counter", "c", "--pending", "p", "metrics", endpoint.url]
        limit = 512 << 20
        ran = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )  # fmt: skip
        assert lines.progress(ran.stdout.strip()).why == "answers with more than 4 MiB"


def test_a_redirect_is_followed() -> None:
    with Endpoint(answers(vllm(1, 1))) as target, Endpoint(answers(status=302, Location=target.url)) as endpoint:
        assert metrics(endpoint.url)[-2:] == (1.0, 1.0)


def test_no_proxy_is_asked() -> None:
    with Endpoint(answers()) as endpoint:
        assert once("http", endpoint.url, http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1").ok


def test_nobody_there_has_failed() -> None:
    with Endpoint(answers()) as endpoint:
        url = endpoint.url
    assert "refused" in once("http", url).why


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("true", ""),
        ("exit 3", "exited with status 3"),
        ("kill -9 $$", "killed by signal 9"),
        ("yes; true", "no answer within 0.4 s"),
        ('test "$0 $1" = "-- --once"', ""),
    ],
)
def test_the_exit_status_of_a_command_is_its_answer(command: str, why: str) -> None:
    sample = once("command", "sh", "-c", command, "--", "--once", interval="0.4")
    assert (sample.ok, sample.why) == (not why, why)


def test_a_command_that_is_not_there_has_failed() -> None:
    assert once("command", "/nonexistent/program").why.startswith("cannot start")


@pytest.mark.parametrize("then", ["sleep 60", "true"])
def test_a_command_is_ended_with_all_that_is_in_its_group(tmp_path: Path, then: str) -> None:
    told = tmp_path / "pids"
    once("command", "sh", "-c", f"sleep 60 & echo $$ $! > {told}; {then}", interval="0.5")
    for pid in map(int, told.read_text().split()):
        wait_until(lambda pid=pid: gone(pid))  # type: ignore[misc]  # bound


# --- its life -------------------------------------------------------------------------------------------------------


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*READER, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_asks_every_interval_and_ends_when_nobody_reads() -> None:
    with Endpoint(answers()) as endpoint, running("--interval", "0.1", "http", endpoint.url) as process:
        assert process.stdout is not None
        begun = [json.loads(process.stdout.readline())["begun_ns"] for _ in range(6)]
        gaps = [(after - before) / 1e9 for before, after in pairwise(begun)]
        assert all(gap > 0.09 for gap in gaps) and sum(gaps) < 5
        process.stdout.close()
        assert process.wait(10) == 0


def test_attempts_that_fail_late_come_as_often() -> None:
    with Endpoint(hangs) as endpoint, running("--interval", "0.2", "http", endpoint.url) as process:
        assert process.stdout is not None
        begun = [json.loads(process.stdout.readline())["begun_ns"] for _ in range(4)]
        assert (begun[-1] - begun[0]) / 1e9 < 3


def test_a_command_dies_with_it(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with running("--interval", "30", "command", "sh", "-c", f"echo $$ > {told}; exec sleep 60") as process:
        wait_until(lambda: told.exists() and told.read_text().strip())
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: gone(int(told.read_text())))
