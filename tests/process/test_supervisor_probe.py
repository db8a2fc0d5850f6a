"""Between a kill and the successor: is the accelerator usable? And what is left running on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import ROOT, Supervised, gone, wait_until, worker
from tests.process.conftest import Freezer
from tests.simulator.control import SimulatedDevice
from watchdogd.config.values import CUDA_PROBE
from watchdogd.worker import probe as program

HANG = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
ANSWER = 'echo $$ >> "$HERE/probes"; test -e "$HERE/usable" && exit 0; '


def hanging(script: str, **keys: Any) -> dict[str, Any]:
    probe = ["sh", "-c", ANSWER + script]
    return worker(HANG, deadlines={"sync": "100ms"}, accelerator="gpu0", probe=probe, **keys)


def accelerator(supervised: Supervised) -> dict[str, Any]:
    return dict(next(item for item in supervised.snapshot()["accelerators"] if item["name"] == "gpu0"))


def probes(supervised: Supervised) -> list[int]:
    path = supervised.directory / "probes"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_a_usable_accelerator_is_started_into_after_the_kill() -> None:
    with Supervised({"a": hanging("exit 0")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        assert probes(supervised) == []  # its first start needs none
        supervised.touch("go")
        supervised.wait_phase("a", "running", 2)
        probed = supervised.wait_event("probe", "a")
        assert (probed["usable"], probed["accelerator"], probed["status"]) == ("yes", "gpu0", 0)
        (dead,) = supervised.events("gone", "a")
        assert dead["monotonic_ns"] < probed["monotonic_ns"] < supervised.events("ready", "a")[1]["monotonic_ns"]
        assert probed["incident"] == dead["incident"] is not None


def test_an_accelerator_that_is_not_usable_is_blocked_and_probed_again_until_it_is() -> None:
    with Supervised({"a": hanging("exit 70")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_event("probe", "a", count=3, usable="no")
        body = supervised.worker("a")
        assert (body["phase"], body["incarnation"]) == ("backoff", 1)
        assert body["note"] == "gpu0 is not usable: its probe exited with status 70"
        assert accelerator(supervised)["blocked_by"] == "a"
        supervised.touch("usable")
        body = supervised.wait_phase("a", "running", 2)
        assert (body["note"], body["budget_left"]) == ("", 4)
        assert accelerator(supervised)["blocked_by"] is None


def test_a_blocked_accelerator_is_so_after_a_reload_and_its_worker_has_no_process() -> None:
    with Supervised({"a": hanging("exit 70", restart={"backoff": "20s", "backoff_max": "20s"})}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: accelerator(supervised)["blocked_by"] == "a")
        before = supervised.worker("a")
        assert (before["pid"], before["heartbeat"], before["unusable"]) == (None, None, 1)
        supervised.reload()
        assert accelerator(supervised)["blocked_by"] == "a"
        told = supervised.worker("a")
        keys = ("phase", "pid", "heartbeat", "unusable", "note", "next_start_ns", "budget_left")
        assert [told[key] for key in keys] == [before[key] for key in keys]
        supervised.ask("start", "a")
        supervised.wait_phase("a", "running", 2)
        assert accelerator(supervised)["blocked_by"] is None


def test_an_accelerator_that_stays_unusable_calls_for_an_escalation() -> None:
    blocked = hanging("exit 70", restart={"budget": 1})
    with Supervised({"a": blocked}, escalation={"ask": ["false"]}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        cause = supervised.wait_event("escalation", "a", step="cause")
        assert (cause["cause"], cause["incident"]) == ("blocked a", supervised.events("verdict", "a")[0]["incident"])
        assert len(supervised.events("probe", "a", usable="no")) >= 2
        supervised.touch("usable")
        supervised.wait_phase("a", "running", 2)
        supervised.wait_event("escalation", step="withdrawn")


@pytest.mark.parametrize("script", ["exit 1", "kill -SEGV $$"])
def test_a_probe_that_knows_nothing_does_not_block(script: str) -> None:
    with Supervised({"a": hanging(script)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_phase("a", "running", 2)
        assert supervised.wait_event("probe", "a")["usable"] == "unknown"


def test_a_probe_that_does_not_return_is_killed_and_says_that_it_is_not_usable() -> None:
    with Supervised({"a": hanging("exec sleep 60", probe_deadline="300ms")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        probed = supervised.wait_event("probe", "a")
        assert (probed["usable"], probed["status"]) == ("no", None)
        assert 0.3 <= probed["seconds"] < 2
        wait_until(lambda: gone(probes(supervised)[0]))
        assert supervised.worker("a")["incarnation"] == 1


def test_an_operator_who_stops_it_stops_the_probes() -> None:
    with Supervised({"a": hanging("exit 70")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_event("probe", "a")
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        asked = len(probes(supervised))
        supervised.let_pass(0.5)
        assert len(probes(supervised)) <= asked + 1  # one may have been under way
        assert supervised.worker("a")["incarnation"] == 1


def test_after_a_probe_that_sigkill_does_not_end_no_second_one_is_sent(freezer: Freezer) -> None:
    with Supervised({"a": hanging("exec sleep 60", probe_deadline="500ms")}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: probes(supervised))
        try:
            freezer.freeze(probes(supervised)[0])
            again = supervised.wait_event("probe", "a", reason="is still there from the last time")
            assert again["usable"] == "no"
            supervised.wait_event("probe", "a", count=3)
            assert len(probes(supervised)) == 1
        finally:
            supervised.touch("usable")
            freezer.thaw()
        supervised.wait_phase("a", "running", 2)


# --- on the simulated driver ----------------------------------------------------------------------------------------

CUDA = """from watchdogd.worker import cuda
ctx = cuda.Context()
stream = ctx.stream()
kernel = ctx.module(b"").kernel("sim_sleep_us_2000")
worker.ready()
while True:
    with worker.step():
        stream.launch(kernel, 1, 1)
        stream.synchronize()
    time.sleep(0.002)
