"""What an incident was: the evidence of ``tests/evidence``, each case also without the facts that decide it."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.any_incident import incidents
from watchdogd import incident as words
from watchdogd.decide.causes.words import Cause
from watchdogd.decide.diagnosis import CAUSES, diagnose
from watchdogd.decide.signature import signature
from watchdogd.incident import Incident
from watchdogd.incidents.codec import BadDocument, from_json, to_json

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
INDEX: dict[str, dict[str, Any]] = json.loads(EVIDENCE.joinpath("index.json").read_text())
WITHOUT = [(name, change) for name, case in INDEX.items() for change in case["without"]]


@cache
def text(name: str) -> str:
    return EVIDENCE.joinpath(f"{name}.json").read_text()


def raw(name: str) -> Any:
    return json.loads(text(name))


@cache
def kept(name: str) -> Incident:
    return from_json(raw(name))


def edited(document: Any, edits: list[dict[str, Any]]) -> Any:
    """``{"remove": PATH}`` or ``{"set": PATH, "to": VALUE}``; a path is made of keys and indices."""
    document = copy.deepcopy(document)
    for edit in edits:
        *way, last = str(edit.get("remove", edit.get("set"))).split("/")
        place = document
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place[key]
        at: Any = int(last) if isinstance(place, list) else last
        if "remove" in edit:
            del place[at]
        else:
            place[at] = edit["to"]
    return document


def shuffled(value: Any, rng: random.Random) -> Any:
    """All tuples of dataclasses in another order, but for those whose order is what they say."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if isinstance(old, tuple) and old and dataclasses.is_dataclass(old[0]):
            new = [shuffled(item, rng) for item in old]
            if field.name not in ("suspects", "in_flight"):
                rng.shuffle(new)
            changes[field.name] = tuple(new)
        elif field.name in ("events", "samples", "left_out", "typical_ns", "coupled_with"):
            new = list(old)
            rng.shuffle(new)
            changes[field.name] = tuple(new)
        elif dataclasses.is_dataclass(old):
            changes[field.name] = shuffled(old, rng)
    return dataclasses.replace(value, **changes)


def test_every_case_has_its_entry_and_every_entry_its_case() -> None:
    assert {path.stem for path in EVIDENCE.glob("*.json")} - {"index"} == set(INDEX)
    assert len(INDEX) >= 30
    near = [name for name, case in INDEX.items() if case.get("near")]
    assert len(near) >= len(INDEX) // 2
    assert all(INDEX[name]["near"] in INDEX for name in near)


@pytest.mark.parametrize("name", INDEX)
def test_the_cause_is_the_one_that_the_evidence_shows(name: str) -> None:
    found, case = diagnose(kept(name)), INDEX[name]
    assert found.cause == case["cause"], found
    for part in case.get("says", ()):
        assert part in found.sentence
    for part in case.get("tells", ()):
        assert part in "\n".join(found.facts)
    for part in case.get("never_says", ()):
        assert part not in " ".join((found.sentence, *found.facts))
    assert found.sentence.endswith(".") and "None" not in found.sentence
    assert found.next_steps or found.cause == Cause.UNKNOWN.value


@pytest.mark.parametrize("name", [name for name, case in INDEX.items() if case["cause"] != Cause.UNKNOWN.value])
def test_a_cause_that_is_named_rests_on_facts_that_are_told_and_that_decide(name: str) -> None:
    assert diagnose(kept(name)).facts
    assert INDEX[name]["without"], "no fact is named without which it would be another"


@pytest.mark.parametrize(("name", "change"), WITHOUT, ids=[f"{name}: {change['what']}" for name, change in WITHOUT])
def test_without_what_decides_it_is_another_cause(name: str, change: dict[str, Any]) -> None:
    found = diagnose(from_json(edited(raw(name), change["edits"])))
    assert found.cause == change["cause"] != INDEX[name]["cause"], found


@pytest.mark.parametrize("name", INDEX)
def test_the_order_in_which_evidence_is_listed_makes_no_difference(name: str) -> None:
    incident = kept(name)
    found, signed = diagnose(incident), signature(incident)
    for seed in range(3):
        other = shuffled(incident, random.Random(seed))
        assert diagnose(other) == found
        assert signature(other) == signed


def test_two_cases_that_are_near_have_different_causes_or_words() -> None:
    for name, case in INDEX.items():
        if case.get("near"):
            assert diagnose(kept(name)).sentence != diagnose(kept(case["near"])).sentence


