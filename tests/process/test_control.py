"""The control socket with real clients: what they ask, what they may, and what they cannot do to the loop."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from watchdogd.supervisor import control
from watchdogd.supervisor.control import ControlError, ControlServer, NotRunning, Refused, Request

TIMEOUT = 10.0
SECOND = 1_000_000_000
RESTART = {"command": "restart", "worker": "model_h"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / control.SOCKET_NAME)


@pytest.fixture
def server(path: str) -> Iterator[ControlServer]:
    server = ControlServer(path)
    yield server
    server.close()


def connect(path: str, data: bytes = b"") -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(TIMEOUT)
    client.connect(path)
    client.sendall(data)
    return client


def requests(server: ControlServer, wanted: int = 1) -> list[Request]:
    """Run the loop until so many requests are there."""
    found: list[Request] = []
    deadline = time.monotonic() + TIMEOUT
    while len(found) < wanted and time.monotonic() < deadline:
        if select.select([server], [], [], 0.1)[0]:
            found += server.poll(time.monotonic_ns())
    assert len(found) == wanted
    return found


def serve_until(server: ControlServer, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not done():
        assert time.monotonic() < deadline
        if select.select([server], [], [], 0.01)[0]:
            server.poll(time.monotonic_ns())


def reply_to(server: ControlServer, client: socket.socket) -> dict[str, Any]:
    """What the server itself answers, without any request reaching the supervisor."""
    with ThreadPoolExecutor(1) as pool:
        answer: Future[bytes] = pool.submit(client.recv, 65536)
        serve_until(server, answer.done)
        reply: dict[str, Any] = json.loads(answer.result())
    return reply


def test_a_request_reaches_the_supervisor_and_its_reply_the_operator(server: ControlServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.ask, server.path, RESTART, TIMEOUT)
        (request,) = requests(server)
        assert (request.command, request.worker) == ("restart", "model_h")
        assert (request.uid, request.pid) == (os.geteuid(), os.getpid())
        server.reply(request, {"ok": True, "message": "restarting"})
        assert asked.result(TIMEOUT) == {"ok": True, "message": "restarting"}


def test_a_refusal_carries_its_remedy(server: ControlServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.ask, server.path, RESTART, TIMEOUT)
        server.reply(requests(server)[0], {"ok": False, "error": "no such worker", "remedy": "see status"})
        with pytest.raises(Refused, match="no such worker") as refused:
            asked.result(TIMEOUT)
    assert refused.value.remedy == "see status"


def test_a_request_may_come_in_pieces(server: ControlServer) -> None:
    client = connect(server.path, b'{"command": "stop", ')
    assert server.poll(time.monotonic_ns()) == []  # accepted
    assert server.poll(time.monotonic_ns()) == []  # the first piece
    client.sendall(b'"worker": "model_a"}\n')
    assert requests(server)[0].command == "stop"
    client.close()


def test_the_socket_is_for_owner_and_group_alone(server: ControlServer) -> None:
    mode = os.lstat(server.path).st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o660


# --- who may ----------------------------------------------------------------------------------------------------------

OTHER_USER = """
import json, os, sys
from watchdogd.supervisor.control import Refused, ask
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))  # only now: the interpreter may lie where that user cannot read it
try:
    ask(sys.argv[1], {"command": sys.argv[4], "worker": sys.argv[5]}, 10)
except Refused as refused:
    print(json.dumps([str(refused), refused.remedy]))
