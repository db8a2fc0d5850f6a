"""What takes long gives way to a deadline, and for how long."""

from __future__ import annotations

from watchdogd.decide.leeway import FIRST_NS, LONGEST_NS, MARGIN, PATIENCE_NS, Leeway, Piece
from watchdogd.model import MILLISECOND, SECOND

NOW = 100 * SECOND
FORK_NS = int(MARGIN * FIRST_NS[Piece.FORK])


def begin_and_end(leeway: Leeway, took_ns: int, times: int = 1) -> None:
    for _ in range(times):
        assert leeway.may_begin(Piece.FORK, None, NOW)
        leeway.ended(NOW + took_ns)


def test_where_nothing_is_due_all_may_begin() -> None:
    assert all(Leeway().may_begin(piece, None, NOW) for piece in Piece)


def test_what_would_end_after_a_deadline_gives_way_to_it() -> None:
    for piece in Piece:
        usual_ns = int(MARGIN * FIRST_NS[piece])
        assert not Leeway().may_begin(piece, NOW + usual_ns - 1, NOW)
        assert not Leeway().may_begin(piece, NOW - 1, NOW)  # it has just passed: the look at it comes first too
        assert Leeway().may_begin(piece, NOW + usual_ns, NOW)


def test_it_waits_for_no_longer_than_its_patience_and_the_next_has_its_own() -> None:
    leeway, due_ns = Leeway(), NOW + MILLISECOND
    assert not leeway.may_begin(Piece.FORK, due_ns, NOW)
    assert leeway.until_ns == NOW + PATIENCE_NS
    assert not leeway.may_begin(Piece.FORK, due_ns + PATIENCE_NS, NOW + PATIENCE_NS - 1)
    now_ns = NOW + PATIENCE_NS
    assert leeway.may_begin(Piece.FORK, due_ns + PATIENCE_NS, now_ns)
    assert leeway.until_ns is None
    assert not leeway.may_begin(Piece.FORK, due_ns + PATIENCE_NS, now_ns)
    assert leeway.until_ns == now_ns + PATIENCE_NS


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
    leeway.ended(NOW + 9 * MILLISECOND)
    assert leeway.may_begin(Piece.FORK, NOW + FORK_NS, NOW)
    assert not leeway.may_begin(Piece.CAPTURE, NOW + 10 * MILLISECOND, NOW)