"""


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as made:
        yield made


def tegrastats(device: SimulatedDevice) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "tests/simulator/tegrastats.py"), "--state", str(device.path)]
    return {"command": [*command, "--interval", "50"], "frozen_after": "400ms"}


def test_a_gpu_that_stays_hung_after_the_kill_is_not_started_into_and_its_load_is_a_ghost(
    device: SimulatedDevice,
) -> None:
    environment = {**device.environment("a")}
    hangs = worker(CUDA, deadlines={"sync": "200ms"}, accelerator="gpu0", probe="cuda", probe_deadline="700ms")
    with Supervised({"a": hangs}, environment=environment, tegrastats=tegrastats(device)) as supervised:
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: accelerator(supervised)["load_ratio"] is not None)
        assert not accelerator(supervised)["ghost"]
        fault = device.fault("hang", label="a", scope="device", permanent=1, load=99)
        probed = supervised.wait_event("probe", "a")
        assert (probed["usable"], probed["reason"]) == ("no", "did not end in time and was killed")
        wait_until(lambda: accelerator(supervised)["ghost"], what=supervised.snapshot)
        supervised.reload()
        wait_until(lambda: accelerator(supervised)["ghost"], what=supervised.snapshot)
        assert (accelerator(supervised)["blocked_by"], supervised.worker("a")["incarnation"]) == ("a", 1)
        fault.clear()
        supervised.wait_phase("a", "running", 2)
        wait_until(lambda: not accelerator(supervised)["ghost"])
        assert supervised.events("probe", "a")[-1]["usable"] == "yes"


def test_a_gpu_that_is_free_again_after_the_kill_is_usable(device: SimulatedDevice) -> None:
    hangs = worker(CUDA, deadlines={"sync": "200ms"}, accelerator="gpu0", probe="cuda")
    with Supervised({"a": hangs}, environment=device.environment("a")) as supervised:
        supervised.wait_phase("a", "running", 1)
        device.fault("hang", label="a", times=1)
        supervised.wait_phase("a", "running", 2)
        assert supervised.events("probe", "a")[0]["usable"] == "yes"


def test_the_workers_python_is_not_the_probes(tmp_path: Path) -> None:
    """An interpreter that cannot begin, or finds other bindings, would know nothing of any device."""
    tmp_path.joinpath("watchdogd.py").write_text("")
    environment = {**os.environ, "PYTHONHOME": "/nowhere", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*CUDA_PROBE[:-2], "-c", "import watchdogd.worker.probe"], env=environment, check=False)
    assert done.returncode == 0


def run_probe(environment: dict[str, str]) -> int:
    request = [sys.executable, "-m", "watchdogd.worker.probe"]
    return os.waitstatus_to_exitcode(os.waitpid(os.spawnve(os.P_NOWAIT, request[0], request, environment), 0)[1])


@pytest.mark.parametrize(
    ("fault", "accelerator", "status"),
    [
        ("", "gpu0", program.USABLE),
        ("error code=719", "gpu0", program.NOT_USABLE),
        ("error code=2", "gpu0", program.UNKNOWN),
        ("error code=46", "gpu0", program.UNKNOWN),
        ("error code=100", "gpu0", program.UNKNOWN),
        ("zero", "gpu0", program.NOT_USABLE),
        ("", "gpu7", program.UNKNOWN),
    ],
)
def test_the_probe_on_a_driver(device: SimulatedDevice, fault: str, accelerator: str, status: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **device.environment("p"), "SIMCUDA_FAULT": fault}
    assert run_probe({**environment, "WATCHDOGD_ACCELERATOR": accelerator}) == status


def test_the_probe_without_a_driver_knows_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver here")
    assert run_probe({**environment, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}) == program.UNKNOWN
