"""``python -m watchdogd.exporter --runtime-dir DIR --listen HOST:PORT``: a child of the supervisor; also runs by hand.

The real address (port 0 picks a free one) is in ``DIR/exporter.address``. Invariant: it ends when its standard input
does, so that it cannot outlive the supervisor, however that ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time

from watchdogd.config.values import host_and_port
from watchdogd.exporter import health, incidents
from watchdogd.exporter.collector import Exposition
from watchdogd.exporter.page import StatusPage
from watchdogd.exporter.server import Page, Server, shared

EXIT_PORT_TAKEN = 75  # EX_TEMPFAIL
LOOK_SECONDS = 1.0  # between scrapes: an incarnation that lives longer than this is not missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="watchdogd.exporter")
    parser.add_argument("--runtime-dir", required=True, metavar="DIR")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.nice(5)  # a scrape must not take a core from a worker or from the supervisor
    return asyncio.run(_serve(options.runtime_dir, options.listen))


async def _serve(runtime_dir: str, listen: str) -> int:
    exposition = Exposition(runtime_dir)

    def answer(judge: health.Judge) -> Page:
        good, body = judge(runtime_dir, time.monotonic_ns())
        return Page(200 if good else 503, "application/json", json.dumps(body).encode() + b"\n")

    site = StatusPage(runtime_dir, exposition)
    pages = {
        "/": shared(site.page),
        "/metrics": exposition.page,
        "/healthz": lambda: answer(health.healthz),
        "/readyz": lambda: answer(health.readyz),
    }
    try:
        formats = {"/metrics": {"application/openmetrics-text": exposition.openmetrics}}
        below = {incidents.PREFIX: site.incidents.page}
        server = await Server(pages, below, formats).listen(*host_and_port(listen))
    except OSError as error:
        remedy = "end what listens there, or choose another metrics.listen (port 0: any free one)"
        print(f"watchdogd exporter: cannot listen on {listen}: {error.strerror}; {remedy}", file=sys.stderr)
        return EXIT_PORT_TAKEN
    _publish_address(runtime_dir, server.sockets[0].getsockname())
    ended = asyncio.Event()
    _watch_standard_input(ended)
    async with server:
        while not ended.is_set():
            site.look()
            try:
                await asyncio.wait_for(ended.wait(), LOOK_SECONDS)
            except asyncio.TimeoutError:
                continue
    return 0


def _publish_address(runtime_dir: str, address: tuple[str, int]) -> None:
    host, port = address[:2]
    path = os.path.join(runtime_dir, "exporter.address")
    try:
        with open(f"{path}.{os.getpid()}", "w", encoding="ascii") as file:
            file.write(f"[{host}]:{port}\n" if ":" in host else f"{host}:{port}\n")
        os.rename(f"{path}.{os.getpid()}", path)
    except OSError as error:  # no room there, or something else has its name: the metrics are told all the same
        print(f"watchdogd exporter: cannot write {path}: {error.strerror}", file=sys.stderr)


def _watch_standard_input(ended: asyncio.Event) -> None:
    def readable() -> None:
        if not os.read(0, 4096):
            ended.set()

    try:
        asyncio.get_running_loop().add_reader(0, readable)
    except PermissionError:
        # A file or /dev/null: run by hand, with nobody to outlive.
        return


if __name__ == "__main__":
    sys.exit(main())
