"""The timeline of an incident: what is in it, that text stays text, and that nothing makes it large."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from html.parser import HTMLParser

import pytest

from tests.helpers.incidents import EVIL, at, deadlock, hostile
from watchdogd.incident import Call, Capture, Incident, Lane, Load, Times, Verdict, Worker
from watchdogd.incidents import scene, timeline
from watchdogd.incidents.chart import MOST_TEXT, after
from watchdogd.incidents.scene import Block, Window
from watchdogd.model import MILLISECOND, SECOND

MS = MILLISECOND
WINDOW = Window(0, 800 * MS)  # of which 1 ms can be told apart


class Document(HTMLParser):
    def __init__(self, body: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(body)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def of(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name]


@cache
def hostile_body() -> str:
    return timeline.render(hostile())


@cache
def hostile_document() -> Document:
    return Document(hostile_body())


def document(incident: Incident) -> Document:
    return Document(timeline.render(incident))


def block(start_ms: float, end_ms: float, kind: str = "sync", **more: bool) -> Block:
    return Block(int(start_ms * MS), int(end_ms * MS), kind, kind, **more)


def alone(**fields: object) -> Incident:
    """An incident of which next to nothing is known."""
    verdict = Verdict("crashed", at(0))
    known: dict[str, object] = {"id": "x", "worker": "a", "incarnation": 1, "opened": "2026-11-21T04:13:20Z",
                                "opened_unix_ns": 1, "boot_id": "b", "verdict": verdict}  # fmt: skip
    return Incident(**{**known, **fields})  # type: ignore[arg-type]  # the tests are typed enough


# --- what is in it --------------------------------------------------------------------------------------------------


def test_every_mark_that_is_known_has_its_label_and_its_line_in_the_table() -> None:
    told = document(deadlock())
    names = ["entered", "deadline", "verdict", "evidence", "commit", "signal", "gone", "usable", "started", "ready"]
    assert [mark.name for mark in scene.marks(deadlock())] == names
    assert set(told.of("data-mark")) == set(names)
    assert "the next incarnation was ready" in told.text and "+1.23 s" in told.text and "04:13:20.103" in told.text


def test_a_mark_that_is_not_known_is_nowhere() -> None:
    told = document(dataclasses.replace(deadlock(), times=Times(signal_ns=at(2))))
    assert {"verdict", "signal"} <= set(told.of("data-mark"))
    assert not {"gone", "ready", "commit"} & set(told.of("data-mark"))


def test_all_workers_have_their_lanes_and_the_victim_is_the_first() -> None:
    groups = scene.groups(deadlock(), scene.whole(deadlock()))
    assert [(group.worker.name, group.victim) for group in groups] == [
        ("lane_dla", True), ("detector", False), ("tracker", False),
    ]  # fmt: skip
    assert [row.name for row in groups[0].rows] == ["thread 4801", "steps of 4801", "thread 4822, #8"]
    (hung,) = (block for group in groups for row in group.rows for block in row.blocks if block.hung)
    assert (hung.start_ns, hung.end_ns, hung.open) == (at(-312), at(70), True)  # to where its worker was gone


def test_a_call_that_returned_later_ends_where_it_did() -> None:
    groups = scene.groups(deadlock(), scene.whole(deadlock()))
    (freed,) = (found for found in groups[1].rows[0].blocks if found.start_ns == at(-187))
    assert (freed.end_ns, freed.open) == (at(59), False)


def test_loads_the_kernel_log_and_the_evidence_lie_under_the_lanes() -> None:
    told = document(deadlock())
    labels = told.of("aria-label")
    for name in ("load of gpu0", "load of dla0", "kernel log", "evidence: py-spy"):
        assert labels.count(name) == 2  # in both charts
    assert "nvdla 15880000.nvdla0: engine timeout, task 17" in told.text
    assert "expected after the kill" in told.text and "missing tool install py-spy" in told.text


def test_a_load_that_nobody_knows_is_a_gap_and_one_of_zero_is_not() -> None:
    def drawn(ratio: float | None) -> int:
        load = Load("gpu0", ((at(-100), ratio), (at(-50), 0.5)))
        return sum(value == "load" for value in document(alone(loads=(load,))).of("class"))

    assert drawn(0.0) == drawn(None) + 1


def test_what_it_was_comes_first() -> None:
    body = timeline.render(deadlock())
    assert body.index("The DLA stopped first") < body.index("Third time in 6 days") < body.index('class="chart"')


def test_little_evidence_is_a_small_timeline_and_no_error() -> None:
    told = document(alone())
    assert told.of("data-mark") == ["verdict"]
    assert "a: crashed" in told.text


def test_a_worker_that_could_not_be_read_says_so() -> None:
    unread = Worker("a", "running", 1, unread="heartbeat: truncated")
    assert "! heartbeat: truncated" in document(alone(captures=(Capture("verdict", at(0), 1, (unread,)),))).text


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ns", "text"), [(0, "0"), (52_300_000, "+52.3 ms"), (-3 * SECOND, "−3 s")])
def test_times_count_from_the_verdict(ns: int, text: str) -> None:
    assert after(7 * SECOND + ns, 7 * SECOND) == text


def test_a_short_hang_is_also_shown_from_near() -> None:
    near, whole = scene.close(deadlock()), scene.whole(deadlock())
    assert near is not None and near.start_ns < at(-312) and near.end_ns > at(70)
    assert whole.start_ns <= at(-3_000) and whole.end_ns > at(1_230)


def test_of_a_long_hang_the_last_seconds_are_shown_from_near_and_of_a_crash_what_came_before_it() -> None:
    slow = scene.close(dataclasses.replace(deadlock(), verdict=Verdict("startup", at(0), entered_ns=at(-120_000))))
    assert slow is not None and at(-5_000) < slow.start_ns < at(-3_000)
    crash = scene.close(dataclasses.replace(deadlock(), verdict=Verdict("crashed", at(0)), times=Times(gone_ns=at(4))))
    assert crash is not None and crash.start_ns < at(-200) and at(4) < crash.end_ns < at(100)


def test_what_the_whole_shows_well_enough_is_not_shown_twice() -> None:
    hang = dataclasses.replace(deadlock(), verdict=Verdict("step", at(0), entered_ns=at(-2_500)))
    assert scene.close(hang) is None


def test_the_legend_tells_of_what_is_drawn_alone() -> None:
    assert "the call of the verdict" in document(deadlock()).text
    assert "the call of the verdict" not in document(alone()).text


def test_what_came_long_after_does_not_squeeze_the_rest() -> None:
    late = dataclasses.replace(deadlock(), times=dataclasses.replace(deadlock().times, ready_ns=at(3_600_000)))
    assert scene.whole(late).end_ns < at(2_000)
    told = document(late)
    assert "ready" not in told.of("data-mark") and "1 h 00 m" in told.text


# --- blocks ---------------------------------------------------------------------------------------------------------


def test_calls_too_near_to_be_told_apart_are_one_block_that_says_how_many() -> None:
    (one,) = scene.merged([block(n, n + 0.5) for n in range(100)], WINDOW)
    assert (one.calls, one.text, one.start_ns, one.end_ns) == (100, "100 × sync", 0, int(99.5 * MS))


def test_calls_with_a_gap_between_them_stay_apart() -> None:
    assert len(scene.merged([block(n * 10, n * 10 + 1) for n in range(5)], WINDOW)) == 5


def test_a_call_that_hung_is_never_merged() -> None:
    blocks = [block(0, 0.5), block(0.6, 1, hung=True), block(1.1, 1.5)]
    assert [found.hung for found in scene.merged(blocks, WINDOW)] == [False, True, False]


def test_blocks_of_several_kinds_name_none_of_them() -> None:
    (one,) = scene.merged([block(0, 0.5), block(0.6, 1, "launch")], WINDOW)
    assert (one.kind, one.text) == (scene.SEVERAL, "2 calls")


def test_a_nested_call_lies_deeper_and_one_after_it_does_not() -> None:
    blocks = scene.merged([block(0, 100, "other"), block(10, 50), block(100, 200)], WINDOW)
    assert [found.depth for found in blocks] == [0, 1, 0]


# --- text stays text, and small -------------------------------------------------------------------------------------


def test_hostile_text_becomes_no_markup() -> None:
    ours, theirs = document(deadlock()), hostile_document()
    assert {tag for tag, _ in theirs.tags} <= {tag for tag, _ in ours.tags}
    allowed = {name for _, attributes in ours.tags for name in attributes}
    assert {name for _, attributes in theirs.tags for name in attributes} <= allowed
    assert "script" not in {tag for tag, _ in theirs.tags}
    assert "<script>alert(1)</script>" in theirs.text
    assert not any("\u202e" in word or "\x00" in word for word in theirs.words)


def test_hostile_names_become_no_class_and_no_id() -> None:
    known = re.compile(r"[a-z0-9 -]*")
    assert all(known.fullmatch(value) for name in ("class", "id") for value in hostile_document().of(name))


def test_the_policy_allows_its_own_style_and_nothing_else() -> None:
    body = hostile_body()
    (policy,) = (attributes["content"] for tag, attributes in Document(body).tags if "http-equiv" in attributes)
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy and "script-src" not in policy
    assert body.count("<style") == 1 and body.index("Content-Security-Policy") < body.index("<style")
    assert " style=" not in body and "href" not in body and " src=" not in re.sub(re.escape("img src="), "", body)


def test_the_largest_timeline_is_bounded() -> None:
    assert len(hostile_body().encode("utf-8", "replace")) < timeline.MOST_BYTES
    assert EVIL not in hostile_body()


def test_no_text_is_longer_than_a_person_reads() -> None:
    told = hostile_document()
    longest = max(len(word) for word in told.words if not word.startswith(":root"))  # the style
    assert longest <= MOST_TEXT + 1 < len(EVIL * 50)
    assert max(map(len, told.of("aria-label") + told.of("data-worker"))) <= MOST_TEXT + 1


def test_a_row_is_bounded_and_the_call_that_hung_stays_in_it() -> None:
    many = [block(number, number + 1, open=True) for number in range(1, 700)]
    kept = scene.merged([block(0, 700, hung=True), *many], WINDOW, most=50)
    assert len(kept) == 51 and kept[0].hung and kept[-1].start_ns == 699 * MS


def test_a_ring_is_read_no_further_than_it_can_go_back() -> None:
    ring = tuple(Call("sync", at(-n), 1000) for n in range(900, 0, -1))
    capture = Capture("verdict", at(0), 1, (Worker("a", "running", 1, lanes=(Lane(0, 1, 1, ring=ring),)),))
    (group,) = scene.groups(alone(captures=(capture,)), scene.whole(alone()))
    assert sum(found.calls for found in group.rows[0].blocks) == 64


def test_no_share_of_a_chart_lies_outside_of_it() -> None:
    shares = [float(value[:-1]) for name in ("x", "width", "x1", "x2") for value in hostile_document().of(name)
              if value.endswith("%")]  # fmt: skip
    assert len(shares) > 100 and all(0 <= share <= 100 for share in shares)


def test_a_window_holds_whatever_time_it_is_asked_for() -> None:
    assert [WINDOW.share(at_ns) for at_ns in (-(1 << 70), 400 * MS, 1 << 70)] == [0.0, 0.5, 1.0]


def test_lanes_that_are_too_many_are_told() -> None:
    lanes = tuple(Lane(n, 1, n + 1, (Call("sync", at(-5)),)) for n in range(scene.MOST_LANES + 3))
    capture = Capture("verdict", at(0), 1, (Worker("a", "running", 1, lanes=lanes),))
    assert "3 lanes more" in document(alone(captures=(capture,))).text
