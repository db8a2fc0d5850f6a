"""``make field``: plays every case of the field and prints docs/FIELD.md, what is covered and the table.

Exit status 1 if a case went otherwise than it has to. Invariant: but for the columns ``VARYING`` the page is the same
in every run; ``timeless`` leaves them out, so that a test can compare.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from tests.bench import hours, hours_draw, hours_report
from tests.histories.field import alone, can_freeze, guarded
from tests.histories.field_cases import CASES, HARDWARE_ONLY, WORDS, Case, Report, reports
from tests.histories.field_told import Seen

HEAD = """\
# Proof against the field

Forty-three reports of inference that hung, from forums, issue trackers and blogs (`tests/fixtures/field/hangs.jsonl`,
each with its link). All but one are played: a real supervisor, a real worker with frames on a simulated device of its
own, the harm as the report tells it, and what is told and done then. This page is what `make field` prints; `make test`
plays them too and compares all but the times.

How to read it:

- *told first by* uses the words of the list: `sync` and `othercall` are deadlines of calls, `progress` that of a step,
  `startup`, `sticky` a CUDA error that no later call survives, `output` a run of bad outputs, `exit`, `kmsg` the kernel
  log, `dstate`, `soft` a near miss: late, and told, and back before the deadline. *told too* is what came later.
- Two profiles of settings, none for a single case (`PROFILES` in `tests/histories/field_cases.py`). `vehicle` has 500
  ms for a synchronize, 1.5 s for a step, in real time. `server` has 200 s and 600 s, and says so after a tenth of that;
  it is played a hundred times as fast: **1 s in its rows stands for 100 s**. A process starts as fast as it does:
  startup has 8 s in both; 1 s is 1 s in a row told first by `startup`, and in any from the kill to *serves again*.
- *after*: from the harm to the first word of it. *serves again*: from the harm to a successor that is ready. Some
  forty workers share two cores here; where threads are starved of CPU, deadlines are put off by as much.
- *right*: told first by a detector that the list expects (or one that the notes below give a reason for), of this
  worker, and ended as it had to; one that is to be left alone got no verdict. Where a report says that nothing less
  than a reboot helped, that is how it is played; where it says no more than that it hung, the successor is healthy.
