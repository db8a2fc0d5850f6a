"""Incidents as they are kept, for tests of what shows them: one that is like a real one, and one that is hostile."""

from __future__ import annotations

from watchdogd.incident import (
    Call,
    Capture,
    Diagnosis,
    Incident,
    KernelLine,
    Lane,
    Load,
    Outcome,
    Repeats,
    Source,
    Suspect,
    Times,
    Verdict,
    Worker,
)
from watchdogd.model import MILLISECOND, SECOND

ZERO = 5_000 * SECOND  # the verdict
OPENED = 1_795_234_400_104 * MILLISECOND
ID = "20261121T041320Z-lane_dla-4711.3"


def at(milliseconds: float) -> int:
    return ZERO + int(milliseconds * MILLISECOND)


def ring(first_ms: float, every_ms: float, count: int, *calls: tuple[str, float, float, str]) -> tuple[Call, ...]:
    """``count`` frames, each of ``calls``: operation, beginning within the frame, duration, stage."""
    return tuple(
        Call(operation, at(first_ms + number * every_ms + begin), int(took * MILLISECOND), stage)
        for number in range(count)
        for operation, begin, took, stage in calls
    )


def deadlock() -> Incident:
    """A DLA call that does not end, and a detector on the GPU that waits behind it; a third worker goes on."""
    dla = Lane(
        0,
        4801,
        4801,
        (Call("sync", at(-312), stage="plugin"),),
        "plugin",
        812,
        ring=ring(-1180, 62, 14, ("launch", 2, 3.1, "enqueue"), ("sync", 8, 41, "sync")),
    )
    dla_steps = Lane(
        1,
        4801,
        0,
        (Call("step", at(-318)),),
        None,
        steps_begun=203,
        steps_done=202,
        ring=ring(-1182, 62, 14, ("step", 0, 54, "")),
    )
    gpu = Lane(
        0,
        4802,
        4830,
        (Call("sync", at(-187), stage="sync"),),
        "sync",
        5022,
        ring=ring(
            -700,
            33,
            15,
            ("copy", 0, 1.2, "copy_in"),
            ("launch", 1.5, 2.2, "enqueue"),
            ("sync", 5, 18, "sync"),
            ("copy", 24, 1, "copy_out"),
        ),
    )
    allocator = Lane(
        1, 4802, 4831, (), None, 90, ring=ring(-640, 210, 3, ("alloc", 0, 12, "preprocess"), ("free", 60, 4, ""))
    )
    other = Lane(
        0,
        4803,
        4803,
        (),
        None,
        9_001,
        ring=ring(-390, 12.5, 31, ("other", 0, 0.2, "preprocess"), ("event", 1, 7, "sync")),
    )
    later = Lane(
        0,
        4803,
        4803,
        (),
        None,
        9_090,
        ring=ring(860, 12.5, 30, ("other", 0, 0.2, "preprocess"), ("event", 1, 7, "sync")),
    )
    resumed = Lane(
        0,
        4802,
        4830,
        (),
        "sync",
        5060,
        ring=(
            Call("sync", at(-187), 246 * MILLISECOND, "sync"),
            *ring(90, 33, 28, ("launch", 1.5, 2.2, "enqueue"), ("sync", 5, 18, "sync")),
        ),
    )
    reborn = Lane(
        0, 4822, 4822, (), None, 4, ring=ring(1010, 62, 3, ("launch", 2, 3.1, "enqueue"), ("sync", 8, 41, "sync"))
    )
    victim = Worker("lane_dla", "running", 7, "dla0", 4801, ("gpu0",), at(-90_000), at(-88_000), (dla, dla_steps))
    detector = Worker("detector", "running", 2, "gpu0", 4802, (), at(-900_000), at(-897_000), (gpu, allocator))
    tracker = Worker("tracker", "running", 1, "gpu0", 4803, (), at(-900_000), at(-897_000), (other,))
    return Incident(
        id=ID,
        worker="lane_dla",
        incarnation=7,
        opened="2026-11-21T04:13:20.104000Z",
        opened_unix_ns=OPENED,
        boot_id="b",
        version="0.1.0",
        accelerator="dla0",
        level="full",
        budget_ns=400 * MILLISECOND,
        state="closed",
        outcome="recovered",
        exit="killed by signal 9",
        verdict=Verdict(
            "call",
            at(0),
            "sync",
            "plugin",
            at(-312),
            None,
            at(-12),
            4801,
            4801,
            "sync in stage plugin, 312 ms; its deadline is 300 ms",
        ),
        captures=(
            Capture("verdict", at(0.3), 900_000, (victim, detector, tracker)),
            Capture("gone", at(71), 700_000, (detector, tracker)),
            Capture(
                "ready",
                at(1240),
                800_000,
                (
                    Worker("lane_dla", "running", 8, "dla0", 4822, ("gpu0",), at(380), at(1230), (reborn,)),
                    Worker(
                        "detector", "running", 2, "gpu0", 4802, (), at(-900_000), at(-897_000), (resumed, allocator)
                    ),
                    Worker("tracker", "running", 1, "gpu0", 4803, (), at(-900_000), at(-897_000), (later,)),
                ),
            ),
        ),
        loads=(
            Load(
                "gpu0",
                tuple(
                    (at(-6_000 + 100 * n), 0.42 + 0.2 * ((n * 7) % 5) / 5 if n < 57 or n > 62 else 0.99)
                    for n in range(75)
                ),
                at(-250),
            ),
            Load(
                "dla0",
                tuple(
                    (at(-6_000 + 100 * n), None if 20 < n < 24 else 0.6 if n < 58 else 0.0 if n > 62 else 1.0)
                    for n in range(75)
                ),
            ),
        ),
        sources=(Source("tegrastats", True, at(-40)),),
        kernel=(
            KernelLine(
                at(-240), "dla_timeout", "nvdla 15880000.nvdla0: engine timeout, task 17", None, "lane_dla", "dla0"
            ),
            KernelLine(
                at(68), "xid", "NVRM: Xid (PCI:0000:01:00): 45, pid=4801, Ch 00000008", 45, "lane_dla", None, 4801, True
            ),
        ),
        suspects=(Suspect("lane_dla", "sync", at(-312), 0.91), Suspect("detector", "sync", at(-187), 0.09)),
        collectors=(
            Outcome("proc", "ok", "", at(0.9), 14 * MILLISECOND),
            Outcome("python stacks", "ok", "", at(0.9), 31 * MILLISECOND),
            Outcome("py-spy", "missing tool", "install py-spy", at(0.9), 200_000),
            Outcome("kernel log", "timed out", "", at(0.9), 50 * MILLISECOND),
        ),
        times=Times(at(0.2), at(0.8), at(52), at(52.3), at(70), at(350), at(380), at(1230), at(31_230)),
        signature="3f9a1c",
        signature_words="call sync in plugin, dla0",
        diagnosis=Diagnosis(
            "dla_first",
            "The DLA stopped first: lane_dla's sync on dla0 began 125 ms before detector's on gpu0, and detector's "
            "returned 59 ms after lane_dla was killed.",
            (
                "lane_dla: sync in stage plugin since 312 ms, 7.6 times its median",
                "detector: sync since 187 ms, 10 times its median",
                "the kernel: nvdla engine timeout 240 ms before the verdict",
            ),
            ("Look at what stage plugin puts on the DLA; run it with `watchdogd bisect lane_dla on`.",),
        ),
        repeats=Repeats(3, "2026-11-15T08:00:00Z", "Third time in 6 days, always in stage plugin."),
    )


