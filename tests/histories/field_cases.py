"""The field reports of ``tests/fixtures/field/hangs.jsonl``, each a line of data: what happens, what must follow.

A case names how its harm is made (``does``, a function of ``field_worker.py``; ``fault``, of the simulated driver; what
the kernel says), one of two profiles of settings, and how it has to end. Invariant: a case has no deadline, no rule
and no code of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).resolve().parents[1] / "fixtures/field/hangs.jsonl"

# What a user sets who knows his model's times and none of these reports. "vehicle": 30 frames a second, in real time.
# "server": sync 200 s, step 600 s, told as slow after a tenth; here a hundred times as fast, 1 s stands for 100 s.
PROFILES: dict[str, dict[str, Any]] = {
    "vehicle": {
        "soft": 0.5,
        "deadlines": {
            "startup": "8s", "first_step": "3s", "step": "1.5s",
            **dict.fromkeys(("sync", "event"), "500ms"),
            **dict.fromkeys(("alloc", "free", "copy", "launch", "other"), "1s"),
        },
    },
    "server": {
        "soft": 0.1,
        "deadlines": {
            "startup": "8s", "first_step": "6s", "step": "6s",
            **dict.fromkeys(("sync", "event", "alloc", "free", "copy", "launch", "other"), "2s"),
        },
    },
}  # fmt: skip
BOTH: dict[str, Any] = {
    "outputs": {"bad_in_a_row": 5},
    "restart": {"backoff": "50ms", "budget": 2},
    "probe_deadline": "2s",
}

RESTART, GOES_ON = "restart", "goes on"
QUARANTINED, NOT_USABLE, UNKILLABLE = "quarantined", "not usable", "unkillable"
WORDS: dict[str, str] = {
    RESTART: "replaced",
    GOES_ON: "left alone",
    QUARANTINED: "replaced until the budget was spent; needs a human",
    NOT_USABLE: "killed; the probe finds its accelerator unusable; needs a reboot",
    UNKILLABLE: "SIGKILL does not take; needs a reboot",
}


@dataclass(frozen=True)
class Case:
    n: int
    does: str  # a function of field_worker.py
    profile: str
    ends: str
    fault: str = ""  # of the simulated driver, as text
    options: Mapping[str, Any] = field(default_factory=dict)
    says: tuple[str, ...] = ()  # the kernel; {pid}: the worker's, {other}: another process's
    says_after: float = 0.0  # seconds from the fault, in the profile's time
    at_start: bool = False  # the fault is there when the worker starts
    unkillable: bool = False  # its threads are made to stand in D state, so that not even SIGKILL helps
    also: tuple[str, ...] = ()  # detectors besides those that the list expects
    why: str = ""

    @property
    def name(self) -> str:
        return f"n{self.n}"

    @property
    def keeps_a_core_busy(self) -> bool:
        return "spin" in (self.options.get("how"), self.options.get("wait"))

    @property
    def accelerator(self) -> str:
        """One of its own for each; what the kernel says of Tegra's own GPU is of gpu0."""
        return "gpu0" if any("17000000.gpu" in line for line in self.says) else f"gpu{self.n}"


@dataclass(frozen=True)
class Report:
    """A line of the list, as it was collected."""

    n: int
    link: str
    symptom: str
    detectors: frozenset[str]  # that can see it, by the collector's judgement
    first: str
    recovery: tuple[str, ...]


def reports() -> dict[int, Report]:
    lines = map(json.loads, REPORTS.read_text(encoding="utf-8").splitlines())
    return {
        line["n"]: Report(
            line["n"], line["link"], line["symptom"], frozenset(line["detectors"].split()) - {"none"}, line["first"],
            tuple(line["recovery"]),
        )
        for line in lines
    }  # fmt: skip


BLOCKED = "INFO: task {name}:{{{whose}}} blocked for more than 120 seconds."
LOST_FOR_GOOD = "hang scope=device permanent=1 times=1"

