"""What the status page says of incidents that are kept: links to their timelines.

Invariant: pure; a link leads to this exporter alone.
"""

from __future__ import annotations

from watchdogd.exporter.incidents import PREFIX, Links
from watchdogd.incidents import timeline
from watchdogd.markup import Html, element, join


def link(incident: str, shown: Html) -> Html:
    return element("a", shown, href=f"{PREFIX}{incident}/{timeline.FILE_NAME}")


def section(links: Links) -> Html | None:
    if links.problem is not None:
        how = "`watchdogd incidents` shows them to a user who may"
        told = element("p", f"The exporter cannot read them: {links.problem}; {how}.", class_="note")
        return join(element("h2", "Incidents"), told)
    if not links.ids:
        return None
    items = (element("li", link(name, element("code", name))) for name in links.ids)
    return join(element("h2", "Incidents, the newest first"), element("ol", *items, class_="card incidents"))
