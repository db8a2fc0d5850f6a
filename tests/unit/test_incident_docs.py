"""docs/INCIDENTS.md says what a document holds, no more and no less."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from watchdogd import incident
from watchdogd.decide.diagnosis import CAUSES
from watchdogd.incident import Incident
from watchdogd.incidents import collectors, hooks

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "INCIDENTS.md").read_text(encoding="utf-8")
KINDS = [kind for kind in vars(incident).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = TEXT.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_field_has_its_row_and_says_whether_it_may_be_null(kind: type[Incident]) -> None:
    told = rows(f"### {kind.__name__}")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    assert [row[0] for row in told] == names
    nullable = {name for name in names if type(None) in typing.get_args(hints[name])}
    assert {row[0] for row in told if row[1].endswith(" or null")} == nullable


def test_every_link_of_a_type_leads_to_its_table() -> None:
    names = {kind.__name__ for kind in KINDS}
    linked = set(re.findall(r"\[(\w+)\]\(#(\w+)\)", TEXT))
    assert {name for name, _ in linked} == names - {"Incident"}
    assert all(name.lower() == anchor for name, anchor in linked)


def test_every_cause_and_every_collector_is_explained() -> None:
    assert [row[0] for row in rows("## Causes")] == list(CAUSES)
    named = " ".join(row[0] for row in rows("## Levels and budget"))
    assert [each.name for each in collectors.ALL if each.name not in named] == []


def test_what_show_prints_is_what_it_prints() -> None:
    golden = (ROOT / "tests" / "fixtures" / "incidents" / "show.narrow.txt").read_text(encoding="utf-8")
    assert f"```\n{golden}```\n" in TEXT


def test_the_names_that_a_hook_is_told_are_all_there() -> None:
    told = [
        hooks.FOLDER,
        hooks.INCIDENT,
        *(hooks.PREFIX + name for name in ("WORKER", "VERDICT", "OUTCOME", "SIGNATURE")),
    ]
    assert [name for name in told if f"`{name}`" not in TEXT] == []
