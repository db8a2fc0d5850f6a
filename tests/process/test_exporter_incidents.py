"""Timelines as the exporter serves them: which path leads to a file, and which does not; and the exemplar of a hang."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.helpers.fake_runtime import FakeRuntime
from tests.helpers.incidents import ID
from tests.helpers.running import wait_until
from tests.process.test_exporter import TIMEOUT, Exporter, answer
from watchdogd.exporter.incidents import MOST, Incidents, Links
from watchdogd.incidents import timeline

SECRET = b"not for everybody"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """With one incident that has a timeline, and a file that nobody is to get."""
    folder = tmp_path / "state" / "incidents" / ID
    folder.mkdir(parents=True)
    (folder / "timeline.html").write_bytes(b"<!doctype html>" + b"x" * 100_000)
    (folder / "incident.json").write_bytes(SECRET)
    (tmp_path / "state" / "secret").write_bytes(SECRET)
    return tmp_path / "state"


@pytest.fixture
def exporter(state: Path) -> Iterator[Exporter]:
    runtime = FakeRuntime(state.parent)
    runtime.incarnation("model_h", 3)
    runtime.publish()
    exporter = Exporter(runtime.directory)
    yield exporter
    exporter.end()


def test_a_timeline_is_served_whole_and_under_a_policy(exporter: Exporter, state: Path) -> None:
    status, headers, body = exporter.ask(f"/incidents/{ID}/timeline.html")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == (state / "incidents" / ID / "timeline.html").read_bytes()
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and policy.endswith("sandbox")
    status, headers, body = exporter.ask(f"/incidents/{ID}/timeline.html", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "100015", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/incidents/",
        f"/incidents/{ID}",
        f"/incidents/{ID}/",
        f"/incidents/{ID}/incident.json",
        f"/incidents/{ID}/timeline.html/",
        f"/incidents/{ID}/../{ID}/timeline.html",
        f"/incidents/{ID}/timeline.html%00",
        f"/incidents//{ID}/timeline.html",
        f"/incidents/{ID}\n/timeline.html",
        "/incidents/../secret",
        "/incidents/%2e%2e/secret",
        "/incidents/../timeline.html",
        "/incidents/./timeline.html",
        "/incidents/.removed.x/timeline.html",
        "/incidents/20261121T041320Z-../../x-1.1/timeline.html",
        "/incidents/20990101T000000Z-lane_dla-4711.3/timeline.html",
    ],
)
def test_no_other_path_leads_to_a_file(exporter: Exporter, state: Path, path: str) -> None:
    (state / "timeline.html").write_bytes(SECRET)
    (state / "incidents" / "timeline.html").write_bytes(SECRET)
    (state / "incidents" / ".removed.x").mkdir()
    (state / "incidents" / ".removed.x" / "timeline.html").write_bytes(SECRET)
    status, _, body = exporter.ask(path)
    assert status in (400, 404) and SECRET not in body


@pytest.mark.parametrize("what", ["file", "folder", "root"])
def test_no_symbolic_link_is_followed(exporter: Exporter, state: Path, what: str) -> None:
    elsewhere = state.parent / "elsewhere"
    path = {"file": f"incidents/{ID}/timeline.html", "folder": f"incidents/{ID}", "root": "incidents"}[what]
    os.rename(state / path, elsewhere)
    (state / path).symlink_to(elsewhere)
    status, _, body = exporter.ask(f"/incidents/{ID}/timeline.html")
    assert status == 404 and b"doctype" not in body


def test_what_is_no_file_or_too_large_is_not_served_and_nobody_waits(exporter: Exporter, state: Path) -> None:
    path = state / "incidents" / ID / "timeline.html"
    path.unlink()
    os.mkfifo(path)
    assert exporter.ask(f"/incidents/{ID}/timeline.html")[0] == 404
    path.unlink()
    with path.open("wb") as file:
        file.truncate(timeline.MOST_BYTES + 1)
    assert exporter.ask(f"/incidents/{ID}/timeline.html")[0] == 404
    os.truncate(path, timeline.MOST_BYTES)
    status, _, body = exporter.ask(f"/incidents/{ID}/timeline.html")
    assert (status, len(body)) == (200, timeline.MOST_BYTES)


def test_many_slow_readers_of_a_large_timeline_cost_little_and_no_descriptor_stays(
    exporter: Exporter, state: Path
) -> None:
    os.truncate(state / "incidents" / ID / "timeline.html", timeline.MOST_BYTES)
    exporter.ask()
    usage = exporter.usage()
    before = usage.memory_info().rss
    clients = []
    for _ in range(100):
        client = socket.create_connection(exporter.address, TIMEOUT)
        client.sendall(f"GET /incidents/{ID}/timeline.html HTTP/1.1\r\n\r\n".encode())
        clients.append(client)
    assert exporter.ask()[0] == 200
    assert usage.memory_info().rss - before < 24 << 20
    for client in clients[:50]:
        client.close()
    assert all(len(answer(client)[2]) == timeline.MOST_BYTES for client in clients[50:52])
    for client in clients[50:]:
        client.close()
    wait_until(lambda: not any(file.path.endswith("timeline.html") for file in usage.open_files()))


def test_the_page_links_to_the_newest_timelines_alone(exporter: Exporter, state: Path) -> None:
    ids = [f"2026112{day}T041320Z-lane_dla-4711.{day}" for day in range(MOST + 2)]
    for name in ids:
        (state / "incidents" / name).mkdir()
        (state / "incidents" / name / "timeline.html").write_bytes(b"x")
    (state / "incidents" / ids[-1] / "timeline.html").unlink()  # not written yet
    body = exporter.ask("/")[2].decode()
    linked = [name for name in (*ids, ID) if f'href="/incidents/{name}/timeline.html"' in body]
    assert linked == ids[-MOST:-1]


def test_a_page_without_incidents_says_nothing_of_them(tmp_path: Path) -> None:
    assert Incidents(lambda: str(tmp_path)).links() == Links()
    assert Incidents(lambda: "").links() == Links()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become somebody else")
@pytest.mark.parametrize("mode", [0o750, 0o755])
def test_an_exporter_that_may_not_read_them_says_how_to_see_them(mode: int) -> None:
    code = """
