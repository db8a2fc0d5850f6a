"""Entries of systemd's journal: which fields, how grave, under which ids, and when they are chosen."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from watchdogd.publish import journald
from watchdogd.publish.events import EventKind
from watchdogd.publish.journald import MESSAGE_IDS, entry, is_journal, priority, resolve

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "JOURNAL.md").read_text(encoding="utf-8")
VERDICT = {
    "seq": 9, "time": "2025-01-02T03:04:05.000006Z", "kind": "verdict", "worker": "model_h", "incarnation": 3,
    "incident": "i-7", "verdict": "call", "operation": "sync",
}  # fmt: skip


def fields(event: dict[str, Any]) -> dict[str, str]:
    return dict(field.split("=", 1) for field in entry(event))


def test_a_verdict_has_the_fields_that_join_it_with_status_events_and_metrics() -> None:
    assert fields(VERDICT) == {
        "MESSAGE": "model_h#3 verdict call sync  [i-7]",
        "MESSAGE_ID": MESSAGE_IDS[EventKind.VERDICT],
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "watchdogd",
        "WATCHDOGD_KIND": "verdict",
        "WATCHDOGD_SEQ": "9",
        "WATCHDOGD_WORKER": "model_h",
        "WATCHDOGD_INCARNATION": "3",
        "WATCHDOGD_INCIDENT": "i-7",
        "WATCHDOGD_VERDICT": "call",
        "WATCHDOGD_OPERATION": "sync",
    }


def test_what_an_event_does_not_have_has_no_field() -> None:
    told = fields({"seq": 1, "kind": "supervisor", "worker": None, "incarnation": None, "incident": None})
    assert {name for name in told if name.startswith("WATCHDOGD_")} == {"WATCHDOGD_KIND", "WATCHDOGD_SEQ"}


def test_no_field_holds_what_would_make_it_two_or_obey_a_terminal() -> None:
    event = {**VERDICT, "worker": "a\nPRIORITY=0", "incident": "\x1b[2J\ud800", "detail": "x\0y"}
    for field in entry(event):
        assert field.isprintable() and field.encode()


def test_every_kind_has_an_id_of_its_own_for_ever() -> None:
    assert MESSAGE_IDS.keys() == set(EventKind)
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(re.fullmatch(r"[0-9a-f]{32}", number) for number in MESSAGE_IDS.values())
    assert [kind for kind, number in MESSAGE_IDS.items() if f"| `{kind.value}` | `{number}` |" not in DOCUMENT] == []
    assert [name for name in journald.FIELDS if f"`WATCHDOGD_{name.upper()}`" not in DOCUMENT] == []


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"kind": "phase", "phase": "unkillable"}, 2),
        ({"kind": "phase", "phase": "quarantined"}, 3),
        ({"kind": "phase", "phase": "running"}, 6),
        ({"kind": "verdict", "incident": "i", "verdict": "call"}, 3),
        ({"kind": "verdict", "incident": "i", "verdict": "call", "would_have_killed": True}, 4),
        ({"kind": "verdict", "incident": None, "verdict": "uninstrumented"}, 4),
        ({"kind": "signal", "signal": "SIGKILL"}, 5),
        ({"kind": "signal", "signal": "SIGKILL", "refused": "Operation not permitted"}, 3),
        ({"kind": "source", "up": False}, 4),
        ({"kind": "source", "up": True}, 6),
        ({"kind": "near_miss"}, 4),
        ({"kind": "suppressed"}, 4),
        ({"kind": "operator"}, 5),
        ({"kind": "supervisor", "change": "started"}, 5),
        ({"kind": "supervisor", "change": "reload refused"}, 4),
        ({"kind": "gone"}, 6),
        ({"kind": "of a later version"}, 5),
    ],
)
def test_the_priority_says_whether_a_person_is_needed(event: dict[str, Any], expected: int) -> None:
    assert priority({"seq": 1, **event}) == expected
    assert fields({"seq": 1, **event})["PRIORITY"] == str(expected)


# --- when -----------------------------------------------------------------------------------------------------------


def stream_of(path: Path) -> dict[str, str]:
    return {"JOURNAL_STREAM": f"{path.stat().st_dev}:{path.stat().st_ino}"}


@pytest.fixture
def stderr(tmp_path: Path) -> Any:
    with (tmp_path / "stderr").open("wb") as file:
        yield file


def test_standard_error_that_is_the_journal_is_known_by_its_inode(tmp_path: Path, stderr: Any) -> None:
    assert is_journal(stream_of(tmp_path / "stderr"), stderr.fileno())


def test_standard_error_that_was_redirected_is_not_the_journal(tmp_path: Path, stderr: Any) -> None:
    (tmp_path / "other").touch()
    assert not is_journal(stream_of(tmp_path / "other"), stderr.fileno())
    assert not is_journal({}, stderr.fileno())
    assert not is_journal({"JOURNAL_STREAM": "nonsense"}, stderr.fileno())


def test_a_closed_standard_error_is_not_the_journal() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    assert not is_journal({"JOURNAL_STREAM": "1:1"}, writer)


@pytest.mark.parametrize(
    ("configured", "journal", "installed", "expected"),
    [
        ("auto", True, True, "journal"),
        ("auto", True, False, "text"),
        ("auto", False, True, "text"),
        ("text", True, True, "text"),
        ("json", True, True, "json"),
        ("journal", False, True, "journal"),
    ],
)
def test_auto_is_the_journal_where_it_can_be_and_what_is_named_is_obeyed(
    configured: str, journal: bool, installed: bool, expected: str, tmp_path: Path, stderr: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(journald, "can_send", lambda: installed)
    environ = stream_of(tmp_path / "stderr") if journal else {}
    assert resolve(configured, environ, stderr.fileno()) == expected
