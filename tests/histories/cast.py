"""Plays a story to the real core, ``Watched`` and ``Fleet``, without a process: the heartbeat is real, time is told.

What the supervisor's loop does between them is repeated here in a few lines: observe, reconsider, decide. Invariant:
nothing happens to a worker but what a row tells or ``decide`` orders.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.pulses import ms, thread
from watchdogd import abi, abi_driver
from watchdogd.act.fleet import Fleet
from watchdogd.act.watched import Watched
from watchdogd.decide import liveness, policy
from watchdogd.decide.liveness import Pending, Threads
from watchdogd.decide.orders import (
    ALIVE,
    Action,
    Clear,
    CloseIncident,
    Collect,
    Commit,
    Dump,
    Leave,
    Occasion,
    OpenIncident,
    Signal,
    Spawn,
    Trigger,
)
from watchdogd.model import MILLISECOND, Exit, Finding, IncidentId, Phase, SupervisorSettings, WorkerSettings
from watchdogd.observe.heartbeat import create
from watchdogd.pulse import word_offset

LATE_MARGIN_NS = 20 * MILLISECOND


@dataclass(frozen=True)
class Writes:
    """What a worker stores in its heartbeat: words of the header, or of lane 0, the driver shim's as well."""

    words: Mapping[str, int]


@dataclass(frozen=True)
class Past:
    """What a worker has done so far: ``count`` calls of one operation, or steps."""

    operation: str
    duration_ms: float
    count: int = 100


@dataclass(frozen=True)
class Asleep:
    """The machine: the supervisor woke that much too late."""

    late_ms: float


@dataclass(frozen=True)
class Stalls:
    """The same, and a worker wrote something meanwhile."""

    writes: Writes
    late_ms: float


@dataclass(frozen=True)
class Truncates:
    """The worker cuts its heartbeat short."""


Event = Trigger | Exit | Writes | Past | Asleep | Stalls | Truncates | None
Row = tuple[float, str, Event, Phase, str]  # now in ms, worker, what happens, its phase then, all that is ordered


@dataclass(frozen=True)
class Story:
    title: str
    workers: tuple[WorkerSettings, ...]
    rows: tuple[Row, ...]
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)


class Player(Watched):
    """A worker whose threads always sleep, as in a blocking synchronize."""

    def _threads(self, pending: Pending) -> tuple[Threads | None, bool]:
        del pending
        return {1: thread("S")}, False

    def store(self, offset: int, *words: int) -> None:
        assert self.reader is not None
        descriptor = os.open(self.reader.path, os.O_WRONLY)
        os.pwrite(descriptor, struct.pack(f"={len(words)}Q", *words), offset)
        os.close(descriptor)


