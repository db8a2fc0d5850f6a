"""Incidents as people read them: a list, and one on one screen whose first three lines tell the true cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.spools import AT_NS
from tests.unit.test_incident_assemble import STORY, begun
from watchdogd.incident import Call, Incident, Kernel, Lane, Other, Outcome, Repeats, Stack, Suspect, Worker
from watchdogd.incidents import assemble, codec
from watchdogd.incidents.judged import judged
from watchdogd.incidents.redact import Redaction
from watchdogd.model import MILLISECOND, SECOND
from watchdogd.view import incident_list, incident_show
from watchdogd.view.incident_list import Ambiguous, NothingSuch, Wanted

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "fixtures" / "incidents"
EVIDENCE = ROOT / "evidence"
FOLDER = "/var/lib/gpu-watchdogd/incidents/20261121T054615Z-model_h-15994.1"


def rich() -> Incident:
    """With something in whatever the screen shows."""
    made = begun()
    hung = Lane(1, 4711, 4713, (Call("sync", AT_NS - 212 * MILLISECOND, None, "plugin"),), "plugin", 40)
    workers = (
        Worker("model_h", "running", 3, "dla0", 4711, lanes=(hung,), typical_ns=(("sync", 5 * MILLISECOND),)),
        Worker("model_i", "running", 5, "gpu0", 4720, lanes=(Lane(0, 4720, 4721, calls=7),)),
    )
    made = replace(made, captures=(replace(made.captures[0], workers=workers),))
    made = assemble.closed(assemble.with_events(made, STORY), "recovered", AT_NS + 700 * MILLISECOND)
    suspects = (Suspect("model_h", "sync", AT_NS - 212 * MILLISECOND, 0.75),
                Suspect("model_i", "event", AT_NS - 200 * MILLISECOND))  # fmt: skip
    made = replace(
        made,
        level="full",
        budget_ns=400 * MILLISECOND,
        suspects=suspects,
        collectors=(
            Outcome("proc", "ok", took_ns=12 * MILLISECOND),
            Outcome("python stacks", "ok", took_ns=3 * MILLISECOND),
            Outcome("py-spy", "missing tool", "pip install py-spy"),
            Outcome("native stacks", "missing tool", "pip install py-spy"),
            Outcome("gpu kernels", "not asked for", "gpu_core_dump is off for this worker", took_ns=1),
            Outcome("gpu core dump", "timed out", took_ns=300 * MILLISECOND),
        ),
        kernels=(Kernel("spin", "(1,1,1)", "(32,1,1)", "kernels.cu:14"),),
        stacks=(Stack(4711, 4713, "python", ("forward (net.py:33)", "serve (model.py:7)")),),
        others=(Other("model_i", "step", 3 * MILLISECOND, 4 * MILLISECOND, 90 * MILLISECOND, 112 * MILLISECOND, 7),
                Other("model_j", "sync", 2 * MILLISECOND, 3 * MILLISECOND)),
        problems=("core is no file, so that it was left as it is",),
        files={"timeline.html": "0" * 64, "gpu.core": "1" * 64},
        export=Outcome("export_hook", "failed", "ended with status 1: no room there"),
    )  # fmt: skip
    made = judged(made, Redaction(), [])
    sentence = "third time in 6 days, always stage plugin"
    return replace(made, repeats=Repeats(3, "2026-11-15T05:46:15.000000Z", sentence))


@pytest.mark.parametrize("width", [100, 1 << 30])
def test_one_incident_is_one_screen(width: int) -> None:
    told = incident_show.text(rich(), FOLDER, width)
    golden = GOLDEN / f"show.{'wide' if width > 100 else 'narrow'}.txt"
    assert told == golden.read_text(encoding="utf-8")
    if width == 100:
        assert max(len(line) for line in told.splitlines()) <= 100 and len(told.splitlines()) <= 60


def test_what_two_collectors_got_of_one_thread_is_shown_once_and_each_other_thread() -> None:
    rest = (Stack(4711, 4713, "python", ("Net.forward (net.py:33)",)), Stack(4711, 4713, "native", ("poll",)))
    told = incident_show.text(replace(rich(), stacks=(*rich().stacks, *rest)), FOLDER, 1 << 30)
    assert [line.split(",")[0] for line in told.splitlines() if line.startswith("stack")] == [
        "stack     python", "stack     native",
    ]  # fmt: skip


def test_the_commands_it_names_find_what_it_was_read_from() -> None:
    told = incident_show.text(rich(), FOLDER, 1 << 30, where=" -c 'my vehicle.toml'")
    assert "`watchdogd incidents -c 'my vehicle.toml' --signature" in told
    assert "`watchdogd events -c 'my vehicle.toml' --incident" in told
    assert "watchdogd events" not in incident_show.text(rich(), FOLDER, 1 << 30, has_events=False)


def test_the_list_has_a_line_for_each() -> None:
    plain = begun()
    told = incident_list.table([replace(plain, id="20261120T000000Z-model_h-1.1"), rich()])
    assert told == (GOLDEN / "list.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted(set(EVIDENCE.glob("*.json")) - {EVIDENCE / "index.json"}), ids=lambda path: path.stem
)
def test_whatever_is_known_the_first_three_lines_say_what_why_and_who(path: Path) -> None:
    raw = json.loads(path.read_text(encoding="utf-8"))
    incident = judged(codec.from_json(raw.get("incident", raw)), Redaction(), [])
    what, cause, first = incident_show.text(incident, FOLDER, 1 << 30).splitlines()[:3]
    assert incident.diagnosis is not None
    assert what.startswith(f"what      {incident.worker}#") and incident.verdict.verdict in what
    assert cause == f"cause     {incident.diagnosis.cause}: {incident.diagnosis.sentence}"
    assert first.startswith("first     ")


def test_an_incident_of_which_next_to_nothing_is_known_is_shown_too() -> None:
    bare = replace(begun(), captures=(), suspects=(), verdict=replace(begun().verdict, entered_ns=None, pid=None))
    told = incident_show.text(bare, FOLDER, 100)
    assert "not judged yet" in told and "nobody is known to have been in a call" in told and "not closed" in told


def test_nothing_in_it_is_obeyed_by_a_terminal() -> None:
    odd = "\x1b[31mred\x07\nline"
    made = replace(rich(), exit=odd, problems=(odd,), worker=odd)
    told = incident_show.text(made, FOLDER, 100) + incident_list.table([made])
    assert [c for c in told if not c.isprintable() and c != "\n"] == []
    assert "red?" in told


# --- choosing -------------------------------------------------------------------------------------------------------


def some() -> list[Incident]:
    names = ("20261120T000000Z-a-1.1", "20261121T000000Z-a-1.2", "20261121T000000Z-b-7.2")
    return [
        replace(begun(), id=name, worker=name.split("-")[1], opened_unix_ns=number * SECOND, signature=f"{number}abc")
        for number, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("name", "found"), [("last", 2), ("20261120T000000Z-a-1.1", 0), ("20261120", 0), ("-7.2", 2), ("a-1.2", 1)]
)
def test_an_incident_is_found_by_what_no_other_has(name: str, found: int) -> None:
    assert incident_list.find(name, some()) == some()[found]


def test_what_two_have_or_none_is_said() -> None:
    with pytest.raises(Ambiguous, match=r"may be 20261121T000000Z-a-1\.2, 20261121T000000Z-b-7\.2"):
        incident_list.find("20261121", some())
    for name, kept in (("x", some()), ("last", [])):
        with pytest.raises(NothingSuch):
            incident_list.find(name, kept)


def test_an_id_that_another_begins_with_is_itself() -> None:
    one, two = (replace(begun(), id=name) for name in ("20261120T000000Z-a-1.1", "20261120T000000Z-a-1.12"))
    assert incident_list.find(one.id, [one, two]) == one


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (Wanted(), [0, 1, 2]),
        (Wanted(workers=("a",)), [0, 1]),
        (Wanted(workers=("a", "b"), since_unix_ns=SECOND), [1, 2]),
        (Wanted(verdicts=("call",)), [0, 1, 2]),
        (Wanted(verdicts=("step",)), []),
        (Wanted(signature="1ab"), [1]),
    ],
)
def test_a_filter_leaves_what_it_says(wanted: Wanted, left: list[int]) -> None:
    incident_list.check(wanted, some(), ())
    assert [number for number, one in enumerate(some()) if wanted.wants(one)] == left


def test_a_name_that_there_is_not_is_told() -> None:
    with pytest.raises(NothingSuch, match="there are: a, b, c"):
        incident_list.check(Wanted(workers=("x",)), some(), ["c"])
    with pytest.raises(NothingSuch, match="signature"):
        incident_list.check(Wanted(signature="f"), some(), ())
    incident_list.check(Wanted(workers=("c",)), some(), ["c"])
