"""What a worker gets from its supervisor, and what it cannot do to the others."""

from __future__ import annotations

import json
import os
import pwd
import shutil

import pytest

from tests.helpers.running import Supervised, wait_until, worker
from watchdogd import abi
from watchdogd.act import sweep

REPORT = """import json
report = {
    "pid": os.getpid(), "session": os.getsid(0), "group": os.getpgrp(), "directory": os.getcwd(),
    "descriptors": {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
                    if os.path.lexists(f"/proc/self/fd/{name}")},
    "affinity": sorted(os.sched_getaffinity(0)), "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "scheduler": os.sched_getscheduler(0), "oom": int(open("/proc/self/oom_score_adj").read()),
    "ids": [os.getuid(), os.getgid(), sorted(os.getgroups())], "environment": dict(os.environ),
    "blocked": [line.split()[1] for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn"))],
}
tell("report", json.dumps(report))
"""


def report(supervised: Supervised) -> dict[str, object]:
    told: dict[str, object] = json.loads(supervised.wait_file("report"))
    return told


def test_a_worker_gets_its_own_session_closed_descriptors_and_what_it_was_configured() -> None:
    cpu = max(os.sched_getaffinity(0))
    configured = worker(
        REPORT + "serve()",
        environment={"MODEL": 'h "quoted" ü', "PATH": os.environ["PATH"]},
        working_directory="/proc",
        cpu_affinity=[cpu],
        nice=7,
        scheduling="batch",
        oom_score_adj=321,
        cuda_visible_devices="3",
    )
    environment = {"NOTIFY_SOCKET": "", "WATCHDOG_PID": "1", "WATCHDOG_USEC": "1", "OF_THE_SUPERVISOR": "kept"}
    inherited = ("sh", "-c", 'exec 9</dev/null; exec "$@"', "sh")  # what a careless parent left open
    with Supervised({"a": configured}, environment=environment, before=inherited) as supervised:
        assert "9" in os.listdir(f"/proc/{supervised.process.pid}/fd")
        told = report(supervised)
        assert told["pid"] == told["session"] == told["group"] == supervised.worker("a")["pid"]
        assert told["directory"] == "/proc"
        assert (told["affinity"], told["nice"], told["oom"]) == ([cpu], 7, 321)
        assert told["scheduler"] == os.SCHED_BATCH
        seen = told["environment"]
        assert isinstance(seen, dict)
        assert (seen["MODEL"], seen["CUDA_VISIBLE_DEVICES"], seen["WATCHDOGD_WORKER"]) == ('h "quoted" ü', "3", "a")
        assert seen["OF_THE_SUPERVISOR"] == "kept"
        assert seen[abi.ENVIRONMENT] == str(supervised.runtime / "heartbeats" / "a.1")
        assert not {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"} & seen.keys()
        blocked, ignored = (int(mask, 16) for mask in told["blocked"])  # type: ignore[attr-defined]  # an object of JSON
        assert blocked == 0
        assert ignored & (1 << 14) == 0  # SIGTERM
        log = str(supervised.state / "log" / "a.log")
        stacks = "/memfd:watchdogd-stacks (deleted)"  # its own: attach opened it
        assert told["descriptors"] == {"0": "/dev/null", "1": log, "2": log, "3": stacks}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a worker as somebody else")
def test_a_worker_runs_as_its_user_and_can_write_its_heartbeat() -> None:
    """A shell: the test's own Python may be in a directory that nobody may enter."""
    nobody = pwd.getpwnam("nobody")
    script = 'id -u; id -g; test -w "$WATCHDOGD_HEARTBEAT" && echo writable; echo end; sleep 60'
    made = Supervised({"a": {"command": ["sh", "-c", script], "user": "nobody"}})
    made.directory.chmod(0o755)
    with made as supervised:
        log = supervised.state / "log" / "a.log"
        wait_until(lambda: "end" in log.read_text())
        assert log.read_text().split()[:3] == [str(nobody.pw_uid), str(nobody.pw_gid), "writable"]


def test_a_flood_of_output_is_bounded_and_hides_no_hang_of_another_worker() -> None:
    flood = "worker.ready()\nblock = b'x' * 65535 + b'\\n'\nwhile True: os.write(1, block)"
    hanging = worker("serve_until('go')\nwith worker.call('sync'): hang()", deadlines={"sync": "100ms"})
    megabyte = 1 << 20
    with Supervised({"flood": worker(flood, output_max_bytes="1MiB", nice=10), "a": hanging}) as supervised:
        log = supervised.state / "log" / "flood.log"
        supervised.wait_phase("a", "running", 1)
        written = _written(supervised.wait_phase("flood", "running")["pid"])
        wait_until(lambda: _written(supervised.worker("flood")["pid"]) > written + 64 * megabyte)
        supervised.touch("go")
        verdict = supervised.wait_event("verdict", "a")
        assert verdict["detected_ns"] - verdict["deadline_ns"] < 500_000_000
        wait_until(lambda: log.stat().st_size <= megabyte)  # it is emptied now and then, while the flood goes on
        assert supervised.worker("flood")["incarnation"] == 1


def _written(pid: int) -> int:
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("wchar"))


def test_output_goes_to_the_worker_s_own_file_and_survives_its_restart() -> None:
    body = "print(f'out {INCARNATION}', flush=True); print(f'err {INCARNATION}', file=sys.stderr, flush=True)\nserve()"
    with Supervised({"a": worker(body)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.ask("restart", "a")
        supervised.wait_phase("a", "running", 2)
        log = (supervised.state / "log" / "a.log").read_text()
        assert log.split("\n") == ["out 1", "err 1", "out 2", "err 2", ""]


def test_each_incarnation_has_a_heartbeat_of_its_own() -> None:
    """So that what is left of the last one cannot write into its successor's."""
    with Supervised({"a": worker("serve()")}) as supervised:
        inodes = {}
        for incarnation in (1, 2, 3):
            path = supervised.wait_phase("a", "running", incarnation)["heartbeat"]
            inodes[path] = os.stat(path).st_ino
            supervised.ask("restart", "a")
        assert len(inodes) == len(set(inodes.values())) == 3
        supervised.wait_phase("a", "running", 4)
        kept = sorted(path.name for path in (supervised.runtime / "heartbeats").iterdir())
        assert kept == ["a.3", "a.4"]  # the last one's final counts, for those who add them up


def test_a_pinned_supervisor_does_not_pin_its_workers_and_helpers() -> None:
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    pinned = {"cpu_affinity": [min(cpus)]}
    with Supervised({"a": worker("serve()")}, supervisor=pinned, metrics={"listen": "127.0.0.1:0"}) as supervised:
        supervised.wait_phase("a", "running")
        assert os.sched_getaffinity(supervised.process.pid) == {min(cpus)}
        children = [stat.pid for stat in sweep.descendants(supervised.process.pid)]
        assert len(children) >= 3  # the worker, the recorder, the exporter
        assert {frozenset(os.sched_getaffinity(pid)) for pid in children} == {frozenset(cpus)}


def test_a_cpu_that_is_not_there_ends_the_start_with_a_word_about_it() -> None:
    supervised = Supervised({"a": worker("serve()")}, supervisor={"cpu_affinity": [8191]})
    try:
        status, said = supervised.second()
        assert (status, "supervisor.cpu_affinity" in said, "Traceback" in said) == (1, True, False)
    finally:
        shutil.rmtree(supervised.directory)
