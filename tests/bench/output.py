"""What it costs a worker to look at an output of 8 MB that comes from memory, natively and in pure Python.

Invariant: a figure counts only if the heartbeat counted every output that was timed, as what it was.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.report import Row, Scale
from watchdogd import abi
from watchdogd.observe import heartbeat


def run(scale: Scale) -> list[Row]:
    rounds = int(scale.pick(600, 60))
    rows = []
    for implementation, bar, pure in (("native", 100.0, "0"), ("python", None, "1")):
        with rig.scratch() as directory:
            measured = _measured(directory, rounds if bar else rounds // 3, WATCHDOGD_PURE_PYTHON=pure)
        if measured["implementation"] != implementation:
            raise rig.Failed(f"the {implementation} part is not available")
        against = f"a copy of it {measured['copy']:.0f} us"
        for name in ("float", "double", "half"):
            rows.append(Row("output", f"a good one, {name}, {implementation}", measured[name], "us", bar, against))
        rows.append(Row("output", f"all zero: all is read, {implementation}", measured["zeros"], "us", None, against))
    return rows


def _measured(directory: Path, rounds: int, **environment: str) -> dict[str, Any]:
    path = directory / "heartbeat"
    reader = heartbeat.create(str(path), boot_id=1, incarnation=1, spawned_ns=time.monotonic_ns())
    try:
        variables = rig.ENVIRONMENT | {abi.ENVIRONMENT: str(path)} | environment
        command = rig.python_program("outputs", rounds)
        output = subprocess.run(command, env=variables, check=True, timeout=240, stdout=subprocess.PIPE).stdout
        measured: dict[str, Any] = json.loads(output)
        counted = {kind: count for kind, count in reader.outputs().items() if count}
    finally:
        reader.close()
    if counted != measured["checked"]:
        raise rig.Failed(f"{measured['checked']} were looked at, but the heartbeat counted {counted}")
    return measured
