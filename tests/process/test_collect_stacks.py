"""Python stacks of real workers, in whatever way they hang; and nobody is signalled who did not register for it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.heartbeat_file import HeartbeatFile
from tests.helpers.worker_process import LineProcess, run_worker, wait_until
from watchdogd import stacks as words
from watchdogd.incident import Stack
from watchdogd.incidents.collectors import Evidence, Target, proc, stacks

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["native", "python"])
THREADS = """
def waits_in_a_lock(lock):
    lock.acquire()

lock = threading.Lock()
lock.acquire()
threading.Thread(target=waits_in_a_lock, args=(lock,), daemon=True).start()

def serves():
    while True:
        say(hear())

say()
serves()
"""
HOLDS_THE_GIL = """
import ctypes

def hangs_with_the_gil():
    ctypes.PyDLL(None).sleep(600)

say()
hangs_with_the_gil()
"""
SPINS = """
def spins():
    while True:
        pass

say()
spins()
"""


ask = (stacks.COLLECTOR if sys.version_info >= (3, 11) else stacks.LATE).collect


def target(pid: int, seconds: float = 10.0) -> Target:
    return Target("worker", (pid,), "/nonexistent", 1, until_ns=time.monotonic_ns() + int(seconds * 1e9))


def asleep(*pids: int) -> None:
    """Until all their threads wait for what the program has them wait for.

    They are read one after the other, and who waits for the GIL sleeps too: they slept at one instant if two looks find
    all asleep, and nobody went to sleep anew in between.
    """
    before: list[tuple[int, int | None]] = []

    def all_slept() -> bool:
        nonlocal before
        threads = proc.collect(target(*pids)).threads
        last, before = before, [(thread.tid, thread.voluntary_switches) for thread in threads]
        return last == before and {thread.state for thread in threads} == {"S"}

    wait_until(all_slept)


def functions(stack: Stack) -> list[str]:
    return [frame.partition(" ")[0] for frame in stack.frames]


@IMPLEMENTATIONS
def test_all_threads_are_told_and_the_worker_goes_on(tmp_path: Path, implementation: str) -> None:
    with run_worker(THREADS, implementation, HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        worker.hear()
        for question in ("first", "second"):  # the file is cut before each
            asleep(worker.pid)
            found = ask(target(worker.pid))
            assert (found.outcome, found.detail) == ("ok", "")
            main = next(stack for stack in found.stacks if stack.tid == worker.pid)
            assert functions(main) == ["hear", "serves", "<module>"]
            assert main.frames[0].endswith("(<string>:9)")
            assert [functions(stack)[0] for stack in found.stacks if stack.tid is None] == ["waits_in_a_lock"]
            assert worker.ask(question) == question


@pytest.mark.parametrize(("source", "innermost"), [(HOLDS_THE_GIL, "hangs_with_the_gil"), (SPINS, "spins")])
def test_one_that_never_gives_up_the_gil_is_told(tmp_path: Path, source: str, innermost: str) -> None:
    with run_worker(source, "native", HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        worker.hear()
        wait_until(lambda: innermost in repr(ask(target(worker.pid)).stacks))


def test_a_long_dump_is_read_when_it_is_whole(tmp_path: Path) -> None:
    source = """
def deep(n):
    deep(n - 1) if n else time.sleep(600)
for _ in range(90):
    threading.Thread(target=deep, args=(80,), daemon=True).start()
say()
hear()
"""
    with run_worker(source, "native", HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        worker.hear()
        asleep(worker.pid)
        found = ask(target(worker.pid)).stacks
        assert len(found) == 91
        assert {len(stack.frames) for stack in found if stack.tid is None} == {84}  # with three of threading's


def test_a_forked_child_is_told_apart_from_its_parent(tmp_path: Path) -> None:
    source = """
def child_waits():
    time.sleep(600)
def parent_waits(child):
    say(child)
    os.waitpid(child, 0)
child = os.fork()
child_waits() if child == 0 else parent_waits(child)
"""
    with run_worker(source, "native", HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        child = int(worker.hear())
        asleep(worker.pid, child)
        try:
            found = {stack.pid: functions(stack)[0] for stack in ask(target(worker.pid)).stacks}
            assert found == {worker.pid: "parent_waits", child: "child_waits"}
        finally:
            os.kill(child, signal.SIGKILL)


@IMPLEMENTATIONS
def test_a_program_that_uses_the_signal_keeps_it(tmp_path: Path, implementation: str) -> None:
    prelude = f"""
