"""What the job that writes an incident makes of it: a document that is judged, counted, redacted, with its timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import spools
from tests.helpers.spools import AT_NS
from watchdogd.incident import Incident
from watchdogd.incidents import folders, spool, timeline, writing
from watchdogd.incidents.redact import MARK
from watchdogd.incidents.writing import Known, Places
from watchdogd.model import SECOND


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "spools").mkdir()
    directories: dict[str, Any] = {name: str(tmp_path / name) for name in ("spools", "root", "record")}
    return Places(**directories, max_bytes=1 << 30, max_count=100, redact=("FLEET",))


def keep(places: Places, number: int = 1, state: str = "closed", **head: Any) -> Incident:
    name = f"{number}-{spools.ID}"
    opened = {"opened": f"2026-11-{20 + number}T05:46:15.000000Z", "opened_unix_ns": number * 86_400 * SECOND}
    left = spools.spool(spools.told("model_h"), id=name, **{**opened, **head})
    spool.write(places.spool(name), left.head, left.blobs)
    told, _ = writing.attempt(places, Known(name, state, "recovered", AT_NS + SECOND))
    assert "hopeless" not in told and told.get("error") is None
    return folders.read(folders.path_of(places.root, name))


def test_an_incident_is_judged_from_its_first_version_on_and_counted_at_its_end(places: Places) -> None:
    first = keep(places, state="open")
    assert first.diagnosis is not None and first.signature and first.signature_words
    assert first.repeats is None and first.files == {}
    over = keep(places)
    assert (over.state, over.outcome, over.signature) == ("closed", "recovered", first.signature)
    assert over.repeats is not None and over.repeats.count == 1


def test_the_same_again_is_counted_and_another_is_not(places: Places) -> None:
    for number in (1, 2):
        keep(places, number)
    other = {**spools.HEAD["verdict"], "operation": "alloc", "stage": "enqueue"}
    keep(places, 3, verdict=other)
    again = keep(places, 4)
    assert again.repeats is not None and again.repeats.count == 3
    assert again.repeats.sentence.startswith("third time in 3 days")


def test_what_is_kept_of_its_command_and_variables_is_redacted(places: Places) -> None:
    secret: dict[str, Any] = {"command": ["x", "--token", "hunter2"], "environment": [["FLEET", "hunter2"], ["A", "b"]]}
    kept = keep(places, **secret)
    assert kept.command == ("x", "--token", MARK) and kept.environment == (("FLEET", MARK), ("A", "b"))
    folder = Path(folders.path_of(places.root, kept.id))
    assert [path.name for path in folder.iterdir() if b"hunter2" in path.read_bytes()] == []


def test_its_timeline_lies_beside_it_and_is_hashed(places: Places) -> None:
    kept = keep(places)
    page = Path(folders.path_of(places.root, kept.id)) / timeline.FILE_NAME
    assert kept.id in page.read_text(encoding="utf-8") and list(kept.files) == [timeline.FILE_NAME]
    assert page.stat().st_mode & 0o777 == 0o640