class Cast:
    def __init__(self, story: Story, directory: Path) -> None:
        self.players = {settings.name: Player(settings) for settings in story.workers}
        self._settings = story.supervisor
        self._directory = directory
        self._fleet = Fleet(list(self.players.values()), story.supervisor)
        self._happenings: deque[tuple[Player, Trigger, Finding | None, str | None]] = deque()
        self._incidents = 0
        self._orders: list[str] = []

    def play(self, now_ms: float, name: str, event: Event) -> str:
        """One row, then one tick of all workers. Returns what was ordered, for all of them."""
        now_ns, player = ms(now_ms), self.players[name]
        self._orders = []
        self._happen(player, event, now_ns)
        late_ns = round(event.late_ms * MILLISECOND) if isinstance(event, (Asleep, Stalls)) else 0
        for each in self.players.values():
            self._observe(each, late_ns, now_ns)
        for standing in self._fleet.standing():
            self._reconsider(self.players[standing.settings.name], now_ns)
        while self._happenings:
            self._decide(*self._happenings.popleft(), now_ns)
        return ", ".join(self._orders)

    def close(self) -> None:
        for player in self.players.values():
            player.forget_incarnation()

    def _happen(self, player: Player, event: Event, now_ns: int) -> None:
        if isinstance(event, Stalls):
            self._happen(player, event.writes, now_ns)
        elif isinstance(event, Writes):
            for word, value in event.words.items():
                player.store(_offset(word), value)
        elif isinstance(event, Past):
            counts = [0] * abi.BUCKETS
            duration_ns = round(event.duration_ms * MILLISECOND)
            counts[abi.bucket_of(duration_ns)] = event.count
            place = abi.OPERATION.get(event.operation, abi.STEP_HISTOGRAM)
            histogram = abi.COLD_OFFSET + place * abi.HISTOGRAM_WORDS * abi.WORD
            player.store(histogram, event.count * duration_ns, *counts)
            player.store(word_offset(0, "calls"), event.count)
        elif isinstance(event, Truncates):
            assert player.reader is not None
            os.truncate(player.reader.path, 100)
        elif isinstance(event, Exit):
            player.exit = event
            self._happenings.append((player, Trigger.EXITED, liveness.ended(event, now_ns), None))
        elif event is Trigger.CLEARED:
            player.gone_ns = now_ns
            player.forget_incarnation()
            self._happenings.append((player, event, None, None))
        elif isinstance(event, Trigger):
            self._happenings.append((player, event, None, None))

    def _observe(self, player: Player, late_ns: int, now_ns: int) -> None:
        state = player.state
        if state.deadline_ns is not None and now_ns >= state.deadline_ns:
            self._happenings.append((player, Trigger.TIMEOUT, None, None))
        if state.phase is Phase.COLLECTING and not state.committed and state.finding is not None:
            if not player.still(state.finding, now_ns):
                self._happenings.append((player, Trigger.RETURNED, None, None))
            return
        if state.phase not in ALIVE or player.exit is not None:
            return
        player.read()
        if player.pulse is not None and state.ready_ns is None and liveness.is_ready(player.pulse):
            player.examination.stalled(late_ns, LATE_MARGIN_NS, now_ns)
            self._happenings.append((player, Trigger.READY, None, None))
            return
        if state.phase is Phase.PAUSED:
            return
        for pending in player.examine(now_ns):
            player.examination.reported.pop(pending.key, None)
            if state.finding is not None and (state.finding.offset, state.finding.word) == pending.key:
                self._happenings.append((player, Trigger.RETURNED, None, None))
        if player.is_good_again() or player.gets_on_again(now_ns):
            self._happenings.append((player, Trigger.RETURNED, None, None))
        if state.finding is None or state.phase is Phase.OBSERVED:
            finding = player.verdict(late_ns, LATE_MARGIN_NS, now_ns)
            if finding is not None:
                self._fleet.found(player, finding)

    def _reconsider(self, player: Player, now_ns: int) -> None:
        finding = self._fleet.take(player)
        if finding is not None:
            held = None if self._observe_only(player) else self._hold(player, finding, now_ns)
            self._happenings.append((player, Trigger.VERDICT, finding, held))
        elif player.held is not None and player.state.finding is not None:
            player.held = self._hold(player, player.state.finding, now_ns)
            if player.held is None:
                self._happenings.append((player, Trigger.RELEASED, None, None))

    def _hold(self, player: Player, finding: Finding, now_ns: int) -> str | None:
        held = self._fleet.hold(player, finding, now_ns)
        if held is None:
            self._fleet.condemned(player, now_ns)
        return held

    def _observe_only(self, player: Player) -> bool:
        return player.settings.observe_only or self._settings.observe_only

    def _decide(self, player: Player, trigger: Trigger, finding: Finding | None, held: str | None, now_ns: int) -> None:
        if trigger is Trigger.VERDICT:
            player.held = held
        self._incidents += finding is not None
        grace, incident = self._settings.kill_grace_ns, IncidentId(str(self._incidents))
        observe_only = self._observe_only(player)
        stamp = player.ready_ns() if trigger is Trigger.READY else None
        occasion = Occasion(now_ns, player.settings, grace, finding, held is not None, observe_only, incident, stamp)
        occasion = occasion._replace(collects=True)
        before = player.state
        player.state, actions = policy.decide(player.state, trigger, occasion)
        if trigger is Trigger.RETURNED and before.phase in (Phase.COLLECTING, Phase.KILLING):
            self._fleet.spared()
        player.count_budget(now_ns)
        if player.state.finding is None:
            player.held = None
        for action in actions:
            self._perform(player, action, now_ns)

    def _perform(self, player: Player, action: Action, now_ns: int) -> None:
        name = player.settings.name
        confirm = action.confirm if isinstance(action, (Signal, Commit)) else None
        if confirm is not None and not player.still(confirm, now_ns):
            self._happenings.append((player, Trigger.RETURNED, None, None))
            return
        if isinstance(action, Commit):
            self._happenings.append((player, Trigger.COMMITTED, None, None))
        if isinstance(action, OpenIncident):
            player.opened(action, f"at {now_ns}")
        elif isinstance(action, CloseIncident):
            player.closed(action)
        elif isinstance(action, Spawn):
            path = self._directory / f"{name}.{action.incarnation}"
            player.reader = create(str(path), boot_id=7, incarnation=action.incarnation, spawned_ns=now_ns)
            player.store(abi.H["lanes_used_cas"] * abi.WORD, 1)
        self._orders.append(f"{name} {_ORDERS[type(action)](action)}")


