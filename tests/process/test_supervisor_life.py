"""The supervisor's own life: one per directory, an orderly end, a sudden one, and what comes after."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.running import Supervised, children, gone, wait_until, worker
from tests.process.test_supervisor_kill import FAMILY, family
from watchdogd import __version__

SERVE = worker("serve()")


def test_a_second_supervisor_on_the_same_directory_refuses_and_names_the_first() -> None:
    with Supervised({"a": SERVE}) as supervised:
        pid = supervised.wait_phase("a", "running")["pid"]
        status, said = supervised.second()
        assert status != 0
        assert f"pid {supervised.process.pid}" in said
        assert "Traceback" not in said
        supervised.wait_tick()
        assert (supervised.worker("a")["pid"], gone(pid)) == (pid, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_leaves_nothing_and_keeps_every_event(number: signal.Signals) -> None:
    stubborn = worker("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()", stop_timeout="300ms")
    with Supervised({"a": worker(FAMILY + "serve()"), "b": stubborn}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.wait_phase("b", "running")
        pids = [*family(supervised), *(supervised.worker(name)["pid"] for name in "ab"), *_children(supervised)]
        began = time.monotonic()
        assert supervised.stop(number) == 0
        assert time.monotonic() - began < 3
        assert [pid for pid in pids if not gone(pid)] == []
        assert supervised.leftovers() == []
        assert list((supervised.runtime / "heartbeats").iterdir()) == []
        assert not (supervised.runtime / "control.sock").exists()
        ended = [event["worker"] for event in supervised.events("phase", phase="stopped")]
        assert sorted(ended) == ["a", "b"]
        assert [event["signal"] for event in supervised.events("signal", "b")] == ["SIGTERM", "SIGKILL"]
        told = [event["worker"] for event in supervised.events("phase", phase="terminating")]
        assert told == ["b", "a"]  # the last started first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_record_tells_when_the_supervisor_came_and_went_and_why(number: signal.Signals) -> None:
    with Supervised({"a": SERVE}, metrics={"listen": "127.0.0.1:0"}) as supervised:
        supervised.wait_phase("a", "running")
        pid = supervised.process.pid
        started = supervised.wait_event("supervisor", change="started")
        assert (started["worker"], started["pid"], started["version"]) == (None, pid, __version__)
        assert (started["config"], started["metrics"]) == ([str(supervised.config)], "127.0.0.1:0")
        assert len(supervised.events("supervisor")) == 1
        supervised.stop(number)
        everything = supervised.events()
        assert everything[0] == started
        told = [(event["change"], event["reason"]) for event in supervised.events("supervisor")[1:]]
        assert told == [("stopping", number.name), ("ended", number.name)]
        assert everything[-1]["change"] == "ended"  # after the last worker's last word


def test_a_supervisor_that_was_killed_has_no_end_in_the_record_and_its_successor_a_start() -> None:
    with Supervised({"a": SERVE}) as supervised:
        supervised.wait_phase("a", "running")
        first = supervised.process.pid
        supervised.process.kill()
        supervised.process.wait()
        supervised.start()
        supervised.wait_event("supervisor", count=2)
        told = [(event["change"], event["pid"]) for event in supervised.events("supervisor")]
        assert told == [("started", first), ("started", supervised.process.pid)]


def _children(supervised: Supervised) -> list[int]:
    return list(children(supervised.process.pid).values())


def test_an_end_while_everything_is_in_motion_leaves_nothing() -> None:
    """Starting, in backoff, quarantined, paused, in the middle of a stop: SIGTERM ends them all."""
    crash = {"command": ["false"]}
    workers = {
        "starting": worker("hang()"),
        "backoff": {**crash, "restart": {"backoff": "1m", "backoff_max": "1m"}},
        "quarantined": {**crash, "restart": {"budget": 1}},
        "paused": SERVE,
        "terminating": worker("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()", stop_timeout="1s"),
        "stopped": {**SERVE, "autostart": False},
    }
    with Supervised(workers) as supervised:
        supervised.wait_phase("terminating", "running")
        supervised.ask("stop", "terminating")
        supervised.ask("pause", "paused")
        for name in workers:
            supervised.wait_phase(name, name)
        assert supervised.stop() == 0
        assert supervised.leftovers() == []


def test_a_killed_supervisor_takes_its_workers_along_and_its_successor_clears_up_after_it() -> None:
    with Supervised({"a": worker(FAMILY + "serve()")}) as supervised:
        pid = supervised.wait_phase("a", "running", 1)["pid"]
        orphans = family(supervised)
        helpers = _children(supervised)
        supervised.ask("pause", "a")
        supervised.process.kill()
        supervised.process.wait()
        wait_until(lambda: gone(pid))
        wait_until(lambda: all(map(gone, helpers)))  # the recorder too, once it has written what it was told
        assert supervised.events("operator", "a")[-1]["command"] == "pause"
        assert not any(map(gone, orphans))  # what no kernel kills for us
        last = supervised.events()[-1]
        supervised.start()
        wait_until(lambda: supervised.worker("a")["incarnation"] == 2)
        assert all(map(gone, orphans))
        supervised.wait_phase("a", "running", 2)
        supervised.wait_event("ready", "a", 2)
        everything = supervised.events()
        numbers = [event["seq"] for event in everything]
        assert numbers == sorted(set(numbers))
        assert everything[everything.index(last) + 1]["seq"] == last["seq"] + 1


def test_a_stale_socket_and_heartbeat_do_not_stop_the_next_start() -> None:
    with Supervised({"a": SERVE}) as supervised:
        supervised.wait_phase("a", "running")
        supervised.process.kill()
        supervised.process.wait()
        assert (supervised.runtime / "control.sock").exists()
        assert (supervised.runtime / "heartbeats" / "a.1").exists()
        supervised.start()
        supervised.wait_phase("a", "running", 2)
        supervised.ask("restart", "a")


@pytest.mark.parametrize("helper", ["watchdogd.publish.recorder", "watchdogd.exporter"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_helper_that_dies_or_stands_still_changes_nothing_for_the_workers(helper: str, how: signal.Signals) -> None:
    hanging = worker("if INCARNATION == 1:\n    serve_until('go')\n    with worker.call('sync'): hang()\nserve()",
                     deadlines={"sync": "100ms"})  # fmt: skip
    with Supervised({"a": hanging}, metrics={"listen": "127.0.0.1:0"}) as supervised:
        supervised.wait_phase("a", "running", 1)
        wait_until(lambda: helper in children(supervised.process.pid))
        pid = children(supervised.process.pid)[helper]
        os.kill(pid, how)
        supervised.touch("go")
        supervised.wait_phase("a", "running", 2)
        if how == signal.SIGKILL:
            wait_until(lambda: children(supervised.process.pid).get(helper, pid) != pid)
        else:
            os.kill(pid, signal.SIGCONT)
        verdict = supervised.wait_event("verdict", "a")  # what was said meanwhile is not lost
        assert verdict["detected_ns"] - verdict["deadline_ns"] < 500_000_000
        assert supervised.process.poll() is None


def test_a_child_that_keeps_dying_does_not_make_the_supervisor_spin() -> None:
    """A dead telemetry reader, started again and again with backoff, costs next to nothing."""
    dying = {"command": ["sh", "-c", "exit 1"]}
    with Supervised({"a": SERVE}, tegrastats=dying) as supervised:
        supervised.wait_phase("a", "running")
        before = _own_cpu_seconds(supervised.process.pid)
        wait_until(lambda: supervised.snapshot()["sources"][0]["restarts"] >= 4)
        assert _own_cpu_seconds(supervised.process.pid) - before < 0.3


def _own_cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_supervisor_has_one_thread_and_touches_no_gpu() -> None:
    """The load readers do; a driver that blocks must not block the tick."""
    with Supervised({"a": SERVE}, metrics={"listen": "127.0.0.1:0"}) as supervised:
        supervised.wait_phase("a", "running")
        pid = supervised.process.pid
        assert os.listdir(f"/proc/{pid}/task") == [str(pid)]
        mapped = Path(f"/proc/{pid}/maps").read_text()
        opened = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        assert "libcuda" not in mapped
        assert "libnvidia" not in mapped
        assert [name for name in opened if name.startswith(("/dev/nv", "/dev/dri"))] == []


def test_descriptors_do_not_pile_up_over_incarnations() -> None:
    restart = {"backoff": "1ms", "backoff_max": "1ms", "budget": 1, "window": "1m", "when_spent": "retry-slowly"}
    with Supervised({"a": {"command": ["false"], "restart": restart}}) as supervised:
        wait_until(lambda: supervised.worker("a")["incarnation"] >= 5)
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        before = len(os.listdir(f"/proc/{supervised.process.pid}/fd"))
        supervised.ask("start", "a")
        wait_until(lambda: supervised.worker("a")["incarnation"] >= 30)
        supervised.ask("stop", "a")
        supervised.wait_phase("a", "stopped")
        # Of the last one's search for descendants something may be open a moment longer; of 25 it would not be closed.
        wait_until(lambda: len(os.listdir(f"/proc/{supervised.process.pid}/fd")) <= before)
        wait_until(lambda: not [pid for pid in _all_children(supervised.process.pid) if gone(pid)])


def _all_children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def test_the_snapshot_and_the_events_agree_on_the_last_incident() -> None:
    body = "if INCARNATION == 1:\n    serve_until('go')\n    sys.exit(3)\nserve()"
    with Supervised({"a": worker(body)}) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        shown = supervised.wait_phase("a", "running", 2)["last_incident"]
        kinds = [event["kind"] for event in supervised.events(incident=shown["id"])]
        assert kinds[0] == "verdict"
        assert kinds.count("gone") == 1, json.dumps(supervised.events())
        wait_until(lambda: "ready" in [event["kind"] for event in supervised.events(incident=shown["id"])])