CASES = (
    Case(1, "infer", "vehicle", RESTART, "hang scope=process spread_ms=5 load=63", {"dla": True}),
    Case(3, "infer", "vehicle", GOES_ON, "hang scope=process heal_ms=350", also=("soft",),
         why="it returns before its deadline: told as a near miss"),
    Case(4, "infer", "server", RESTART, "hang scope=process", at_start=True),
    Case(6, "infer", "vehicle", RESTART, "hang scope=device load=99", says_after=3.0, says=(
        "nvgpu: 17000000.gpu ga10b_fifo_ctxsw_timeout_isr:297  [ERR]  ctxsw timeout error: active engine id =0, tsg=6,"
        " info: awaiting ack ms=3100",
        "host1x 13e00000.host1x: cdma_timeout_handler: timeout: 22 (ga10b_507_user), HW thresh 4, done 3")),
    Case(8, "infer", "server", RESTART, "call_hang call=module_load", at_start=True),
    Case(9, "infer", "vehicle", NOT_USABLE, LOST_FOR_GOOD, at_start=True,
         why="that a build hangs is seen; a board that locks up whole is for the hardware watchdog"),
    Case(11, "stall", "vehicle", QUARANTINED, options={"how": "sleep", "always": True}),
    Case(13, "stall", "vehicle", RESTART, options={"how": "lock"}),
    Case(17, "stall", "server", RESTART, options={"how": "poll"}),
    Case(18, "infer", "server", RESTART, "hang scope=context load=100", {"wait": "spin"}),
    Case(19, "deadlock", "server", RESTART, "deadlock calls=alloc_managed,free"),
    Case(20, "infer", "server", RESTART, "error code=700", {"on_error": "hang in free"}),
    Case(21, "infer", "vehicle", RESTART, "zero times=8"),
    Case(23, "infer", "server", RESTART, options={"unsynchronized": True}),
    Case(24, "infer", "vehicle", RESTART, "error code=700", {"on_error": "exit"}),
    Case(25, "misuse", "vehicle", RESTART, also=("exit",),
         why="400 is no sticky error: the guard raises ContextLost at the call, and the worker ends of it"),
    Case(26, "infer", "server", RESTART, "error code=710", {"on_error": "swallow"}, also=("output",),
         why="710 is cured by a new context; a server that only swallows it repeats its last output, and that is seen"),
    Case(27, "stall", "server", RESTART, options={"how": "lock"}),
    Case(31, "stall", "server", RESTART, options={"how": "poll"}),
    Case(32, "stall", "server", GOES_ON, options={"how": "sleep", "seconds": 4.2}, also=("soft",),
         why="7 minutes of 10: told as a near miss, and left to heal"),
    Case(33, "stall", "server", RESTART, options={"how": "sleep", "beside": True}),
    Case(37, "stall", "server", RESTART, options={"how": "spin"}),
    Case(38, "child_dies", "server", RESTART),
    Case(39, "long_step", "server", GOES_ON, options={"seconds": 0.3},
         why="30 s with no output, a fixed 20 s would have killed it"),
    Case(40, "infer", "server", RESTART, "hang scope=process", {"idle": 1.0}),
    Case(41, "infer", "server", RESTART, "hang scope=process after=90"),
    Case(43, "infer", "server", RESTART, "hang scope=device"),
    Case(46, "infer", "server", RESTART, "error code=2", {"on_error": "stall"}),
    Case(47, "infer", "server", RESTART, "hang scope=context", says_after=0.07, says=(
        "NVRM: Xid (PCI:0000:01:00): 8, pid={pid}, name=llama-server, Channel 00000016",)),
    Case(48, "stall", "server", RESTART, options={"how": "spin"}),
    Case(49, "call_hangs", "server", UNKILLABLE, unkillable=True, says_after=1.7, says=(
        BLOCKED.format(name="ollama", whose="pid"),)),
    Case(50, "infer", "server", GOES_ON, says_after=0.1, says=(
        *("NVRM: Xid (PCI:0000:61:00): 45, pid={other}, name=distprovers-gpu, Ch 0000000a",) * 20,
        BLOCKED.format(name="nvidia-smi", whose="other")),
        why="the Xids and the process in D state are another program's: told, and no worker of ours is harmed"),
    Case(53, "infer", "server", NOT_USABLE, LOST_FOR_GOOD, says_after=0.45, says=(
        "NVRM: Xid (PCI:0000:61:00): 119, pid={pid}, name=python3, Timeout waiting for RPC from GSP! Expected function"
        " 103 (GSP_RM_ALLOC) (0x80 0x38).",)),
    Case(54, "infer", "server", NOT_USABLE, LOST_FOR_GOOD, says_after=0.01, says=(
        "NVRM: Xid (PCI:0000:01:00): 31, pid={pid}, name=python, Ch 00000030, intr 00000000. MMU Fault: ENGINE HOST0"
        " HUBCLIENT_ESC faulted @ 0x10_00200000. Fault is of type FAULT_PDE ACCESS_TYPE_VIRT_READ",
        "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)")),
    Case(55, "infer", "server", NOT_USABLE, LOST_FOR_GOOD),
    Case(56, "infer", "server", RESTART, "hang scope=context", says_after=0.1, says=(
        "NVRM: Xid (PCI:0000:02:00): 109, pid={pid},   name=RenderThread, channel 0x0000000d, CTX SWITCH TIMEOUT, Info"
        " 0x14c011",)),
    Case(57, "infer", "server", GOES_ON, says_after=1.2, says=(BLOCKED.format(name="nvidia-smi", whose="other"),),
         also=("kmsg",), why="its D state is told by the kernel's own look; no worker of ours is harmed"),
    Case(58, "call_hangs", "server", UNKILLABLE, unkillable=True,
         why="it is killed for its hang, and that does not take"),
    Case(59, "leaves_child", "server", RESTART),
    Case(61, "infer", "server", GOES_ON, says_after=1.2, says=(BLOCKED.format(name="gpustat", whose="other"),),
         also=("kmsg",), why="as 57"),
    Case(63, "stall", "vehicle", RESTART, options={"how": "lock"}),
    Case(64, "stall", "vehicle", RESTART, options={"how": "sleep", "beside": True}),
)  # fmt: skip

HARDWARE_ONLY = {14: "the board freezes and reboots: nothing in user space lives to see it"}
