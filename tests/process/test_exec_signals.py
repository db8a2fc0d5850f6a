"""What is sent to `exec`, or typed at its terminal, reaches the program: once; and what becomes of it when we end."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.executed import WORKER, Executed, program
from tests.helpers.running import gone, wait_until
from watchdogd import exits

DEADLINES = ["--sync", "300ms", *WORKER]
# Counts what it is sent, and ends with the fifth TERM.
COUNTS = """
seen = []
def take(number, _frame):
    seen.append(number)
    tell(f'seen{len(seen)}', ' '.join(signal.Signals(n).name for n in seen))
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
               signal.SIGTERM, signal.SIGCONT, signal.SIGRTMIN):
    signal.signal(number, take)
worker.ready()
tell('ready', os.getpid())
while not (HERE / 'done').exists(): time.sleep(0.002)
sys.exit(21)
"""
SENT = ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT", "SIGRTMIN"]


def test_signals_are_passed_on_each_once() -> None:
    with Executed(DEADLINES, program(COUNTS)) as executed:
        executed.wait_file("ready")
        for count, name in enumerate(SENT, 1):
            executed.process.send_signal(signal.Signals[name])
            assert executed.wait_file(f"seen{count}").split() == SENT[:count]
        executed.touch("done")
        assert executed.status() == 21
        assert not (executed.directory / f"seen{len(SENT) + 1}").exists()


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP", "SIGTERM"])
def test_a_signal_is_for_the_program_and_not_for_children_that_know_nothing_of_it(name: str) -> None:
    body = f"import subprocess\nos.setsid()\nsignal.signal(signal.{name}, lambda *_: tell('told'))\n"
    body += "child = subprocess.Popen(['sleep', '77'])\ntell('ready')\n"
    body += "while not (HERE / 'told').exists(): time.sleep(0.002)\ntime.sleep(0.2)\n"
    body += "alive = child.poll() is None\nchild.kill()\nsys.exit(22 if alive else 1)"
    with Executed(DEADLINES, program(body)) as executed:
        executed.wait_file("ready")
        executed.process.send_signal(signal.Signals[name])
        assert executed.status() == 22


def test_a_program_that_ends_by_a_signal_ends_exec_as_a_shell_says_it() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        with Executed(DEADLINES, program("tell('ready')\nsignal.signal(2, signal.SIG_DFL)\nserve()")) as executed:
            executed.wait_file("ready")
            executed.process.send_signal(signal.Signals[name])
            assert executed.status() == 128 + signal.Signals[name]


def test_sigterm_lets_it_end_in_order_and_its_status_is_kept() -> None:
    body = "signal.signal(15, lambda *_: sys.exit(33))\ntell('ready')\nserve()"
    with Executed(DEADLINES, program(body)) as executed:
        executed.wait_file("ready")
        executed.process.terminate()
        assert executed.status() == 33


def test_sigterm_that_is_not_heeded_is_sigkill_after_the_grace() -> None:
    body = "signal.signal(15, signal.SIG_IGN)\ntell('ready')\nserve()"
    with Executed([*DEADLINES, "--grace", "200ms"], program(body)) as executed:
        executed.wait_file("ready")
        asked = time.monotonic()
        executed.process.terminate()
        assert executed.status() == 128 + signal.SIGKILL
        assert time.monotonic() - asked >= 0.2


def test_what_was_ignored_when_exec_began_is_ignored_by_the_program_too() -> None:
    with Executed(DEADLINES, program(COUNTS.replace("signal.SIGHUP, ", "")), before=["nohup"]) as executed:
        executed.wait_file("ready")
        executed.process.send_signal(signal.SIGHUP)
        executed.process.send_signal(signal.SIGUSR1)
        assert executed.wait_file("seen1") == "SIGUSR1"
        executed.touch("done")
        assert executed.status() == 21


@pytest.mark.parametrize(("parent", "ignored"), [("systemd", True), ("another", False)])
def test_a_service_of_systemd_ignores_sigpipe_as_it_would_without_exec(
    parent: str, ignored: bool, tmp_path: Path
) -> None:
    shutil.copy("/bin/sh", tmp_path / parent)
    starts = [str(tmp_path / parent), "-c", '"$@"; exit $?', "sh"]
    with Executed(DEADLINES, ["sh", "-c", "grep SigIgn /proc/self/status; exit 4"], before=starts) as executed:
        assert executed.status() == 4
        assert bool(int(executed.out().split()[1], 16) & 1 << signal.SIGPIPE - 1) is ignored


def test_the_program_dies_with_an_exec_that_is_killed_and_the_next_one_clears_away_what_is_left() -> None:
    body = "import subprocess\nchild = subprocess.Popen(['setsid', 'sleep', '77'])\n"
    body += "tell('ready', f'{os.getpid()} {child.pid}')\nserve()"
    with Executed(DEADLINES, program(body)) as executed:
        root, child = map(int, executed.wait_file("ready").split())
        executed.process.kill()
        assert executed.status() == 128 + signal.SIGKILL
        wait_until(lambda: gone(root))
        assert not gone(child) and len(list(executed.place.iterdir())) == 1
        with Executed(DEADLINES, ["true"], environment={"XDG_RUNTIME_DIR": str(executed.place)}) as second:
            assert second.status() == 0
        wait_until(lambda: gone(child))


def test_an_exec_that_runs_is_not_cleared_away_by_the_next_one() -> None:
    with Executed(DEADLINES, program("tell('ready', os.getpid())\nserve_until('done')")) as executed:
        pid = int(executed.wait_file("ready"))
        with Executed(DEADLINES, ["true"], environment={"XDG_RUNTIME_DIR": str(executed.place)}) as second:
            assert second.status() == 0
        assert not gone(pid) and executed.process.poll() is None and len(list(executed.place.iterdir())) == 1
        executed.touch("done")
        assert executed.status() == 0


class Terminal:
    """The far end of one that an ``Executed`` is in the foreground of."""

    def __init__(self) -> None:
        self.end, self.near = pty.openpty()
        os.set_blocking(self.end, False)

    def options(self) -> dict[str, Any]:
        near = self.near

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(near, termios.TIOCSCTTY, 0)

        return {"stdin": near, "stdout": near, "preexec_fn": lead}

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        os.close(self.end)
        os.close(self.near)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_what_is_typed_reaches_the_program_once(terminal: Terminal) -> None:
    with Executed(DEADLINES, program(COUNTS), **terminal.options()) as executed:
        executed.wait_file("ready")
        os.write(terminal.end, b"\x03")
        assert executed.wait_file("seen1") == "SIGINT"
        terminal.resize(33, 77)
        assert executed.wait_file("seen2") == "SIGINT SIGWINCH"
        os.write(terminal.end, b"\x1c")
        assert executed.wait_file("seen3") == "SIGINT SIGWINCH SIGQUIT"
        executed.touch("done")
        assert executed.status() == 21
        assert not (executed.directory / "seen4").exists()


def test_a_ctrl_c_before_the_program_is_there_is_not_lost(terminal: Terminal) -> None:
    options = terminal.options()
    lead = options.pop("preexec_fn")

    def typed() -> None:
        lead()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.write(terminal.end, b"\x03")

    with Executed(DEADLINES, ["sh", "-c", "echo > $HERE/started; exit 5"], preexec_fn=typed, **options) as executed:
        assert executed.status() == 128 + signal.SIGINT
        assert not (executed.directory / "started").exists()


def test_a_program_reads_the_terminal_and_knows_its_size(terminal: Terminal) -> None:
    terminal.resize(33, 77)
    body = (
        "tell('ready')\nline = open('/dev/tty').readline()\ntell('read', f'{line.strip()} {os.get_terminal_size()[:]}')"
    )
    with Executed(DEADLINES, program(body), **terminal.options()) as executed:
        executed.wait_file("ready")
        os.write(terminal.end, b"typed\n")
        assert executed.wait_file("read") == "typed (77, 33)"
        assert executed.status() == 0


def test_one_that_left_our_process_group_gets_what_the_terminal_sends_us_passed_on(terminal: Terminal) -> None:
    with Executed(
        DEADLINES, program(COUNTS.replace("worker.ready()", "os.setsid()")), **terminal.options()
    ) as executed:
        executed.wait_file("ready")
        os.write(terminal.end, b"\x03")
        assert executed.wait_file("seen1") == "SIGINT"
        executed.touch("done")
        assert executed.status() == 21


def test_a_job_that_was_suspended_is_not_hung_when_it_goes_on() -> None:
    body = "worker.ready()\nwith worker.call('sync'):\n  tell('ready', os.getpid())\n  time.sleep(0.15)\n"
    body += "serve_until('done')"
    with Executed(DEADLINES, program(body), start_new_session=True) as executed:
        pid = int(executed.wait_file("ready"))
        os.killpg(executed.process.pid, signal.SIGSTOP)  # as Ctrl-Z does where a shell has the terminal
        wait_until(lambda: all(Path(f"/proc/{each}/stat").read_text().rpartition(") ")[2][0] == "T" for each in (
            pid, executed.process.pid)))  # fmt: skip
        until = time.monotonic() + 0.5
        wait_until(lambda: time.monotonic() > until)
        os.killpg(executed.process.pid, signal.SIGCONT)
        executed.touch("done")
        assert executed.status() == 0, executed.said()
        assert [event["verdict"] for event in executed.events("verdict")] == ["exited"]


def test_a_program_that_is_stopped_alone_is_not_hung_and_has_its_deadline_anew_when_it_goes_on() -> None:
    body = "worker.ready()\ntell('ready', os.getpid())\n"
    body += "with worker.call('sync'): os.kill(os.getpid(), signal.SIGSTOP); time.sleep(0.1)\nsys.exit(9)"
    with Executed(DEADLINES, program(body)) as executed:
        pid = int(executed.wait_file("ready"))
        until = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > until)
        os.kill(pid, signal.SIGCONT)
        assert executed.status() == 9, executed.said()


def test_one_that_goes_on_and_does_not_return_is_hung() -> None:
    body = "worker.ready()\ntell('ready', os.getpid())\n"
    body += "with worker.call('sync'): os.kill(os.getpid(), signal.SIGSTOP); hang()"
    with Executed(DEADLINES, program(body)) as executed:
        pid = int(executed.wait_file("ready"))
        until = time.monotonic() + 0.6
        wait_until(lambda: time.monotonic() > until)
        os.kill(pid, signal.SIGCONT)
        assert executed.status() == exits.VERDICT


def test_a_hang_at_a_terminal_is_ended_too(terminal: Terminal) -> None:
    body = "worker.ready()\nwith worker.call('sync'): hang()"
    with Executed(DEADLINES, program(body), **terminal.options()) as executed:
        assert executed.status() == exits.VERDICT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_is_sent_between_two_lives_of_the_program_ends_it_all(name: str) -> None:
    body = "worker.ready()\nwith worker.call('sync'): hang()"
    with Executed([*DEADLINES, "--restart", "9"], program(body)) as executed:
        wait_until(lambda: [e for e in executed.events("phase") if e["phase"] == "backoff"], what=executed.said)
        executed.process.send_signal(signal.Signals[name])
        assert executed.status() == 128 + signal.Signals[name]
