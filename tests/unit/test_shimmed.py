"""Who uses CUDA past the shim: said after two looks, with the reason, and taken back."""

from __future__ import annotations

from typing import Any

from watchdogd.act.shimmed import AGAIN_NS, EVERY_NS, LONGEST_TEXT, Shimmed
from watchdogd.instrument.words import Shim


def seen(*pids: int) -> list[dict[str, Any]]:
    return [{"pid": pid, "name": "serve", "uses": "/lib/libcuda.so.580", "why": "for a reason"} for pid in pids]


def shimmed() -> Shimmed:
    found = Shimmed(is_wanted=True)
    found.told = Shim("/folder", "/driver")
    return found


def test_one_look_accuses_nobody_and_is_soon_repeated() -> None:
    worker = shimmed()
    worker.asked(0)
    assert worker.next_ns == EVERY_NS
    assert not worker.take(seen(7), 10)
    assert (worker.why, worker.next_ns) == ("", 10 + AGAIN_NS)


def test_who_is_seen_twice_is_named_with_the_reason() -> None:
    worker = shimmed()
    worker.take(seen(7), 0)
    assert worker.take(seen(7, 8), 1)
    assert worker.why == "CUDA past the shim: pid 7 (serve) uses /lib/libcuda.so.580: for a reason"


def test_another_process_at_the_second_look_is_not_the_first_again() -> None:
    worker = shimmed()
    worker.take(seen(7), 0)
    assert not worker.take(seen(8), 1)
    assert worker.why == ""


def test_once_nobody_is_past_it_that_is_over() -> None:
    worker = shimmed()
    worker.take(seen(7), 0)
    worker.take(seen(7), 1)
    assert worker.take([], 2)
    assert worker.why == ""


def test_a_shim_that_could_not_be_placed_says_so_at_once_and_shortly() -> None:
    worker = shimmed()
    worker.told = Shim(problem="no driver" + "." * 1000)
    assert worker.why == ("no driver" + "." * 1000)[:LONGEST_TEXT]


def test_the_next_incarnation_begins_with_nothing_known() -> None:
    worker = shimmed()
    worker.take(seen(7), 0)
    worker.take(seen(7), 1)
    worker.forget()
    assert worker.describe() == {"driver": None, "loaded": False, "why": ""}


def test_a_worker_that_stamps_itself_has_none() -> None:
    assert Shimmed(is_wanted=False).describe() is None