def test_every_cause_is_shown_by_a_case() -> None:
    assert {case["cause"] for case in INDEX.values()} == set(CAUSES)


def test_evidence_is_in_the_form_in_which_it_is_kept() -> None:
    for name in INDEX:
        incident = kept(name)
        assert from_json(to_json(incident)) == incident


def test_a_neighbour_is_named_only_where_its_call_should_have_returned_before() -> None:
    for name in INDEX:
        incident = kept(name)
        found = diagnose(incident)
        others = {worker.name for capture in incident.captures for worker in capture.workers} - {incident.worker}
        if found.cause in (Cause.UNKNOWN.value, Cause.LATE.value, Cause.KERNEL_WITHOUT_END.value):
            assert not any(
                f"{other} hung" in found.sentence or f"of worker {other}" in found.sentence for other in others
            )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(incidents())
def test_no_document_is_too_strange_for_a_diagnosis_and_a_signature(incident: Incident) -> None:
    found = diagnose(incident)
    assert found.cause in CAUSES and found.sentence
    digest, said = signature(incident)
    assert len(digest) == 12 and said
    other = shuffled(incident, random.Random(1))
    assert (diagnose(other), signature(other)) == (found, (digest, said))


def test_what_a_collector_lacked_is_a_next_step_and_what_is_set_already_is_not() -> None:
    incident = from_json(raw("h200-spinning-kernel-no-dump"))
    assert any("evidence" in step for step in diagnose(incident).next_steps)
    lacked = words.Outcome("gpu core dump", "missing tool", "install cuda-gdb")
    steps = diagnose(dataclasses.replace(incident, level="full", collectors=(lacked,))).next_steps
    assert "gpu core dump: install cuda-gdb" in steps
    assert not any('evidence = "full"' in step for step in steps)


def test_a_core_dump_that_nobody_has_read_yet_says_nothing_of_what_was_on_the_gpu() -> None:
    incident = dataclasses.replace(kept("h200-spinning-kernel"), kernels=(), moved_ns=None)

    def told(how: str) -> str:
        outcomes = (words.Outcome("gpu core dump", "ok"), words.Outcome("gpu kernels", how))
        found = diagnose(dataclasses.replace(incident, collectors=outcomes))
        return " ".join((found.cause, found.sentence, *found.facts))

    assert "no kernel was on the GPU" in told("ok")
    assert "no kernel" not in told("not reached")
    assert told("not reached").startswith("unknown")


@pytest.mark.parametrize(("code", "word"), [(810, "MPS"), (911, "DLA"), (700, "compute-sanitizer")])
def test_errors_that_come_from_elsewhere_send_the_reader_there(code: int, word: str) -> None:
    document = edited(raw("sticky-700"), [{"set": "verdict/detail", "to": f"CUDA error ({code})"}])
    assert word in diagnose(from_json(document)).next_steps[0]


def places(value: Any, way: str = "") -> list[str]:
    """Paths of all that a document holds."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in (f"{way}{key}", *places(item, f"{way}{key}/"))]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(INDEX)), st.randoms(use_true_random=False))
def test_a_case_that_has_lost_or_changed_anything_still_gets_a_diagnosis(name: str, rng: random.Random) -> None:
    document = raw(name)
    for _ in range(rng.randint(1, 4)):
        path = rng.choice(places(document))
        value: Any = rng.choice((0, -1, 10**400, "x", [], {}))
        edit = {"remove": path} if rng.random() < 0.5 else {"set": path, "to": value}
        document = edited(document, [edit])
    try:
        incident = from_json(document)
    except BadDocument:
        return
    found = diagnose(incident)
    assert found.cause in CAUSES and found.sentence
    assert diagnose(shuffled(incident, rng)) == found
    assert len(signature(incident)[0]) == 12


@given(st.sampled_from(["call", "step", "first_step", "startup", "stall", "", "nonsense"]), st.booleans())
def test_of_a_verdict_alone_no_cause_is_named(verdict: str, entered: bool) -> None:
    judged = words.Verdict(verdict, 10**12, None, None, 10**11 if entered else None)
    found = diagnose(Incident("i", "w", 1, "", 0, "", judged))
    assert found.cause == {"startup": "startup", "stall": "stall"}.get(verdict, "unknown")