import signal, sys, os
import watchdogd.worker as wd
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
heard = []
signal.signal({words.SIGNAL}, lambda *_: heard.append(1))
worker = wd.attach()
"""
    with run_worker("say(); hear(); say(len(heard)); hear()", implementation, HeartbeatFile(tmp_path / "h").path,
                    prelude) as worker:  # fmt: skip
        worker.hear()
        assert ask(target(worker.pid)) == Evidence("not asked for", stacks.NOBODY)
        assert worker.ask("heard anything?") == "0"


def test_a_python_that_may_be_harmed_is_asked_once_its_kill_is_committed_and_no_other_then(
    tmp_path: Path,
) -> None:
    prelude = "import sys\nimport watchdogd.worker as wd\n{}\nworker = wd.attach()\nprint(flush=True)\n"
    for number, version in enumerate(("(3, 10)", "(3, 11)")):
        with run_worker("sys.stdin.readline()", "native", HeartbeatFile(tmp_path / f"h{number}").path,
                        prelude.format(f"sys.version_info = {version}")) as worker:  # fmt: skip
            worker.hear()
            asleep(worker.pid)
            before, committed = (each.collect(target(worker.pid)) for each in (stacks.COLLECTOR, stacks.LATE))
        if version == "(3, 10)":
            assert (before, committed.outcome) == (Evidence("not asked for", stacks.HARMFUL), "ok")
        else:
            assert (before.outcome, committed) == ("ok", Evidence("not asked for", stacks.ASKED))
    assert stacks.LATE.destructive and not stacks.COLLECTOR.destructive


def test_a_program_that_ignores_the_signal_keeps_that(tmp_path: Path) -> None:
    prelude = f"import signal\nsignal.signal({words.SIGNAL}, signal.SIG_IGN)\n"
    prelude += "import sys\nimport watchdogd.worker as wd\nworker = wd.attach()\n"
    body = "print('attached', flush=True); sys.stdin.readline()"
    with run_worker(body, "native", HeartbeatFile(tmp_path / "h").path, prelude) as worker:
        worker.hear()
        assert ask(target(worker.pid)).outcome == "not asked for"
        assert words.has(Path(f"/proc/{worker.pid}/status").read_text(), "SigIgn")


def test_one_that_no_longer_catches_the_signal_is_not_sent_it(tmp_path: Path) -> None:
    source = f"import faulthandler; faulthandler.unregister({words.SIGNAL}); say(); hear(); say('lives'); hear()"
    with run_worker(source, "native", HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        worker.hear()
        found = ask(target(worker.pid))
        assert found.outcome == "failed" and "does not catch" in found.detail
        assert worker.ask("do you live?") == "lives"


def test_one_that_runs_another_program_by_now_is_not_sent_it(tmp_path: Path) -> None:
    source = "say(); hear(); os.execv('/bin/cat', ['cat'])"
    with run_worker(source, "native", HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        worker.hear()
        worker.tell()
        wait_until(lambda: Path(f"/proc/{worker.pid}/comm").read_text() == "cat\n")
        assert ask(target(worker.pid)).outcome == "not asked for"
        assert worker.ask("it lives") == "it lives"


def test_another_file_at_that_descriptor_is_not_written_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    source = f"""
mine = next(int(n) for n in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{{n}}")
            and "watchdogd-stacks" in os.readlink(f"/proc/self/fd/{{n}}"))
