"""Workers and sources that would keep the supervisor busy: it must neither be ended for that nor be late for others."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.running import Supervised, worker
from tests.process.test_hostile import SYNC, verdict, watched_with_word
from watchdogd import abi
from watchdogd.model import MILLISECOND
from watchdogd.observe import procfs

DEADLINES = {"sync": "200ms"}
HANG_AT_GO = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
# Without the interpreter's lock, so that all of them want a CPU at once, as threads do that spin in a driver.
SPIN = """import hashlib
def spin():
    with worker.call('sync'): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
worker.ready()
wait_for('go')
for _ in range(60): threading.Thread(target=spin, daemon=True).start()
hang()"""


def test_a_worker_with_very_many_starved_calls_is_not_the_end_of_the_supervisor() -> None:
    others = worker("serve()", deadlines={"startup": "20s"})
    with Supervised({"a": worker(SPIN, deadlines=DEADLINES, nice=5), "b": others}) as supervised:
        for name in "ab":
            supervised.wait_phase(name, "running", 1)
        supervised.touch("go")
        supervised.let_pass(1.6)
        assert supervised.process.poll() is None  # SIGXCPU came after a second
        assert supervised.worker("b")["incarnation"] == 1


def test_a_source_that_prints_without_end_is_not_the_end_of_the_supervisor_and_hides_no_hang() -> None:
    flood = {"command": ["nice", "yes", "RAM 1/2MB (lfb 1x1MB) CPU [1%@1] GR3D_FREQ x"]}
    with Supervised({"a": worker(HANG_AT_GO, deadlines=DEADLINES)}, tegrastats=flood) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.let_pass(1.6)
        assert supervised.process.poll() is None
        supervised.touch("go")
        late = supervised.wait_event("verdict", "a")
        assert late["detected_ns"] - late["deadline_ns"] < 100 * MILLISECOND
        supervised.wait_phase("a", "running", 2)


def test_a_heartbeat_that_claims_hundreds_of_owners_elsewhere_costs_one_look_at_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.monotonic_ns()
    watched = watched_with_word(tmp_path, os.getpid(), now_ns - 60 * MILLISECOND)
    words = {abi.H["lanes_used_cas"] * abi.WORD: abi.LANES, abi.H["pid_namespace"] * abi.WORD: 12345}
    for lane in range(abi.LANES):
        line = abi.HOT_OFFSET + lane * abi.HOT_STRIDE
        words[line + abi.L["owner"] * abi.WORD] = (lane + 2) << 32
        words[line + abi.L["outer"] * abi.WORD] = abi.stamp(now_ns - (60 * MILLISECOND + 256 * lane), SYNC)
    with (tmp_path / "a.1").open("r+b", buffering=0) as file:
        for offset, word in words.items():
            os.pwrite(file.fileno(), word.to_bytes(8, sys.byteorder), offset)
    looks = []
    real = procfs.inside

    def counted(namespace: int) -> dict[int, int]:
        looks.append(namespace)
        return real(namespace)

    monkeypatch.setattr(procfs, "inside", counted)
    assert verdict(watched, now_ns) is None  # they are nobody's
    assert looks == [12345]


def test_a_call_that_hangs_in_one_of_very_many_threads_is_found() -> None:
    """Not all of them are sampled: one that is not must not be taken for one that is gone."""
    body = f"""for _ in range({procfs.MAX_THREADS + 20}): threading.Thread(target=hang, daemon=True).start()
def stuck():
    with worker.call('sync'): hang()
worker.ready()
if INCARNATION == 1: threading.Thread(target=stuck, daemon=True).start()
hang()"""
    with Supervised({"a": worker(body, deadlines=DEADLINES)}) as supervised:
        assert supervised.wait_event("verdict", "a")["operation"] == "sync"
        supervised.wait_phase("a", "running", 2)
