"""What the service leaves in systemd's journal, and what the doctor says where systemd runs."""

from __future__ import annotations

import json
from typing import Any

from tests.systemd.service import CONFIG, UNIT, Service, run, wait_until
from watchdogd.publish.events import EventKind
from watchdogd.publish.journald import MESSAGE_IDS

HANG_ONCE = "worker.ready()\nif INCARNATION == 1:\n    with worker.call('sync'):\n        hang()\nserve()"


def a_hang_is_in_the_journal_with_its_fields_and_belongs_to_the_unit(service: Service) -> None:
    service.configure({"model_h": HANG_ONCE}, deadlines={"sync": "100ms"})
    service.systemctl("start", UNIT)
    life = f"_SYSTEMD_INVOCATION_ID={service.show('InvocationID')}"
    wait_until(lambda: _entries(life, "WATCHDOGD_KIND=ready", "WATCHDOGD_INCARNATION=2"), service.log)
    (verdict,) = _entries(life, f"MESSAGE_ID={MESSAGE_IDS[EventKind.VERDICT]}")
    assert (verdict["WATCHDOGD_WORKER"], verdict["WATCHDOGD_OPERATION"], verdict["PRIORITY"]) == (
        "model_h",
        "sync",
        "3",
    )
    assert (verdict["_SYSTEMD_UNIT"], verdict["_TRANSPORT"]) == (UNIT, "journal")
    service.stop()
    wait_until(lambda: any("supervisor ended" in entry["MESSAGE"] for entry in _entries(life)), service.log)


def the_doctor_finds_systemd_the_bus_and_the_journal(service: Service) -> None:
    service.configure({"a": "serve()"})
    told = run("watchdogd", "doctor", "-c", str(CONFIG), "--json")
    found = {check["name"]: check["state"] for check in json.loads(told.stdout)["checks"]}
    wanted = ("systemd", "bus", "journal", "realtime", "memory_lock", "runtime_dir", "python", "other_program")
    assert {name: found[name] for name in wanted} == dict.fromkeys(wanted, "ok"), told.stdout
    assert (told.returncode, json.loads(told.stdout)["can_run"]) == (0, True)


def _entries(*matches: str) -> list[dict[str, Any]]:
    told = run("journalctl", "--quiet", "--output=json", *matches)
    return [json.loads(line) for line in told.stdout.splitlines()]
