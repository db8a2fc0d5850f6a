"""`watchdogd exec`: the program's status, its streams and environment; a verdict ends it; nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.endpoint import Endpoint, answers
from tests.helpers.executed import WORKER, Executed, program, run
from tests.helpers.running import gone, wait_until
from watchdogd import executing, exits

HANGS = program("worker.ready()\nwith worker.call('sync'): hang()")
SLOW = ["--sync", "150ms", *WORKER]


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_exit_status_is_the_programs(script: str, status: int) -> None:
    ran = run(SLOW, ["sh", "-c", script])
    assert (ran.status, ran.said) == (status, "")


def test_a_program_that_is_not_there_is_not_found_and_one_that_cannot_be_executed_is_not_executed(
    tmp_path: Path,
) -> None:
    garbage, plain = tmp_path / "garbage", tmp_path / "plain"
    garbage.write_bytes(b"\0\1\2")
    garbage.chmod(0o755)
    plain.write_text("")
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    expected = {
        "no-such-program": (127, "no such program"), str(plain): (126, "chmod +x"), str(tmp_path): (126, "directory"),
        str(garbage): (126, "for another machine"), str(script): (127, "not the interpreter"),
        "--sync": (127, "options come before --"),
    }  # fmt: skip
    for command, (status, told) in expected.items():
        ran = run(SLOW, [command])
        assert ran.status == status, command
        assert told in ran.said
        assert ran.said.startswith("watchdogd: ") and command in ran.said and ran.said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sync", "2x"], "--sync: '2x' is not a duration"),
        (["--restart", "-1"], "--restart: "),
        (["--accelerator", "gpu"], "--accelerator: "),
        (["--metrics", "somewhere"], "--metrics: "),
        (["--metrics", "9999"], "--metrics: '9999' has no address"),
        (["--progress", "sync", "--stall", "5s"], "--progress: is \"sync\", which the driver shim tells, and instrument"
         " is not \"driver\"; write --instrument driver"),
        (["--progress", "metrics:http://h:1/", "--stall", "30s"], "--progress-counter: is missing"),
        (["--progress", "http://h:1/", "--stall", "2s"], "less than 8 of --progress-interval \"1s\"; raise --stall to"),
        (["--progress", "command:true", "--stall", "1s"], "raise --stall to "),
    ],
)  # fmt: skip
def test_an_option_that_is_wrong_is_named_and_nothing_is_started(options: list[str], told: str) -> None:
    ran = run([*WORKER, *options], ["sh", "-c", "echo started"])
    assert (ran.status, ran.out) == (exits.USAGE, "")
    assert told in ran.said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "warning: true has no deadline for a step or a call: none of it is watched; give --sync"),
        (["--progress", "http://127.0.0.1:1/", "--stall", "10s"], ""),
        (["--sync", "2s"], ""),
    ],
)
def test_a_deadline_that_is_missing_is_told_and_the_program_is_started(options: list[str], told: str) -> None:
    ran = run([*WORKER, *options], ["true"])
    assert ran.status == 0
    assert told in ran.said and bool(ran.said) == bool(told)


def test_a_hung_call_ends_the_program_with_124_and_says_which_call_in_one_line() -> None:
    ran = run(SLOW, HANGS)
    assert ran.status == exits.VERDICT
    verdict = next(event for event in ran.events if event["kind"] == "verdict")
    assert ran.said.count("\n") == 1
    for part in ("watchdogd: verdict call sync", f"pid {verdict['pid']}", "since ", "deadline 0.150 s"):
        assert part in ran.said
    lateness_ns = verdict["detected_ns"] - verdict["deadline_ns"]
    assert 0 <= lateness_ns < 1_000_000_000


def test_a_call_that_returns_in_time_ends_nobody() -> None:
    ran = run(["--sync", "5s", *WORKER], program("worker.ready()\nfor _ in range(20): frame()\nsys.exit(5)"))
    assert (ran.status, ran.said) == (5, "")
    assert [event["verdict"] for event in ran.events if event["kind"] == "verdict"] == ["crashed"]


def test_without_startup_it_may_start_for_as_long_as_it_likes_and_with_it_not() -> None:
    never_ready = program("time.sleep(0.6)")
    assert run(SLOW, never_ready).status == 0
    ran = run(["--startup", "300ms", *WORKER], never_ready)
    assert (ran.status, "verdict startup" in ran.said) == (exits.VERDICT, True)


def test_observe_only_tells_and_ends_nobody() -> None:
    body = "worker.ready()\nwith worker.call('sync'): time.sleep(0.5)\nsys.exit(3)"
    ran = run([*SLOW, "--observe-only"], program(body))
    assert ran.status == 3
    assert "only observed, not ended" in ran.said


def test_it_is_started_again_after_verdicts_as_often_as_it_was_asked_for() -> None:
    ran = run([*SLOW, "--restart", "2"], HANGS)
    assert ran.status == exits.VERDICT
    assert [event["incarnation"] for event in ran.events if event["kind"] == "verdict"] == [1, 2, 3]
    assert [event["reason"] for event in ran.events if event.get("change") == "ended"] != []


def test_it_is_not_started_again_after_an_end_of_its_own() -> None:
    ran = run([*SLOW, "--restart", "2"], ["sh", "-c", "echo once; exit 9"])
    assert (ran.status, ran.out) == (9, "once\n")


def test_a_restart_that_helps_is_the_end_of_it() -> None:
    body = "worker.ready()\nif INCARNATION == 1:\n  with worker.call('sync'): hang()\nsys.exit(6)"
    ran = run([*SLOW, "--restart", "2"], program(body))
    assert (ran.status, "started again, incarnation 2" in ran.said) == (6, True)


def test_standard_input_output_and_error_are_its_own() -> None:
    with Executed(SLOW, ["sh", "-c", "cat; echo told >&2"], stdin=subprocess.PIPE) as executed:
        executed.process.stdin.write(b"through\n")  # type: ignore[union-attr]  # a pipe
        executed.process.stdin.close()  # type: ignore[union-attr]  # a pipe
        assert executed.status() == 0
        assert (executed.out(), executed.said()) == ("through\n", "told\n")


def test_descriptors_limits_directory_and_environment_are_as_without_exec(tmp_path: Path) -> None:
    given = os.open(tmp_path, os.O_RDONLY)
    look = "ls /proc/self/fd | xargs; ulimit -a; pwd; umask; cat /proc/self/oom_score_adj; env | sort"
    environment = {"NOTIFY_SOCKET": "/nowhere", "LISTEN_FDS": "1"}
    with Executed(SLOW, ["sh", "-c", look], environment=environment, pass_fds=(given,)) as executed:
        assert executed.status() == 0
        watched = executed.out().splitlines()
        bare = subprocess.run(
            ["sh", "-c", look], env=executed.environment, pass_fds=(given,), stdin=subprocess.DEVNULL, check=True,
            capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
    os.close(given)
    assert str(given) in watched[0].split()
    assert [line for line in bare if line not in watched] == []
    added = [line.partition("=")[0] for line in watched if line not in bare]
    assert sorted(added) == ["WATCHDOGD_HEARTBEAT", "WATCHDOGD_WORKER"]


def test_it_stays_in_the_session_and_process_group_that_exec_was_started_in() -> None:
    with Executed(SLOW, ["sh", "-c", "ps -o sid= -o pgid= -p $$"], start_new_session=True) as executed:
        assert executed.status() == 0
        assert executed.out().split() == [str(executed.process.pid)] * 2


def test_what_ends_by_itself_after_the_program_is_left_to_and_not_told() -> None:
    with Executed(SLOW, ["bash", "-c", "exec > >(sleep 0.3; cat > $HERE/tail); echo rest; exit 4"]) as executed:
        assert executed.status() == 4
        assert (executed.wait_file("tail"), executed.said()) == ("rest\n", "")


def test_what_has_not_ended_gets_a_sigterm_first() -> None:
    ends = 'trap "echo asked > $HERE/asked; exit" TERM; while :; do sleep 0.05; done'
    with Executed(SLOW, ["sh", "-c", f"({ends}) & exit 4"]) as executed:
        assert executed.status() == 4
        assert executed.wait_file("asked") == "asked\n"


def test_after_a_verdict_nobody_lingers() -> None:
    body = "import subprocess\nsubprocess.Popen(['sleep', '77'])\nworker.ready()\nwith worker.call('sync'): hang()"
    ran = run(SLOW, program(body))
    [kill] = [event["monotonic_ns"] for event in ran.events if event["kind"] == "signal"]
    [gone_ns] = [event["monotonic_ns"] for event in ran.events if event["kind"] == "gone"]
    assert (ran.status, gone_ns - kill < 900_000_000) == (exits.VERDICT, True)


@pytest.mark.parametrize(
    "deed",
    ["rm -rf $XDG_RUNTIME_DIR/*", "rm -rf $XDG_RUNTIME_DIR/*/run/heartbeats", "rm -rf $XDG_RUNTIME_DIR/*/run/births",
     ": > $WATCHDOGD_HEARTBEAT", "mkdir $XDG_RUNTIME_DIR/*/run/births/d"],
)  # fmt: skip
def test_a_program_that_clears_away_what_is_ours_keeps_its_status(deed: str) -> None:
    ran = run(SLOW, ["sh", "-c", f"{deed}; sleep 0.8; exit 14"])
    assert (ran.status, "Traceback" in ran.said) == (14, False), ran.said


def test_one_that_cannot_be_started_again_is_not_said_to_be_missing() -> None:
    body = "worker.ready()\nos.system('rm -rf $XDG_RUNTIME_DIR/*')\nwith worker.call('sync'): hang()"
    ran = run([*SLOW, "--restart", "1"], program(body))
    assert (ran.status, "cannot start: " in ran.said) == (exits.REFUSED, True), ran.said


def test_a_source_of_progress_that_has_just_begun_is_not_called_silent() -> None:
    ran = run([*WORKER, "--progress", "command:true", "--stall", "8s"], program("worker.ready()\ntime.sleep(1.5)"))
    assert (ran.status, ran.said) == (0, "")


def test_what_it_left_running_is_ended_and_told() -> None:
    script = "sleep 77 & echo $! > $HERE/pid; exit 4"
    with Executed(SLOW, ["sh", "-c", script]) as executed:
        assert executed.status() == 4
        assert gone(int((executed.directory / "pid").read_text()))
        assert "have been ended: 1" in executed.said()


def test_a_hung_tree_is_ended_whole() -> None:
    body = "import subprocess\np = subprocess.Popen(['setsid', 'sleep', '77'])\ntell('child', p.pid)\nworker.ready()\n"
    with Executed(SLOW, program(body + "with worker.call('sync'): hang()")) as executed:
        child = int(executed.wait_file("child"))
        assert executed.status() == exits.VERDICT
        assert gone(child)


def test_events_are_appended_to_the_file_as_they_are_recorded(tmp_path: Path) -> None:
    record = tmp_path / "events.jsonl"
    for _ in range(2):
        assert run([*SLOW, "--json-events", str(record)], ["true"]).status == 0
    # The option given last counts, so the helper's own is in force too: both are files of lines.
    ran = run(SLOW, ["true"])
    seqs = [event["seq"] for event in ran.events]
    assert seqs == sorted(set(seqs)) and {"supervisor", "gone"} <= {event["kind"] for event in ran.events}
    assert all({"schema", "boot_id", "seq", "time", "monotonic_ns", "kind"} <= event.keys() for event in ran.events)


def test_an_event_file_that_cannot_be_written_is_refused_before_the_program_starts() -> None:
    for file in ("/proc/no/such", "/dev/null"):
        asked = [sys.executable, "-m", "watchdogd", "exec", *SLOW, "--json-events", file, "--", "echo", "started"]
        ran = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (exits.REFUSED, "")
        assert file in ran.stderr


def test_a_hang_is_kept_where_asked_for(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "here"
    ran = run([*SLOW, "--incidents", str(kept)], HANGS)
    assert ran.status == exits.VERDICT
    assert f"`watchdogd incidents --directory {kept} show last`" in ran.said
    (path,) = kept.glob("*/incident.json")
    told = json.loads(path.read_text())
    assert (told["state"], told["verdict"]["operation"], told["exit"]) == ("closed", "sync", "killed by signal 9")
    assert told["times"]["closed_ns"] >= told["times"]["opened_ns"]


def test_a_hang_is_kept_nowhere_unless_asked_for() -> None:
    ran = run(SLOW, HANGS)
    assert (ran.status, [event for event in ran.events if event["kind"] == "evidence"]) == (exits.VERDICT, [])
    assert "incidents" not in ran.said


def test_a_place_for_incidents_that_cannot_be_made_is_refused_before_the_program_starts() -> None:
    for place in ("/proc/no/such", "/dev/null"):
        asked = [sys.executable, "-m", "watchdogd", "exec", *SLOW, "--incidents", place, "--", "echo", "started"]
        ran = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (exits.REFUSED, "")
        assert place in ran.stderr


def test_metrics_are_served_where_asked_for_and_status_finds_it() -> None:
    with Executed([*SLOW, "--metrics", "127.0.0.1:0", "-v"], program("serve_until('done')")) as executed:
        runtime = executed.run_directory()
        address = runtime / "exporter.address"
        wait_until(address.exists, what=executed.said)
        with urllib.request.urlopen(f"http://{address.read_text().strip()}/metrics", timeout=10) as reply:
            assert b'worker="python"' in reply.read()
        assert f"WATCHDOGD_RUNTIME_DIR={runtime} watchdogd status" in executed.said()
        told = subprocess.run(
            [sys.executable, "-m", "watchdogd", "status", "--json"], capture_output=True, text=True, check=False,
            env={**executed.environment, "WATCHDOGD_RUNTIME_DIR": str(runtime)},
        )  # fmt: skip
        assert [worker["phase"] for worker in json.loads(told.stdout)["workers"]] == ["running"]
        executed.touch("done")
        assert executed.status() == 0


def test_a_reload_is_refused_even_where_a_file_has_the_name_of_what_it_was_started_with(tmp_path: Path) -> None:
    (tmp_path / executing.SOURCE).write_text('[workers.other]\ncommand = ["sleep", "9"]\n')
    with Executed(SLOW, program("serve_until('done')"), cwd=tmp_path) as executed:
        runtime = executed.run_directory()
        wait_until((runtime / "control.sock").exists)
        told = subprocess.run(
            [sys.executable, "-m", "watchdogd", "reload"], capture_output=True, text=True, check=False,
            env={**executed.environment, "WATCHDOGD_RUNTIME_DIR": str(runtime)},
        )  # fmt: skip
        assert (told.returncode, "no configuration to load anew" in told.stderr) == (exits.BAD_CONFIG, True), (
            told.stderr
        )
        executed.touch("done")
        assert executed.status() == 0


@pytest.mark.parametrize(("pending", "status"), [(1, exits.VERDICT), (0, 0)])
def test_a_counter_of_its_own_that_stands_with_work_in_hand_ends_it_and_one_that_is_idle_does_not(
    pending: int, status: int
) -> None:
    with Endpoint(answers(f"steps_total 7\nrunning {pending}\n")) as endpoint:
        options = ["--progress", f"metrics:{endpoint.url}", "--progress-counter", "steps_total"]
        options += ["--progress-pending", "running", "--progress-interval", "50ms", "--stall", "600ms"]
        ran = run([*options, *WORKER], ["sleep", "3"])
    assert (ran.status, "steps_total stands" in ran.said) == (status, status != 0)


def test_without_metrics_there_is_no_exporter() -> None:
    with Executed(SLOW, program("serve_until('done')")) as executed:
        runtime = executed.run_directory()
        executed.touch("done")
        assert executed.status() == 0
        assert not (runtime / "exporter.address").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_with_standard_streams_that_are_closed_the_status_is_the_programs_and_no_file_of_ours_is_one(
    closed: str,
) -> None:
    look = "readlink /proc/self/fd/[012] > $HERE/saw; exit 7"
    with Executed(SLOW, ["sh", "-c", look], before=["sh", "-c", f'exec "$@" {closed}', "sh"]) as executed:
        assert executed.status() == 7
        saw = executed.wait_file("saw").split()
        assert not [path for path in saw if "watchdogd-exec" in path or "anon_inode" in path]
        assert all(line.startswith(b"{") for line in executed.record.read_bytes().splitlines())


def test_nobody_who_reads_what_we_say_is_no_reason_not_to_start() -> None:
    read, write = os.pipe()
    os.close(read)
    with Executed([*SLOW, "-v"], ["sh", "-c", "exit 8"], stderr=write) as executed:
        os.close(write)
        assert executed.status() == 8
