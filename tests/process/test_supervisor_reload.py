"""A new configuration, loaded by a new image of the same process, that adopts what it had."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.running import ROOT, Supervised, children, gone, wait_until, worker
from watchdogd.supervisor import checked

SERVE = worker("serve()", deadlines={"startup": "20s", "sync": "300ms"})
KEPT = {**SERVE, "on_supervisor_exit": "keep"}


def reload(running: Supervised) -> tuple[int, str]:
    """``watchdogd reload``: exit status and words."""
    command = [sys.executable, "-m", "watchdogd", "reload", "-c", str(running.config)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, cwd=ROOT)
    return told.returncode, told.stdout + told.stderr


def changed(running: Supervised, old: str, new: str) -> None:
    text = running.config.read_text()
    assert old in text
    running.config.write_text(text.replace(old, new))


@pytest.mark.parametrize("body", [SERVE, KEPT], ids=["kill", "keep"])
def test_a_reload_keeps_every_worker_and_the_supervisor_s_pid(body: dict[str, Any]) -> None:
    with Supervised({"a": body, "b": body}) as running:
        pids = [running.wait_phase(name, "running", 1)["pid"] for name in "ab"]
        steps, supervisor = running.view("a")["steps"], running.process.pid
        assert reload(running) == (0, "reloaded\n")
        assert running.process.pid == supervisor and running.process.poll() is None
        assert [running.wait_phase(name, "running", 1)["pid"] for name in "ab"] == pids
        wait_until(lambda: running.view("a")["steps"] > steps)
        assert running.events("verdict") == running.events("gone") == []
        numbers = [event["seq"] for event in running.events()]
        assert len(numbers) == len(set(numbers))


def test_a_worker_that_ends_after_a_reload_is_reaped_with_its_status() -> None:
    body = worker("serve_until('go') if INCARNATION == 1 else serve()\nsys.exit(7)", deadlines={"sync": "300ms"})
    with Supervised({"a": body}) as running:
        running.wait_phase("a", "running", 1)
        assert reload(running)[0] == 0
        running.touch("go")
        assert running.wait_event("gone", "a")["exit"] == "exited with status 7"
        running.wait_phase("a", "running", 2)


def test_only_what_the_new_configuration_changes_is_restarted_added_or_ended() -> None:
    workers = {"same": SERVE, "other": {**SERVE, "environment": {"X": "1"}}, "less": SERVE}
    with Supervised(workers) as running:
        before = {name: running.wait_phase(name, "running", 1)["pid"] for name in workers}
        changed(running, '"X": "1"', '"X": "2"') if '"X": "1"' in running.config.read_text() else changed(
            running, '"X" = "1"', '"X" = "2"'
        )
        text = running.config.read_text()
        start = text.index("[workers.less]")
        table = text[start:]
        running.config.write_text(text[:start] + table.replace("workers.less", "workers.more"))
        assert reload(running)[0] == 0
        running.wait_phase("other", "running", 2)
        running.wait_phase("more", "running", 1)
        wait_until(lambda: gone(before["less"]))
        wait_until(lambda: {item["name"] for item in running.snapshot()["workers"]} == {"same", "other", "more"})
        assert running.worker("same")["pid"] == before["same"]
        wait_until(lambda: {event["worker"] for event in running.events("signal")} == {"other", "less"})
        assert running.events("verdict") == []


def test_a_deadline_changes_in_place() -> None:
    body = worker("serve_until('go')\nwith worker.call('sync'): hang()", deadlines={"startup": "20s", "sync": "10s"})
    with Supervised({"a": body}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        changed(running, '"10s"', '"120ms"')
        assert reload(running)[0] == 0
        assert running.wait_phase("a", "running", 1)["pid"] == pid
        running.touch("go")
        verdict = running.wait_event("verdict", "a")
        assert verdict["deadline_ns"] - verdict["entered_ns"] == 120_000_000


def test_a_configuration_with_a_problem_changes_nothing_and_says_why() -> None:
    with Supervised({"a": SERVE}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        started_ns = running.snapshot()["supervisor"]["started_ns"]
        changed(running, '"300ms"', '"300 parsecs"')
        status, said = reload(running)
        assert said.count("\n") >= 2  # a problem a line
        assert status == 78 and "workers.a.deadlines.sync" in said
        assert running.snapshot()["supervisor"]["started_ns"] == started_ns
        assert running.worker("a")["pid"] == pid
        told = running.wait_event("supervisor", change="reload refused")
        assert "parsecs" in told["reason"] and "\n" not in told["reason"]
        assert running.snapshot()["supervisor"]["reload"]["outcome"] == "refused"
        changed(running, '"300 parsecs"', '"300ms"')
        assert reload(running)[0] == 0
        assert running.snapshot()["supervisor"]["reload"] == {"asked": 0, "outcome": "done", "problem": None}


def test_a_configuration_that_is_spoilt_after_its_check_ends_nobody() -> None:
    with Supervised({"a": SERVE}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        changed(running, '"300ms"', '"290ms"')
        os.kill(running.process.pid, signal.SIGHUP)
        running.wait_event("supervisor", change="reloading")
        changed(running, '"290ms"', '"300 parsecs"')
        wait_until(lambda: running.worker("a")["deadlines"]["sync"] == 0.29)  # what was checked
        assert running.process.poll() is None
        assert running.worker("a")["pid"] == pid
        assert reload(running)[0] == 78
        assert running.worker("a")["pid"] == pid


OF_ANOTHER_KIND: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda raw: raw[:20],
    "empty": lambda raw: raw[:0],
    "another version": lambda raw: raw.replace(b"0.", b"9.", 1),
}


@pytest.mark.parametrize("spoil", OF_ANOTHER_KIND.values(), ids=OF_ANOTHER_KIND)
def test_what_another_version_or_nobody_has_checked_is_read_from_the_files(spoil: Callable[[bytes], bytes]) -> None:
    with Supervised({"a": SERVE}) as running:
        command = checked.command(str(running.config))
        raw = subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=True, cwd=ROOT).stdout
    said = [taken(raw), taken(spoil(raw))]
    assert said == ["('a',)", "None"]


def taken(raw: bytes) -> str:
    """What a new image takes of it: the names of the workers."""
    program = "from watchdogd.supervisor import checked; t = checked.take(); print(t and (t[0].workers[0].name,))"
    descriptor = os.memfd_create("test")
    os.write(descriptor, raw)
    environment = {**os.environ, checked.DESCRIPTOR: str(descriptor)}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, pass_fds=[descriptor], capture_output=True, text=True,
        timeout=20, check=True, cwd=ROOT,
    )  # fmt: skip
    os.close(descriptor)
    return ran.stdout.strip()


def test_sighup_reloads_too_and_many_of_them_do_no_harm() -> None:
    with Supervised({"a": SERVE}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        for _ in range(20):
            os.kill(running.process.pid, signal.SIGHUP)
        running.wait_event("supervisor", change="reloading")
        wait_until(lambda: len(running.events("supervisor", change="started")) >= 2)
        running.let_pass(0.5)
        assert running.process.poll() is None
        assert running.worker("a")["pid"] == pid


def test_an_end_asked_for_in_the_middle_of_a_reload_is_an_orderly_one() -> None:
    with Supervised({"a": KEPT}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        os.kill(running.process.pid, signal.SIGHUP)
        running.wait_event("supervisor", change="reloading")
        assert running.stop() == 0
        assert gone(pid)
        assert running.leftovers() == []


@pytest.mark.parametrize("moment", range(8))
def test_an_end_asked_for_at_any_moment_of_a_reload_comes(moment: int) -> None:
    with Supervised({"a": KEPT}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        os.kill(running.process.pid, signal.SIGHUP)
        running.let_pass_alone(random.Random(moment).uniform(0.0, 0.8))
        assert running.stop() == 0
        assert gone(pid)
        assert running.leftovers() == []


EXECUTES = """
import os, signal, sys
from types import SimpleNamespace
from watchdogd.observe.loop import Loop
from watchdogd.supervisor.reload import DIRECTORIES, Reload
when, number = sys.argv[1], int(sys.argv[2])
if DIRECTORIES in os.environ:
    sys.exit("waits" if number in signal.sigpending() else "lost")
