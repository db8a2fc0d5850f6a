"""The ``on_verdict`` hook: a program that is told of each verdict, before anything is done about it.

Invariant: it costs the tick one fork and nothing more; what it answers is a word to ``veto.hold``, and nothing else
that it does, or fails to do, changes what happens to a worker.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from watchdogd.act.launching import NOT_FOR_WORKERS
from watchdogd.act.runs import Outcome, Runs
from watchdogd.act.watched import Watched
from watchdogd.decide import veto
from watchdogd.decide.orders import OpenIncident
from watchdogd.model import SECOND, Finding, HooksSettings
from watchdogd.places import RUNTIME_DIR
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal

NAME = "on_verdict"
MOST_RUNNING = 16  # at once: a worker that is only observed may have ten verdicts a second
LONGEST_DETAIL = 400  # characters of 4 bytes or, as \u0000, 6: with all else it fits into what a run may be given
PREFIX = "WATCHDOGD_"


class VerdictHook:
    def __init__(self, settings: HooksSettings, runs: Runs, journal: Journal, runtime_dir: str) -> None:
        self._settings = settings
        self._runs = runs
        self._journal = journal
        self._base = {**outside(os.environ), RUNTIME_DIR: runtime_dir}
        self._answers: dict[str, tuple[str, bool]] = {}  # by worker: the incident asked about last, and if vetoed

    def hold(self, watched: Watched, finding: Finding, now_ns: int) -> str | None:
        """As ``veto.hold``; before the verdict is told, too."""
        vetoed = None
        if watched.state.finding is finding:  # it is a verdict by now, with an incident
            incident, answer = self._answers.get(watched.settings.name, ("", False))
            vetoed = answer if incident == watched.state.incident else None
        return veto.hold(self._settings, finding.detected_ns, vetoed, now_ns)

    def tell(self, watched: Watched, opening: OpenIncident, now_ns: int) -> None:
        if not self._settings.on_verdict:
            return
        facts = _facts(watched, opening)
        told_ns = time.monotonic_ns()

        def done(outcome: Outcome, now_ns: int) -> None:
            vetoed = outcome.code == veto.VETO_STATUS and self._settings.veto
            if watched.state.incident == opening.incident:  # a late answer is none to the verdict after it
                self._answers[watched.settings.name] = (opening.incident, vetoed)
            self._journal.emit_limited(
                EventKind.HOOK, now_ns, worker=watched.settings.name, incarnation=facts["incarnation"],
                incident=opening.incident, hook=NAME, status=outcome.code, reason=outcome.text, veto=vetoed,
                told_ns=told_ns, seconds=round((now_ns - told_ns) / SECOND, 6),
            )  # fmt: skip

        if self._runs.count(NAME) >= MOST_RUNNING:
            done(Outcome(None, f"not run: {MOST_RUNNING} of them are running"), now_ns)
            return
        deadline_ns = opening.finding.detected_ns + self._settings.on_verdict_deadline_ns
        given = json.dumps({"schema": 1, **facts}, ensure_ascii=False).encode(errors="replace")
        command, environment = self._settings.on_verdict, {**self._base, **variables(facts)}
        self._runs.start(NAME, command, environment, deadline_ns, done, now_ns, stdin=given)


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """Our own environment for a program that is none of our workers."""
    return {name: value for name, value in environment.items() if name not in NOT_FOR_WORKERS}


def variables(facts: Mapping[str, Any]) -> dict[str, str]:
    """Each fact that there is as an environment variable; yes is 1, no is empty."""
    texts = {name: str(int(value) or "") if isinstance(value, bool) else str(value) for name, value in facts.items()}
    return {PREFIX + name.upper(): texts[name] for name, value in facts.items() if value is not None}


def _facts(watched: Watched, opening: OpenIncident) -> dict[str, Any]:
    finding = opening.finding
    return {
        "event": "verdict",
        "worker": watched.settings.name,
        "accelerator": watched.settings.accelerator,
        "incarnation": watched.state.incarnation,
        "pid": watched.process.pid if watched.process else None,
        "incident": opening.incident,
        "verdict": finding.verdict.value,
        "operation": finding.operation,
        "stage": finding.stage,
        "detail": finding.detail[:LONGEST_DETAIL],
        "entered_ns": finding.entered_ns,
        "deadline_ns": finding.deadline_ns,
        "detected_ns": finding.detected_ns,
        "observe_only": opening.would_kill,
    }
