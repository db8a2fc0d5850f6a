"""What becomes of the work that an incarnation had begun and not ended.

Invariant: pure, and nobody is given a request twice: what was given back once and is in flight again at the next end is
dropped, whatever else is said of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from watchdogd import abi

MOST_TOLD = 16  # requests by their numbers
MOST_OPEN = 1 << 32  # steps: more there cannot be, and a count that only grows would be lost to them
_BEGUN, _GIVEN, _TAKEN, _AGAIN = (abi.REQUEST_STATE[name] for name in ("begun", "given", "taken", "again"))


class Entry(NamedTuple):
    """One request, as the heartbeat has it."""

    word: int  # stamp of what became of it
    request: int
    place: int  # in the table

    @property
    def state(self) -> int:
        return self.word & abi.CODE_MASK


class Requests(NamedTuple):
    """What a heartbeat says of requests."""

    entries: tuple[Entry, ...] = ()
    asked: bool = False  # whether its worker ever asked for one that was given to it
    unkept: int = 0  # for which there was no entry


class Left(NamedTuple):
    """By an incarnation that is gone."""

    in_flight: int = 0  # steps, with and without a request
    requests: tuple[int, ...] = ()  # of these steps, the oldest first
    given: tuple[Entry, ...] = ()  # what its successor is to start with
    back: int = 0  # how many of the steps in flight are among these
    dropped: int = 0  # steps in flight that are not, and requests that had been given back in vain
    unkept: int = 0  # requests for which there was no entry, over its life

    def told(self) -> dict[str, Any]:
        """For the record."""
        told = {"in_flight": self.in_flight, "requests": list(self.requests[:MOST_TOLD])}
        told |= {"to_redeliver": len(self.given), "dropped": self.dropped}
        return told | ({"unkept": self.unkept} if self.unkept else {})


def settle(requests: Requests, open_steps: int, *, was_ready: bool, redeliver: bool) -> Left:
    """``open_steps``: how many were begun and not ended. ``was_ready``: the incarnation lived to work."""
    by_age = sorted(requests.entries)
    flying = [entry for entry in by_age if entry.state in (_BEGUN, _AGAIN)]
    in_flight = max(open_steps if open_steps < MOST_OPEN else 0, len(flying))
    taken = [entry for entry in by_age if entry.state == _TAKEN]
    spent = {entry.request for entry in by_age if entry.state in (_TAKEN, _AGAIN)}
    waiting = [entry for entry in by_age if entry.state == _GIVEN]
    # A worker that died before it could ask may ask the next time; one that had the time and did not, will not.
    kept = [entry for entry in waiting if redeliver and (requests.asked or not was_ready)]
    known = spent | {entry.request for entry in kept}
    back: dict[int, Entry] = {}
    for entry in flying:
        if redeliver and entry.request not in known:
            back.setdefault(entry.request, entry)  # one, however often it was begun
    given = tuple(entry._replace(word=abi.stamp(entry.word, _GIVEN)) for entry in (*kept, *back.values()))
    dropped = in_flight - len(back) + len(taken) + len(waiting) - len(kept)
    return Left(in_flight, tuple(entry.request for entry in flying), given, len(back), dropped, requests.unkept)
