"""Which pair hangs is found without being told: on the simulated driver, and of somebody's own configuration."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.soak import fleet, pairs
from tests.helpers.running import OFF, worker
from tests.simulator.control import SimulatedDevice
from watchdogd.config import ConfigError

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as made:
        yield made


def test_the_pair_that_hangs_only_together_is_found_and_no_other(
    device: SimulatedDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "TRIGGER", pairs.TRIGGER.replace("after=40", "after=10"))
    fleet.lay_out(tmp_path, 0)
    workers, tables = pairs.vehicle(device, tmp_path)
    three = {name: workers[name] for name in ("model_a", "model_b", "model_h")}
    seen = list(pairs.runs(three, tables, 2.0))
    assert [each.names for each in seen] == [
        ("model_a",), ("model_b",), ("model_h",),
        ("model_a", "model_b"), ("model_a", "model_h"), ("model_b", "model_h"),
    ]  # fmt: skip
    assert {each.names: each.verdict for each in seen if each.verdict} == {pairs.GUILTY: "call"}
    table = pairs.matrix(seen)
    assert table.count("HUNG") == 2
    assert "- model_a and model_h: model_h call sync" in table


# ``b`` hangs where ``a`` has been; ``a`` crashes where ``c`` has been.
A = "tell('a')\nserve_until('c')\nos._exit(1)"
B = "worker.ready()\nwait_for('a')\nwith worker.call('sync'): hang()"
C = "tell('c')\nserve()"


def configured(path: Path) -> Path:
    lines = [f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in body.items()) for name, body in OFF.items()]
    lines += ['[supervisor]\nruntime_dir = "/nowhere"\nstate_dir = "/nowhere"\nkill_grace = "2s"\n']
    lines += ['[defaults.deadlines]\nsync = "100ms"\n', '[hooks]\non_verdict = ["/nowhere"]\n']
    for name, program in {"a": A, "b": B, "c": C}.items():
        command = json.dumps(worker(program)["command"])
        after = '["a"]' if name == "b" else "[]"
        lines.append(f"[workers.{name}]\ncommand = {command}\nafter = {after}\n")
    path.write_text("\n".join(lines))
    return path


def test_a_configuration_s_own_workers_are_tried_with_its_deadlines(tmp_path: Path) -> None:
    workers, tables = pairs.of_file(configured(tmp_path / "watchdogd.toml"))
    seen = list(pairs.runs(workers, tables, 1.0))
    assert {each.names: each.verdict for each in seen if each.verdict} == {("a", "b"): "call", ("a", "c"): "crashed"}
    assert "crashed" in pairs.matrix(seen)


def test_a_configuration_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError):
        pairs.of_file(missing)
    monkeypatch.setattr(sys, "argv", ["pairs", "--config", str(missing)])
    assert pairs.main() == 78
    assert str(missing) in capsys.readouterr().err
