"""What many worker-hours of virtual time came to, counted and in words.

Invariant: a bound is one-sided, with 95 %, and of the Poisson distribution.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from tests.bench import hours_draw
from tests.bench.hours_draw import HARMS, RATES
from watchdogd.model import MILLISECOND


@dataclass
class Tally:
    played: Counter[str] = field(default_factory=Counter)
    false: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)  # though nothing of the machine held it up
    delays_ns: list[int] = field(default_factory=list)  # from the deadline of what was harmed to its kill


def upper_bound(events: int) -> float:
    """The mean that so few events exclude with 95 %, one-sided: 3.0 for none."""
    low, high = float(events), events + 10 + 5 * math.sqrt(events + 1)
    for _ in range(60):
        mean = (low + high) / 2
        term = total = math.exp(-mean)
        for count in range(1, events + 1):
            term *= mean / count
            total += term
        low, high = (mean, high) if total > 0.05 else (low, mean)
    return high


def report(tally: Tally, hours: int) -> list[str]:
    false, missed, late = tally.false.total(), tally.missed.total(), tally.late.total()
    harms = sum(tally.played[kind] for kind in HARMS)
    delays = sorted(tally.delays_ns)
    quantiles = [delays[min(len(delays) - 1, int(part * len(delays)))] for part in (0.5, 0.99, 0.999)]
    times = ", ".join(f"{value / MILLISECOND:.1f}" for value in (*quantiles, delays[-1]))
    steps = hours * 3600 * hours_draw.STEPS_A_SECOND
    return [
        f"worker-hours    {hours:,}: {steps:.2e} steps, of which ordinary ones past their soft level:"
        f" {steps * hours_draw.past_soft_level():.1g}",
        *(f"{kind:15} {tally.played[kind]:,}" for kind in RATES),
        f"false kills     {_counted(false, tally.false)}; with 95 %"
        f" fewer than {upper_bound(false) / hours:.2g} an hour",
        f"missed          {_counted(missed, tally.missed)} of {harms:,};"
        f" with 95 % fewer than {100 * upper_bound(missed) / harms:.2g} %",
        f"late            {_counted(late, tally.late)}, where neither a stall nor starvation met the harm",
        f"past deadline   {times} ms (median, 99 %, 99.9 %, most)",
    ]


def _counted(total: int, kinds: Counter[str]) -> str:
    parts = [f"{count} in {kind}" for kind, count in kinds.items() if count]
    return f"{total} ({', '.join(parts)})" if parts else str(total)
