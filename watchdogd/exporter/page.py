"""``/``: the status as a page for people, and what it remembers between two requests.

The page is whole as it is sent; the script only fetches it again. Invariant: the browser is told to load and run
nothing but what this module put in, so that text of a worker cannot become more than text.
"""

from __future__ import annotations

import os
import socket
import time

from watchdogd.exporter import sections
from watchdogd.exporter.collector import Exposition
from watchdogd.exporter.incidents import Incidents
from watchdogd.exporter.recent import Rates, Recent
from watchdogd.exporter.server import Page
from watchdogd.exporter.tail import Tail
from watchdogd.markup import Html, asset, element, join, policy_hash
from watchdogd.publish import board
from watchdogd.view import status

_STYLE = asset("watchdogd", "theme.css") + asset("watchdogd.exporter", "style.css")
_SCRIPT = asset("watchdogd.exporter", "live.js")

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {policy_hash(_STYLE)}; script-src {policy_hash(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_ICON = "data:image/svg+xml," + (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' fill='%230b72a8'/%3E"
    "%3Cpath d='M8 4v4l3 2' stroke='white' stroke-width='1.6' fill='none'/%3E%3C/svg%3E"
)


class StatusPage:
    def __init__(self, runtime_dir: str, exposition: Exposition) -> None:
        self._runtime_dir = runtime_dir
        self._exposition = exposition
        self._loads = Recent()
        self._steps = Rates()
        self._tail = Tail()
        self.incidents = Incidents(exposition.state_dir)

    def look(self) -> None:
        """Once a second: follow the workers, and remember the loads and the steps."""
        published = self._exposition.look()
        if published is None:
            return
        up = {source["name"] for source in published.body.get("sources", []) if source["up"]}
        self._loads.add(
            {
                accelerator["name"]: accelerator["load_ratio"] if accelerator["source"] in up else None
                for accelerator in published.body.get("accelerators", [])
            }
        )
        names = [body["name"] for body in published.body.get("workers", [])]
        self._steps.add({name: self._exposition.histories[name].steps or 0 for name in names}, time.monotonic_ns())

    def page(self) -> Page:
        now_ns = time.monotonic_ns()
        try:
            published = self._exposition.look()
            view = status.collect(self._runtime_dir, now_ns)
        except board.BoardError as error:
            reason = f"No supervisor has run here: {error}"
            return _page(503, "✕ watchdogd", sections.banner("bad", reason, []), old=True)
        pulses = {name: history.pulse for name, history in self._exposition.histories.items()}
        histograms = {name: history.totals().histograms for name, history in self._exposition.histories.items()}
        links = self.incidents.links()
        facts = sections.Facts(view, pulses, histograms, self._loads, self._steps.recent, *self._events(view), links)
        good = published is not None and view.fault is None
        return _page(200, sections.title(facts), sections.main(facts), old=not good)

    def _events(self, view: status.StatusView) -> tuple[list[dict[str, object]], str | None]:
        """The last ones, and why there are none to be told."""
        try:
            return self._tail.read(view.supervisor.get("state_dir", "")), None
        except OSError as error:
            return [], error.strerror or os.strerror(error.errno or 0)


def _page(code: int, title: str, content: Html, old: bool) -> Page:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("link", rel="icon", href=Html(_ICON)),
        element("style", Html(_STYLE)),
        element("noscript", element("meta", http_equiv="refresh", content="3")),
    )
    links = [element("a", name, href=name) for name in ("/metrics", "/healthz", "/readyz")]
    body = element(
        "body",
        element("header", element("h1", "watchdogd"), element("span", socket.gethostname())),
        element("header", element("p", "", id="lost", class_="banner bad", hidden=True)),
        element("main", content, class_="old" if old else None),
        element("footer", *links),
        element("script", Html(_SCRIPT)),
    )
    document = join(Html("<!doctype html>"), element("html", head, body, lang="en"))
    return Page(code, "text/html; charset=utf-8", document.encode("utf-8", "replace"), HEADERS)
