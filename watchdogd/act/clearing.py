"""The search for what is left of one worker, again and again until nothing is.

Invariant: it runs in a child that is given up after ``ABANDON_NS``; nothing here waits for it.
"""

from __future__ import annotations

import os

from watchdogd.act.process import Process
from watchdogd.act.sweep import Sweeper, SweepFailed, Swept, members
from watchdogd.model import MILLISECOND, SECOND

ABANDON_NS = 5 * SECOND
AGAIN_NS = 20 * MILLISECOND  # while a kill is fresh
RETRY_NS = SECOND  # what outlived its grace, or a search that failed
NAMED_AT_MOST = 8  # pids in a note


class Clearing:
    def __init__(self) -> None:
        self.sweeper: Sweeper | None = None
        self.deadline_ns = 0
        self.again_ns: int | None = None  # begin then
        self.trouble = ""  # of the last search, for people
        self.left: tuple[int, ...] = ()  # what SIGKILL did not end

    def ask(self, now_ns: int) -> None:
        """As soon as there is time for a fork; one that runs sees all that there is to see."""
        if self.sweeper is None:
            self.again_ns = now_ns

    def begin(self, root: Process, heartbeat: str, cgroup: str | None, now_ns: int, *, patiently: bool = False) -> None:
        """Unless one is running. With no process to be had it is tried again later: the phase has its own deadline.

        ``patiently``: who is left has the time to end in order.
        """
        if self.sweeper is not None:
            return
        self.again_ns = None
        supervisor, identity, is_held = os.getpid(), root.identity, root.is_child
        try:
            self.sweeper = Sweeper(
                lambda: members(identity, heartbeat, supervisor, is_held=is_held), cgroup, patiently=patiently
            )
        except OSError as error:
            self.trouble = f"cannot look for descendants: {error.strerror}"
            self.again_ns = now_ns + RETRY_NS
            return
        self.deadline_ns = now_ns + ABANDON_NS

    def end(self, again_ns: int, now_ns: int) -> Swept | None:
        """Its result, if it is there. Begun again ``again_ns`` later if something is left, or if it did not return."""
        if self.sweeper is None:
            return None
        swept, trouble = None, "did not return"
        try:
            swept = self.sweeper.result()
        except SweepFailed:
            trouble = "failed"
        else:
            if swept is None and now_ns < self.deadline_ns:
                return None
            if swept is None:
                self.sweeper.abandon()
        self.sweeper = None
        self.trouble = ""
        self.left = () if swept is None else swept.left
        if swept is None:
            self.trouble = f"the search for descendants {trouble}"
            self.again_ns = now_ns + RETRY_NS
        elif swept.left:
            named = ", ".join(map(str, swept.left[:NAMED_AT_MOST]))
            self.trouble = f"{len(swept.left)} descendants that SIGKILL did not end: {named}"
            self.again_ns = now_ns + again_ns
        return swept

    def forget(self) -> None:
        self.left = ()
        self.again_ns = None
        self.trouble = ""
