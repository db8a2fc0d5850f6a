"""What is remembered over restarts and reboots: whole or not at all, and forgotten in time."""

from __future__ import annotations

import json

import pytest

from watchdogd.act.runs import MOST_INPUT
from watchdogd.decide.escalation_memory import LONGEST_REASON, MOST_SEEN, QUIET_BOOTS, Memory, decode
from watchdogd.model import SECOND

MEMORY = Memory().notice((("hangs gpu0", 7),), "b1", 9).act("reboot", "done", "3 hangs", "at noon", "b1", 11)


def test_a_memory_comes_back_as_it_was() -> None:
    assert decode(MEMORY.encode()) == MEMORY


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"7", b"{}", b"\xff", b"[" * 100_000,
        MEMORY.encode()[:-9],
        MEMORY.encode().replace(b'"schema": 1', b'"schema": 2'),
        MEMORY.encode().replace(b'"acted_ns": 11', b'"acted_ns": "11"'),
        MEMORY.encode().replace(b'"since_ns": 7', b'"since_ns": true'),
        MEMORY.encode().replace(b'"action": "reboot"', b'"action": null'),
        MEMORY.encode().replace(b'"quiet_boots": 0', b'"loud_boots": 0'),
    ],
)  # fmt: skip
def test_what_is_no_memory_is_not_taken_for_one(raw: bytes) -> None:
    with pytest.raises(ValueError):
        decode(raw)


def test_the_largest_memory_can_be_handed_to_its_writer() -> None:
    boot = "f" * 36
    causes = tuple((f"quarantined {'w' * 46}{number:02}", 1 << 62) for number in range(99))
    seen = Memory().notice(causes, boot, 1 << 62)
    memory = seen.act("service-fail", "in a dry run", "r" * 9999, "t" * 27, boot, 1 << 62)
    assert (len(memory.seen), len(memory.reason)) == (MOST_SEEN, LONGEST_REASON)
    assert len(memory.encode()) <= MOST_INPUT


def test_quiet_boots_make_it_forget() -> None:
    memory = MEMORY
    for boot in range(QUIET_BOOTS - 1):
        memory = memory.begin_boot(f"later{boot}")
        assert memory.blocked_until_ns(f"later{boot}", SECOND) == SECOND
    assert memory.begin_boot("last") == Memory()


def test_a_boot_in_which_it_came_again_is_not_quiet() -> None:
    memory = MEMORY.begin_boot("b2").begin_boot("b3").notice((("hangs gpu0", 5),), "b3", 5)
    assert memory.begin_boot("b4").begin_boot("b5").action == "reboot"


def test_a_restart_within_a_boot_is_no_boot() -> None:
    memory = MEMORY.begin_boot("b2")
    assert memory.begin_boot("b2") is memory


def test_it_is_plain_json() -> None:
    told = json.loads(MEMORY.encode())
    assert (told["schema"], told["action"], told["seen"][0]["name"]) == (1, "reboot", "hangs gpu0")
