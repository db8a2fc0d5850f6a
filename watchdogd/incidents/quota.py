"""How much of the past is kept: by bytes and count, the oldest go first.

Invariant: an incident that is not at its end is never removed, nor the last one of its signature, nor anything that
is no incident; where these alone are more than the quota, more than the quota is kept.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from watchdogd.incidents import folders
from watchdogd.incidents.folders import Kept, Listing

ENDED = frozenset(("closed", "cut short"))


class Pruned(NamedTuple):
    removed: tuple[Kept, ...]
    kept: tuple[Kept, ...]
    problems: tuple[str, ...] = ()  # why more than the quota is kept
    failed: tuple[Kept, ...] = ()  # that could not be removed

    @property
    def size(self) -> int:
        return sum(one.size for one in self.kept)


def plan(kept: Sequence[Kept], most_bytes: int | None, most: int | None) -> Pruned:
    """Pure. ``kept``: oldest first; None: however many."""
    examples = Counter(one.incident.signature for one in kept)
    size, count = sum(one.size for one in kept), len(kept)
    removed = []

    def too_much() -> bool:
        return (most_bytes is not None and size > most_bytes) or (most is not None and count > most)

    for one in kept:
        if not too_much():
            break
        signature = one.incident.signature
        if one.incident.state in ENDED and (not signature or examples[signature] > 1):
            removed.append(one)
            examples[signature] -= 1
            size, count = size - one.size, count - 1
    left = tuple(one for one in kept if one not in removed)
    problem = f"more than the quota is kept ({count}, {size} bytes): each is not closed, or the last of its signature"
    return Pruned(tuple(removed), left, (problem,) if too_much() else ())


def enforce(root: str, listing: Listing, most_bytes: int | None, most: int | None) -> Pruned:
    """Remove what is too much. Raises no OSError: what cannot be removed is kept, and told."""
    planned = plan(listing.kept, most_bytes, most)
    _clear_away(root)
    stayed, problems = [], list(planned.problems)
    for one in planned.removed:
        try:
            remove(one.path)
        except OSError as error:
            stayed.append(one)
            problems.append(f"{one.path} cannot be removed: {error.strerror}")
    removed = tuple(one for one in planned.removed if one not in stayed)
    return Pruned(removed, tuple(one for one in listing.kept if one not in removed), tuple(problems), tuple(stayed))


def remove(path: str) -> None:
    """Raises OSError. Nobody ever sees half of it: it goes under another name first."""
    leaving = os.path.join(os.path.dirname(path), folders.LEAVING + os.path.basename(path))
    os.rename(path, leaving)
    shutil.rmtree(leaving)


def _clear_away(root: str) -> None:
    """What somebody who was removing it had to leave."""
    for name in os.listdir(root) if os.path.isdir(root) else ():
        if name.startswith(folders.LEAVING):
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