kept = os.dup(mine)
os.dup2(os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT), mine)
say(); hear(); say("lives"); hear()
"""
    with run_worker(source, "native", HeartbeatFile(tmp_path / "heartbeat").path) as worker:
        worker.hear()
        found = ask(target(worker.pid))
        assert found.outcome == "failed" and "has closed the file" in found.detail
        assert worker.ask("do you live?") == "lives"
        assert log.read_bytes() == b""


@pytest.mark.parametrize("how", ["stopped", "block the signal"])
def test_one_that_cannot_take_the_signal_is_not_sent_it(tmp_path: Path, how: str) -> None:
    source = f"signal.pthread_sigmask(signal.SIG_BLOCK, [{words.SIGNAL}])\n" if how == "block the signal" else ""
    with run_worker(source + "say(); hear(); say('lives'); hear()", "native",
                    HeartbeatFile(tmp_path / "heartbeat").path) as worker:  # fmt: skip
        worker.hear()
        if how == "stopped":
            os.kill(worker.pid, signal.SIGSTOP)
            wait_until(lambda: ") T " in Path(f"/proc/{worker.pid}/stat").read_text())
        found = ask(target(worker.pid))
        assert found.outcome == "failed" and how in found.detail
        assert int(status_line(worker.pid, "SigPnd"), 16) == int(status_line(worker.pid, "ShdPnd"), 16) == 0
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.ask("do you live?") == "lives"


def status_line(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def test_a_worker_by_hand_registers_nothing() -> None:
    with run_worker("say(); hear()", "native", None) as worker:
        worker.hear()
        assert ask(target(worker.pid)).outcome == "not asked for"
        assert not words.catches(Path(f"/proc/{worker.pid}/status").read_text())


def test_a_program_without_python_is_not_sent_it() -> None:
    with LineProcess(["/bin/cat"], {}) as process:
        assert ask(target(process.pid)) == Evidence("not asked for", stacks.NOBODY)
        assert process.ask("it lives") == "it lives"


def test_only_the_memfd_made_for_it_is_ever_opened_for_writing(tmp_path: Path) -> None:
    plain = os.open(tmp_path / "plain", os.O_RDWR | os.O_CREAT)
    in_memory = os.open(f"/dev/shm/watchdogd-test-{os.getpid()}", os.O_RDWR | os.O_CREAT)
    os.unlink(f"/dev/shm/watchdogd-test-{os.getpid()}")
    reading, writing = os.pipe()
    device = socket.socket()
    unsealable, right = os.memfd_create("x"), os.memfd_create("x", os.MFD_ALLOW_SEALING)
    try:
        for other in (plain, in_memory, reading, device.fileno(), unsealable):
            assert stacks._checked(f"/proc/self/fd/{other}") is None
        file = stacks._checked(f"/proc/self/fd/{right}")
        assert file is not None and os.path.samestat(os.fstat(file), os.fstat(right))
        os.close(file)
        fcntl.fcntl(right, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        assert stacks._checked(f"/proc/self/fd/{right}") is None
    finally:
        device.close()
        for descriptor in (plain, in_memory, reading, writing, unsealable, right):
            os.close(descriptor)


CAPTURED = """\
Thread 0x00007f3c2a7fc640 (most recent call first):
  File "/usr/lib/python3.10/threading.py", line 324 in wait
  File "/app/a b.py", line ??? in <lambda>

Current thread 0x00007f3c2b7fe640 [reader] (most recent call first):
  Garbage-collecting
  <no Python frame>

Thread 0x00007f3c41be31c0 (most recent call first):
  File "/app/worker.py", line 12 in <module>
"""


def test_the_oldest_thread_is_the_main_one() -> None:
    assert stacks.parse(CAPTURED, 100, 103) == [
        Stack(100, None, "python", ("wait (/usr/lib/python3.10/threading.py:324)", "<lambda> (/app/a b.py:???)"),
              "thread 0x00007f3c2a7fc640"),
        Stack(100, 103, "python", (), "reader"),
        Stack(100, 100, "python", ("<module> (/app/worker.py:12)",), "thread 0x00007f3c41be31c0"),
    ]  # fmt: skip


def test_of_too_many_threads_none_is_taken_for_the_main_one() -> None:
    assert stacks.parse(f"{CAPTURED}...\n", 100, 103)[-1].tid is None


@pytest.mark.parametrize("text", ["", "\n\n", "Thread\n", "garbage \x00 \ufffd", '  File "x", line 1 in f\n'])
def test_what_is_no_dump_gives_no_stack(text: str) -> None:
    assert stacks.parse(text, 1, 1) == []


def test_the_signal_is_none_that_programs_or_the_c_library_take() -> None:
    assert signal.SIGRTMIN + 10 < words.SIGNAL < signal.SIGRTMAX - 3
    assert sys.platform == "linux"
