"""The command line as people and scripts use it: output, errors with a remedy, exit status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import watchdogd
from tests.helpers.fake_runtime import FakeRuntime
from tests.helpers.running import Supervised, free_port, wait_until, worker
from watchdogd import exits
from watchdogd.publish import events

TIMEOUT = 20.0
COMMAND = [sys.executable, "-m", "watchdogd"]
INTERRUPTIBLE = ["env", "--default-signal=INT", *COMMAND]  # a shell's background job ignores it, and so would we
SERVE = """
worker.ready()
while True:
    frame()
"""


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """Of a supervisor that ticks no more once this process is gone."""
    monkeypatch.setenv("WATCHDOGD_RUNTIME_DIR", str(tmp_path))
    runtime = FakeRuntime(tmp_path)
    runtime.worker("model_a")
    runtime.worker("model_b", phase="quarantined", required=False)
    runtime.publish()
    return runtime


# --- usage ----------------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_shows_examples() -> None:
    told = run("--help")
    assert told.returncode == 0
    for name in (
        "run",
        "status",
        "events",
        "restart",
        "stop",
        "start",
        "pause",
        "resume",
        "reset",
        "bisect",
        "check-config",
        "doctor",
    ):
        assert f"    {name}" in told.stdout
    assert "examples:" in told.stdout


def test_every_exit_status_is_in_the_help_and_in_the_readme() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert exits.table() in run("--help").stdout
    assert [s for s, meaning in exits.MEANINGS.items() if f"| {s} | {meaning} |" not in readme] == []


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("run", [0, 1, 2, 69, 78, 124, 130]),
        ("exec", [1, 2, 124, 126, 127]),
        ("status", [0, 1, 2, 3, 4, 78, 130]),
        ("events", [0, 1, 2, 78, 130]),
        ("check-config", [0, 2, 78, 130]),
        ("doctor", [0, 2, 4, 78, 130]),
        ("bisect", [0, 1, 2, 3, 78, 130]),
        ("reload", [0, 1, 2, 3, 78, 130]),
    ],
)
def test_the_help_of_a_command_has_its_own_exit_statuses_and_no_others(command: str, own: list[int]) -> None:
    told = run(command, "--help").stdout.partition("exit status:\n")[2]
    assert [int(line.split()[0]) for line in told.splitlines()] == own


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"watchdogd {watchdogd.__version__}\n"


@pytest.mark.parametrize(
    "arguments", [(), ("restart",), ("bisect", "a"), ("bisect", "a", "of"), ("nonsense",), ("status", "--colour")]
)
def test_wrong_usage_is_2_and_goes_to_standard_error(arguments: tuple[str, ...]) -> None:
    told = run(*arguments)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("usage: ")


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_is_0_with_a_table_while_all_is_well(runtime: FakeRuntime) -> None:
    runtime.tick()
    told = run("status")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("supervisor  pid ") and "\nmodel_a " in told.stdout and "\033" not in told.stdout


def test_status_as_json_is_one_object_a_line(runtime: FakeRuntime) -> None:
    runtime.tick()
    told = run("status", "--json", "model_a")
    assert told.returncode == 0 and told.stdout.count("\n") == 1
    assert [worker["name"] for worker in json.loads(told.stdout)["workers"]] == ["model_a"]


def test_status_is_4_for_a_worker_that_is_not_as_it_should_be(runtime: FakeRuntime) -> None:
    runtime.tick()
    told = run("status", "model_b")
    assert told.returncode == 4
    assert "watchdogd reset model_b" in told.stdout


def test_status_is_3_and_still_shows_what_is_known_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(TIMEOUT)
    runtime = FakeRuntime(tmp_path, pid=gone.pid)
    runtime.worker("model_a")
    runtime.publish()
    told = run("status", env={"WATCHDOGD_RUNTIME_DIR": str(tmp_path)})
    assert told.returncode == 3
    assert told.stdout.startswith(f"supervisor: NOT RUNNING - pid {gone.pid} is gone, last tick ")
    assert "model_a" in told.stdout


def test_status_without_a_board_is_3_with_a_remedy(tmp_path: Path) -> None:
    told = run("status", env={"WATCHDOGD_RUNTIME_DIR": str(tmp_path)})
    assert (told.returncode, told.stdout) == (3, "")
    assert "start it with `watchdogd run`" in told.stderr


@pytest.mark.parametrize("command", [("exec", "--snyc", "2s", "true"), ("run", "--snyc"), ("status", "--snyc")])
def test_an_option_that_there_is_not_names_the_help_of_its_command(command: tuple[str, ...]) -> None:
    ran = run(*command)
    assert (ran.returncode, ran.stdout) == (exits.USAGE, "")
    assert f"--snyc; `watchdogd {command[0]} --help`" in ran.stderr


def test_an_unknown_worker_is_a_usage_error_that_names_the_known(runtime: FakeRuntime) -> None:
    runtime.tick()
    told = run("status", "model_x")
    assert (told.returncode, told.stdout) == (2, "")
    assert "there are: model_a, model_b" in told.stderr


def test_status_finds_the_runtime_directory_in_a_configuration_with_other_problems(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    config = tmp_path / "w.toml"
    config.write_text('unknown = 1\n[supervisor]\nruntime_dir = "/nonexistent"\n')
    drop_in = tmp_path / "w.toml.d"
    drop_in.mkdir()
    (drop_in / "here.toml").write_text(f'[supervisor]\nruntime_dir = "{runtime.directory}"\n')
    runtime.tick()
    told = run("status", "-c", config, env={"WATCHDOGD_RUNTIME_DIR": "/elsewhere"})
    assert (told.returncode, told.stderr) == (0, "")


def on_a_terminal(columns: int | None) -> list[str]:
    """What ``status`` prints where it has so many columns; None: a terminal that does not tell."""
    ours, theirs = pty.openpty()
    if columns is not None:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen([*COMMAND, "status"], stdout=theirs, env={**kept, "NO_COLOR": "1"})
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while select.select([ours], [], [], TIMEOUT)[0] and (data := os.read(ours, 65536)):
            seen += data
    os.close(ours)
    process.wait(TIMEOUT)
    return seen.decode().splitlines()


INCIDENT = {
    "id": "20261121T040744Z-model_a-2733.1",
    "verdict": "call",
    "operation": "sync",
    "time": "2026-11-21T04:07:44.049200Z",
}


@pytest.mark.parametrize(("columns", "widest"), [(80, 80), (120, 120), (None, 80), (0, 80)])
def test_a_terminal_of_any_width_shows_the_incident_whole(
    runtime: FakeRuntime, columns: int | None, widest: int
) -> None:
    runtime.incarnation("model_a", 3, pid=4194304, last_incident=INCIDENT).record(0, "sync", 5_000_000, times=9)
    runtime.publish()
    lines = on_a_terminal(columns)
    assert any(f"[{INCIDENT['id']}]" in line for line in lines)
    assert max(map(len, lines)) <= widest
    assert any("model_a" in line and "4194304" in line and " left)" in line for line in lines)
    assert any("model_a" in line and "5.24 ms / 5.24 ms" in line for line in lines) == (widest == 120)


def test_what_is_no_terminal_gets_whole_rows_unless_columns_are_told(runtime: FakeRuntime) -> None:
    runtime.incarnation("model_a", 3, last_incident=INCIDENT, note="n" * 300).record(0, "sync", 5_000_000, times=9)
    runtime.publish()
    whole = f"  last incident: call sync at {INCIDENT['time']} [{INCIDENT['id']}]"
    lines = run("status", env={"COLUMNS": ""}).stdout.splitlines()
    assert whole in lines and f"  ! {'n' * 300}" in lines
    assert whole not in run("status", env={"COLUMNS": "80"}).stdout.splitlines()  # as `watch` does


def test_one_worker_is_shown_with_the_end_of_its_last_incident(runtime: FakeRuntime) -> None:
    (runtime.directory / "state/log").mkdir(parents=True)
    (runtime.directory / "state/log/model_a.log").touch()
    gone = events.encode(
        events.EventKind.GONE, boot_id=7, seq=1, wall_ns=2, monotonic_ns=3, worker="model_a", incarnation=2,
        incident=INCIDENT["id"], exit="killed by signal 9",
    )  # fmt: skip
    (runtime.directory / "state" / events.FILE_NAME).write_bytes(gone)
    runtime.worker("model_a", last_incident=INCIDENT)
    runtime.publish()
    alone, all_of_them = (run("status", *names).stdout for names in (["model_a"], []))
    assert "its process: killed by signal 9" in alone and "state/log/model_a.log" in alone
    assert "its process" not in all_of_them


def test_a_configuration_that_cannot_be_read_is_78(tmp_path: Path) -> None:
    told = run("status", "-c", tmp_path / "missing.toml")
    assert told.returncode == 78
    assert "missing.toml" in told.stderr and "create it" in told.stderr


def test_status_answers_within_200_ms(runtime: FakeRuntime) -> None:
    for number in range(8):
        beat = runtime.incarnation(f"worker_{number}", 1)
        for lane in range(8):
            beat.record(lane, "sync", 5_000_000, times=9)
    runtime.publish()
    times: list[float] = []
    while not times or (min(times) >= 0.2 and len(times) < 50):
        runtime.tick()
        began = time.monotonic()
        assert run("status").returncode == 0
        times.append(time.monotonic() - began)
    assert min(times) < 0.2  # the least: other processes on this machine are not what is measured
    print(f"watchdogd status: {min(times) * 1000:.0f} ms")


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_watching_redraws_a_terminal_until_it_is_interrupted(runtime: FakeRuntime, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    process = subprocess.Popen([*INTERRUPTIBLE, "status", "--watch"], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = b""
    give_up = time.monotonic() + TIMEOUT
    while seen.count(b"\033[H\033[2J") < 3 and time.monotonic() < give_up:
        runtime.tick()
        if select.select([ours], [], [], 0.1)[0]:
            seen += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert seen.count(b"\033[H\033[2J") >= 3 and b"model_a" in seen
    assert (process.returncode, errors) == (130, b"")


def test_watching_goes_on_while_there_is_no_supervisor(tmp_path: Path) -> None:
    environment = {**os.environ, "WATCHDOGD_RUNTIME_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [*INTERRUPTIBLE, "status", "--watch", "--json"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert "does not exist" in process.stdout.readline()
    runtime = FakeRuntime(tmp_path)
    runtime.worker("model_a")
    runtime.publish()
    line = process.stdout.readline()
    while "does not exist" in line:
        line = process.stdout.readline()
    assert json.loads(line)["workers"][0]["name"] == "model_a"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)


def test_a_reader_that_has_seen_enough_is_no_error(runtime: FakeRuntime) -> None:
    state = runtime.directory / "state"
    state.mkdir()
    (state / events.FILE_NAME).write_bytes(b"".join(event(seq) for seq in range(5000)))
    process = subprocess.Popen([*COMMAND, "events"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(TIMEOUT) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


# --- events ---------------------------------------------------------------------------------------------------------


def event(seq: int, worker: str = "model_a", wall_ns: int = 1_700_000_000_000_000_000) -> bytes:
    return events.encode(
        events.EventKind.PHASE,
        boot_id=7,
        seq=seq,
        wall_ns=wall_ns,
        monotonic_ns=seq,
        worker=worker,
        incarnation=3,
        incident=None,
        previous="running",
        phase="killing",
    )


def test_events_are_found_by_what_the_supervisor_says_and_bad_lines_are_counted(runtime: FakeRuntime) -> None:
    state = runtime.directory / "state"
    state.mkdir()
    (state / events.FILE_NAME).write_bytes(event(1) + b"garbage\n" + event(2))
    told = run("events")
    assert told.returncode == 0
    assert told.stdout.splitlines() == ["2023-11-14T22:13:20.000000Z model_a#3 phase running -> killing"] * 2
    assert "1 line of " in told.stderr
    assert [json.loads(line)["seq"] for line in run("events", "--json").stdout.splitlines()] == [1, 2]


def test_no_record_is_an_error_with_a_remedy(runtime: FakeRuntime) -> None:
    told = run("events")
    assert (told.returncode, told.stdout) == (1, "")
    assert str(runtime.directory / "state" / events.FILE_NAME) in told.stderr and "with -c" in told.stderr


def test_following_shows_events_as_they_come_across_a_rotation(runtime: FakeRuntime) -> None:
    state = runtime.directory / "state"
    state.mkdir()
    record = state / events.FILE_NAME
    record.write_bytes(event(1))
    process = subprocess.Popen([*INTERRUPTIBLE, "events", "--follow", "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["seq"] == 1
    with record.open("ab") as file:
        file.write(event(2))
    record.rename(state / f"{events.FILE_NAME}.1")
    record.write_bytes(event(3))
    assert [json.loads(process.stdout.readline())["seq"] for _ in range(2)] == [2, 3]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130


def seqs(*arguments: str) -> list[int]:
    told = run("events", "--json", *arguments)
    assert (told.returncode, told.stderr) == (0, "")
    return [json.loads(line)["seq"] for line in told.stdout.splitlines()]


@pytest.fixture
def record(runtime: FakeRuntime) -> Path:
    state = runtime.directory / "state"
    state.mkdir()
    verdict = json.loads(event(4)) | {"kind": "verdict", "incident": "i-1"}
    record = state / events.FILE_NAME
    recent = event(3, wall_ns=time.time_ns() - 60_000_000_000)
    record.write_bytes(event(1) + event(2, "model_b") + recent + json.dumps(verdict).encode() + b"\n")
    return record


def test_events_are_picked_by_worker_kind_incident_and_age(record: Path) -> None:
    assert record.exists() and seqs() == [1, 2, 3, 4]
    assert seqs("--worker", "model_b") == [2]
    assert seqs("--kind", "verdict") == [4]
    assert seqs("--kind", "verdict", "--kind", "phase", "--worker", "model_a") == [1, 3, 4]
    assert seqs("--incident", "i-1") == [4]
    assert seqs("--since", "10m") == [3]
    assert seqs("--since", "10s") == []
    assert seqs("--since", "7d") == seqs("--since", "168h") != []


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("--kind", "verdicts"), "there are: phase, verdict, "),
        (("--since", "10"), 'write it as "7d", "12h" or "90m"'),
        (("--since", "-1m"), "a duration cannot be negative"),
        (("--worker", "model_x"), "there are: model_a, model_b"),
        (("--incident", "i-2"), "`watchdogd events --kind verdict`"),
        (("--worker", "model_x", "--follow"), "there are: model_a, model_b"),
    ],
)
def test_a_filter_that_nothing_can_pass_is_a_usage_error_with_a_remedy(
    record: Path, arguments: tuple[str, ...], remedy: str
) -> None:
    told = run("events", *([f"--since={arguments[1]}"] if arguments[1] == "-1m" else arguments))
    assert record.exists() and (told.returncode, told.stdout) == (2, "")
    assert remedy in told.stderr


def test_following_shows_only_what_was_asked_for(record: Path) -> None:
    arguments = ["events", "--follow", "--json", "--worker", "model_b", "--kind", "phase"]
    process = subprocess.Popen([*INTERRUPTIBLE, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["seq"] == 2
    with record.open("ab") as file:
        file.write(event(5) + event(6, "model_b"))
    assert json.loads(process.stdout.readline())["seq"] == 6
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)


# --- configuration --------------------------------------------------------------------------------------------------


def config(directory: Path, listen: str = "", command: str = "true") -> Path:
    path = directory / "w.toml"
    path.write_text(
        f'[supervisor]\nruntime_dir = "{directory}/run"\nstate_dir = "{directory}/state"\n'
        f'[metrics]\nlisten = "{listen}"\n[tegrastats]\ncommand = []\n'
        f'[workers.model_a]\ncommand = ["{command}"]\naccelerator = "dla0"\ndeadlines = {{ sync = "200ms" }}\n'
    )
    return path


def test_a_good_configuration_is_summed_up(tmp_path: Path) -> None:
    told = run("check-config", "-c", config(tmp_path))
    assert (told.returncode, told.stderr) == (0, "")
    assert "worker model_a on dla0: true" in told.stdout and "sync 0.2 s" in told.stdout


def test_what_can_run_but_is_hardly_meant_is_a_warning(tmp_path: Path) -> None:
    path = config(tmp_path)
    path.write_text(path.read_text().replace("sync =", "startup ="))
    told = run("check-config", "-c", path)
    assert told.returncode == 0 and "no problem found" in told.stdout
    assert told.stderr.startswith("warning: ") and "nothing but its start is watched" in told.stderr


def test_every_problem_of_a_bad_configuration_is_told(tmp_path: Path) -> None:
    path = config(tmp_path, command="no-such-program")
    path.write_text(path.read_text() + "nonsense = 1\n")
    told = run("check-config", "-c", path)
    assert (told.returncode, told.stdout) == (78, "")
    assert "no-such-program" in told.stderr and "nonsense" in told.stderr and "2 problems" in told.stderr
    assert run("run", "-c", path).returncode == 78


def test_a_port_that_somebody_has_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = config(tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        for command in ("check-config", "run"):
            told = run(command, "-c", path)
            assert told.returncode == 78
            assert "metrics.listen" in told.stderr and "1 problem in" in told.stderr


# --- with a supervisor ----------------------------------------------------------------------------------------------


def test_an_operators_commands_reach_the_supervisor_and_are_seen() -> None:
    with Supervised({"model_a": worker(SERVE)}) as supervised:
        supervised.wait_phase("model_a", "running", 1)
        told = run("restart", "model_a", "-c", supervised.config)
        assert (told.returncode, told.stderr) == (0, "") and told.stdout
        supervised.wait_phase("model_a", "running", 2)
        assert run("stop", "model_a", "-c", supervised.config).returncode == 0
        supervised.wait_phase("model_a", "stopped")
        assert run("status", "-c", supervised.config).returncode == 4
        assert run("start", "model_a", "-c", supervised.config).returncode == 0
        supervised.wait_phase("model_a", "running", 3)
        wait_until(lambda: run("status", "-c", supervised.config).returncode == 0)
        told = run("reset", "model_x", "-c", supervised.config)
        assert (told.returncode, told.stdout) == (2, "") and "no worker is called model_x" in told.stderr
        told = run("resume", "model_a", "-c", supervised.config)
        assert (told.returncode, told.stdout) == (1, "") and "cannot resume it" in told.stderr
        supervised.wait_event("operator", "model_a", command="restart")
        assert "operator" in run("events", "-c", supervised.config).stdout


def test_bisect_is_told_to_the_supervisor_and_back() -> None:
    with Supervised({"model_a": worker(SERVE)}) as supervised:
        supervised.wait_phase("model_a", "running", 1)
        told = run("bisect", "model_a", "on", "-c", supervised.config)
        answer = "bisect on model_a: from its next start on; at once: watchdogd restart model_a\n"
        assert (told.returncode, told.stdout, told.stderr) == (0, answer, "")
        wait_until(lambda: "bisected from its next start on" in run("status", "-c", supervised.config).stdout)
        assert supervised.worker("model_a")["incarnation"] == 1
        assert run("bisect", "model_a", "off", "-c", supervised.config).returncode == 0
        wait_until(lambda: "bisect" not in run("status", "-c", supervised.config).stdout)
        assert run("bisect", "model_x", "on", "-c", supervised.config).returncode == 2
        supervised.wait_event("operator", "model_a", command="bisect off")


def test_a_command_without_a_supervisor_is_3_with_a_remedy(tmp_path: Path) -> None:
    told = run("restart", "model_a", env={"WATCHDOGD_RUNTIME_DIR": str(tmp_path)})
    assert (told.returncode, told.stdout) == (3, "")
    assert "no supervisor listens" in told.stderr and "watchdogd run" in told.stderr


def test_a_second_supervisor_names_the_first_and_check_config_accepts_its_port() -> None:
    with Supervised({"model_a": worker(SERVE)}, metrics={"listen": f"127.0.0.1:{free_port()}"}) as supervised:
        wait_until((supervised.runtime / "exporter.address").exists)
        told = run("run", "-c", supervised.config)
        assert (told.returncode, told.stdout) == (1, "")
        assert f"another supervisor (pid {supervised.process.pid})" in told.stderr
        assert run("check-config", "-c", supervised.config).returncode == 0


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_start_tells_in_one_line_where_everything_is(log_format: str) -> None:
    with Supervised({"model_a": worker(SERVE)}, supervisor={"log_format": log_format}) as supervised:
        first, *_ = (supervised.directory / "stderr").read_text().splitlines()
        told = json.dumps(json.loads(first)) if log_format == "json" else first
        places = (supervised.config, supervised.runtime, supervised.state / "log", supervised.state / events.FILE_NAME)
        assert [place for place in map(str, (watchdogd.__version__, *places)) if place not in told] == []


def test_a_start_that_fails_for_its_configuration_tells_only_that(tmp_path: Path) -> None:
    told = run("run", "-c", config(tmp_path, command="no-such-program"))
    assert told.returncode == 78 and "logs" not in told.stderr
