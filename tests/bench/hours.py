"""``python -m tests.bench.hours [--hours N]``: the policy alone, over a million worker-hours in virtual time.

The real core (``liveness``, ``outputs``, ``policy``, and the patience between two looks) sees the heartbeat words of
one worker; what an hour contains, and why most of it need not be played, is told in ``hours_draw``. The supervisor
looks when the core asks for it, a tenth of a ms late, and after a stall that its loop would notice. Exit status 1 if a
harm was missed, or found late for no reason, or more healthy workers were killed than ``BAR_AN_HOUR`` allows.
Invariant: nothing here decides; time only goes on by being told.
"""

from __future__ import annotations

import argparse
import math
import random
import struct
import sys
from collections.abc import Sequence
from typing import cast

from tests.bench import hours_draw
from tests.bench.hours_draw import BAD_IN_A_ROW, DEADLINES, RATES, Episode
from tests.bench.hours_report import Tally, report, upper_bound
from watchdogd import abi
from watchdogd.decide import facts, liveness, outputs, policy
from watchdogd.decide.liveness import Pending, Threads
from watchdogd.decide.orders import Occasion, Signal, Trigger, WorkerState
from watchdogd.model import (
    MILLISECOND,
    SECOND,
    Exit,
    Finding,
    IncidentId,
    OutputSettings,
    Phase,
    ThreadSample,
    WorkerSettings,
)
from watchdogd.observe.examination import Examination
from watchdogd.observe.heartbeat import HeartbeatReader
from watchdogd.observe.loop import SHORTEST_BEAT_NS, stood_still
from watchdogd.pulse import Pulse, word_at, word_offset

SETTINGS = WorkerSettings(
    "virtual", ("virtual",), deadlines=DEADLINES, outputs=OutputSettings(bad_in_a_row=BAD_IN_A_ROW)
)
RULES = liveness.prepare(DEADLINES, SETTINGS.soft)
BEGIN_NS = 3600 * SECOND & ~abi.ERROR_MASK
GIVEN_UP_NS = 600 * SECOND  # a harm that was not told by then was missed
SLICE_NS = 24 * MILLISECOND  # in which a starved thread waits once and runs once
BAR_AN_HOUR = 1e-5  # false kills, with 95 %
PROMPT_NS = 5 * MILLISECOND  # a harm with a deadline of its own is found so soon after it; others at the next look
KILL_NS = 50_000  # from the decision to the signal; the word is read again in between
_STATE, _ERROR, _BAD = (abi.H[name] * abi.WORD for name in ("state", "last_error", "bad_outputs"))
_CALL, _STEP = word_offset(0, "outer"), word_offset(0, "step")


