"""Whose a message of the kernel is: by pid, by name, by neither; what our own kill explains, and what stands beside."""

from __future__ import annotations

from typing import Any

import pytest

from watchdogd.decide.kernel import BEFORE_NS, KILLED_NS, MOST_TOLD, Party, Told, attribute, beside
from watchdogd.model import SECOND, Finding, KernelKind, KernelMessage, Verdict

NOW = 900 * SECOND


def xid(number: int = 31, pid: int | None = 71, text: str = "Xid", **fields: Any) -> KernelMessage:
    return KernelMessage(KernelKind.XID, text, number, pid=pid, **fields)


def notifier(number: int, name: str | None) -> KernelMessage:
    return KernelMessage(KernelKind.NOTIFIER, "notifier", number, accelerator="gpu0", name=name)


def worker(name: str, *pids: int, accelerator: str | None = "gpu0", **fields: Any) -> Party:
    return Party(name, accelerator, pids, **fields)


def whose(message: KernelMessage, *parties: Party, lineage: tuple[int, ...] | None = None) -> tuple[str | None, bool]:
    told = attribute(message, parties, (message.pid or 0,) if lineage is None else lineage, {}, NOW)
    assert (told.message, told.at_ns) == (message, NOW)
    return told.worker, told.expected


def test_a_pid_is_its_worker_s() -> None:
    assert whose(xid(pid=71), worker("a", 70), worker("b", 71, 72)) == ("b", False)


def test_a_descendant_is_its_worker_s() -> None:
    assert whose(xid(pid=99), worker("a", 70), worker("b", 71), lineage=(99, 98, 71)) == ("b", False)


def test_a_pid_of_nobody_s_is_nobody_s_whatever_it_is_called() -> None:
    assert whose(xid(pid=99, name="infer"), worker("a", 70, names={"infer"})) == (None, False)


def test_without_a_pid_the_name_counts_if_one_worker_has_it() -> None:
    assert whose(notifier(31, "infer"), worker("a", names={"infer"}), worker("b", names={"x"})) == ("a", False)
    assert whose(notifier(31, "infer"), worker("a", names={"infer"}), worker("b", names={"infer"})) == (None, False)
    assert whose(notifier(31, None), worker("a", names={"infer"})) == (None, False)


def test_xid_45_of_a_pid_that_we_killed_is_expected() -> None:
    assert whose(xid(45), worker("a", 70, killed={71: NOW - SECOND})) == ("a", True)
    assert whose(xid(45, pid=99), worker("a", killed={71: NOW}), lineage=(99, 71)) == ("a", True)


@pytest.mark.parametrize(
    ("message", "killed"),
    [
        (xid(45), {}),
        (xid(45), {72: NOW}),
        (xid(31), {71: NOW}),
        (xid(45), {71: NOW - KILLED_NS - 1}),
        (xid(45, text="Xid 45, Ch 00000001 caused by previous Xid 149"), {71: NOW}),
    ],
    ids=["nobody killed", "another killed", "another Xid", "long ago", "another cause"],
)
def test_anything_else_is_not(message: KernelMessage, killed: dict[int, int]) -> None:
    assert whose(message, worker("a", 71, killed=killed)) == ("a", False)


def test_nvgpu_s_torn_down_channel_is_expected_by_the_name_of_what_was_killed() -> None:
    killed = worker("a", names={"infer"}, killed_names={"infer": NOW})
    assert whose(notifier(43, "infer"), killed, worker("b", names={"infer"})) == ("a", True)
    assert whose(notifier(31, "infer"), killed) == ("a", False)
    assert whose(notifier(43, "infer"), worker("a", names={"infer"})) == ("a", False)
    both = (killed, worker("b", killed_names={"infer": NOW}))
    assert whose(notifier(43, "infer"), *both) == ("a", False)  # by the name it has now


def accelerator(message: KernelMessage, *parties: Party) -> str | None:
    gpus = {"0000:0f:00": "gpu0", "0000:1a:00": "gpu1"}
    return attribute(message, parties, (message.pid or 0,), gpus, NOW).accelerator


def test_an_accelerator_is_what_the_message_says_else_its_place_on_the_bus_else_its_worker_s() -> None:
    assert accelerator(notifier(31, None), worker("a", accelerator="dla0")) == "gpu0"
    assert accelerator(xid(pid=71, device="0000:1a:00"), worker("a", 71, accelerator="gpu0")) == "gpu1"
    assert accelerator(xid(pid=71, device="0000:3b:00"), worker("a", 71, accelerator="gpu3")) == "gpu3"
    assert accelerator(xid(pid=None, device="0000:0f:00")) == "gpu0"


def test_an_accelerator_that_nothing_tells_of_is_none() -> None:
    assert accelerator(xid(pid=None, device="0000:3b:00"), worker("a")) is None  # the machine's only worker's or not
    assert accelerator(xid(pid=99), worker("a")) is None
    assert accelerator(KernelMessage(KernelKind.TASK, "t", pid=71), worker("a", 71)) is None


# --- beside a verdict -----------------------------------------------------------------------------------------------


def told(text: str, at_ns: int, *, expected: bool = False) -> Told:
    return Told(xid(text=text), at_ns, expected=expected)


def test_what_was_said_since_shortly_before_the_call_stands_beside_its_verdict() -> None:
    finding = Finding(Verdict.CALL, NOW, entered_ns=NOW - SECOND)
    said = [
        told("long before", NOW - SECOND - BEFORE_NS - 1),
        told("before", NOW - SECOND - BEFORE_NS),
        told("ours", NOW, expected=True),
        told("now", NOW),
    ]
    assert beside(said, finding) == ["before", "now"]
    assert beside([], finding) == []


def test_a_storm_beside_a_verdict_is_its_end() -> None:
    finding = Finding(Verdict.STARTUP, NOW)
    assert beside([told(str(number), NOW) for number in range(9)], finding) == ["5", "6", "7", "8"][-MOST_TOLD:]
