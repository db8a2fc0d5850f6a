"""HTML and SVG as text, made of elements.

Invariant: text becomes markup only in ``element``; whatever else is put in is escaped, and shows no character that
could turn a line around or hide in it.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources


class Html(str):
    """Markup that needs no escaping."""

    __slots__ = ()


def element(_tag: str, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """``class_`` and ``for_`` lose their underscore; an attribute that is None or False is left out, as is no child."""
    given = "".join(_attribute(name, value) for name, value in attributes.items() if value not in (None, False))
    inside = "".join(text(child) for child in children if child is not None)
    return Html(f"<{_tag}{given}>" if _tag in _VOID else f"<{_tag}{given}>{inside}</{_tag}>")


def join(*parts: str | None) -> Html:
    return Html("".join(text(part) for part in parts if part is not None))


def text(value: str) -> Html:
    if isinstance(value, Html):
        return value
    return Html(escape("".join(c if c.isprintable() else "?" for c in value)))


_VOID = frozenset({"meta", "link", "br"})


def _attribute(name: str, value: str | float | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{text(value if isinstance(value, str) else f"{value:g}")}"'


def asset(package: str, name: str) -> str:
    """The text of a file that is shipped in a package."""
    return resources.files(package).joinpath(name).read_text("utf-8")


def policy_hash(source: str) -> str:
    """A style or script as a page's content security policy names it, to allow that one and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
