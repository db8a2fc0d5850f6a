"""``python -m tests.bench [--json FILE] [--quick] [NAME ...]``: run benchmarks, print one table.

Exit status 1 if a bar was missed. Invariant: benchmarks run one after the other, never together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench import (
    adoption,
    context,
    evidence,
    false_kills,
    guard,
    lateness,
    output,
    recovery,
    resources,
    shim,
    tick,
)
from tests.bench.report import Bench, Row, Scale, as_json, table

BENCHES: dict[str, Bench] = {
    "guard": guard.in_python,
    "guard_c": guard.in_c,
    "output": output.run,
    "context": context.run,
    "shim": shim.run,
    "tick": tick.run,
    "recovery": recovery.run,
    "adoption": adoption.run,
    "evidence": evidence.run,
    "resources": resources.run,
    "lateness": lateness.run,
    "false_kills": false_kills.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--quick", action="store_true", help="rough figures in about two minutes")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all without one")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHES)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    rows: list[Row] = []
    for name in options.names or BENCHES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += BENCHES[name](Scale(options.quick))
    print(table(rows))
    if options.json is not None:
        options.json.write_text(as_json(rows), encoding="utf-8")
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
