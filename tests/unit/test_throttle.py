"""The bound on what is recorded: bytes a second, of one worker and of all, with room kept for what matters."""

from __future__ import annotations

from watchdogd.model import SECOND
from watchdogd.publish.throttle import BURSTS_PER_FILE, FILE_SECONDS, SHARE, Throttle

FILE = 8 << 20
RATE, BURST = FILE // FILE_SECONDS, FILE // BURSTS_PER_FILE
LINE = 256


def recorded(throttle: Throttle, worker: str | None, now_ns: int, *, weighty: bool = True) -> int:
    """Bytes that it admits at that instant."""
    taken = 0
    while throttle.admits(worker, LINE, now_ns, weighty=weighty):
        taken += LINE
    return taken


def test_one_worker_has_its_share_of_the_burst_and_not_more() -> None:
    assert recorded(Throttle(FILE), "a", 5) == BURST // SHARE


def test_all_together_have_the_whole_burst_and_not_more() -> None:
    throttle = Throttle(FILE)
    assert sum(recorded(throttle, f"w{number}", 5) for number in range(3 * SHARE)) == BURST


def test_over_a_day_no_more_than_the_rate_is_recorded_however_many_storm() -> None:
    throttle, hours = Throttle(FILE), 24
    taken = sum(
        recorded(throttle, f"w{number}", minute * 60 * SECOND) for minute in range(hours * 60) for number in range(8)
    )
    assert 0.95 * RATE * hours * 3600 < taken <= BURST + RATE * hours * 3600


def test_a_storm_of_one_worker_leaves_room_for_another() -> None:
    throttle = Throttle(FILE)
    for second in range(3600):
        recorded(throttle, "a", second * SECOND)
    assert recorded(throttle, "b", 3600 * SECOND) == BURST // SHARE


def test_what_is_not_weighty_leaves_half_of_the_burst_to_what_is() -> None:
    throttle = Throttle(FILE)
    assert recorded(throttle, "a", 5, weighty=False) == BURST // SHARE // 2
    assert recorded(throttle, "a", 5) == BURST // SHARE // 2


def test_an_hour_of_one_hang_a_minute_is_recorded_whole() -> None:
    throttle = Throttle(FILE)
    assert all(throttle.admits("a", 400, minute * 60 * SECOND, weighty=True) for minute in range(60) for _ in range(8))


def test_an_event_that_is_a_moment_older_than_the_last_one_takes_nothing_back() -> None:
    throttle = Throttle(FILE)
    recorded(throttle, "a", 10 * SECOND)
    assert not throttle.admits("a", LINE, 9 * SECOND, weighty=True)
    assert recorded(throttle, "a", 11 * SECOND) <= RATE // SHARE


def test_the_smallest_record_still_has_room_for_a_story() -> None:
    assert recorded(Throttle(4096), "a", 5) > 8 * 1024
