"""A real systemd-journald: what arrives there, and what becomes of us when it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.helpers.journal import Journald, journald
from tests.helpers.running import KEPT, Supervised, wait_until, worker
from tests.process.test_recorder import Recorder, line, recorders, seqs
from watchdogd.publish.events import EventKind, encode
from watchdogd.publish.journald import MESSAGE_IDS

__all__ = ["recorders"]  # a fixture

HANG_ONCE = """
worker.ready()
if INCARNATION == 1:
    wait_for("hang")
    with worker.call("sync"):
        hang()
serve()
"""
WITHOUT_JOURNALD = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run; exec "$@"', "sh")


@pytest.fixture(scope="module")
def journal() -> Iterator[Journald]:
    with journald() as running:
        yield running


def verdict(seq: int, incident: str) -> bytes:
    return encode(
        EventKind.VERDICT, boot_id=1, seq=seq, wall_ns=0, monotonic_ns=1, worker="model_h", incarnation=3,
        incident=incident, verdict="call", operation="sync",
    )  # fmt: skip


def test_an_event_is_an_entry_that_is_found_by_its_kind_and_its_fields(
    journal: Journald, tmp_path: Path, recorders: Callable[..., Recorder]
) -> None:
    recorder = recorders(tmp_path / "events.jsonl", wrapper=journal.inside, echo="journal")
    recorder.tell(verdict(1, "i-7"), verdict(2, "i-8"))
    assert recorder.end() == 0
    told = journal.wait_entry("WATCHDOGD_INCIDENT=i-8", f"MESSAGE_ID={MESSAGE_IDS[EventKind.VERDICT]}")
    assert (told["WATCHDOGD_WORKER"], told["WATCHDOGD_INCARNATION"], told["PRIORITY"]) == ("model_h", "3", "3")
    assert (told["WATCHDOGD_VERDICT"], told["WATCHDOGD_OPERATION"]) == ("call", "sync")
    assert (told["SYSLOG_IDENTIFIER"], told["MESSAGE"]) == ("watchdogd", "model_h#3 verdict call sync  [i-8]")
    assert len(journal.entries("WATCHDOGD_WORKER=model_h")) == 2
    assert seqs(tmp_path / "events.jsonl") == [1, 2]


def test_a_journald_that_is_stuck_stops_neither_the_record_nor_the_process(
    tmp_path: Path, recorders: Callable[..., Recorder]
) -> None:
    path = tmp_path / "events.jsonl"
    with journald() as stuck:
        recorder = recorders(path, wrapper=stuck.inside, echo="journal")
        recorder.tell(verdict(1, "before"))
        stuck.wait_entry("WATCHDOGD_INCIDENT=before")
        stuck.stop()
        recorder.tell(*(line(seq) for seq in range(2, 700)))  # more than journald's queue takes
        recorder.state(lambda s: s["written"] == 699)
        stuck.go_on()
        again = count(700)

        def told_again() -> bool:  # it pauses for a second
            recorder.tell(verdict(next(again), "after"))
            return bool(stuck.entries("WATCHDOGD_INCIDENT=after"))

        wait_until(told_again)
        assert "(this log was stuck) count=" in stuck.entries("WATCHDOGD_KIND=suppressed")[0]["MESSAGE"]
        assert recorder.end() == 0
    assert seqs(path) == list(range(1, next(again)))


def test_where_there_is_no_journald_the_record_goes_on(tmp_path: Path, recorders: Callable[..., Recorder]) -> None:
    pytest.importorskip("systemd.journal")
    recorder = recorders(tmp_path / "events.jsonl", wrapper=WITHOUT_JOURNALD, echo="journal")
    recorder.tell(line(1), line(2))
    assert recorder.end() == 0
    assert seqs(tmp_path / "events.jsonl") == [1, 2]


def test_under_systemd_a_hang_is_in_the_journal_with_its_fields_and_not_as_text(journal: Journald) -> None:
    hung = worker(HANG_ONCE, deadlines={"sync": "100ms"})
    with Supervised({"model_x": hung}, before=journal.as_service, incidents=KEPT) as supervised:
        supervised.touch("hang")
        incident = supervised.wait_event("ready", "model_x", incarnation=2)["incident"]
        journal.wait_entry("WATCHDOGD_KIND=ready", "WATCHDOGD_WORKER=model_x", "WATCHDOGD_INCARNATION=2")
        story = journal.entries(f"WATCHDOGD_INCIDENT={incident}")
        assert [told["WATCHDOGD_KIND"] for told in story][:4] == ["verdict", "evidence", "phase", "signal"]
        assert (story[0]["PRIORITY"], story[0]["WATCHDOGD_OPERATION"]) == ("3", "sync")
        assert {told["_TRANSPORT"] for told in journal.entries() if "model_x" in str(told["MESSAGE"])} == {"journal"}


def test_a_supervisor_whose_errors_go_elsewhere_is_not_in_the_journal(journal: Journald) -> None:
    with Supervised({"model_y": worker(HANG_ONCE)}, before=journal.inside) as supervised:
        supervised.wait_event("ready", "model_y")
        assert " model_y#1 ready " in supervised.log()
        assert journal.entries("WATCHDOGD_WORKER=model_y") == []
