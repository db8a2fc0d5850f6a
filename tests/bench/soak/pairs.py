"""``python -m tests.bench.soak.pairs [--config FILE] [--seconds S]``: every worker alone, then every two together.

Which pair hangs? Without a configuration, the vehicle's six models on the simulated driver, where H hangs only while A
runs too, as the field report tells; nothing but the driver is told so. With one, its workers as they are configured;
what it says of directories, metrics, hooks and escalation is left out. Exit status 1 if it was not that pair, or, of a
configuration, if anything was told of. Invariant: nothing is killed for a hang; its first verdict ends a run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.soak import fleet
from tests.bench.soak.report import aligned
from tests.helpers.running import Supervised
from tests.simulator.control import SimulatedDevice
from watchdogd.config import files
from watchdogd.publish.snapshot import HANG_KEYS

TRIGGER = "hang with=model_a after=40 scope=process spread_ms=5 load=63"  # of the DLA model
GUILTY = ("model_a", "model_h")
START_SECONDS = 180.0
HANGS = (*HANG_KEYS, "call")
OURS = ("metrics", "hooks", "escalation")  # of a configuration: not for this

Workers = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Seen:
    """Of one run. ``verdict``: the first, "" where there was none; ``seconds``: from the last ready to it."""

    names: tuple[str, ...]
    seconds: float
    verdict: str = ""
    told: str = ""

    @property
    def cell(self) -> str:
        what = "HUNG" if self.verdict in HANGS else self.verdict
        return f"{what} {self.seconds:.1f} s" if what else f"clean {self.seconds:.0f} s"


def runs(workers: Workers, tables: Mapping[str, Any], seconds: float) -> Iterable[Seen]:
    """Alone and in pairs, one run after the other."""
    groups = [*((name,) for name in workers), *combinations(workers, 2)]
    for names in groups:
        yield _run({name: _company(workers[name], names, workers) for name in names}, tables, seconds)


def _run(workers: Workers, tables: Mapping[str, Any], seconds: float) -> Seen:
    names, ready, give_up = tuple(workers), None, time.monotonic() + START_SECONDS
    with Supervised(workers, **tables) as supervised:
        while True:
            now = time.monotonic()
            if ready is None and all(supervised.phase(name) == "observed" for name in names):
                ready = now
            verdicts = supervised.events("verdict")
            since = now - (now if ready is None else ready)
            if verdicts:
                return Seen(names, since, verdicts[0]["verdict"], _told(verdicts[0]))
            if since >= seconds:
                return Seen(names, since)
            if ready is None and now > give_up:
                return Seen(names, START_SECONDS, "startup", "neither ready nor late: give it a startup deadline")
            time.sleep(0.05)


def _told(verdict: Mapping[str, Any]) -> str:
    suspect = next((each["worker"] for each in verdict["suspects"]), verdict["worker"])
    where = " ".join(str(verdict[key]) for key in ("worker", "verdict", "operation") if verdict[key])
    first = "" if suspect == verdict["worker"] else f", {suspect} probably first"
    return f"{where}{first} ({verdict['detail']})"


def _company(body: Mapping[str, Any], names: tuple[str, ...], workers: Workers) -> dict[str, Any]:
    """Its table, without the workers that are not there."""
    kept = {**body, "autostart": True, "on_supervisor_exit": "kill"}
    for key in ("after", "restart_with", "coupled_with"):
        if isinstance(kept.get(key), list):
            kept[key] = [name for name in kept[key] if name in names or name not in workers]
    return kept


def of_file(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The workers of a configuration, and the tables that matter here. Raises ConfigError."""
    tree, problems = files.read(path)
    if problems:
        raise files.ConfigError(problems)
    root = {key: value for key, value in tree.root.items() if key not in OURS}
    supervisor = {k: v for k, v in root.pop("supervisor", {}).items() if k not in ("runtime_dir", "state_dir")}
    return root.pop("workers", {}), {**root, "supervisor": {**supervisor, "observe_only": True}}


def matrix(seen: Iterable[Seen]) -> str:
    """Workers by workers, alone on the diagonal; then what hung."""
    by_names = {each.names: each for each in seen}
    names = [each[0] for each in by_names if len(each) == 1]
    lines = [("", *names)]
    for row in names:
        keys = [(row,) if row == column else tuple(sorted((row, column), key=names.index)) for column in names]
        lines.append((row, *(by_names[key].cell for key in keys)))
    hung = [f"- {' and '.join(each.names)}: {each.told}" for each in by_names.values() if each.verdict]
    return "\n".join([aligned(lines), "", *(hung or ["Nothing hung for as long as it ran."])])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak.pairs")
    parser.add_argument("--config", type=Path, help="of watchdogd; its workers instead of the simulated vehicle's")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each run lasts once all are ready")
    options = parser.parse_args()
    if options.config is not None:
        try:
            seen = _watched(runs(*of_file(options.config), options.seconds))
        except files.ConfigError as error:
            print(error, file=sys.stderr)
            return 78
        print(matrix(seen))
        return int(any(each.verdict for each in seen))
    with rig.scratch() as directory:
        fleet.lay_out(directory, 0)
        with SimulatedDevice(directory / "device") as device:
            seen = _watched(runs(*vehicle(device, directory), options.seconds))
    print(matrix(seen))
    return int([each.names for each in seen if each.verdict] != [GUILTY])


def vehicle(device: SimulatedDevice, directory: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The six models, and the fault of the field report."""
    workers, _ = fleet.configuration(device, directory)
    workers["model_h"]["environment"]["SIMCUDA_FAULT"] = TRIGGER
    return workers, {"supervisor": {"observe_only": True}}


def _watched(seen: Iterable[Seen]) -> list[Seen]:
    found = []
    for each in seen:
        print(f"{' and '.join(each.names)}: {each.cell}", file=sys.stderr, flush=True)
        found.append(each)
    return found


if __name__ == "__main__":
    sys.exit(main())
