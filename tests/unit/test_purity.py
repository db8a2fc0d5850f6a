"""The core decides from what it is given: no clock, no I/O, no logging, not even by way of another module."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "watchdogd"
ALSO_PURE = (
    "abi",
    "bad_outputs",
    "incident",
    "incidents.codec",
    "incidents.judged",
    "incidents.reading",
    "incidents.redact",
    "model",
    "histogram",
    "pulse",
    "publish.snapshot",
    "publish.tally",
)
_DECIDE = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.glob("decide/**/[a-z]*.py"))
PURE = (*ALSO_PURE, *sorted(".".join(path.parts) for path in _DECIDE))
IMPURE = {"os", "time", "datetime", "socket", "subprocess", "logging", "threading", "random", "signal", "select"}


def imports(source: str) -> set[str]:
    """Whole names of all that a source imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def file_of(name: str) -> Path:
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


@cache
def own_imports(name: str) -> set[str]:
    return imports(file_of(name).read_text())


def reached(name: str, seen: set[str]) -> set[str]:
    """Top-level modules that a module of ours imports, transitively."""
    if name in seen:
        return set()
    seen.add(name)
    found = own_imports(name)
    ours = {full.removeprefix("watchdogd.") for full in found if full.startswith("watchdogd.")}
    ours = {part for part in ours if file_of(part).exists()}
    return {full.split(".")[0] for full in found}.union(*(reached(part, seen) for part in ours))


@pytest.mark.parametrize("name", PURE)
def test_the_core_imports_no_clock_and_no_io(name: str) -> None:
    assert reached(name, set()) & IMPURE == set()


def test_an_impure_module_would_be_noticed_behind_a_pure_one() -> None:
    assert {"os", "time"} <= reached("supervisor.tick", set())
    assert imports("def f():\n    from os import path\n    import time") == {"os", "os.path", "time"}


# What each part may know of the others. The flow has one way: the tick uses them all, none of them uses the tick.
LAYERS = {
    "decide": set[str](),
    "observe": {"decide"},
    "publish": {"decide"},
    "instrument": set[str](),
    "incidents": {"decide", "observe", "publish", "instrument"},
    "act": {"decide", "observe", "publish", "instrument"},
    "supervisor": {"decide", "observe", "publish", "instrument", "act", "incidents"},
    "view": {"decide", "observe", "publish", "incidents"},
}


@pytest.mark.parametrize("part", LAYERS)
def test_a_part_uses_only_the_parts_below_it(part: str) -> None:
    files = [path for path in PACKAGE.joinpath(part).rglob("*.py") if path.stem != "__init__"]
    used = {full.split(".")[1] for path in files for full in imports(path.read_text()) if full.startswith("watchdogd.")}
    assert used & {*LAYERS, "config", "exporter", "doctor", "worker", "cli"} <= LAYERS[part] | {part}


def test_the_supervisor_loads_no_driver_and_none_of_the_exporters_libraries() -> None:
    later = "watchdogd.supervisor.household, watchdogd.supervisor.commands, watchdogd.act.responses"
    code = f"import watchdogd.supervisor.start, {later}, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    assert "watchdogd.supervisor.tick" in loaded
    assert {name.split(".")[0] for name in loaded} & {"psutil", "cuda", "pynvml", "prometheus_client", "numpy"} == set()
