"""Load with nobody there: named after a while, and not for what is idle, silent or occupied."""

from __future__ import annotations

from watchdogd.decide.ghost import GhostPoint, is_ghost, next_point
from watchdogd.model import MILLISECOND, SECOND

NOW = 400 * SECOND
EVERY, STALE, AFTER = SECOND // 2, 1500 * MILLISECOND, 3 * SECOND


def watched(*samples: tuple[float | None, bool], every_ns: int = EVERY) -> tuple[GhostPoint, int]:
    """The point after samples of (load, vacant), and when the last one came."""
    point, now = None, NOW
    for load, vacant in samples:
        now += every_ns
        point = next_point(point, load, vacant, STALE, now)
    assert point is not None
    return point, now


def ghost(*samples: tuple[float | None, bool], every_ns: int = EVERY, later_ns: int = 0) -> bool:
    point, now = watched(*samples, every_ns=every_ns)
    return is_ghost(point, AFTER, STALE, now + later_ns)


def test_load_that_stays_up_with_nobody_there_is_a_ghost() -> None:
    assert ghost(*[(0.99, True)] * 7)
    assert ghost((0.2, False), *[(0.01 * n, True) for n in range(1, 8)])  # constant or not


def test_load_is_no_ghost_before_its_time() -> None:
    assert not ghost(*[(0.99, True)] * 6)


def test_load_while_somebody_is_there_is_no_ghost() -> None:
    assert not ghost(*[(0.99, True)] * 9, (0.99, False))
    assert not ghost(*[(0.99, True)] * 3, (0.99, False), *[(0.99, True)] * 6)


def test_an_idle_accelerator_has_no_ghost_and_neither_has_one_whose_load_nobody_tells() -> None:
    assert not ghost(*[(0.0, True)] * 20)
    assert not ghost(*[(None, True)] * 20)
    assert not ghost(*[(0.99, True)] * 3, (0.0, True), *[(0.99, True)] * 6)


def test_what_was_not_seen_in_between_is_not_made_up() -> None:
    assert not ghost(*[(0.99, True)] * 4, every_ns=STALE + 1)
    assert ghost(*[(0.99, True)] * 4, every_ns=STALE)


def test_a_silent_source_knows_no_ghost() -> None:
    assert ghost(*[(0.99, True)] * 7, later_ns=STALE)
    assert not ghost(*[(0.99, True)] * 7, later_ns=STALE + 1)
