"""A program's HTTP endpoint, as a test has it behave: answering, failing, hanging, flooding, breaking off.

Invariant: it serves on a port of its own until the end of the ``with``, each request in a thread.
"""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from types import TracebackType

Behaviour = Callable[[http.server.BaseHTTPRequestHandler, threading.Event], None]  # the event: the test is over


class Endpoint:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.over = threading.Event()
        self.asked = 0
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.asked += 1
                try:
                    endpoint.behaviour(self, endpoint.over)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/metrics"

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def answers(body: str = "", status: int = 200, **headers: str) -> Behaviour:
    def behave(handler: http.server.BaseHTTPRequestHandler, _over: threading.Event) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return behave


def hangs(_handler: http.server.BaseHTTPRequestHandler, over: threading.Event) -> None:
    """Accepts, reads the request, and never says a word."""
    over.wait(60)


def drips(handler: http.server.BaseHTTPRequestHandler, over: threading.Event) -> None:
    """A byte now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.end_headers()
    while not over.wait(0.02):
        handler.wfile.write(b"#")


def floods(handler: http.server.BaseHTTPRequestHandler, over: threading.Event) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not over.is_set():
        handler.wfile.write(b"# flood\n" * 65536)


def floods_the_head(handler: http.server.BaseHTTPRequestHandler, over: threading.Event) -> None:
    while not over.is_set():
        handler.wfile.write(b"X: flood\r\n" * 65536)


def breaks_off(handler: http.server.BaseHTTPRequestHandler, _over: threading.Event) -> None:
    """Says how much will come, and closes its half after less."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"running 1\n")
    handler.close_connection = True


def is_silent_and_closes(handler: http.server.BaseHTTPRequestHandler, _over: threading.Event) -> None:
    handler.close_connection = True
