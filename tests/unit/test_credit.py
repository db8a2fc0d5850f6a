"""So many at once, then one each so often."""

from __future__ import annotations

from watchdogd.decide.credit import Credit
from watchdogd.model import SECOND


def test_so_many_at_once_then_one_each_so_often() -> None:
    credit = Credit(3, 10 * SECOND)
    assert [credit.take("a", 5 * SECOND) for _ in range(5)] == [True, True, True, False, False]
    assert not credit.take("a", 14 * SECOND)
    assert credit.take("a", 15 * SECOND) and not credit.take("a", 15 * SECOND)
    assert [credit.take("a", 1000 * SECOND) for _ in range(4)] == [True, True, True, False]


def test_each_worker_has_its_own_and_to_look_takes_none() -> None:
    credit = Credit(1, SECOND)
    assert credit.take("a", SECOND) and credit.left("b", SECOND) == 1 and credit.left("a", SECOND) == 0
    assert credit.left("b", SECOND) == 1 and credit.take("b", SECOND)