- What the kernel says is not made but repeated: captured lines, or the driver's own format filled in, at a time after
  the harm that we chose (3 s for nvgpu's context switch, 45 s for the GSP, more than 120 s for a blocked task), so that
  `kmsg` is first there says little. D state is a frozen cgroup, which SIGKILL does not end either.
- The simulated device does what a report tells of it. That the real one did it for the reason that the reporter
  supposed, nobody can know from here.
"""

COLUMNS = (
    "case", "what was reported", "profile", "told first by", "after", "told too", "what came of it", "serves again",
    "verdict",
)  # fmt: skip
REST = "\n## The policy alone, in virtual time\n"
HOURS, FEWER_HOURS, ALWAYS_MET = 1_000_000, 100_000, 1.0
TAIL = """
`make hours`. What an hour contains, and why most of it need not be played, is told in `tests/bench/hours_draw.py`.

```
{report}
```

A kill is late where the machine stood or starved the worker: it is given time for that. The supervisor knows of a stall
by its own late wake-up, for a look or for one of the glances at the clock in between; one of less than 40 ms may pass
unseen, and a healthy call that is so close to its deadline may then be killed. By chance they hardly ever meet. With
every stalled call made one past half of its deadline, for a cause that both have in common: {met} false kills in
{hours:,} hours and some {stalls:,} such stalls.
"""
VARYING = ("after", "told too", "serves again")


def row(seen: Seen, report: Report) -> list[str]:
    later = [name for name in sorted(set(seen.detectors)) if name != seen.first]
    return [
        f"[{report.n}]({report.link})",
        report.symptom.replace("|", "\\|"),
        seen.case.profile,
        seen.first or "nothing",
        "" if seen.first is None else f"{seen.detectors[seen.first]:.2f} s",
        ", ".join(later),
        WORDS[seen.ends],
        "" if seen.recovery_seconds is None else f"{seen.recovery_seconds:.1f} s",
        "right" if seen.is_right(report) else "**wrong**",
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(found: Sequence[Seen], listed: Mapping[int, Report]) -> list[str]:
    rows = {seen.case.n: row(seen, listed[seen.case.n]) for seen in found}
    for n, why in HARDWARE_ONLY.items():
        rows[n] = [f"[{n}]({listed[n].link})", listed[n].symptom, "", "a hardware watchdog only", "", "", why, "", ""]
    return [_line(COLUMNS), _line("---" for _ in COLUMNS), *(_line(rows[n]) for n in sorted(rows))]


def is_signal(case: Case, listed: Mapping[int, Report]) -> bool:
    """Whether there is anything to be told."""
    return bool(listed[case.n].detectors)


def coverage(found: Sequence[Seen], simple: Collection[int], listed: Mapping[int, Report]) -> list[str]:
    signals = [seen for seen in found if is_signal(seen.case, listed)]
    told = [seen for seen in signals if seen.detectors]
    by_pair = sorted(seen.case.n for seen in signals if seen.case.n in simple)
    quiet = [seen for seen in found if not is_signal(seen.case, listed)]
    false = [seen.case.n for seen in quiet if seen.detectors or seen.case.n in simple]
    return [
        f"- Of {len(signals)} reports with a signal in user space or in the kernel log, all detectors together tell of"
        f" {len(told)}.",
        "- A deadline for synchronize and the frozen load (1 s without a change) alone, played apart and with nothing"
        f" killed, tell of {len(by_pair)}: {', '.join(map(str, by_pair))}.",
        f"- The report of a false positive ({', '.join(str(seen.case.n) for seen in quiet)}):"
        f" {'told of, which is **wrong**' if false else 'nothing is told, by either'}.",
        f"- Only a hardware watchdog sees {len(HARDWARE_ONLY)} ({', '.join(map(str, HARDWARE_ONLY))}).",
        *_first_counts(signals),
    ]


def _first_counts(signals: Sequence[Seen]) -> list[str]:
    counts: dict[str, int] = {}
    for seen in signals:
        counts[seen.first or "nothing"] = counts.get(seen.first or "nothing", 0) + 1
    return ["- First word, by detector: " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)) + "."]


def notes() -> list[str]:
    return [f"- {case.n}: {case.why}." for case in CASES if case.why]


def page(found: Sequence[Seen], simple: Collection[int]) -> str:
    listed = reports()
    parts = [
        HEAD,
        "## Coverage\n",
        *coverage(found, simple, listed),
        "\n## The table\n",
        *table(found, listed),
        "\n## Notes\n",
        *notes(),
    ]
    return "\n".join(parts) + "\n"


def in_virtual_time() -> str:
    tally = hours.play(HOURS, seed=1)
    met = hours.play(FEWER_HOURS, seed=1, outlier_met=ALWAYS_MET)
    stalls = round(met.played["stall"] * hours_draw.CALL_SHARE)
    return TAIL.format(
        report="\n".join(hours_report.report(tally, HOURS)), met=met.false.total(), hours=FEWER_HOURS, stalls=stalls
    )


def timeless(text: str) -> list[str]:
    """The lines of a page, its rows without what varies."""
    places = [COLUMNS.index(name) + 1 for name in VARYING]
    lines = []
    for line in text.splitlines():
        cells = line.split(" | ")
        if line.startswith("| ") and len(cells) == len(COLUMNS):
            lines.append(" | ".join(cell for place, cell in enumerate(cells, 1) if place not in places))
        else:
            lines.append(line)
    return lines


def played() -> tuple[Case, ...]:
    """Those that can be on this machine."""
    return tuple(case for case in CASES if can_freeze() or not case.unkillable)


def main() -> int:
    cases = played()
    with tempfile.TemporaryDirectory(prefix="watchdogd-field-") as directory:
        found = guarded(cases, Path(directory) / "guarded")
        simple = alone(cases, Path(directory) / "alone")
    print(page(found, simple), REST, in_virtual_time(), sep="", end="")
    listed = reports()
    left_out = [case.n for case in CASES if case not in cases]
    if left_out:
        print(f"not played, without root and a cgroup v1 freezer: {left_out}", file=sys.stderr)
    wrong = [seen.case.n for seen in found if not seen.is_right(listed[seen.case.n])]
    return 1 if wrong or left_out else 0


if __name__ == "__main__":
    sys.exit(main())