class Life:
    """One episode: the words as they are at any instant, and the supervisor's looks at them."""

    def __init__(
        self, episode: Episode, rng: random.Random, *, late_margin_ns: int = 20 * MILLISECOND, sees_threads: bool = True
    ) -> None:
        self._episode = episode
        self._rng = rng
        self._late_margin_ns = late_margin_ns
        self._sees_threads = sees_threads
        self._raw = bytearray(abi.HOT_OFFSET + abi.HOT_STRIDE)
        self._now_ns = BEGIN_NS
        self._changes: list[tuple[int, int, int]] = []  # (when, offset, word), the next one last
        self._examination = Examination(RULES, self._threads)
        self._stalls = sorted((BEGIN_NS + begin, length) for begin, length in episode.stalls)
        starts = episode.kind == "dead start"
        phase = Phase.STARTING if starts else Phase.RUNNING
        past = BEGIN_NS if starts else BEGIN_NS - 60 * SECOND
        self.state = WorkerState(
            "virtual", phase=phase, incarnation=1, wanted=True, spawned_ns=past, ready_ns=None if starts else past,
            armed_ns=None if starts else past,
        )  # fmt: skip
        self._write(abi.H["spawned_ns"] * abi.WORD, past)
        self._write(_STATE, abi.stamp(past, abi.STATE["attached" if starts else "ready"]))
        if not starts:
            self._write(word_offset(0, "steps_done"), 1)
            self._script()

    def _script(self) -> None:
        """The changes, in the order of time."""
        episode = self._episode
        self._write(_STEP, abi.stamp(BEGIN_NS, abi.STEP_LATER))
        changes = []
        if episode.call is not None:
            self._write(_CALL, abi.stamp(BEGIN_NS, abi.OPERATION[episode.call]))
        if episode.error:
            self._write(_ERROR, BEGIN_NS & ~abi.ERROR_MASK | episode.error)
        for length in range(1, min(episode.bad, 40) + 1):
            at_ns = self._real(BEGIN_NS + length * SECOND // hours_draw.STEPS_A_SECOND)
            changes.append((at_ns, _BAD, abi.run_of_bad(BEGIN_NS, length, "zero")))
        if episode.lasts_ns is not None:
            over_ns = self._real(BEGIN_NS + round(episode.lasts_ns / (1 - episode.share)))
            changes += [(over_ns, _CALL, 0), (over_ns, _STEP, 0)]
        self._changes = sorted(changes, reverse=True)

    def _real(self, at_ns: int) -> int:
        """When it is, with the stalls that the worker stands still in, and a little until it runs again."""
        for begin_ns, length_ns in self._stalls:
            if at_ns >= begin_ns:
                at_ns += length_ns + round(self._rng.expovariate(1 / (2 * MILLISECOND)))
        return at_ns

    # --- what the core sees ---

    def word(self, offset: int) -> int:
        return word_at(bytes(self._raw[offset : offset + abi.WORD]), 0)

    def _write(self, offset: int, word: int) -> None:
        struct.pack_into("=Q", self._raw, offset, word)

    def _goes_on(self, now_ns: int) -> None:
        while self._changes and self._changes[-1][0] <= now_ns:
            _, offset, word = self._changes.pop()
            self._write(offset, word)
        self._now_ns = now_ns

    def _threads(self, pending: Pending) -> tuple[Threads | None, bool]:
        """One that sleeps in the call, and one that works for it, which waits in the first part of each slice; the wait
        that lasts is not yet counted."""
        del pending
        if not self._sees_threads:
            return None, False
        share, elapsed = self._episode.share, self._now_ns - BEGIN_NS
        asleep = ThreadSample("S", MILLISECOND, 0)
        if not share:
            return {1: asleep, 2: asleep}, False
        whole, part = divmod(elapsed, SLICE_NS)
        wait_ns = round(share * SLICE_NS)
        waited = whole * wait_ns + (wait_ns if part >= wait_ns else 0)
        ran = whole * (SLICE_NS - wait_ns) + max(0, part - wait_ns)
        return {1: asleep, 2: ThreadSample("R", MILLISECOND + ran, waited)}, False

    # --- the supervisor ---

    def killed_ns(self) -> int | None:
        """Plays it; when its kill was ordered and found to be still due. None: never."""
        if self._episode.kind == "crash":
            return self._now_ns if self._ends(Exit(signal=11)) else None
        due_ns = self._now_ns
        while self._now_ns - BEGIN_NS < GIVEN_UP_NS:
            now_ns, stalled_ns = self._wakes(due_ns)
            finding = self._looks(now_ns, stalled_ns)
            if finding is not None and self._ordered(finding, now_ns):
                return now_ns
            if not (self._changes or self._is_harmed()):
                return None
            waiting = self._examination.waiting_ns
            due_ns = self._examination.look.next_check_ns
            due_ns = max(now_ns + 1, due_ns if waiting is None else min(due_ns, waiting))
        return None

    def _is_harmed(self) -> bool:
        return bool(self.word(_CALL) or self.word(_STEP)) or self.state.phase is Phase.STARTING

    def _wakes(self, due_ns: int) -> tuple[int, int]:
        """As ``Loop.wait``: when, and how long the machine may have stood still by its beats."""
        awake_ns, beat_ns = self._now_ns, max(self._late_margin_ns, SHORTEST_BEAT_NS)
        at_ns = due_ns + round(self._rng.expovariate(1 / (MILLISECOND / 10)))
        for begin_ns, length_ns in self._stalls:
            if not awake_ns <= begin_ns < at_ns:
                continue
            beats = (min(begin_ns, due_ns - 1) - awake_ns) // beat_ns
            beat_due_ns = min(due_ns, awake_ns + (beats + 1) * beat_ns)
            end_ns = self._runs(begin_ns + length_ns)
            stalled_ns = stood_still(awake_ns + beats * beat_ns, beat_due_ns, end_ns, self._late_margin_ns)
            if stalled_ns:
                return end_ns, stalled_ns
            at_ns = max(at_ns, end_ns)
        return at_ns, 0

    def _runs(self, at_ns: int) -> int:
        """When the supervisor does after a stall, a ms later or so; in another one by then, after that."""
        at_ns += round(self._rng.expovariate(1 / MILLISECOND))
        for begin_ns, length_ns in self._stalls:
            if begin_ns <= at_ns < begin_ns + length_ns:
                return self._runs(begin_ns + length_ns)
        return at_ns

    def _looks(self, now_ns: int, stalled_ns: int) -> Finding | None:
        self._goes_on(now_ns)
        pulse = Pulse(bytes(self._raw), 1)
        self._examination.stalled(stalled_ns, self._late_margin_ns, now_ns)
        self._examination.examine(pulse, self.state, now_ns)
        reader = cast(HeartbeatReader, self)  # of which it reads words again
        judged = self._examination.judge(reader, self._late_margin_ns, now_ns, observed=False)
        if judged is not None:
            return judged[0]
        spawned_ns = self.state.spawned_ns or 0
        return liveness.sticky_error(pulse, spawned_ns, now_ns) or outputs.silent(pulse, SETTINGS.outputs, now_ns)

    def _ordered(self, finding: Finding, now_ns: int) -> bool:
        self.state, actions = policy.decide(self.state, Trigger.VERDICT, self._occasion(finding))
        kills = [action for action in actions if isinstance(action, Signal)]
        self._goes_on(now_ns + KILL_NS)
        if not kills or finding.offset is None:
            return False
        if not facts.stands(finding, self.word(finding.offset)):
            self.state, _ = policy.decide(self.state, Trigger.RETURNED, self._occasion())
            return False
        return self._ends(Exit(signal=9))

    def _ends(self, status: Exit) -> bool:
        """Whether a successor is started, becomes ready, and serves."""
        finding: Finding | None = liveness.ended(status, self._now_ns)
        for trigger in (Trigger.EXITED, Trigger.CLEARED, Trigger.READY):
            self.state, _ = policy.decide(self.state, trigger, self._occasion(finding))
            finding = None
        return self.state.phase is Phase.RUNNING and self.state.incarnation == 2

    def _occasion(self, finding: Finding | None = None) -> Occasion:
        return Occasion(self._now_ns, SETTINGS, 5 * SECOND, finding, incident=IncidentId("1"))


def due_ns(episode: Episode) -> int:
    """From a harm to the instant from which its kill is late."""
    if episode.kind == "hang":
        return DEADLINES.calls_ns[abi.OPERATION[episode.call or "sync"]] or 0
    lengths = {
        "stuck step": DEADLINES.step_ns,
        "dead start": DEADLINES.startup_ns,
        "bad outputs": BAD_IN_A_ROW * SECOND // hours_draw.STEPS_A_SECOND,
    }
    return lengths.get(episode.kind) or 0


def prompt_ns(kind: str) -> int:
    """So late at most a harm is found that neither a stall nor starvation met."""
    return PROMPT_NS + (RULES.shortest_ns if kind in ("sticky error", "bad outputs") else 0)


def play(
    hours: int, seed: int, outlier_met: float = hours_draw.OUTLIER_MET, *,
    late_margin_ns: int = 20 * MILLISECOND, sees_threads: bool = True,
) -> Tally:  # fmt: skip
    rng, tally = random.Random(seed), Tally()
    for kind, rate in RATES.items():
        for _ in range(_poisson(rng, rate * hours)):
            tally.played[kind] += 1
            episode = hours_draw.draw(rng, kind, outlier_met)
            if episode is None:
                continue
            life = Life(episode, rng, late_margin_ns=late_margin_ns, sees_threads=sees_threads)
            killed_ns = life.killed_ns()
            if not episode.is_harm:
                tally.false[kind] += killed_ns is not None
            elif killed_ns is None:
                tally.missed[kind] += 1
            else:
                delay_ns = killed_ns - BEGIN_NS - due_ns(episode)
                tally.delays_ns.append(delay_ns)
                tally.late[kind] += not (episode.stalls or episode.share) and delay_ns > prompt_ns(kind)
    return tally


def _poisson(rng: random.Random, mean: float) -> int:
    """By the normal distribution: the means here are large, and a few more or less are no matter."""
    return max(0, round(rng.gauss(mean, math.sqrt(mean))))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hours")
    parser.add_argument("--hours", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    text = "how many of the stalls that meet a call meet an outlier; default: as chance has it"
    parser.add_argument("--outlier-met", type=float, default=hours_draw.OUTLIER_MET, metavar="SHARE", help=text)
    options = parser.parse_args(arguments)
    tally = play(options.hours, options.seed, options.outlier_met)
    print("\n".join(report(tally, options.hours)))
    is_wrong = tally.missed.total() or tally.late.total()
    return 1 if is_wrong or upper_bound(tally.false.total()) / options.hours > BAR_AN_HOUR else 0


if __name__ == "__main__":
    sys.exit(main())
