"""Workers in scopes of their own, and what becomes of them when their supervisor ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.systemd.service import HERE, UNIT, Service, gone, run, wait_until

SLICE = "gpu-watchdogd-workers.slice"
KEEP: dict[str, Any] = {"on_supervisor_exit": "keep", "deadlines": {"startup": "20s", "step": "500ms", "sync": "200ms"}}
# A descendant that nobody can find by its session, its parent or its environment.
HIDDEN = (
    "child = \"trap '' TERM; echo $$ > $HERE/hidden; while :; do sleep 1; done\"\n"
    "os.spawnlp(os.P_NOWAIT, 'setsid', 'setsid', '--fork', 'env', '-i', f'HERE={HERE}', 'PATH=/usr/bin:/bin',\n"
    "           'sh', '-c', child)\nwait_for('hidden')\n"
)


def _cgroup(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def each_worker_has_a_scope_of_its_own_outside_the_service(service: Service) -> None:
    service.configure({"a": "serve()", "b": "serve()"})
    pid = service.start()
    groups = [_cgroup(worker["pid"]) for worker in service.view()["workers"]]
    assert all(f"/{SLICE}/watchdogd-" in group and group.endswith(".scope") for group in groups), groups
    assert len(set(groups)) == 2
    assert UNIT in _cgroup(pid)
    assert [worker["note"] for worker in service.view()["workers"] if worker.get("note")] == []
    service.stop()
    wait_until(lambda: not run("systemctl", "list-units", "--plain", "--no-legend", "watchdogd-*.scope").stdout)


def no_descendant_of_a_worker_can_hide_from_its_end(service: Service) -> None:
    once = f"worker.ready()\nframe()\nif INCARNATION == 1:\n    {HIDDEN.replace(chr(10), chr(10) + '    ')}\n"
    service.configure({"a": once + "    with worker.call('sync'): hang()\nserve()"}, **KEEP)
    service.systemctl("start", UNIT)
    wait_until(lambda: (HERE / "hidden").exists() and (HERE / "hidden").read_text().strip(), service.log)
    hidden = int((HERE / "hidden").read_text())
    wait_until(lambda: service.events("gone", worker="a"), service.log)
    assert gone(hidden)
    assert hidden not in service.leftovers()


def a_killed_supervisor_is_followed_by_one_that_adopts(service: Service) -> None:
    service.configure({"a": "serve()", "b": "serve()"}, **KEEP)
    pid = service.start()
    workers = {worker["name"]: worker["pid"] for worker in service.view()["workers"]}
    steps = service.worker("a")["steps"]
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: service.pid() not in (0, pid), service.log)
    service.wait_running()
    service.facts["watched_again_seconds"] = round(time.monotonic() - killed, 2)
    assert {worker["name"]: worker["pid"] for worker in service.view()["workers"]} == workers
    wait_until(lambda: service.events("supervisor", change="adopted"), service.log)
    assert service.events("supervisor", change="adopted")[0]["workers"] == ["a", "b"]
    wait_until(lambda: service.worker("a")["steps"] > steps, service.log)
    assert service.events("gone") == []
    service.stop()
    assert all(map(gone, workers.values()))


def one_that_stands_still_is_replaced_and_its_workers_go_on(service: Service) -> None:
    service.configure({"a": "serve()"}, **KEEP)
    pid = service.start()
    worker = service.worker("a")["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: service.pid() not in (0, pid), service.log)
    service.wait_running()
    assert (service.worker("a")["pid"], service.worker("a")["incarnation"]) == (worker, 1)
    assert service.events("gone") == service.events("verdict") == []


def a_restart_of_the_unit_ends_the_workers_and_starts_others(service: Service) -> None:
    service.configure({"a": "serve()"}, **KEEP)
    service.start()
    worker = service.worker("a")["pid"]
    service.systemctl("restart", UNIT)
    service.wait_running()
    assert gone(worker)
    assert service.worker("a")["pid"] != worker
    assert [event["signal"] for event in service.events("signal", worker="a")] == ["SIGTERM"]


def a_reload_of_the_unit_keeps_the_workers(service: Service) -> None:
    service.configure({"a": "serve()", "b": "serve()"})  # also those that would end with their supervisor
    pid = service.start()
    workers = {worker["name"]: worker["pid"] for worker in service.view()["workers"]}
    service.systemctl("reload", UNIT)
    wait_until(lambda: len(service.events("supervisor", change="started")) == 2, service.log)
    service.wait_running()
    assert service.pid() == pid
    assert {worker["name"]: worker["pid"] for worker in service.view()["workers"]} == workers
    assert service.show("NRestarts") == "0"
    wait_until(lambda: service.show("ActiveState") == "active", service.log)
