"""The all-zero output: the inputs come by another stream with no order between the two, and no call fails.

Unguarded the zeros come by the simulated driver's own asynchrony, not by a fault. Where the guards know both streams
they order them, or refuse; where not, the outputs tell. Invariant: an output is called zero after a look at all of it.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import NamedTuple

from tests.demo import story, zero_worker
from tests.demo.story import Say, at, milliseconds, observe, until
from tests.helpers.running import KEPT, Supervised
from tests.simulator.control import SimulatedDevice

FRAMES = 200
BAD_IN_A_ROW = 3
RULE = {"bad_in_a_row": BAD_IN_A_ROW}
MOST_FRAMES_LATE = 10  # from the one too many to the verdict: the supervisor looks every half of the shortest deadline
VERDICT_SECONDS = 15.0  # that it is waited for
WORKER = "detector"


class Judged(NamedTuple):
    """A line of the worker's log."""

    pid: int
    ended_ns: int
    found: str


def play(directory: Path, say: Say) -> list[str]:
    plan = directory / "detector.plan"
    plan.write_bytes(zero_worker.content())
    with SimulatedDevice(directory / "device") as device:
        say(f"The input is written in another stream: {FRAMES} frames with no order, and as many with each guard ...")
        lines, rows = _orders(plan, device)
        say("The input is written by a library that no guard sees: the outputs are judged, under watchdogd ...")
        more, row = _judged(directory, plan, device)
    heading = ["", "frames", "all zero", "told by", "after the first zero", "good again"]
    return [*lines, "", *more, "", *story.table([heading, *rows, row])]


def _orders(plan: Path, device: SimulatedDevice) -> tuple[list[str], list[list[str]]]:
    environment = {**os.environ, **device.environment("orders")}
    line = story.command("tests.demo.zero_worker", plan, "count", str(FRAMES))
    told = {one["order"]: one for one in story.answer(line, environment, 60)}
    off, insert, strict, event = (told[order] for order in zero_worker.ORDERS)
    observe(0 < off["zero"] < FRAMES, f"with no order {off['zero']} of {FRAMES} outputs were zero")
    observe(insert["right"] == FRAMES, f"with the order inserted: {insert}")
    observe(strict["raised"] and all(name in strict["raised"] for name in strict["streams"]), f"strict: {strict}")
    observe(event["right"] == FRAMES, f"with an event: {event}")
    lines = [
        '1. Unguarded (order="off"):',
        f"  {off['zero']} of {FRAMES} outputs all zero, at random; every call succeeded, the last synchronize too",
        "2. Guarded by the order of streams:",
        f'  order="insert": {insert["zero"]} of {FRAMES} all zero, each one right',
        f'  order="strict": OrderError in frame {strict["frames"] + 1}: {strict["raised"]}',
        f"  with such an event: {event['zero']} of {FRAMES} all zero, each one right",
    ]
    rows = [
        ['unguarded, order="off"', str(FRAMES), str(off["zero"]), "nothing", "never", "never"],
        ['order="insert"', str(FRAMES), "0", "-", "-", "-"],
        ['order="strict"', "0", "0", "OrderError", "before it", "-"],
        ["strict, with the event", str(FRAMES), "0", "-", "-", "-"],
    ]
    return lines, rows


def _judged(directory: Path, plan: Path, device: SimulatedDevice) -> tuple[list[str], list[str]]:
    log, here = directory / "log", directory / "supervisor"
    here.mkdir()
    log.touch()
    worker = {
        "command": story.command("tests.demo.zero_worker", plan, "serve", log),
        "environment": device.environment(WORKER),
        "accelerator": "gpu0",
        "deadlines": {"sync": "200ms"},
        "outputs": RULE,
    }
    with Supervised({WORKER: worker}, directory=here, incidents=KEPT) as supervised:
        pid = int(supervised.wait_phase(WORKER, "running", 1)["pid"])
        healthy = until("50 outputs", 10, lambda: _of(log, pid, 50))
        observe(all(one.found == "good" for one in healthy), "a bad output with the order inserted")
        before = len(healthy)
        os.kill(pid, signal.SIGUSR1)
        until("a verdict", VERDICT_SECONDS, lambda: supervised.events("verdict", WORKER))
        killed = supervised.wait_event("signal", WORKER)
        gone = supervised.wait_event("gone", WORKER)
        ready = supervised.wait_event("ready", WORKER, incarnation=2)
        again = until("50 outputs of the successor", 10, lambda: _of(log, ready["pid"], 50))
        # On a busy machine an output may be right by chance before the kill: then there is none, and a verdict more.
        verdicts = supervised.events("verdict")
        observe(all(found["incarnation"] == 1 for found in verdicts), "there was a verdict on the successor")
        verdict = verdicts[-1]
        shown = story.shown(supervised.config, verdict["incident"])
    sick = _of(log, pid, before)[before:]
    observe(verdict["verdict"] == "silent_output", f"the verdict was {verdict['verdict']}")
    observe(all(one.found == "good" for one in again), "a bad output of the successor")
    zero = [one for one in sick if one.found == "zero"]
    seen = [one for one in sick if one.ended_ns < verdict["detected_ns"]]
    in_a_row = len(list(itertools.takewhile(lambda one: one.found != "good", reversed(seen))))
    late = in_a_row - BAD_IN_A_ROW
    observe(0 <= late <= MOST_FRAMES_LATE, f"the verdict came after {in_a_row} in a row")
    began, found_ns, good_ns = zero[0].ended_ns, verdict["detected_ns"], again[0].ended_ns
    lines = [
        "3. Guarded by the outputs, where a library in the worker does it and no guard sees its stream:",
        at("first output all zero", began, began),
        at("bad_in_a_row reached", began, seen[-1 - late].ended_ns, f"{BAD_IN_A_ROW} frames"),
        at("verdict silent_output", began, found_ns, f"{late} frame{'s' * (late != 1)} later: {verdict['detail']}"),
        at("killed", began, killed["monotonic_ns"], f"by then {len(zero)} of {len(sick)} were zero"),
        at("gone", began, gone["monotonic_ns"], gone["exit"]),
        at("successor ready", began, ready["ready_ns"], f"pid {ready['pid']}"),
        at("first good output", began, good_ns, f"and {len(again)} of {len(again)} good"),
        f"  {story.HEADING}",
        *shown,
    ]
    times = [f"{milliseconds(began, instant):.0f} ms" for instant in (found_ns, good_ns)]
    return lines, ["outputs judged", str(len(sick)), str(len(zero)), "silent_output", *times]


def _of(log: Path, pid: int, least: int) -> list[Judged]:
    """What that process noted; nothing as long as that is less."""
    words = [line.split() for line in log.read_text().splitlines()]
    words = [found for found in words if len(found) == 3]  # the last may be half there
    noted = [Judged(int(its), int(ended), found) for its, ended, found in words if int(its) == pid]
    return noted if len(noted) >= least else []