heard = []
nothing, place = lambda *_: None, SimpleNamespace(directory="", state_directory="", board=sys.argv[3])
come = lambda: os.kill(os.getpid(), number)
loop = Loop(lambda numbers: (heard.extend(numbers), reload.cancel()))
reload = Reload("", loop, SimpleNamespace(changed=nothing), nothing)
reload.is_due = True
if when == "before":
    come()
reload.execute(place, nothing, come if when == "during" else nothing, SimpleNamespace(reloading=nothing))
sys.exit(f"stays {heard}" if not signal.pthread_sigmask(signal.SIG_BLOCK, ()) else "stays deaf")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_signal_right_before_the_new_image_is_heard_by_the_old_one_or_waits(
    when: str, number: signal.Signals, tmp_path: Path
) -> None:
    board = tmp_path / "board"
    board.write_bytes(bytes(4096))
    command = [sys.executable, "-c", EXECUTES, when, str(int(number)), str(board)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=ROOT)
    assert told.stderr == (f"stays [{int(number)}]\n" if when == "before" else "waits\n")


def test_a_configuration_that_changes_during_a_reload_is_loaded_by_the_next_one() -> None:
    with Supervised({"a": SERVE}) as running:
        running.wait_phase("a", "running", 1)
        os.kill(running.process.pid, signal.SIGHUP)
        running.wait_event("supervisor", change="reloading")
        changed(running, '"300ms"', '"299ms"')
        os.kill(running.process.pid, signal.SIGHUP)
        wait_until(lambda: running.worker("a")["deadlines"]["sync"] == 0.299)


