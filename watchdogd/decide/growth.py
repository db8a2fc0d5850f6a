"""Whether a worker holds more and more: what it uses now, against the most that it used in its own first hour.

A worker that fills its caches, loads kernels lazily or gets larger batches grows too, and stops. So a figure is told of
once it was past its limit in ``SUSTAINED`` looks in a row, and again only when its growth has doubled since. The second
time is a leak, where this is configured: what grows at a steady rate is one after as long again, and a step up, however
high, is told of and never one.

Invariant: pure; what is unknown neither adds to the evidence nor takes from it, and nothing is said of a worker whose
first hour is not over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from watchdogd import duration
from watchdogd.model import SECOND, Finding, GrowthSettings, Usage, Verdict

EVERY_NS = 10 * SECOND  # a look
SUSTAINED = 6  # looks; a minute
LEAK_AT = 2  # times told of
RESOURCES = Usage._fields
_BYTES = frozenset(("memory", "device_memory"))


class Course(NamedTuple):
    """What became of one resource in one incarnation."""

    since_ns: int  # of the first look that knew it
    looks: int  # of the first hour
    most: int  # of those
    now: int | None = None  # None: the last look did not know it
    over: int = 0  # looks in a row past the limit, up to now
    least: int = 0  # of those
    warned: int | None = None  # as much as it had grown to when that was told last
    times: int = 0  # that it was told


Courses = Mapping[str, Course]  # by resource


def follow(
    courses: Courses, usage: Usage, rule: GrowthSettings, now_ns: int
) -> tuple[dict[str, Course], tuple[str, ...]]:
    """Take one look at a worker that runs. Returns also what is to be told of now."""
    followed, told = dict(courses), []
    for resource, used in usage._asdict().items():
        before = courses.get(resource)
        if used is None:
            if before is not None:
                followed[resource] = before._replace(now=None)
            continue
        course = _next(before or Course(now_ns, 0, used), resource, used, rule, now_ns)
        if course.over >= SUSTAINED:
            course = course._replace(warned=course.least, times=course.times + 1, over=0)
            told.append(resource)
        followed[resource] = course
    return followed, tuple(told)


def lost(courses: Courses) -> dict[str, Course]:
    """Nobody looks: what it holds now is unknown, and what it was told of before condemns it only with a new look."""
    return {resource: course._replace(now=None) for resource, course in courses.items()}


def _next(course: Course, resource: str, used: int, rule: GrowthSettings, now_ns: int) -> Course:
    if not is_measured(course, rule, now_ns):
        return course._replace(now=used, looks=course.looks + 1, most=max(course.most, used))
    if used <= limit(course, resource, rule):
        return course._replace(now=used, over=0)
    least = used if course.over == 0 else min(course.least, used)
    return course._replace(now=used, over=course.over + 1, least=least)


def is_measured(course: Course, rule: GrowthSettings, now_ns: int) -> bool:
    """Whether its first hour is over. One goes on of which less than half was seen: paused, or with no supervisor."""
    if rule.baseline_ns is None or now_ns - course.since_ns < rule.baseline_ns:
        return False
    return course.looks >= max(SUSTAINED, rule.baseline_ns // (2 * EVERY_NS))


def limit(course: Course, resource: str, rule: GrowthSettings) -> int:
    """What it is told of beyond."""
    if course.warned is None:
        return _first_limit(course, resource, rule)
    return max(_first_limit(course, resource, rule), course.most + 2 * (course.warned - course.most))


def _first_limit(course: Course, resource: str, rule: GrowthSettings) -> int:
    floor = {"descriptors": rule.descriptors, "threads": rule.threads}.get(resource, rule.memory)
    return max(int(course.most * rule.factor), course.most + floor)


def stands(course: Course, resource: str, rule: GrowthSettings) -> bool:
    """Whether it was told of, and is not back."""
    return course.times > 0 and course.now is not None and course.now > _first_limit(course, resource, rule)


def leak(courses: Courses, rule: GrowthSettings, now_ns: int) -> Finding | None:
    """The verdict, where it is one."""
    if not rule.leak or rule.baseline_ns is None:
        return None
    leaks = [r for r, course in courses.items() if course.times >= LEAK_AT and stands(course, r, rule)]
    if not leaks:
        return None
    return Finding(Verdict.LEAK, now_ns, detail="; ".join(text(courses[r], r, rule) for r in leaks))


# --- told and remembered --------------------------------------------------------------------------------------------


def text(course: Course, resource: str, rule: GrowthSettings) -> str:
    """For people."""
    first = duration.show(rule.baseline_ns or 0)
    now, most = (shown(resource, value) for value in (course.now, course.most))
    return f"{resource.replace('_', ' ')} {now}, at most {most} in its first {first}"


def shown(resource: str, value: int | None) -> str:
    if value is None:
        return "unknown"
    return f"{value / (1 << 20):.1f} MiB" if resource in _BYTES else str(value)


def describe(courses: Courses, rule: GrowthSettings, now_ns: int) -> dict[str, dict[str, Any]]:
    """For the snapshot: what people are told, and all that the next supervisor needs."""
    if rule.baseline_ns is None:
        return {}
    return {
        resource: {
            **course._asdict(),
            "measured": is_measured(course, rule, now_ns),
            "limit": limit(course, resource, rule),
            "stands": stands(course, resource, rule),
            "text": text(course, resource, rule),
        }
        for resource, course in courses.items()
    }


def recall(told: Any) -> dict[str, Course]:
    """From the snapshot. Raises ValueError."""
    try:
        return {str(resource): _course(fields) for resource, fields in told.items() if resource in RESOURCES}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not the memory of what it held: {error!r}") from None


def _course(fields: Mapping[str, Any]) -> Course:
    values: Sequence[Any] = [fields[field] for field in Course._fields]
    may_be_none = (Course._fields.index("now"), Course._fields.index("warned"))
    for index, value in enumerate(values):
        if type(value) is not int and not (value is None and index in may_be_none):
            raise TypeError(f"{Course._fields[index]} is {value!r}")
    return Course(*values)
