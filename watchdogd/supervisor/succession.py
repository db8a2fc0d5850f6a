"""The first moments of a supervisor: what the one before left is taken over, cleared away, or started.

Invariant: no worker is started beside what is left of a dead supervisor's; but that is not waited for without end, and
not at all where an adopted worker's deadlines come first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from watchdogd.act.acting import Actor, Happening
from watchdogd.act.runtime import Runtime
from watchdogd.act.sweep import SweepFailed
from watchdogd.act.together import Together
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import Trigger
from watchdogd.model import SECOND, Phase
from watchdogd.observe.loop import Loop
from watchdogd.supervisor.adoption import Adoption

LEFTOVERS_SECONDS = 3.0


class Succession:
    def __init__(self, adoption: Adoption, runtime: Runtime, watched: list[Watched], now_ns: int) -> None:
        """Takes over what can be proven, and adds to ``watched`` the workers that are no longer configured."""
        self._adoption = adoption
        self._meanwhile = [(each, adoption.take(each, now_ns)) for each in watched]
        for each in adoption.retired({each.settings.name for each in watched}):
            trigger = adoption.take(each, now_ns)
            if each.settings.name in adoption.adopted:
                watched.append(each)
                self._meanwhile.append((each, trigger))
            else:  # what is left of it is cleared away with the rest
                adoption.kept.discard(runtime.heartbeat(each.settings.name, each.state.incarnation))
                each.forget_incarnation()
        self._leftovers = runtime.clear_leftovers(frozenset(adoption.kept))
        self.until_ns: int | None = now_ns + round(LEFTOVERS_SECONDS * SECOND)
        if not adoption.adopted:
            self._leftovers.wait(LEFTOVERS_SECONDS)

    def begin(
        self, actor: Actor, loop: Loop, happenings: deque[Happening], together: Together, tell: Callable[[str], None]
    ) -> None:
        self._loop, self._start, self._tell = loop, together.start, tell
        for watched, trigger in self._meanwhile:
            actor.take_over(watched, trigger)
            if trigger is Trigger.START:  # from now on, however long that waits and whoever then does it
                watched.state = replace(watched.state, wanted=True)
        for watched in self._adoption.changed:
            if watched.is_retired:  # whatever befalls it before: it is not started again
                watched.state = replace(watched.state, wanted=False)
                happenings.append(Happening(watched, Trigger.STOP))
        together.change(each for each in self._adoption.changed if each.state.wanted)
        loop.listen(self._leftovers.descriptor, self.look)

    def look(self, now_ns: int) -> None:
        """Start what is to be started, once nothing is left or the time is over."""
        if self.until_ns is None:
            return
        descriptor = self._leftovers.descriptor
        try:
            if self._leftovers.result() is None:
                if now_ns < self.until_ns:
                    return
                self._leftovers.abandon()
        except SweepFailed:
            self._tell("the search for what a dead supervisor left has failed")
        self.until_ns = None
        self._loop.forget(descriptor)
        self._start(watched for watched, trigger in self._meanwhile if trigger is Trigger.START)


def forget_retired(watched: list[Watched]) -> bool:
    """Let go of workers that are not configured any more and have ended. Whether there were any."""
    over = [each for each in watched if each.is_retired and each.state.phase is Phase.STOPPED]
    for each in over:
        watched.remove(each)
    return bool(over)
