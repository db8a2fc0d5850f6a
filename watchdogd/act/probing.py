"""The probe between a kill and the successor: is the accelerator usable, not usable, or is that unknown?

Invariant: it is asked in a child that may be given up; one that does not return is an answer, and while it is still
there no second one is sent after it.
"""

from __future__ import annotations

import os
import sys
from collections import deque

from watchdogd import abi
from watchdogd.act import launching
from watchdogd.act.acting import Happening
from watchdogd.act.runs import Outcome, Runs
from watchdogd.act.runtime import CannotStart
from watchdogd.act.verdict_hook import variables
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import Probe, Trigger
from watchdogd.model import SECOND
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal

# Exit status (EX_SOFTWARE); 0 is usable, any other tells nothing. Not 1: with that Python and others end when they
# cannot even begin.
NOT_USABLE = 70


def judge(outcome: Outcome) -> bool | None:
    """Whether the accelerator is usable; None = nobody knows."""
    if outcome.good:
        return True
    return False if outcome.late or outcome.code == NOT_USABLE else None


class Prober:
    def __init__(
        self, runs: Runs, journal: Journal, happenings: deque[Happening],
        identities: launching.Identities,
    ) -> None:  # fmt: skip
        self._runs = runs
        self._journal = journal
        self._happenings = happenings
        self._identities = identities

    def probe(self, watched: Watched, order: Probe, now_ns: int) -> None:
        settings, started_ns = watched.settings, now_ns
        name = f"probe {settings.name}"

        def done(outcome: Outcome, now_ns: int) -> None:
            usable = judge(outcome)
            self._journal.emit(
                EventKind.PROBE, now_ns, worker=settings.name, incarnation=order.incarnation,
                incident=watched.state.incident, accelerator=settings.accelerator, status=outcome.code,
                usable="unknown" if usable is None else "yes" if usable else "no", reason=outcome.text,
                seconds=round((now_ns - started_ns) / SECOND, 6),
            )  # fmt: skip
            if watched.state.probing:
                watched.note = (
                    f"{settings.accelerator} is not usable: its probe {outcome.text}" if usable is False else ""
                )
            self._happenings.append(Happening(watched, Trigger.PROBED, usable=usable))

        if self._runs.count(name):
            done(Outcome(None, "is still there from the last time", late=True), now_ns)
            return
        environment = launching.environment(settings, "", os.environ)
        del environment[abi.ENVIRONMENT]  # it is no worker
        environment |= variables({"event": "probe", "accelerator": settings.accelerator})
        deadline_ns = now_ns + settings.probe_deadline_ns
        try:
            ids = self._identities.of(settings)
        except CannotStart as error:  # as for the worker itself, which says so too
            done(Outcome(None, f"cannot start: {error}"), now_ns)
            return
        is_ours = settings.probe[0] == sys.executable
        self._runs.start(name, settings.probe, environment, deadline_ns, done, now_ns, ids=ids, is_ours=is_ours)
