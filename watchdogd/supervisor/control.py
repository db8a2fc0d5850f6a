"""The control socket: one command of an operator per connection, one JSON line each way.

The request is ``{"command": "restart", "worker": "model_h"}``, the reply ``{"ok": true, "message": text}`` or
``{"ok": false, "error": text, "remedy": text}``; then the supervisor closes. The server belongs to a single-threaded
loop, which registers ``fileno()`` once (an epoll of this server's own) and calls ``poll`` when that is readable, and
now and then besides.

Invariant: no client can make the loop wait or grow: nothing here blocks, a connection is read up to ``LONGEST_REQUEST``
bytes, ends after a time, and there are at most ``MOST_CONNECTIONS``.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

SOCKET_NAME = "control.sock"  # in the runtime directory
RELOAD = "reload"  # of no worker: its name is ""
# Each of them changes something.
COMMANDS = ("restart", "stop", "start", "pause", "resume", "reset", "bisect on", "bisect off")
LONGEST_REQUEST = 4096
MOST_CONNECTIONS = 16
FOR_WHOM = "use sudo: commands are for root and the supervisor's own user"
ASK_NS = 5_000_000_000  # a client has this long to say what it wants
ANSWER_NS = 60_000_000_000  # and the supervisor this long to answer
_CREDENTIALS = struct.Struct("3i")


class ControlError(Exception):
    """The socket cannot be made. The message says why and what to do."""


class NotRunning(Exception):
    """No supervisor answers. The message says what was seen."""


class Refused(Exception):
    """The supervisor said no."""

    def __init__(self, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.remedy = remedy


class Request(NamedTuple):
    """What an operator wants. To be answered with ``ControlServer.reply``."""

    connection: int
    command: str
    worker: str
    uid: int
    pid: int


@dataclass(slots=True)
class _Connection:
    number: int  # unlike a descriptor never used again, so that no reply can reach a later client
    socket: socket.socket
    expires_ns: int
    received: bytes = b""


class ControlServer:
    """Raises ControlError if the path is taken by something that is no socket.

    One that is there is replaced: the runtime directory's lock is held, so its supervisor is dead, though a child which
    has not come to close its copy may still listen.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._connections: dict[int, _Connection] = {}
        self._by_descriptor: dict[int, _Connection] = {}
        self._accepted = 0
        _remove_stale(self.path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old_mask = os.umask(0o117)  # 0660 from its first moment
        try:
            self._listener.bind(self.path)
        except OSError as error:
            self._listener.close()
            raise ControlError(f"{self.path}: {error.strerror or error}; see supervisor.runtime_dir") from error
        finally:
            os.umask(old_mask)
        self._inode = os.lstat(self.path).st_ino
        self._listener.listen(MOST_CONNECTIONS)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def poll(self, now_ns: int) -> list[Request]:
        """The requests that are complete. Takes bounded time; also ends what has lasted too long."""
        for connection in [c for c in self._connections.values() if now_ns >= c.expires_ns]:
            self._drop(connection)
        requests = []
        for descriptor, _ in self._epoll.poll(0, MOST_CONNECTIONS + 1):
            if descriptor == self._listener.fileno():
                self._accept(now_ns)
            elif descriptor in self._by_descriptor:
                request = self._read(self._by_descriptor[descriptor], now_ns)
                if request is not None:
                    requests.append(request)
        return requests

    def reply(self, request: Request, answer: Mapping[str, Any]) -> None:
        """Answer and close; nothing happens if the client has gone."""
        connection = self._connections.get(request.connection)
        if connection is not None:
            self._answer(connection, answer)

    def close(self) -> None:
        """Also removes the socket, unless the path is somebody else's by now."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()
        self._listener.close()
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            return

    def _accept(self, now_ns: int) -> None:
        for _ in range(MOST_CONNECTIONS):
            try:
                client, _ = self._listener.accept()
            except OSError as error:  # nobody there; gone again; no descriptor free: later
                if error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                return
            client.setblocking(False)
            self._accepted += 1
            connection = _Connection(self._accepted, client, now_ns + ASK_NS)
            self._connections[connection.number] = self._by_descriptor[client.fileno()] = connection
            if len(self._connections) > MOST_CONNECTIONS:
                self._refuse(connection, "too many connections", "try again in a few seconds")
            else:
                self._epoll.register(client, select.EPOLLIN)

    def _read(self, connection: _Connection, now_ns: int) -> Request | None:
        try:
            data = connection.socket.recv(LONGEST_REQUEST)
        except BlockingIOError:
            return None
        except OSError:  # the client reset the connection: the same as its end
            data = b""
        connection.received += data
        line, newline, _ = connection.received.partition(b"\n")
        if not newline:
            if not data:
                self._drop(connection)
            elif len(connection.received) > LONGEST_REQUEST:
                self._refuse(connection, "the request is too long", f"send one line of at most {LONGEST_REQUEST} bytes")
            return None
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        asked = _parse(line)
        if isinstance(asked, str):
            self._refuse(connection, asked, f'send {{"command": "{"|".join(COMMANDS)}", "worker": NAME}}')
        elif uid not in (0, os.geteuid()):
            self._refuse(
                connection,
                f"user {uid} may not {asked[0].partition(' ')[0]} {'a worker' if asked[1] else 'the configuration'}",
                f"use sudo, or run it as user {os.geteuid()}, who runs the supervisor",
            )
        elif _hung_up(connection.socket):
            self._drop(connection)  # it gave up waiting while we were stuck: what it wanted then it may not want now
        else:
            # Nothing more is expected; a hang-up would wake the loop for ever.
            self._epoll.unregister(connection.socket)
            connection.expires_ns = now_ns + ANSWER_NS
            return Request(connection.number, *asked, uid=uid, pid=pid)
        return None

    def _refuse(self, connection: _Connection, error: str, remedy: str) -> None:
        self._answer(connection, {"ok": False, "error": error, "remedy": remedy})

    def _answer(self, connection: _Connection, answer: Mapping[str, Any]) -> None:
        try:
            # Far smaller than a socket's buffer, so that it is sent whole or the client is gone.
            connection.socket.send(json.dumps(answer).encode() + b"\n", socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EAGAIN):
                raise
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.number]
        del self._by_descriptor[connection.socket.fileno()]
        connection.socket.close()  # leaves the epoll by itself


def _hung_up(client: socket.socket) -> bool:
    poller = select.poll()
    poller.register(client, 0)  # a hang-up is told unasked
    return bool(poller.poll(0))


def _parse(line: bytes) -> tuple[str, str] | str:
    """Command and worker, or what is wrong with the request."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return "the request is not JSON"
    if not isinstance(request, dict) or request.keys() != {"command", "worker"}:
        return "the request is not an object of command and worker"
    command, worker = request["command"], request["worker"]
    if command == RELOAD and worker == "":
        return command, worker
    if command not in COMMANDS:
        return "no such command"
    if not isinstance(worker, str) or not worker:
        return "worker is not a name"
    return command, worker


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path} exists and is not a socket; remove it, or choose another supervisor.runtime_dir")
    try:
        os.unlink(path)
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror}") from error


def ask(path: str, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Send one request, return the reply. Raises NotRunning, Refused; each step takes at most ``timeout`` seconds."""
    received = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.settimeout(timeout)
            server.connect(path)
            with suppress(BrokenPipeError):  # refused before it was heard: the answer is there to read
                server.sendall(json.dumps(request).encode() + b"\n")
            while not received.endswith(b"\n"):
                data = server.recv(LONGEST_REQUEST)
                if not data:
                    raise NotRunning(f"the supervisor closed {path} without an answer; see `watchdogd status`")
                received += data
    except PermissionError:
        raise Refused(f"{path}: permission denied", FOR_WHOM) from None
    except TimeoutError:
        message = f"the supervisor did not answer at {path} within {timeout:g} s; see `watchdogd status`"
        raise NotRunning(message) from None
    except OSError as error:
        raise NotRunning(f"no supervisor listens at {path} ({error.strerror or error})") from error
    reply: dict[str, Any] = json.loads(received)
    if not reply.get("ok"):
        raise Refused(str(reply.get("error")), str(reply.get("remedy") or ""))
    return reply