import os, sys
from watchdogd.exporter.incidents import Incidents
os.setgroups([]); os.setgid(65534); os.setuid(65534)
incidents = Incidents(lambda: sys.argv[1])
page = incidents.page(sys.argv[2])
print(page.status, page.body.decode().strip(), incidents.links().problem)
"""
    with tempfile.TemporaryDirectory() as above:  # not below pytest's, which nobody else may enter
        folder = Path(above) / "incidents" / ID
        folder.mkdir(parents=True)
        (folder / "timeline.html").write_bytes(b"x")
        Path(above).chmod(0o755)
        (Path(above) / "incidents").chmod(mode)
        command = [sys.executable, "-c", code, above, f"{ID}/timeline.html"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    if mode == 0o755:
        assert told == "200  None"
    else:
        remedy = f"open {folder}/timeline.html on its machine, as one who may"
        assert told == f"403 the exporter's user may not read incidents; {remedy} Permission denied"


# --- the exemplar ---------------------------------------------------------------------------------------------------


def ask(exporter: Exporter, accept: str) -> tuple[dict[str, str], str]:
    with socket.create_connection(exporter.address, TIMEOUT) as client:
        client.sendall(f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())
        _, headers, body = answer(client)
    return headers, body.decode()


PROMETHEUS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
HUNG = {"id": ID, "verdict": "call", "operation": "sync", "time": "2026-11-21T04:13:20.104000Z"}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [(PROMETHEUS, "application/openmetrics-text"), ("text/plain", "text/plain"), ("*/*", "text/plain")],
)
def test_openmetrics_is_for_those_who_accept_it(exporter: Exporter, accept: str, kind: str) -> None:
    headers, body = ask(exporter, accept)
    assert headers["Content-Type"].split(";")[0] == kind
    assert body.endswith("# EOF\n") == (kind != "text/plain")


def test_the_hang_counter_has_the_incident_as_an_exemplar_and_no_label_has_it(tmp_path: Path) -> None:
    runtime = FakeRuntime(tmp_path)
    runtime.incarnation("model_h", 3, last_incident=HUNG)
    runtime.incarnation("model_a", 1, last_incident={**HUNG, "id": "other", "verdict": "crashed", "operation": None})
    runtime.publish()
    exporter = Exporter(tmp_path)
    try:
        parsed: Any = text_string_to_metric_families(ask(exporter, PROMETHEUS)[1])  # type: ignore[no-untyped-call]  # of the library
        samples = [sample for family in parsed for sample in family.samples]
        examples = [(sample.labels, sample.exemplar) for sample in samples if sample.exemplar is not None]  # fmt: skip
        ((labels, example),) = examples
        assert labels == {"worker": "model_h", "operation": "sync"}
        assert (example.labels, example.value, float(example.timestamp)) == ({"incident": ID}, 1.0, 1795234400.104)
        assert not any(ID in value for sample in samples for value in sample.labels.values())
        assert ID not in ask(exporter, "text/plain")[1]
    finally:
        exporter.end()
