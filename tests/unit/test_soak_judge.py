"""The soak's judge on made-up records: missed, wrong, false and not recovered are found as such."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.bench.soak import kinds
from tests.bench.soak.conductor import deck
from tests.bench.soak.judge import MISSED, NOT_BEGUN, NOT_RECOVERED, WRONG, Judgement, judge
from tests.bench.soak.kinds import BY_NAME, KINDS, MODELS, Fault, joined
from tests.bench.soak.report import Run, most_likely_part, page

MS = 1_000_000
HANG = Fault(1, "process frozen", "model_a", 1000 * MS, 3000 * MS, 1, incarnation=2, began_ns=1010 * MS)
BURST = Fault(2, "burst of CPU load", None, 4000 * MS, 5000 * MS, 2, began_ns=4000 * MS)
NEAR_MISS = Fault(3, "slow, below the deadline", "model_b", 4000 * MS, 5000 * MS, 3, incarnation=1, began_ns=4000 * MS)


def frozen(by: str, worker: str) -> Fault:
    return Fault(4, f"device frozen by {by}", worker, 1000 * MS, 3000 * MS, 4, incarnation=2, began_ns=1010 * MS)


def event(kind: str, at_ms: int, worker: str = "model_a", incarnation: int = 2, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "monotonic_ns": at_ms * MS, "worker": worker, "incarnation": incarnation, **fields}


def verdict(at_ms: int, worker: str = "model_a", incarnation: int = 2, **fields: Any) -> dict[str, Any]:
    told = {"verdict": "call", "operation": "sync", "also_in_flight": [], "detail": "", "detected_ns": at_ms * MS}
    suspects = [{"worker": worker}]
    return event("verdict", at_ms, worker, incarnation, **{**told, "suspects": suspects, **fields})


def killed(worker: str = "model_a", incarnation: int = 2) -> list[dict[str, Any]]:
    return [event("gone", 1230, worker, incarnation), event("ready", 1700, worker, incarnation + 1)]


def judged(*faults: Fault, events: list[dict[str, Any]]) -> Judgement:
    return judge(faults, events, lambda model, _since, _until: (3, 20) if model == "model_a" else (0, 20))


def test_what_is_found_in_time_and_replaced_is_clean() -> None:
    judgement = judged(HANG, BURST, events=[verdict(1220), *killed()])
    assert judgement.is_clean
    [item, _] = judgement.judged
    assert (item.late_ms, item.back_ms) == (10, 690)  # 200 ms for a synchronize
    assert (judgement.episodes[0].own, judgement.episodes[0].others) == ((3, 20), (0, 100))
    assert judgement.episodes[1].others == (3, 120)


def test_no_faults_at_all_are_not_clean() -> None:
    assert not judged(events=[]).is_clean


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([], MISSED),
        ([verdict(1220, incarnation=1), *killed()], MISSED),
        ([verdict(1220, worker="model_b"), *killed()], MISSED),
        ([verdict(900), *killed()], MISSED),
        ([verdict(1220, verdict="step"), *killed()], WRONG),
        ([verdict(1220, operation="free"), *killed()], WRONG),
        ([verdict(1120), *killed()], WRONG),
        ([verdict(1220)], NOT_RECOVERED),
        ([verdict(1220), event("ready", 1700)], NOT_RECOVERED),
    ],
    ids=[
        "none",
        "other life",
        "other worker",
        "before it",
        "other kind",
        "other call",
        "too early",
        "no ready",
        "same life",
    ],
)
def test_what_must_follow_and_does_not_is_told(events: list[dict[str, Any]], problem: str) -> None:
    judgement = judged(HANG, events=events)
    assert [item.problem for item in judgement.judged] == [problem]
    assert not judgement.is_clean


def test_a_fault_that_did_not_happen_is_no_success() -> None:
    never = Fault(1, "process frozen", "model_a", 1000 * MS, 3000 * MS, 1, incarnation=2)
    assert judged(never, events=[]).judged[0].problem == NOT_BEGUN


@pytest.mark.parametrize(
    "false",
    [
        verdict(4500, worker="model_c"),
        verdict(4500, worker="model_a", incarnation=3),
        event("gone", 4500, "model_c", 1),
        event("gone", 1300, "model_b", 2),
    ],
    ids=["verdict", "on the successor", "end", "of a neighbour"],
)
def test_what_nothing_explains_is_false(false: dict[str, Any]) -> None:
    judgement = judged(HANG, BURST, events=[verdict(1220), *killed(), false])
    assert judgement.false == [false]
    assert not judgement.is_clean


def test_one_fault_does_not_explain_two_verdicts() -> None:
    again = verdict(1240)
    assert judged(HANG, events=[verdict(1220), again, *killed()]).false == [again]


def test_both_sides_of_a_deadlock_must_be_named() -> None:
    deadlock = Fault(1, "alloc against free", "model_a", 1000 * MS, 3000 * MS, 1, incarnation=2, began_ns=1010 * MS)
    both = verdict(1260, operation="free", also_in_flight=[{"operation": "alloc"}])
    assert judged(deadlock, events=[both, *killed()]).is_clean
    one = verdict(1260, operation="free")
    assert judged(deadlock, events=[one, *killed()]).judged[0].problem == WRONG


def test_a_sticky_error_must_be_told_by_its_name() -> None:
    sticky = Fault(1, "sticky error", "model_a", 1000 * MS, 3000 * MS, 1, incarnation=2, began_ns=1010 * MS)
    named = verdict(1020, verdict="sticky_error", operation=None, detail="CUDA_ERROR_ILLEGAL_ADDRESS (700)")
    assert judged(sticky, events=[named, *killed()]).is_clean
    assert judged(sticky, events=[{**named, "detail": ""}, *killed()]).judged[0].problem == WRONG


def test_a_near_miss_must_be_told_and_be_no_verdict() -> None:
    told = event("near_miss", 4200, "model_b", 1)
    assert judged(NEAR_MISS, events=[told]).is_clean
    assert judged(NEAR_MISS, events=[]).judged[0].problem == MISSED
    assert judged(NEAR_MISS, events=[event("near_miss", 4200, "model_c", 1)]).judged[0].problem == MISSED
    assert judged(NEAR_MISS, events=[told, verdict(4250, "model_b", 1)]).false


def test_the_dla_freezes_the_device_verdicts_on_its_victims_are_true_and_their_ends_are_false() -> None:
    of_h = verdict(1310, "model_h")
    of_a = verdict(1220, suspects=[{"worker": "model_h"}])
    clean = [of_a, of_h, *killed("model_h")]
    assert judged(frozen("the DLA", "model_h"), events=clean).is_clean
    assert judged(frozen("the DLA", "model_h"), events=[*clean, event("gone", 1320)]).false
    wrong = [of_a, {**of_h, "suspects": [{"worker": "model_a"}]}, *killed("model_h")]
    assert judged(frozen("the DLA", "model_h"), events=wrong).judged[0].problem == WRONG


def test_who_dies_with_a_gpu_model_that_froze_the_device_is_counted() -> None:
    events = [verdict(1220), *killed(), verdict(1225, "model_h"), event("gone", 1320, "model_h")]
    judgement = judged(frozen("a GPU model", "model_a"), events=events)
    assert judgement.is_clean
    assert judgement.episodes[0].victims == ("model_h",)
    assert judged(frozen("a GPU model", "model_a"), events=[*events, event("gone", 3100, "model_c")]).false


def test_the_restart_before_a_start_that_hangs_is_the_operator_s() -> None:
    hangs = Fault(1, "first step hangs", "model_a", 1000 * MS, 9000 * MS, 1, incarnation=2, began_ns=1500 * MS)
    events = [event("gone", 1100, incarnation=1), verdict(3010, verdict="first_step"), event("gone", 3020)]
    assert judged(hangs, events=[*events, event("ready", 3500, incarnation=3)]).is_clean
    assert judged(hangs, events=events).judged[0].problem == NOT_RECOVERED


def test_the_truth_is_joined_from_lines_and_only_what_is_over_counts() -> None:
    asked: dict[str, Any] = {"kind": "SIGSEGV", "worker": "model_a", "asked_ns": 1, "episode": 1, "incarnation": 1}
    lines = [{"id": 1, **asked}, {"id": 2, **asked}, {"id": 1, "began_ns": 2}, {"id": 1, "until_ns": 3}]
    assert joined(lines) == [Fault(1, "SIGSEGV", "model_a", 1, 3, 1, 1, 2)]


def test_bounds_are_exact() -> None:
    assert most_likely_part(0, 400) == pytest.approx(1 - 0.05 ** (1 / 400))
    assert most_likely_part(1, 20) == pytest.approx(0.2161, abs=1e-4)
    assert most_likely_part(20, 20) == most_likely_part(0, 0) == 1.0


def test_the_page_tells_every_problem() -> None:
    false = verdict(4500, worker="model_c")
    told = page(judged(HANG, BURST, events=[false]), Run(7, 60.0, (0, 50), (3, 1000), "why not"))
    for words in ("seed 7", "missed: process frozen of model_a 2", "false: verdict call of model_c 2", "why not"):
        assert words in told
    assert all(f"| {kind.name} " in told for kind in KINDS)


def test_the_deck_holds_every_kind_and_is_drawn_by_its_seed() -> None:
    size = sum(kind.weight for kind in KINDS) + kinds.PAIR
    cards = deck(random.Random(5))
    drawn = [next(cards) for _ in range(size)]
    assert {kind.name for card in drawn for kind in card} == {*BY_NAME}
    same = deck(random.Random(5))
    assert drawn == [next(same) for _ in range(size)]


def test_a_vehicle_s_victims_reach_their_deadline_before_the_dla_that_froze_them() -> None:
    lengths = {model: kinds.deadline_ms(model, "sync") for model in MODELS}
    assert lengths.pop(kinds.DLA_MODEL) > max(lengths.values())
