"""The exporter's HTTP server: a few fixed pages, and files, for anybody who can reach the port.

One thread. Invariant: memory and descriptors are bounded whatever clients do: at most ``MOST_CONNECTIONS`` of them,
each for at most ``LONGEST_SECONDS``, each with small buffers before a body that all of them share, or before a file.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

MOST_CONNECTIONS = 256
LONGEST_SECONDS = 5.0
LONGEST_REQUEST = 8192
SHARED_NS = 250_000_000
_CHUNK = 16 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
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
    file: int | None = None  # a descriptor, in place of ``body``; the server closes it

    @property
    def size(self) -> int:
        return len(self.body) if self.file is None else os.fstat(self.file).st_size

    def chunks(self, size: int) -> Iterator[bytes | memoryview]:
        """As much as was promised, whatever becomes of a file meanwhile; one that is cut ends early."""
        whole = memoryview(self.body)
        for start in range(0, size, _CHUNK):
            end = min(start + _CHUNK, size)
            yield whole[start:end] if self.file is None else os.pread(self.file, end - start, start)


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


Make = Callable[[], Page]


class Server:
    """Serves ``pages``: a path and what makes its page; ``below``: a path that ends with "/", and what makes the page
    of what follows it; ``formats``: of a path, by what a client says that it accepts, in place of its page.
    """

    def __init__(
        self,
        pages: Mapping[str, Make],
        below: Mapping[str, Callable[[str], Page]] | None = None,
        formats: Mapping[str, Mapping[str, Make]] | None = None,
    ) -> None:
        self._pages = pages
        self._below = below or {}
        self._formats = formats or {}
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
        try:
            await _answer(writer, method, page)
        finally:
            if page.file is not None:
                os.close(page.file)

    def _page(self, request: bytes) -> tuple[str, Page]:
        line, *headers = request.decode("latin-1").split("\r\n")
        words = line.split(" ")
        if len(words) != 3:
            return "", text(400, "not an HTTP request of a few lines")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return method, text(405, "GET or HEAD")
        path = target.partition("?")[0]
        for prefix, below in self._below.items():
            if path.startswith(prefix):
                return method, below(path[len(prefix) :])
        make = self._format(path, headers) or self._pages.get(path)
        return method, make() if make else text(404, f"there are {', '.join(self._pages)}")

    def _format(self, path: str, headers: list[str]) -> Make | None:
        """What the client accepts and we have, whatever else it would like better; None: the page itself."""
        fields = (header.partition(":") for header in headers)
        accepted = ",".join(value for name, _, value in fields if name.lower() == "accept").lower()
        types = {part.partition(";")[0].strip() for part in accepted.split(",")}
        return next((make for wanted, make in self._formats.get(path, {}).items() if wanted in types), None)


async def _answer(writer: asyncio.StreamWriter, method: str, page: Page) -> None:
    size = page.size
    head = f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in page.headers.items())
    head += f"Content-Length: {size}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    for chunk in page.chunks(size) if method != "HEAD" else ():
        writer.write(chunk)
        await writer.drain()
    writer.close()
    await writer.wait_closed()
