"""The snapshot, made of what everybody here tells of itself, on the board.

Invariant: what has not changed is neither encoded nor published again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from watchdogd import __version__
from watchdogd.act.fleet import Fleet
from watchdogd.act.responses import Responses
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.model import Phase, Settings
from watchdogd.observe import procfs
from watchdogd.publish import snapshot
from watchdogd.publish.board import Board
from watchdogd.supervisor.household import Household


class Publication:
    def __init__(
        self, board: Board, watched: Sequence[Watched], fleet: Fleet, household: Household, responses: Responses,
        settings: Settings, runtime: Runtime, *, started_ns: int, scheduling: str, memory: str, scopes: str,
    ) -> None:  # fmt: skip
        self._board = board
        self._watched = watched
        self._fleet = fleet
        self._household = household
        self._escalator = responses.escalator
        self.about = {  # what is true of the supervisor as long as it lives
            "version": __version__,
            "started_ns": started_ns,
            "observe_only": settings.supervisor.observe_only,
            "runtime_dir": runtime.directory,
            "state_dir": runtime.state_directory,
            "config": list(settings.files),
            "metrics": settings.metrics.listen or None,
            "scheduling": scheduling,
            "memory": memory,
            "scopes": scopes,
            "time_namespace": procfs.time_namespace(),
        }
        self._stopping = False
        self._reload: dict[str, str | int | None] = {"asked": 0, "outcome": None, "problem": None}
        self._kills = fleet.kills  # as published
        self._changed = False
        self._accelerators = sorted({w.settings.accelerator for w in watched if w.settings.accelerator is not None})

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
        ours = self._changed or self._household.dirty or self._escalator.dirty or self._kills != self._fleet.kills
        if self._stopping == stopping and not ours and not any(watched.is_changed for watched in self._watched):
            return None
        self._household.dirty = self._escalator.dirty = self._changed = False
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
                "escalation": self._escalator.describe(),
            },
            [watched.fragment() for watched in self._watched],
            self._household.describe_accelerators(self._accelerators, blocked),
            self._household.describe_sources(),
            self._household.record_state(),
            None if self._household.kernel_log is None else self._household.kernel_log.totals(),
            self._household.blocked.describe(),
        )
        self._board.publish(body)
        return time.monotonic_ns()
