"""``python -m tests.bench.soak [--minutes N] [--seed S]``: random faults, and the table of what became of them.

Exit status 1 if anything was missed, told as something else, false, or not recovered from. Invariant: nothing is
injected in the first part, in which the frames are counted that this machine loses by itself.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bench import rig
from tests.bench.soak import fleet
from tests.bench.soak.conductor import Conductor, Gone, deck
from tests.bench.soak.judge import Judgement, add, judge
from tests.bench.soak.kinds import MODELS, Kind
from tests.bench.soak.orders import lines
from tests.bench.soak.report import Run, page
from tests.helpers.running import Supervised
from tests.simulator.control import SimulatedDevice

QUIET_SECONDS = 5.0
ROOM_SECONDS = 300.0  # of frames, for what lasts longer than it was to


def soak(
    directory: Path, seconds: float, seed: int, cards: Iterable[tuple[Kind, ...]] | None = None
) -> tuple[Judgement, Run]:
    """At most so long. ``cards``: what happens, instead of what is drawn."""
    draw = random.Random(seed)
    frames = fleet.lay_out(directory, seconds + ROOM_SECONDS)
    ended = ""
    with SimulatedDevice(directory / "device") as device:
        workers, tables = fleet.configuration(device, directory)
        with Supervised(workers, directory=directory, **tables) as supervised:
            conductor = Conductor(supervised, device, directory, frames, draw)
            conductor.wait_normal()
            began_ns = time.monotonic_ns()
            time.sleep(QUIET_SECONDS)
            quiet_ns = time.monotonic_ns()
            try:
                conductor.run(deck(draw) if cards is None else cards, began_ns / 1e9 + seconds)
            except Gone as gone:
                ended = str(gone)
            until_ns = time.monotonic_ns()
            events = [*supervised.events(), *lines(directory / "told")]
    quiet, everything = (
        add(frames.lost(model, began_ns, end_ns) for model in MODELS) for end_ns in (quiet_ns, until_ns)
    )
    judgement = judge(conductor.faults(), events, frames.lost)
    return judgement, Run(seed, (until_ns - began_ns) / 1e9, quiet, everything, ended)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=None, help="of what is drawn; printed")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with rig.scratch() as directory:
        judgement, run = soak(directory / "soak", 60 * options.minutes, seed)
        print(page(judgement, run))
        if judgement.is_clean and not run.ended:
            return 0
        kept = Path(f"{directory}-kept")
        shutil.copytree(directory, kept)
        print(f"kept for a look: {kept}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