"""


def as_user(
    path: str, user: int, group: int, command: str = "restart", worker: str = "model_h"
) -> subprocess.Popen[str]:
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    for directory in Path(path).parents:  # pytest's own directories are for their user alone
        if directory.name.startswith(("pytest-", "popen-", "test_")):
            directory.chmod(0o755)
    program = [sys.executable, "-c", OTHER_USER, path, str(user), str(group), command, worker]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("command", ["restart", "bisect on", "bisect off"])
def test_a_member_of_the_group_who_is_not_the_supervisors_user_may_change_nothing(
    server: ControlServer, command: str
) -> None:
    with as_user(server.path, user=65534, group=0, command=command) as other:
        serve_until(server, lambda: other.poll() is not None)
        assert other.stdout is not None
        error, remedy = json.loads(other.stdout.read())
    assert error == f"user 65534 may not {command.partition(' ')[0]} a worker"
    assert remedy.startswith("use sudo, or run it as user 0")


def test_somebody_outside_the_group_is_told_what_to_do(server: ControlServer) -> None:
    with as_user(server.path, user=65534, group=65534) as other:
        serve_until(server, lambda: other.poll() is not None)
        assert other.stdout is not None
        error, remedy = json.loads(other.stdout.read())
    assert error.endswith("permission denied") and remedy.startswith("use sudo") and "group" not in remedy


def test_a_refused_reload_is_not_called_that_of_a_worker(server: ControlServer) -> None:
    with as_user(server.path, user=65534, group=0, command="reload", worker="") as other:
        serve_until(server, lambda: other.poll() is not None)
        assert other.stdout is not None
        assert json.loads(other.stdout.read())[0] == "user 65534 may not reload the configuration"


# --- what clients cannot do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"garbage\n", "not JSON"),
        (b"\xff\x00\n", "not JSON"),
        (b"[" * 4000 + b"\n", "not JSON"),
        (b"[]\n", "not an object"),
        (b'{"command": "restart"}\n', "not an object of command and worker"),
        (b'{"command": "shell", "worker": "x"}\n', "no such command"),
        (b'{"command": ["restart"], "worker": "x"}\n', "no such command"),
        (b'{"command": "restart", "worker": ""}\n', "worker is not a name"),
        (b'{"command": "restart", "worker": 5}\n', "worker is not a name"),
        (b"x" * (control.LONGEST_REQUEST + 1), "too long"),
    ],
)
def test_nonsense_is_answered_and_never_reaches_the_supervisor(server: ControlServer, sent: bytes, error: str) -> None:
    with connect(server.path, sent) as client:
        reply = reply_to(server, client)
    assert not reply["ok"] and error in reply["error"] and reply["remedy"]


def test_a_silent_client_is_dropped_after_a_time_and_not_before(server: ControlServer) -> None:
    client = connect(server.path, b'{"command"')
    now_ns = time.monotonic_ns()
    server.poll(now_ns)
    server.poll(now_ns + control.ASK_NS - 1)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    server.poll(now_ns + control.ASK_NS)
    assert client.recv(1) == b""
    client.close()


def test_one_connection_too_many_is_told_so_and_those_before_it_go_on(server: ControlServer) -> None:
    silent = [connect(server.path) for _ in range(control.MOST_CONNECTIONS)]
    server.poll(time.monotonic_ns())
    with connect(server.path) as late:
        assert reply_to(server, late)["error"] == "too many connections"
    silent[0].sendall(json.dumps(RESTART).encode() + b"\n")
    assert requests(server)[0].worker == "model_h"
    for client in silent:
        client.close()


def test_clients_that_hang_up_make_room(server: ControlServer) -> None:
    for _ in range(3 * control.MOST_CONNECTIONS):
        connect(server.path).close()
        for _ in range(2):
            server.poll(time.monotonic_ns())
    with connect(server.path, json.dumps(RESTART).encode() + b"\n"):
        assert requests(server)[0].command == "restart"


def test_a_client_that_went_away_does_not_harm_its_reply(server: ControlServer) -> None:
    client = connect(server.path, json.dumps(RESTART).encode() + b"\n")
    (request,) = requests(server)
    client.close()
    server.reply(request, {"ok": True})
    server.reply(request, {"ok": True})  # nor does a second one


def test_a_client_that_hangs_up_while_it_waits_does_not_wake_the_loop(server: ControlServer) -> None:
    client = connect(server.path, json.dumps(RESTART).encode() + b"\n")
    requests(server)
    client.close()
    assert select.select([server], [], [], 0)[0] == []


def test_a_late_reply_never_reaches_a_later_client(server: ControlServer) -> None:
    first = connect(server.path, json.dumps(RESTART).encode() + b"\n")
    (request,) = requests(server)
    server.poll(time.monotonic_ns() + control.ANSWER_NS + SECOND)  # given up
    first.close()
    second = connect(server.path, json.dumps(RESTART).encode() + b"\n")  # takes the same descriptor
    (later,) = requests(server)
    server.reply(request, {"ok": True, "message": "the first"})
    server.reply(later, {"ok": True, "message": "the second"})
    assert json.loads(second.recv(1000))["message"] == "the second"
    second.close()


# --- the path -------------------------------------------------------------------------------------------------------


def test_nobody_at_the_path_is_not_running(path: str) -> None:
    with pytest.raises(NotRunning, match="no supervisor listens"):
        control.ask(path, RESTART, TIMEOUT)


def test_a_supervisor_that_does_not_answer_is_given_up(server: ControlServer) -> None:
    with pytest.raises(NotRunning, match=r"did not answer .* within 0.1 s"):
        control.ask(server.path, RESTART, 0.1)


@pytest.mark.parametrize("listens", [False, True], ids=["closed", "still open in a child of it"])
def test_the_socket_of_a_dead_supervisor_is_replaced(path: str, listens: bool) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(path)
    if listens:
        dead.listen()
    else:
        dead.close()
    server = ControlServer(path)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.ask, path, RESTART, TIMEOUT)
        for request in requests(server):
            server.reply(request, {"ok": True})
        assert asked.result(TIMEOUT)["ok"]
    server.close()
    dead.close()
    assert not os.path.lexists(path)


def test_closing_leaves_the_socket_of_a_successor(path: str) -> None:
    first = ControlServer(path)
    os.unlink(path)
    second = ControlServer(path)
    first.close()
    assert os.path.lexists(path)
    second.close()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_what_is_no_socket_is_neither_removed_nor_followed(path: str, kind: str) -> None:
    target = Path(path).parent / "precious"
    if kind == "file":
        Path(path).write_bytes(b"keep")
    else:
        if kind == "link":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
                dead.bind(str(target))
        Path(path).symlink_to(target)
    with pytest.raises(ControlError, match="not a socket"):
        ControlServer(path)
    assert os.path.lexists(path) and os.path.lexists(target) == (kind == "link")


def test_a_path_too_long_for_a_socket_names_the_setting(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    with pytest.raises(ControlError, match=r"supervisor.runtime_dir"):
        ControlServer(str(long / control.SOCKET_NAME))


def test_a_request_whose_client_gave_up_before_it_was_read_is_not_carried_out(tmp_path: Path) -> None:
    """A supervisor that was stuck must not pause a worker long after its operator went away."""
    server = ControlServer(str(tmp_path / "control.sock"))
    for gives_up, expected in ((True, []), (False, ["pause"])):
        client = socket.socket(socket.AF_UNIX)
        client.connect(server.path)
        client.sendall(b'{"command": "pause", "worker": "a"}\n')
        if gives_up:
            client.close()
        asked = [*server.poll(time.monotonic_ns()), *server.poll(time.monotonic_ns())]  # accepted, then read
        assert [request.command for request in asked] == expected
        client.close()
    server.close()
