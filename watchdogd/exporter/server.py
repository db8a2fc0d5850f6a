"""The exporter's HTTP server: a few fixed pages for anybody who can reach the port.

One thread. Invariant: memory and descriptors are bounded whatever clients do: at most ``MOST_CONNECTIONS`` of them,
each for at most ``LONGEST_SECONDS``, each with small buffers before a body that all of them share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MOST_CONNECTIONS = 256
LONGEST_SECONDS = 5.0
LONGEST_REQUEST = 8192
SHARED_NS = 250_000_000
_CHUNK = 16 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Page:
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def shared(make: Callable[[], Page]) -> Callable[[], Page]:
    """The same page for all who ask within ``SHARED_NS``, so that their number costs nothing."""
    made: Page | None = None
    made_ns = 0

    def page() -> Page:
        nonlocal made, made_ns
        now_ns = time.monotonic_ns()
        if made is None or now_ns - made_ns >= SHARED_NS:
            made, made_ns = make(), now_ns
        return made

    return page


def text(status: int, message: str) -> Page:
    return Page(status, "text/plain; charset=utf-8", f"{message}\n".encode())


class Server:
    """Serves ``pages``: a path and what makes its page."""

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._connections = 0

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Raises OSError."""
        return await asyncio.start_server(self._connected, host or None, port, limit=LONGEST_REQUEST, backlog=128)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MOST_CONNECTIONS:
                writer.transport.set_write_buffer_limits(high=_CHUNK)
                await asyncio.wait_for(self._serve(reader, writer), LONGEST_SECONDS)
        except (asyncio.TimeoutError, ConnectionError):
            return  # too slow, or gone
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            request = b""
        method, page = self._page(request)
        head = f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in page.headers.items())
        head += f"Content-Length: {len(page.body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        body = memoryview(page.body if method != "HEAD" else b"")
        for start in range(0, len(body), _CHUNK):
            writer.write(body[start : start + _CHUNK])
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _page(self, request: bytes) -> tuple[str, Page]:
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            return "", text(400, "not an HTTP request of a few lines")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return method, text(405, "GET or HEAD")
        make = self._pages.get(target.partition("?")[0])
        return method, make() if make else text(404, f"there are {', '.join(self._pages)}")
