"""The requests of the story ``lost-context``, and what came of them. Knows no CUDA.

Invariant: an answer counts as right only if every element is the request's own. Both services are judged here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

BOXES = 8  # what an answer holds
FEWER = 3  # what every second request is about, where a predictor is reused
FACTOR = 2.0
KERNEL = "sim_copy_scale__3000us"  # so long that who does not wait for it is seen to
LOST_BEFORE = (4, 8, 12, 16)  # requests before which the context is destroyed, of REQUESTS_ON_ONE_THREAD
REQUESTS_ON_ONE_THREAD = 20
HANDLERS = ("handler-1", "handler-2", "handler-3", "handler-4")
REQUESTS = 20 * len(HANDLERS)
SECONDS = 10.0  # more than any request takes

RIGHT = "right"
EARLIER = "an earlier request's answer"
LEFTOVERS = "leftovers of an earlier request"
WRONG = "wrong"


class Tally(NamedTuple):
    """What came of some requests."""

    came: dict[str, int]  # how many, by one of the above or the error's name
    said: dict[str, str]  # the first words of each, by who said them and what it was
    milliseconds: list[float]  # that each took, in order


def request(number: int, boxes: int = BOXES) -> list[float]:
    return [float(number * BOXES + box + 1) for box in range(boxes)]


def changing(number: int) -> list[float]:
    """Full, then with fewer boxes, and so on."""
    return request(number, FEWER if number % 2 else BOXES)


def tally(
    count: int,
    asked: Callable[[int], list[float]],
    ask: Callable[[int], list[float]],
    handlers: Sequence[str] = HANDLERS[:1],
) -> Tally:
    """``asked``: the request of a number. ``ask``: has it answered, by the handlers in their turns."""
    came: dict[str, int] = {}
    said: dict[str, str] = {}
    milliseconds = []
    earlier: list[list[float]] = []
    for number in range(count):
        expected = [value * FACTOR for value in asked(number)]
        begun = time.monotonic()
        try:
            answer = ask(number)
        except Exception as error:  # noqa: BLE001 - what it is, is the story
            kind = str(error) if type(error) is RuntimeError else type(error).__name__
            words = str(error)
        else:
            kind, words = judged(answer, expected, earlier), f"{_short(answer)}, expected {_short(expected)}"
        milliseconds.append((time.monotonic() - begun) * 1e3)
        came[kind] = came.get(kind, 0) + 1
        said.setdefault(f"{handlers[number % len(handlers)]}: {kind}", words)
        earlier.append(expected)
    return Tally(came, said, milliseconds)


def judged(answer: list[float], expected: list[float], earlier: list[list[float]]) -> str:
    if answer == expected:
        return RIGHT
    if answer in earlier:
        return EARLIER
    mine = len(expected)
    if answer[:mine] == expected and any(answer[mine:] == other[mine:] for other in earlier):
        return LEFTOVERS
    return WRONG


def _short(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def told(**facts: object) -> None:
    """What the service says of itself, in one line."""
    print(json.dumps({name: fact._asdict() if isinstance(fact, Tally) else fact for name, fact in facts.items()}))
