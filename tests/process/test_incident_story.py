"""A hang, from the verdict to what a person reads of it the next morning."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.helpers.running import KEPT, Supervised, wait_until, worker
from tests.process.test_cli import run

HANG = """
serve_until('go')
if INCARNATION == 1:
    with worker.step(), worker.stage('plugin'), worker.call('sync'):
        tell('in')
        hang()
serve()"""
SECRET = "hunter2"


def test_the_next_morning_the_first_three_lines_say_what_hung_where_since_when_and_who_first() -> None:
    keys: dict[str, Any] = {"deadlines": {"sync": "150ms"}, "accelerator": "gpu0", "evidence": "full"}
    victim = worker(HANG, **keys, environment={"API_TOKEN": SECRET, "MODEL": "a"})
    with Supervised({"a": victim, "b": worker("serve()", accelerator="gpu0")}, incidents=KEPT) as running:
        for name in ("a", "b"):
            running.wait_phase(name, "running", 1)
        wait_until(lambda: running.snapshot()["incidents"]["tools"] is not None, what=running.log)  # else: memory
        running.touch("go")
        verdict = running.wait_event("verdict", "a")
        wait_until(lambda: "closed: recovered" in _show(running).stdout, what=running.log)
        what, cause, first, *rest = _show(running).stdout.splitlines()
        assert f"a#1 hung: call sync in stage plugin on gpu0, pid {verdict['pid']}" in what
        assert ", since 20" in what and "deadline 150 ms" in what
        assert f"sync in stage plugin of worker a (thread {verdict['tid']})" in cause
        assert first.startswith("first     a (sync ")
        told = "\n".join(rest)
        parts = ("signalled", "gone: killed by signal 9", "ready", "python stacks", "others    b:", "next      - ")
        assert [part for part in parts if part not in told] == []
        assert [path for path in running.state.rglob("*") if path.is_file() and SECRET in path.read_text()] == []
        document = json.loads(run("incidents", "show", verdict["incident"], "--json", "-c", running.config).stdout)
        assert ["API_TOKEN", "(redacted)"] in document["environment"] and ["MODEL", "a"] in document["environment"]
        listed = run("incidents", "--worker", "a", "--verdict", "call", "-c", running.config)
        assert verdict["incident"] in listed.stdout and "recovered" in listed.stdout


def _show(running: Supervised) -> subprocess.CompletedProcess[str]:
    return run("incidents", "show", "last", "-c", running.config, env={"COLUMNS": "0"})
