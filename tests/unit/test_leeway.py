"""What takes long gives way to a deadline, and for how long."""

from __future__ import annotations

from watchdogd.decide.leeway import FIRST_NS, LONGEST_NS, MARGIN, PATIENCE_NS, Leeway, Piece
from watchdogd.model import MILLISECOND, SECOND

NOW = 100 * SECOND
FORK_NS = int(MARGIN * FIRST_NS[Piece.FORK])
SOON = MILLISECOND


def begin_and_end(leeway: Leeway, took_ns: int, times: int = 1) -> None:
    for _ in range(times):
        assert leeway.may_begin(Piece.FORK, None, NOW)
        leeway.end_round(NOW + took_ns)


def test_where_nothing_is_due_all_may_begin() -> None:
    assert all(Leeway().may_begin(piece, None, NOW) for piece in Piece)


def test_what_would_end_after_a_deadline_gives_way_to_it() -> None:
    for piece in Piece:
        usual_ns = int(MARGIN * FIRST_NS[piece])
        assert not Leeway().may_begin(piece, NOW + usual_ns - 1, NOW)
        assert not Leeway().may_begin(piece, NOW - 1, NOW)  # it has just passed: the look at it comes first too
        assert Leeway().may_begin(piece, NOW + usual_ns, NOW)


def test_it_waits_for_no_longer_than_its_patience() -> None:
    leeway = Leeway()
    for now_ns in (NOW, NOW + PATIENCE_NS - 1):
        assert not leeway.may_begin(Piece.FORK, now_ns + SOON, now_ns)
        leeway.end_round(now_ns)
        assert leeway.until_ns == NOW + PATIENCE_NS
    assert leeway.may_begin(Piece.FORK, NOW + PATIENCE_NS + SOON, NOW + PATIENCE_NS)
    for _ in range(2):  # another one may be waiting: the next round tells
        leeway.end_round(NOW + PATIENCE_NS)
    assert leeway.until_ns is None


def test_after_its_patience_one_of_its_kind_begins_in_each_round() -> None:
    leeway, now_ns = Leeway(), NOW
    assert not leeway.may_begin(Piece.FORK, now_ns + SOON, now_ns)
    leeway.end_round(now_ns)
    now_ns += PATIENCE_NS
    for _ in range(3):
        assert leeway.may_begin(Piece.FORK, now_ns + SOON, now_ns)
        assert not leeway.may_begin(Piece.FORK, now_ns + SOON, now_ns)
        leeway.end_round(now_ns)
        assert leeway.until_ns == NOW + PATIENCE_NS  # at once
        now_ns += SOON


def test_so_it_is_where_it_is_asked_for_once_in_a_round() -> None:
    leeway, now_ns = Leeway(), NOW
    begun: list[int] = []
    while len(begun) < 5:
        if leeway.may_begin(Piece.FORK, now_ns + SOON, now_ns):
            begun.append(now_ns - NOW)
        leeway.end_round(now_ns)
        now_ns += SOON
    assert begun == [PATIENCE_NS + number * SOON for number in range(5)]


def test_each_kind_has_its_own_patience() -> None:
    """A shorter one for which there is room makes the longer one wait no longer."""
    leeway = Leeway()
    assert not leeway.may_begin(Piece.FORK, NOW + FORK_NS - 1, NOW)
    assert leeway.may_begin(Piece.CAPTURE, NOW + FORK_NS - 1, NOW)
    leeway.end_round(NOW)
    assert leeway.until_ns == NOW + PATIENCE_NS
    later_ns = NOW + PATIENCE_NS - 1
    assert not leeway.may_begin(Piece.HOUSEKEEPING, later_ns + SOON, later_ns)
    assert not leeway.may_begin(Piece.FORK, later_ns + SOON, later_ns)
    assert not leeway.may_begin(Piece.HOUSEKEEPING, NOW + PATIENCE_NS + SOON, NOW + PATIENCE_NS)
    assert leeway.may_begin(Piece.FORK, NOW + PATIENCE_NS + SOON, NOW + PATIENCE_NS)


def test_what_is_not_asked_for_any_more_waits_no_more() -> None:
    leeway = Leeway()
    assert not leeway.may_begin(Piece.FORK, NOW + SOON, NOW)
    leeway.end_round(NOW)
    leeway.end_round(NOW)
    assert leeway.until_ns is None


def test_what_is_expected_of_it_is_what_it_took_of_late() -> None:
    leeway = Leeway()
    begin_and_end(leeway, 9 * MILLISECOND)
    assert not leeway.may_begin(Piece.FORK, NOW + 13 * MILLISECOND, NOW)
    begin_and_end(leeway, MILLISECOND, times=100)
    assert leeway.may_begin(Piece.FORK, NOW + 2 * MILLISECOND, NOW)
    assert not leeway.may_begin(Piece.CAPTURE, NOW + 2 * MILLISECOND, NOW)  # the others take what they did


def test_a_machine_that_stood_still_meanwhile_is_not_what_it_takes() -> None:
    leeway = Leeway()
    begin_and_end(leeway, 10 * SECOND)
    assert leeway.may_begin(Piece.FORK, NOW + int(MARGIN * LONGEST_NS), NOW)


def test_what_follows_ends_what_was_begun_before() -> None:
    leeway = Leeway()
    assert leeway.may_begin(Piece.FORK, None, NOW)
    assert leeway.may_begin(Piece.CAPTURE, None, NOW + MILLISECOND)
    leeway.end_round(NOW + 9 * MILLISECOND)
    assert leeway.may_begin(Piece.FORK, NOW + FORK_NS, NOW)
    assert not leeway.may_begin(Piece.CAPTURE, NOW + 10 * MILLISECOND, NOW)
