"""The snapshot, made of what everybody here tells of itself, on the board.

Invariant: what has not changed is neither encoded nor published again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from watchdogd import __version__
from watchdogd.act.fleet import Fleet
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.model import Phase, Settings
from watchdogd.observe import procfs
from watchdogd.publish import snapshot
from watchdogd.publish.board import Board
from watchdogd.publish.journal import Journal
from watchdogd.supervisor.incidents import Incidents

if TYPE_CHECKING:
    from watchdogd.act.responses import Responses
    from watchdogd.supervisor.household import Household


class Publication:
    def __init__(
        self, board: Board, watched: Sequence[Watched], fleet: Fleet, journal: Journal, responses: Responses | None,
        incidents: Incidents, settings: Settings, runtime: Runtime, *, started_ns: int, scheduling: str, scopes: str,
    ) -> None:  # fmt: skip
        self._board = board
        self._watched = watched
        self._fleet = fleet
        self._journal = journal
        self.household: Household | None = None
        self._escalator = None if responses is None else responses.escalator
        self._incidents = incidents
        self.about = {  # what is true of the supervisor as long as it lives
            "version": __version__,
            "started_ns": started_ns,
            "observe_only": settings.supervisor.observe_only,
            "runtime_dir": runtime.directory,
            "state_dir": runtime.state_directory,
            "config": list(settings.files),
            "metrics": settings.metrics.listen or None,
            "scheduling": scheduling,
            "memory": "not locked yet",
            "scopes": scopes,
            "time_namespace": procfs.time_namespace(),
        }
        self._stopping = False
        self._reload: dict[str, str | int | None] = {"asked": 0, "outcome": None, "problem": None}
        self._kills = fleet.kills  # as published
        self._changed = False
        self._accelerators = sorted({w.settings.accelerator for w in watched if w.settings.accelerator is not None})

    def furnish(self, household: Household, memory: str) -> None:
        """``memory``: what has become of locking it."""
        self.household = household
        self.about["memory"] = memory

    def reload(self, outcome: str, problem: str | None = None) -> None:
        """What has become of the last one asked for: "checking", "refused", "done"."""
        asked = int(self._reload["asked"] or 0) + (outcome == "checking")
        self._reload = {"asked": asked, "outcome": outcome, "problem": problem}
        self._changed = True

    def changed(self) -> None:
        """The list of workers is another."""
        self._changed = True

    def publish(self, stopping: bool) -> int | None:
        """Publish if anything changed. Returns the instant from which it can be read."""
        household, escalator = self.household, self._escalator
        theirs = any(one is not None and one.dirty for one in (household, escalator, self._incidents.keeping))
        ours = self._changed or theirs or self._kills != self._fleet.kills
        if self._stopping == stopping and not ours and not any(watched.is_changed for watched in self._watched):
            return None
        self._changed = self._incidents.keeping.dirty = False
        if household is not None:
            household.dirty = False
        if escalator is not None:
            escalator.dirty = False
        self._stopping, self._kills = stopping, self._fleet.kills
        blocked = {
            w.settings.accelerator: w.settings.name
            for w in self._watched
            if (w.state.phase is Phase.UNKILLABLE or w.state.unusable) and w.settings.accelerator is not None
        }
        body = snapshot.body(
            {
                **self.about,
                "stopping": stopping,
                "kills": self._kills,
                "reload": self._reload,
                "escalation": None if escalator is None else escalator.describe(),
            },
            [watched.fragment() for watched in self._watched],
            [] if household is None else household.describe_accelerators(self._accelerators, blocked),
            [] if household is None else household.describe_sources(),
            self._record({} if household is None else household.recorded),
            None if household is None or household.kernel_log is None else household.kernel_log.totals(),
            [] if household is None else household.blocked.describe(),
            self._incidents.describe(),
        )
        self._board.publish(body)
        return time.monotonic_ns()

    def _record(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """``recorded``: what the recorder has told."""
        return {
            "written": recorded.get("written", 0),
            "dropped": recorded.get("dropped", 0) + self._journal.dropped,
            "suppressed": self._journal.suppressed,
            "error": recorded.get("error"),
            "next_seq": self._journal.next_seq,
        }