EVIL = "\"'></title></style></svg><script>alert(1)</script><img src=x onerror=alert(1)>&amp;\u202e\x00\ud800]]>-->{}url(http://x/)"


def hostile() -> Incident:
    """Its texts want to be markup, and its numbers want to be too many or too large."""
    far = (1 << 64) - 1
    durations = (0, 7, far, None)
    calls = tuple(
        Call(EVIL * 20, value + place, duration, EVIL)
        for value in (0, ZERO - 5, ZERO - 900_000_000, far)
        for place, duration in enumerate(durations)
    )
    many = tuple(Call("sync", at(-2_000 + number / 10), 40_000, EVIL) for number in range(5_000))
    lanes = tuple(
        Lane(number, number, number + 1, calls, EVIL, ring=many if number < 8 else calls) for number in range(60)
    )
    workers = tuple(Worker(f"{EVIL}{number}", EVIL, number, EVIL, unread=EVIL, lanes=lanes) for number in range(40))
    return Incident(
        id=EVIL,
        worker=EVIL + "3",
        incarnation=far,
        opened=EVIL,
        opened_unix_ns=far,
        boot_id=EVIL,
        version=EVIL,
        accelerator=EVIL,
        state=EVIL,
        outcome=EVIL,
        exit=EVIL,
        stalled_ns=far,
        verdict=Verdict(EVIL, at(0), EVIL, EVIL, 0, far, far, far, far, EVIL * 1000),
        captures=(Capture(EVIL, far, far, workers), Capture(EVIL, 0, 0, workers)),
        loads=tuple(
            Load(EVIL, tuple((at(n), (float("nan"), -1.0, 1e308, None)[n % 4]) for n in range(3_000)), 0)
            for _ in range(50)
        ),
        kernel=tuple(KernelLine(at(-1_000 + n), EVIL, EVIL * 50, far, EVIL, EVIL, far) for n in range(3_000)),
        suspects=(Suspect(EVIL, EVIL, far, float("inf")),),
        collectors=tuple(Outcome(EVIL, EVIL, EVIL * 50, at(n), far) for n in range(500)),
        times=Times(far, 0, far, at(3), far, 0, far, at(1), 0),
        moved_ns=far,
        signature=EVIL,
        signature_words=EVIL,
        diagnosis=Diagnosis(EVIL, EVIL * 50, (EVIL,) * 500, (EVIL,) * 500),
        repeats=Repeats(far, EVIL, EVIL),
    )
