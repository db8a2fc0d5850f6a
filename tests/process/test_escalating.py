"""What the escalator publishes: changed when what it tells has changed, and not else."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from tests.process.conftest import Running
from watchdogd.act.escalating import FILE_NAME, Escalator
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide.escalation_memory import Memory
from watchdogd.model import EscalationSettings, Phase, SupervisorSettings, WorkerSettings
from watchdogd.observe import procfs
from watchdogd.publish.events import boot_id_text


def test_a_refused_cause_is_published_when_it_begins_and_when_it_is_over(running: Running, tmp_path: Path) -> None:
    runtime = Runtime(SupervisorSettings(str(tmp_path / "run"), str(tmp_path / "state")))
    boot_id, now_ns = procfs.boot_id(), time.monotonic_ns()
    spent = Watched(WorkerSettings("d", ("d",)))
    spent.state = replace(spent.state, phase=Phase.QUARANTINED, since_ns=7)
    seen = Memory().notice((("quarantined d", 7),), boot_id_text(boot_id), now_ns)
    tmp_path.joinpath("state", FILE_NAME).write_bytes(seen.encode())
    settings = EscalationSettings(ask=("true",))
    escalator = Escalator(settings, [spent], running.runs, running.journal, runtime, boot_id, lambda _: None)
    escalator.start({}, now_ns)
    published = []
    for phase in (Phase.QUARANTINED, Phase.QUARANTINED, Phase.RUNNING, Phase.RUNNING):
        spent.state = replace(spent.state, phase=phase)
        escalator.dirty = False
        escalator.tick(now_ns)
        published.append((escalator.dirty, (escalator.describe() or {})["refused"]))
    refused = ["d, which is required, is in quarantine"]
    assert published == [(True, refused), (False, refused), (True, []), (False, [])]