def test_the_exporter_answers_after_a_reload_at_the_same_place() -> None:
    with Supervised({"a": SERVE}, metrics={"listen": "127.0.0.1:0"}) as running:
        address = running.runtime / "exporter.address"
        wait_until(address.exists)
        assert reload(running)[0] == 0
        wait_until(lambda: "watchdogd.exporter" in children(running.process.pid))
        assert re.fullmatch(r"127\.0\.0\.1:\d+", address.read_text().strip())


def test_what_is_started_after_a_reload_hears_its_sigterm_and_has_all_our_cpus() -> None:
    first = {"command": ["sleep", "60"], "deadlines": {"startup": "1m"}}
    tell = "worker.ready()\ntell('cpus', sorted(os.sched_getaffinity(0)))\nserve()"
    cpus = sorted(os.sched_getaffinity(0))
    with Supervised({"a": first}, supervisor={"cpu_affinity": cpus[:1]}) as running:
        running.wait_phase("a", "starting", 1)
        more = worker(tell)["command"]
        running.config.write_text(running.config.read_text() + f"[workers.b]\ncommand = {json.dumps(more)}\n")
        assert reload(running)[0] == 0
        assert running.wait_file("cpus") == str(cpus)
        running.wait_phase("b", "running")
        running.ask("stop", "b")
        running.wait_phase("b", "stopped")
        running.wait_event("gone", "b")  # on record after the signals
        assert [event["signal"] for event in running.events("signal", "b")] == ["SIGTERM"]


def test_a_worker_that_is_quarantined_and_no_longer_configured_is_forgotten() -> None:
    crash = {"command": ["false"], "restart": {"budget": 1}}
    with Supervised({"b": SERVE, "a": crash}) as running:
        running.wait_phase("a", "quarantined")
        running.wait_phase("b", "running")
        text = running.config.read_text()
        running.config.write_text(text[: text.index("[workers.a]")])
        assert reload(running)[0] == 0
        wait_until(lambda: [item["name"] for item in running.snapshot()["workers"]] == ["b"])


def test_other_directories_need_a_restart_and_no_worker_is_left_in_the_old_ones() -> None:
    with Supervised({"a": SERVE}) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        changed(running, str(running.runtime), f"{running.runtime}-other")
        os.kill(running.process.pid, signal.SIGHUP)
        told = running.wait_event("supervisor", change="problem")
        assert "by a restart only" in told["reason"]
        assert running.worker("a")["pid"] == pid
        assert not os.path.exists(f"{running.runtime}-other")
        changed(running, f"{running.runtime}-other", str(running.runtime))