_ORDERS: dict[type, Callable[..., str]] = {
    Spawn: lambda action: f"spawn {action.incarnation}",
    Signal: lambda action: action.kind,
    Collect: lambda _: "collect",
    Commit: lambda _: "commit",
    Dump: lambda _: "dump",
    Clear: lambda _: "clear",
    OpenIncident: lambda action: f"{'would kill' if action.would_kill else 'open'} {action.finding.verdict.value}",
    CloseIncident: lambda action: f"close {action.outcome}",
    Leave: lambda action: f"leave after {action.verdict or 'its own end'}",
}


def _offset(word: str) -> int:
    if word in abi.H:
        return abi.H[word] * abi.WORD
    if word in ("loaded_ns", "host_function_ns"):
        return abi_driver.OFFSET + abi_driver.HEADER.index(word) * abi.WORD
    if word.startswith("host_"):  # of the first entry
        name = word.removeprefix("host_")
        return abi_driver.HOST_FUNCTIONS_OFFSET + abi_driver.HOST_FUNCTION.index(name) * abi.WORD
    if word in abi_driver.LANE:
        return abi_driver.LANES_OFFSET + abi_driver.LANE.index(word) * abi.WORD
    return word_offset(0, word)


def shim(**words: float) -> Writes:
    """The driver shim stamps these words, in ms."""
    return Writes({name: ms(at_ms) for name, at_ms in words.items()})


def ready(at_ms: float) -> Writes:
    return Writes({"state": abi.stamp(ms(at_ms), abi.STATE["ready"])})


def calls(operation: str, at_ms: float, word: str = "outer") -> Writes:
    """Enters a call."""
    return Writes({word: abi.stamp(ms(at_ms), abi.OPERATION[operation])})


def steps(at_ms: float) -> Writes:
    """Begins a step that is not its first."""
    return Writes({"steps_done": 1, "step": abi.stamp(ms(at_ms), abi.STEP_LATER)})


def returns(word: str = "outer") -> Writes:
    return Writes({word: 0})


def fails(code: int, at_ms: float) -> Writes:
    """Records a CUDA error."""
    return Writes({"last_error": ms(at_ms) & ~abi.ERROR_MASK | code})


def outputs(begun_ms: float, length: int, kind: str = "zero") -> Writes:
    """Has found so many outputs bad in a row, since then; 0 = the last one was good."""
    return Writes({"bad_outputs": abi.run_of_bad(ms(begun_ms), length, kind) if length else 0})


def started(*names: str) -> Iterable[Row]:
    """The rows by which workers come to run, in the first 10 ms, for stories that begin later."""
    for name in names:
        yield 0, name, Trigger.START, Phase.STARTING, f"{name} spawn 1"
    for name in names:
        yield 10, name, ready(9), Phase.RUNNING, ""
