"""``watchdogd doctor`` as a command: real rights, a simulated driver, children that hang, its deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.machine import Tree
from tests.helpers.running import gone, wait_until
from tests.process.test_sources import nvml_stand_in
from tests.simulator.control import GPUS, SimulatedDevice
from tests.simulator.control import build as simulator
from watchdogd import exits
from watchdogd.doctor import runner
from watchdogd.doctor.table import CHECKS
from watchdogd.doctor.words import Check, Machine, Outcome, State, ok

__all__ = ["nvml_stand_in"]  # a fixture

TIMEOUT = 20.0
ALWAYS_WITHIN = 3.0
HEAD = '[supervisor]\nruntime_dir = "{0}/run"\nstate_dir = "{0}/state"\n[metrics]\nlisten = ""\n'
NO_SOURCES = "[tegrastats]\ncommand = []\n[nvml]\nenabled = false\n[nvgpu]\nenabled = false\n[kmsg]\nenabled = false\n"
ON_GPU = '[workers.a]\ncommand = ["/bin/true"]\naccelerator = "gpu{}"\ndeadlines = {{ sync = "1s" }}\n'


def doctor(
    *arguments: str | Path, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "watchdogd", "doctor", *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)


def checks(told: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(told.stdout)["checks"]}


@pytest.fixture
def no_driver(tmp_path: Path) -> dict[str, str]:
    """Wherever the test runs: the first libcuda found is none."""
    folder = tmp_path / "no-driver"
    folder.mkdir()
    (folder / "libcuda.so.1").write_text("not a library")
    return {"LD_LIBRARY_PATH": str(folder)}


@pytest.fixture
def device(tmp_path: Path) -> Iterator[SimulatedDevice]:
    with SimulatedDevice(tmp_path / "device") as made:
        yield made


def config(folder: Path, *tables: str) -> Path:
    file = folder / "vehicle.toml"
    file.write_text(HEAD.format(folder) + NO_SOURCES + "".join(tables))
    return file


# --- the command ----------------------------------------------------------------------------------------------------


def test_what_a_configuration_needs_and_finds_is_0(tmp_path: Path, device: SimulatedDevice) -> None:
    told = doctor("-c", config(tmp_path, ON_GPU.format(0)), "--json", env=device.environment("doctor"))
    report = json.loads(told.stdout)
    assert (told.returncode, report["can_run"], told.stderr) == (exits.FINE, True, "")
    assert [check["name"] for check in report["checks"]] == [check.name for check in CHECKS]
    driver = checks(told)["cuda_driver"]
    assert (driver["state"], driver["needed_by"]) == ("ok", ["a"])
    assert driver["found"].startswith("CUDA ")
    assert [process.operations for process in device.processes()] == []  # nobody stays, nothing ran


def test_what_it_needs_and_does_not_find_is_4_and_named(tmp_path: Path, no_driver: dict[str, str]) -> None:
    told = doctor("-c", config(tmp_path, ON_GPU.format(0)), env=no_driver)
    assert told.returncode == exits.NOT_AS_IT_SHOULD
    words = " ".join(told.stdout.split())
    assert "cannot run here, for want of: CUDA driver." in words
    assert "(needed by a)" in words and max(map(len, told.stdout.splitlines())) <= 80


SHIMMED = ON_GPU.format(0) + 'instrument = "driver"\n'


def test_a_shim_can_stand_in_front_of_the_driver_that_the_worker_would_find(
    tmp_path: Path, device: SimulatedDevice
) -> None:
    file = config(tmp_path, SHIMMED)
    (tmp_path / "state").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check = checks(doctor("-c", file, "--json", env=device.environment("doctor")))["driver_shim"]
    assert (check["state"], check["needed_by"]) == ("ok", ["a"])
    assert str(simulator() / "libcuda.so.1") in check["found"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_worker_that_needs_a_shim_and_has_no_driver_is_told(tmp_path: Path, no_driver: dict[str, str]) -> None:
    env = {**no_driver, "WATCHDOGD_CUDA_DRIVER": f"{no_driver['LD_LIBRARY_PATH']}/libcuda.so.1"}
    told = doctor("-c", config(tmp_path, SHIMMED), "--json", env=env)
    check = checks(told)["driver_shim"]
    assert (told.returncode, check["state"]) == (exits.NOT_AS_IT_SHOULD, "missing")
    assert check["found"].startswith("for a: ") and "is no ELF file" in check["found"]
    assert "WATCHDOGD_CUDA_DRIVER" in check["remedy"]
    nobody_s = checks(doctor("--json", env=env))["driver_shim"]
    assert nobody_s["found"].startswith("no libcuda.so.1 ")


def test_the_same_lack_is_0_where_nobody_needs_it(tmp_path: Path, no_driver: dict[str, str]) -> None:
    on_none = '[workers.a]\ncommand = ["/bin/true"]\n'
    told = doctor("-c", config(tmp_path, on_none), "--json", env=no_driver)
    assert (told.returncode, checks(told)["cuda_driver"]["state"]) == (exits.FINE, "missing")


def test_a_gpu_that_only_the_configuration_has_is_missing(tmp_path: Path, device: SimulatedDevice) -> None:
    told = doctor("-c", config(tmp_path, ON_GPU.format(GPUS)), "--json", env=device.environment("doctor"))
    assert told.returncode == exits.NOT_AS_IT_SHOULD
    assert checks(told)["cuda_driver"]["found"].endswith(f"; no gpu{GPUS}")


def test_a_bad_configuration_is_78_and_nothing_is_looked_at(tmp_path: Path) -> None:
    told = doctor("-c", config(tmp_path, "[workers.a]\ncommand = []\n"))
    assert (told.returncode, told.stdout) == (exits.BAD_CONFIG, "")
    assert "workers.a.command" in told.stderr


def test_without_a_configuration_it_is_0_whatever_is_missing(no_driver: dict[str, str]) -> None:
    told = doctor("--json", env={**no_driver, "PATH": "/nonexistent"})
    report = json.loads(told.stdout)
    assert (told.returncode, report["schema"], report["config"], report["can_run"]) == (exits.FINE, 1, None, None)
    assert checks(told)["tegrastats"]["state"] == "missing"


def test_a_driver_that_does_not_answer_is_unknown_and_costs_less_than_3_s(
    tmp_path: Path, device: SimulatedDevice
) -> None:
    device.fault("call_hang", call="init")
    tree = Tree(tmp_path)
    tree.program("tegrastats", "exec /bin/sleep 60")
    environment = {**device.environment("doctor"), "PATH": f"{tree.bin}:{os.environ['PATH']}"}
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "watchdogd", "--version"], stdout=subprocess.DEVNULL, timeout=TIMEOUT, check=True
    )
    began = time.monotonic()
    told = doctor("-c", config(tmp_path, ON_GPU.format(0)), "--json", env=environment)
    # A tenth of a second here, and more where the machine is busy with other tests.
    a_start = began - begun
    assert time.monotonic() - began < ALWAYS_WITHIN + 3 * a_start
    found = checks(told)
    assert (told.returncode, found["cuda_driver"]["state"]) == (exits.NOT_AS_IT_SHOULD, "unknown")
    assert "no answer within" in found["cuda_driver"]["found"] and found["cuda_driver"]["remedy"]
    assert (found["tegrastats"]["state"], found["pidfd"]["state"]) == ("unknown", "ok")
    wait_until(lambda: device.processes() == [])


@pytest.mark.parametrize(
    ("gpus", "state", "found"),
    [
        ("0 0 37 NVIDIA H200\n0 0 0 NVIDIA H200", "ok", "2 x NVIDIA H200: gpu0 37%, gpu1 0%"),
        ("0 0 37 Orin (nvgpu)", "degraded", "1 x Orin (nvgpu), no load"),
        ("", "missing", "NVML finds no GPU"),
    ],
)
def test_nvml_is_asked_for_a_load(nvml_stand_in: Path, gpus: str, state: str, found: str) -> None:
    pytest.importorskip("pynvml")
    told = checks(doctor("--json", env={"LD_LIBRARY_PATH": str(nvml_stand_in), "NVML_STAND_IN": gpus}))["nvml"]
    assert (told["state"], told["found"]) == (state, found)


# --- rights, as they really are ---------------------------------------------------------------------------------------

RIGHTS = ("sys_nice", "ipc_lock")
WITHOUT = (
    *("prlimit", "--rtprio=0", "--memlock=65536", "setpriv"),
    *(f"--{where}={','.join(f'-{right}' for right in RIGHTS)}" for where in ("bounding-set", "inh-caps")),
)


def test_real_time_and_locked_memory_are_tried() -> None:
    if (
        os.geteuid() != 0
        or subprocess.run(["chrt", "--fifo", "1", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs root, and a control group that allows real time")
    told = checks(doctor("--json"))
    assert (told["realtime"]["found"], told["memory_lock"]["state"]) == ("SCHED_FIFO 1 is granted", "ok")


def test_a_real_time_that_is_refused_is_missed_by_who_asks_for_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give up rights")
    fifo = '[workers.a]\ncommand = ["/bin/true"]\nscheduling = "{}"\n'
    needs = doctor("-c", config(tmp_path, fifo.format("fifo:10")), "--json", before=WITHOUT)
    assert needs.returncode == exits.NOT_AS_IT_SHOULD
    told = checks(needs)
    assert (told["realtime"]["state"], told["memory_lock"]["state"]) == ("missing", "degraded")
    assert (told["realtime"]["needed_by"], told["memory_lock"]["found"]) == (["a"], "at most 64 KiB may be locked")
    wishes = doctor("-c", config(tmp_path, fifo.format("other")), "--json", before=WITHOUT)
    assert (wishes.returncode, checks(wishes)["realtime"]["state"]) == (exits.FINE, "missing")


def test_directories_that_may_not_be_written_prevent_a_start(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become nobody")
    supervised = tmp_path / "vehicle.toml"
    supervised.write_text(HEAD.format("/root") + NO_SOURCES + '[workers.a]\ncommand = ["/bin/true"]\n')
    for place in (tmp_path, *tmp_path.parents):
        if place.owner() == "root" and place != Path("/tmp") and str(place).startswith("/tmp/"):
            place.chmod(0o755)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    told = doctor("-c", supervised, "--json", before=nobody)
    found = checks(told)
    assert told.returncode == exits.NOT_AS_IT_SHOULD
    assert (found["runtime_dir"]["state"], found["state_dir"]["state"]) == ("missing", "missing")


# --- the children -----------------------------------------------------------------------------------------------------


def check(name: str, look: Any, seconds: float = 5.0) -> Check:
    return Check(name, "g", "t", look, seconds=seconds)


def examined(*made: Check) -> dict[str, runner.Result]:
    return {result.check.name: result for result in runner.examine(Machine(os.environ), made)}


def hang(_machine: Machine) -> Outcome:
    time.sleep(60)
    return ok("never")


def test_a_check_that_hangs_is_given_up_at_its_deadline_and_delays_no_other() -> None:
    began = time.monotonic()
    found = examined(check("hangs", hang, 1.0), check("fine", lambda _machine: ok("yes")))
    assert 1.0 <= time.monotonic() - began < 3.0
    assert found["hangs"].outcome.state is State.UNKNOWN
    assert "no answer within 1.0 s" in found["hangs"].outcome.found
    assert found["fine"].outcome == ok("yes") and found["fine"].seconds < 1.0


def test_all_of_them_together_take_no_longer_than_the_slowest_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TOTAL_SECONDS", 0.4)
    began = time.monotonic()
    found = examined(*(check(f"{number}", hang) for number in range(10)))
    assert time.monotonic() - began < 2.0
    assert {result.outcome.state for result in found.values()} == {State.UNKNOWN}


@pytest.mark.parametrize("hangs", [True, False])
def test_what_a_check_started_ends_with_it(hangs: bool, tmp_path: Path) -> None:
    def look(machine: Machine) -> Outcome:
        started = subprocess.Popen(["sleep", "60"])
        (tmp_path / "part").write_text(f"{started.pid}")
        (tmp_path / "part").rename(tmp_path / "pid")
        return hang(machine) if hangs else ok("left it running")

    assert examined(check("c", look, 0.5))["c"].outcome.state is (State.UNKNOWN if hangs else State.OK)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid))


def test_a_check_that_crashes_or_fails_is_unknown_and_hides_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    def crash(_machine: Machine) -> Outcome:
        os.kill(os.getpid(), signal.SIGKILL)  # SIGSEGV would have pytest print stacks
        raise AssertionError

    def fail(_machine: Machine) -> Outcome:
        os.write(1, b"a word that nobody asked for")
        raise ValueError("of no use")

    found = examined(check("crashes", crash), check("fails", fail), check("fine", lambda _machine: ok("yes")))
    assert found["crashes"].outcome.found == "it crashed while it looked"
    assert found["fails"].outcome.found == "ValueError: of no use"
    assert {result.outcome.state for name, result in found.items() if name != "fine"} == {State.UNKNOWN}
    assert found["fine"].outcome.state is State.OK
    assert "a word" not in capfd.readouterr().out


def test_a_doctor_that_is_killed_leaves_nobody(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.program("tegrastats", f"echo $$ >{tmp_path}/part; /bin/mv {tmp_path}/part {tmp_path}/pid; exec /bin/sleep 60")
    command = [sys.executable, "-m", "watchdogd", "doctor"]
    process = subprocess.Popen(command, env={**os.environ, "PATH": str(tree.bin)}, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "pid").exists)
    process.kill()
    process.wait(TIMEOUT)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), timeout=1.2)  # it would be given up by itself after 1.7 s
