"""What operators ask for over the control socket: told no with the way out, or recorded and passed on.

Invariant: a command changes nothing here; it comes back as a ``Happening``, and what it leads to is ``policy``'s word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from watchdogd.act.acting import Happening
from watchdogd.act.runtime import CannotStart
from watchdogd.act.watched import Watched
from watchdogd.decide import policy, redundancy
from watchdogd.decide.orders import ALIVE, Trigger, WorkerState
from watchdogd.model import Phase
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal
from watchdogd.supervisor.control import RELOAD, ControlError, ControlServer, Request

_NEXT_START = {Phase.STOPPED: "start", Phase.QUARANTINED: "reset", **dict.fromkeys(ALIVE, "restart")}


class Commands:
    def __init__(
        self, path: str, watched: Sequence[Watched], journal: Journal, happenings: deque[Happening],
        reload: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Raises CannotStart."""
        self._reload = reload
        try:
            self._server = ControlServer(path)
        except ControlError as error:
            raise CannotStart(str(error)) from None
        self._watched = {worker.settings.name: worker for worker in watched}
        self._journal = journal
        self._happenings = happenings
        self.stopping = False  # nothing is started or changed any more

    def fileno(self) -> int:
        return self._server.fileno()

    def poll(self, now_ns: int) -> None:
        for request in self._server.poll(now_ns):
            self._server.reply(request, self._answer(request, now_ns))

    def _answer(self, request: Request, now_ns: int) -> dict[str, Any]:
        if request.command == RELOAD:
            self._journal.emit(EventKind.OPERATOR, now_ns, command=RELOAD, uid=request.uid, pid=request.pid)
            self._reload(now_ns)
            return {"ok": True, "message": "the configuration is being checked"}
        name, watched = request.worker, self._watched.get(request.worker)
        if watched is None:
            names = ", ".join(self._watched)
            return {"ok": False, "error": f"no worker is called {name}", "remedy": f"one of: {names}"}
        trigger, state = Trigger(request.command), watched.state
        phase = state.phase.value
        if self.stopping or not policy.applies(state, trigger):
            why = "the supervisor is stopping" if self.stopping else f"{name} is {phase}"
            remedy = ""
            if state.quarantined and not self.stopping:
                remedy = f"watchdogd reset {name}"
                why += "" if phase == "quarantined" else " and in quarantine"
            return {"ok": False, "error": f"{why}: cannot {request.command.partition(' ')[0]} it", "remedy": remedy}
        if trigger is Trigger.RESTART and redundancy.serves(state):
            # Those asked for in this very tick are not on their way yet.
            going = [h.watched.settings.name for h in self._happenings if h.trigger in (Trigger.STOP, Trigger.RESTART)]
            members = ((each.settings, each.state) for each in self._watched.values())
            peer = redundancy.absent(watched.settings, members, going)
            if peer is not None:
                why = f"{peer} of its redundancy group does not serve: nobody would do its work"
                remedy = redundancy.remedy(self._watched[peer].state)
                remedy += f"; or, if that is meant: watchdogd stop {name}, watchdogd start {name}"
                return {"ok": False, "error": f"cannot restart {name}: {why}", "remedy": remedy}
        self._journal.emit(
            EventKind.OPERATOR, now_ns, worker=name, incarnation=state.incarnation, command=request.command,
            uid=request.uid, pid=request.pid,
        )  # fmt: skip
        self._happenings.append(Happening(watched, trigger))
        if trigger in (Trigger.BISECT_ON, Trigger.BISECT_OFF):
            return {"ok": True, "message": _bisect(state, on=trigger is Trigger.BISECT_ON)}
        return {"ok": True, "message": f"{request.command} {name} (was {phase})"}

    def close(self) -> None:
        self._server.close()


def _bisect(state: WorkerState, *, on: bool) -> str:
    """What has changed, and what brings it about now; where nothing is named, its next start comes by itself."""
    told = f"bisect {'on' if on else 'off'} {state.name}: from its next start on"
    if state.phase in ALIVE and state.bisecting == on:
        return f"{told}, as it runs now"
    deed = "reset" if state.quarantined else _NEXT_START.get(state.phase)
    return told if deed is None else f"{told}; at once: watchdogd {deed} {state.name}"
