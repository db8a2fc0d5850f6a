"""The event record: encoding, reading across rotation, torn and garbage lines, and the line for a person."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.publish import event_text, events
from watchdogd.publish.events import EventKind
from watchdogd.view.event_filter import EventFilter, NothingSuch, Since, check

BOOT_ID = 0x0123456789ABCDEF0123456789ABCDEF
PAST = 0  # a deadline that has passed: one look and no waiting


def line(seq: int, kind: EventKind = EventKind.PHASE, **fields: object) -> bytes:
    return events.encode(
        kind,
        boot_id=BOOT_ID,
        seq=seq,
        wall_ns=1_700_000_000_123_456_789,
        monotonic_ns=9_000 + seq,
        worker="model_h",
        incarnation=3,
        incident=None,
        **fields,
    )


def seqs(path: Path) -> list[int]:
    return [event["seq"] for event in events.read_file(str(path))]


def test_an_event_is_one_json_line_with_every_documented_field() -> None:
    encoded = line(5, EventKind.VERDICT, verdict="call", operation="sync", entered_ns=11)
    assert encoded.endswith(b"}\n") and encoded.count(b"\n") == 1
    assert json.loads(encoded) == {
        "schema": 1,
        "boot_id": "01234567-89ab-cdef-0123-456789abcdef",
        "seq": 5,
        "time": "2023-11-14T22:13:20.123456Z",
        "monotonic_ns": 9005,
        "kind": "verdict",
        "worker": "model_h",
        "incarnation": 3,
        "incident": None,
        "verdict": "call",
        "operation": "sync",
        "entered_ns": 11,
    }


def test_a_time_has_microseconds_even_on_the_full_second() -> None:
    assert events.rfc3339(1_700_000_000_000_000_000) == "2023-11-14T22:13:20.000000Z"


def test_rotated_files_are_read_oldest_first_and_a_gap_does_not_hide_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(4))
    (tmp_path / "events.jsonl.1").write_bytes(line(3))
    (tmp_path / "events.jsonl.3").write_bytes(line(1) + line(2))  # .2 is missing: killed while it rotated
    assert seqs(path) == [1, 2, 3, 4]


def test_a_file_that_is_rotated_while_it_is_looked_for_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1) + line(2))
    (tmp_path / "events.jsonl.1").hardlink_to(path)  # as it looks: opened, then found under its next name
    assert seqs(path) == [1, 2]


def test_a_line_that_is_no_event_is_skipped_and_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    nonsense = [b"garbage\n", b"\x00\xff\n", b"[1]\n", b'{"seq": "x", "kind": "phase"}\n', b"[" * 100_000 + b"\n"]
    path.write_bytes(line(1) + b"".join(nonsense) + line(2))
    bad: list[bytes] = []
    assert [event["seq"] for event in events.read_file(str(path), bad.append)] == [1, 2]
    assert bad == nonsense


def test_a_torn_last_line_is_not_an_event_nor_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1) + line(2)[:-20])
    bad: list[bytes] = []
    assert [event["seq"] for event in events.read_file(str(path), bad.append)] == [1]
    assert bad == []


def test_a_last_line_that_lacks_only_its_newline_is_an_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1) + line(2)[:-1])
    assert seqs(path) == [1, 2]


def test_no_record_has_no_events_and_the_last_seq_0(tmp_path: Path) -> None:
    assert seqs(tmp_path / "events.jsonl") == []
    assert events.last_seq(str(tmp_path)) == 0


def test_the_last_seq_is_found_behind_a_torn_line_in_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / events.FILE_NAME
    path.write_bytes(b"".join(line(seq) for seq in range(5000)) + line(5000)[:-9])
    assert path.stat().st_size > 3 * events._TAIL_BYTES
    assert events.last_seq(str(tmp_path)) == 4999


def test_the_last_seq_is_found_in_a_rotated_file_when_the_new_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / events.FILE_NAME).touch()
    (tmp_path / f"{events.FILE_NAME}.1").write_bytes(line(7) + line(8))
    assert events.last_seq(str(tmp_path)) == 8


# --- follow ---------------------------------------------------------------------------------------------------------


def test_following_ends_at_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1) + line(2))
    assert [event["seq"] for event in events.follow(str(path), deadline_ns=PAST)] == [1, 2]


def test_following_survives_several_rotations_between_two_looks(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1))
    following = events.follow(str(path), poll_seconds=0)
    assert next(following)["seq"] == 1
    with path.open("ab") as file:
        file.write(line(2))
    path.rename(tmp_path / "events.jsonl.2")
    (tmp_path / "events.jsonl.1").write_bytes(line(3))
    path.write_bytes(line(4))
    assert [next(following)["seq"] for _ in range(3)] == [2, 3, 4]
    with path.open("ab") as file:
        file.write(line(5))
    assert next(following)["seq"] == 5


def test_following_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = line(2)
    path.write_bytes(line(1) + whole[:30])
    now_ns = time.monotonic_ns()
    following = events.follow(str(path), poll_seconds=0, deadline_ns=now_ns + 5_000_000_000)
    assert next(following)["seq"] == 1
    with path.open("ab") as file:
        file.write(whole[30:])
    assert next(following)["seq"] == 2


def test_following_waits_for_a_file_that_does_not_exist_yet(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert list(events.follow(str(path), deadline_ns=PAST)) == []


# --- filter ---

SAID = {"kind": "verdict", "worker": "model_h", "incident": "i-1"}
BOOT = "01234567-89ab-cdef-0123-456789abcdef"
SINCE = Since(BOOT, 5_000, "2023-11-14T22:13:20.000000Z")


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        (EventFilter(workers=("model_a", "model_h")), {"worker": "model_b"}),
        (EventFilter(workers=("model_h",)), {"worker": None}),
        (EventFilter(kinds=("gone", "verdict")), {"kind": "phase"}),
        (EventFilter(incident="i-1"), {"incident": "i-11"}),
        (EventFilter(incident="i-1"), {"incident": None}),
    ],
)
def test_an_event_is_wanted_only_if_it_is_what_was_asked_for(wanted: EventFilter, other: dict[str, Any]) -> None:
    assert wanted.wants(SAID) and not wanted.wants({**SAID, **other})


def test_every_condition_must_hold_and_without_one_all_is_wanted() -> None:
    assert not EventFilter(workers=("model_h",), kinds=("gone",)).wants(SAID)
    assert EventFilter().wants(SAID) and EventFilter().wants({})


@pytest.mark.parametrize(
    ("at", "recent"),
    [
        ({"boot_id": BOOT, "monotonic_ns": 5_000, "time": "1970-01-01T00:00:00.000000Z"}, True),  # the clock was set
        ({"boot_id": BOOT, "monotonic_ns": 4_999, "time": "2038-01-01T00:00:00.000000Z"}, False),
        ({"boot_id": "another", "monotonic_ns": 1, "time": "2023-11-14T22:13:20.000000Z"}, True),
        ({"boot_id": "another", "monotonic_ns": 9_000, "time": "2023-11-14T22:13:19.999999Z"}, False),
        ({"boot_id": BOOT, "monotonic_ns": "soon", "time": "2023-11-14T22:13:20.000000Z"}, True),
    ],
)
def test_an_age_is_measured_by_the_wall_clock_only_across_boots(at: dict[str, Any], recent: bool) -> None:
    assert EventFilter(since=SINCE).wants({**SAID, **at}) is recent


def test_a_name_on_record_or_known_otherwise_is_accepted_and_a_slip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1))
    check(EventFilter(workers=("model_h", "model_new")), str(path), ["model_new"])
    with pytest.raises(NothingSuch, match="'model_x'; there are: model_h, model_new"):
        check(EventFilter(workers=("model_x",)), str(path), ["model_new"])


def test_an_incident_on_record_is_accepted_and_one_that_is_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    recorded = json.loads(line(1)) | {"incident": "i-1"}
    path.write_text(json.dumps(recorded) + "\n")
    check(EventFilter(incident="i-1"), str(path), [])
    with pytest.raises(NothingSuch, match="incident 'i-2'; `watchdogd events --kind verdict`"):
        check(EventFilter(incident="i-2"), str(path), [])


def test_before_the_first_record_any_worker_may_be_waited_for(tmp_path: Path) -> None:
    check(EventFilter(workers=("model_x",)), str(tmp_path / "events.jsonl"), [])


# --- describe -------------------------------------------------------------------------------------------------------


def test_a_verdict_reads_as_times_from_its_deadline() -> None:
    verdict = json.loads(
        line(
            1,
            EventKind.VERDICT,
            verdict="call",
            operation="sync",
            entered_ns=1_000_000_000,
            deadline_ns=1_200_000_000,
            detected_ns=1_200_050_000,
            published_ns=1_200_130_000,
        )
    ) | {"incident": "i-42"}
    assert event_text.describe(verdict) == (
        "2023-11-14T22:13:20.123456Z model_h#3 verdict call sync "
        "deadline 200.000 ms, detected + 0.050 ms, published + 0.080 ms [i-42]"
    )


def test_a_phase_reads_as_a_change_with_its_reason() -> None:
    phase = json.loads(line(1, previous="running", phase="killing", reason="sync overdue"))
    assert event_text.describe(phase).endswith("model_h#3 phase running -> killing (sync overdue)")


def test_a_supervisors_start_reads_with_its_files_and_its_end_with_its_reason() -> None:
    start = {"change": "started", "pid": 7, "version": "0.1.0", "config": ["/etc/a.toml", "/etc/b.toml"]}
    started = {**json.loads(line(1, EventKind.SUPERVISOR, **start)), "worker": None, "incarnation": None}
    assert event_text.describe(started) == (
        "2023-11-14T22:13:20.123456Z - supervisor started pid=7 version=0.1.0 config=/etc/a.toml,/etc/b.toml"
    )
    ended = {**started, "change": "stopping", "reason": "SIGTERM", "config": None, "version": None}
    assert event_text.describe(ended).endswith(" - supervisor stopping (SIGTERM) pid=7")


def test_a_verdict_of_a_worker_that_is_bisected_says_so_once() -> None:
    told = {"verdict": "call", "operation": "sync", "stage": "plugin", "detail": "synchronized after each stage"}
    verdict = json.loads(line(1, EventKind.VERDICT, **told, bisected=True))
    assert event_text.describe(verdict).endswith(" stage=plugin detail=synchronized after each stage")


def test_a_bisect_reads_as_a_change_with_its_reason() -> None:
    bisect = json.loads(line(1, EventKind.BISECT, change="off", reason="it hung in stage plugin"))
    assert event_text.describe(bisect).endswith("model_h#3 bisect off (it hung in stage plugin)")


def test_a_field_that_a_kind_has_no_words_for_is_shown_all_the_same() -> None:
    assert event_text.describe(json.loads(line(1, EventKind.SIGNAL, signal=9, pid=4321))).endswith(
        "signal signal=9 pid=4321"
    )


def test_no_control_character_of_an_event_reaches_the_terminal() -> None:
    text = event_text.describe(json.loads(line(1, reason="\x1b[2Jgone\r\n", previous="a", phase="b")))
    assert text.isprintable()
    assert "[2Jgone" in text


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner))
INSTANTS = ["entered_ns", "deadline_ns", "detected_ns", "published_ns", "other\n"]
keys = st.sampled_from(
    ["worker", "incarnation", "incident", "time", "previous", "phase", "verdict", "operation", "reason", *INSTANTS]
)
kinds = st.sampled_from([*EventKind]) | values


@given(st.dictionaries(keys, values), kinds)
def test_any_object_is_described_in_one_printable_line(event: dict[str, Any], kind: object) -> None:
    assert event_text.describe({**event, "kind": kind}).isprintable()


@given(st.dictionaries(keys | st.sampled_from(["boot_id", "monotonic_ns"]), values), kinds)
def test_any_object_is_wanted_or_not(event: dict[str, Any], kind: object) -> None:
    wanted = EventFilter(("model_h",), ("phase",), "i-1", SINCE)
    assert wanted.wants({**event, "kind": kind}) in (True, False)
    assert SINCE.wants(event) in (True, False)


@pytest.mark.parametrize("number", [10**4000, -(10**4000), 2**63])
def test_a_number_that_is_no_time_is_not_computed_with(number: int) -> None:
    assert "verdict" in event_text.describe(
        {"kind": "verdict", "entered_ns": number, "deadline_ns": 5, "detected_ns": 7}
    )
