"""The README says what the code does."""

from __future__ import annotations

from pathlib import Path

from watchdogd.config import schema
from watchdogd.model import Phase, Verdict

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_table_of_keys_is_the_one_that_drives_the_parsing() -> None:
    table = README.split("a test compares -->\n", 1)[1].split("<!-- end of keys -->", 1)[0]
    assert table == schema.markdown()


def test_every_phase_and_every_verdict_is_explained() -> None:
    assert [phase.value for phase in Phase if f"| `{phase.value}` |" not in README] == []
    assert [verdict.value for verdict in Verdict if f"`{verdict.value}`" not in README] == []
