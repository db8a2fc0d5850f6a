"""What a virtual worker-hour contains, and the episodes of it that can matter, drawn.

An hour is 108,000 steps (30 a second) with a synchronize each, lognormal around 8 ms, so that one is in flight a
quarter of the time. A call or step shorter than its soft level cannot be judged at all, whoever looks when; so only
what lasts longer is played, as often as it is drawn:

==============  ========  ==============================================================================================
what            an hour   drawn
==============  ========  ==============================================================================================
outlier         0.5       healthy: a call or step past half of its deadline, Pareto (alpha 2) up to 0.9 of it
stall           0.5       the whole machine stands, the supervisor too: lognormal, median 120 ms, sigma 1.3, to 60 s;
                          after one in five another one begins within a second; one in four meets a call in
                          flight, which is an outlier as often as the time that those take says (one in 5,000), or
                          as often as is asked for
starvation      0.2       threads are runnable and run 10 to 70 % of the time: a call takes as much longer; one in
                          ten is an outlier besides
blip            0.1       1 to 4 bad outputs in a row, or a CUDA error that passes
hang            0.01      a call never returns: sync, copy, alloc, free, launch
stuck step      0.005     a step never ends, and no call is in flight
dead start      0.001     never ready
sticky error    0.002     recorded by the worker
bad outputs     0.002     from now on all of them, 30 a second
crash           0.005     signal 11
==============  ========  ==============================================================================================

One harm in ten meets a stall or a starvation as well. Invariant: what is healthy stays within 0.9 of its deadline, but
for what the machine takes from it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from watchdogd import abi
from watchdogd.model import MILLISECOND, SECOND, Deadlines

STEPS_A_SECOND = 30
SYNC_MEDIAN_NS, SYNC_SIGMA = 8 * MILLISECOND, 0.3
LONGEST_SHARE = 0.9
BAD_IN_A_ROW = 5
CALLS = ("sync", "copy", "alloc", "free", "launch")
DEADLINES = Deadlines(
    startup_ns=120 * SECOND,
    first_step_ns=3 * SECOND,
    step_ns=1500 * MILLISECOND,
    calls_ns=tuple({"sync": 500 * MILLISECOND}.get(name, SECOND) for name in abi.OPERATIONS),
)
RATES = {
    "outlier": 0.5, "stall": 0.5, "starvation": 0.2, "blip": 0.1,
    "hang": 0.01, "stuck step": 0.005, "dead start": 0.001, "sticky error": 0.002, "bad outputs": 0.002, "crash": 0.005,
}  # fmt: skip
CALL_SHARE = 0.25  # of the time, in which a call is in flight
OUTLIER_SECONDS = 0.33  # the mean of the Pareto distribution below, for a synchronize
OUTLIER_MET = RATES["outlier"] * OUTLIER_SECONDS / (3600 * CALL_SHARE)  # of the stalls that meet a call
HARMS = ("hang", "stuck step", "dead start", "sticky error", "bad outputs", "crash")
STICKY, PASSING = 719, 2


@dataclass(slots=True)
class Episode:
    """Times from its begin, in ns, as the worker's work goes: the machine's stalls and starvation come on top."""

    kind: str
    call: str | None = None  # the word that is in flight, beside the step; None: the step alone
    lasts_ns: int | None = None  # it; None: for ever
    stalls: tuple[tuple[int, int], ...] = ()  # when it begins, how long it is
    share: float = 0.0  # of the time that its threads wait for a CPU
    bad: int = 0  # outputs in a row
    error: int = 0
    startup_ns: int | None = field(default=None)  # of a start; the successor's, where it is harmed

    @property
    def is_harm(self) -> bool:
        return self.kind in HARMS


def past_soft_level() -> float:
    """The probability that an ordinary synchronize lasts longer than its soft level."""
    soft_ns = (DEADLINES.calls_ns[abi.OPERATION["sync"]] or 0) / 2
    return 0.5 * math.erfc(math.log(soft_ns / SYNC_MEDIAN_NS) / SYNC_SIGMA / math.sqrt(2))


def draw(rng: random.Random, kind: str, outlier_met: float = OUTLIER_MET) -> Episode | None:
    """None: a stall that no call in flight met. ``outlier_met``: how often the one that it did is an outlier."""
    startup = min(round(rng.lognormvariate(math.log(4 * SECOND), 0.5)), round(LONGEST_SHARE * 120 * SECOND))
    episode = Episode(kind, startup_ns=startup)
    if kind == "stall":
        if rng.random() > CALL_SHARE:
            return None
        _healthy(rng, episode, outlier_met)
        _stalled(rng, episode)
    elif kind == "starvation":
        _healthy(rng, episode, 0.1)
        episode.share = rng.uniform(0.3, 0.9)
    elif kind == "outlier":
        _healthy(rng, episode, 1.0)
    elif kind == "blip":
        if rng.random() < 0.5:
            episode.bad = rng.randrange(1, BAD_IN_A_ROW)
        else:
            episode.error = PASSING
        _healthy(rng, episode, 0.0)
    else:
        _harmed(rng, episode)
    return episode


def _harmed(rng: random.Random, episode: Episode) -> None:
    if episode.kind == "hang":
        episode.call = rng.choice(CALLS)
    elif episode.kind == "dead start":
        episode.startup_ns = None
    elif episode.kind == "sticky error":
        episode.error = STICKY
        _healthy(rng, episode, 0.0)
    elif episode.kind == "bad outputs":
        episode.bad = 255
        _healthy(rng, episode, 0.0)
    if rng.random() < 0.05:
        _stalled(rng, episode)
    elif rng.random() < 0.05:
        episode.share = rng.uniform(0.3, 0.9)


def _healthy(rng: random.Random, episode: Episode, outliers: float) -> None:
    """A call, or with one in ten a step without one, of ordinary or extraordinary length."""
    is_outlier = rng.random() < outliers
    if not is_outlier or rng.random() < 0.9:
        episode.call = "sync" if rng.random() < 0.8 else rng.choice(CALLS)
    if not is_outlier:
        episode.lasts_ns = round(rng.lognormvariate(math.log(SYNC_MEDIAN_NS), SYNC_SIGMA))
        return
    limit = DEADLINES.step_ns if episode.call is None else DEADLINES.calls_ns[abi.OPERATION[episode.call]]
    assert limit is not None
    cut = 1 - (0.5 / LONGEST_SHARE) ** 2  # of the Pareto distribution, beyond the longest
    episode.lasts_ns = round(0.5 * limit / math.sqrt(1 - cut * rng.random()))


def _stalled(rng: random.Random, episode: Episode) -> None:
    begin = round(rng.random() * (episode.lasts_ns or SECOND))
    episode.stalls = ((begin, _length(rng)),)
    if rng.random() < 0.2:
        after = begin + episode.stalls[0][1] + round(rng.random() * SECOND)
        episode.stalls += ((after, _length(rng)),)


def _length(rng: random.Random) -> int:
    return min(60 * SECOND, round(rng.lognormvariate(math.log(120 * MILLISECOND), 1.3)))
