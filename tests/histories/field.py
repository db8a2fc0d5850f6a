"""Plays the field cases: a real supervisor, a real worker for each on a simulated device of its own, what is told.

Two plays of the same harms. ``guarded``: everything that watchdogd has. ``alone``: a deadline for synchronize and the
frozen load, nothing else, observed only. Invariant: what a case is judged by is what the supervisor recorded and
publishes; the play itself only says when the harm began.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.running import Supervised
from tests.histories.field_cases import BOTH, PROFILES, RESTART, Case
from tests.histories.field_told import Seen, ends
from tests.process.conftest import FREEZER, Freezer
from tests.simulator.control import Fault, SimulatedDevice

TOGETHER = 8  # workers that start at a time
FROZEN_AFTER, LOAD_INTERVAL = "1s", 0.1
LONGEST_SECONDS = 70.0  # from the sign on: patience with the starved ends ten deadlines after their own
QUIET_SECONDS = 6.0  # in which nothing may happen to a worker that is to be left alone
ALONE_SECONDS = 6.0


def can_freeze() -> bool:
    return os.geteuid() == 0 and (FREEZER / "cgroup.procs").exists()


def guarded(cases: Sequence[Case], directory: Path) -> list[Seen]:
    """Those that keep a core busy by themselves: all others would be starved by them, and be given time for that."""
    busy = [case for case in cases if case.keeps_a_core_busy]
    calm = [case for case in cases if not case.keeps_a_core_busy]
    return [
        seen for number, part in enumerate((calm, busy)) if part for seen in _guarded(part, directory / str(number))
    ]


def _guarded(cases: Sequence[Case], directory: Path) -> list[Seen]:
    with _played(cases, directory, alone=False) as play:
        play.harm()
        while not play.is_over():
            if time.monotonic() - play.began > LONGEST_SECONDS:  # each that went otherwise is judged by itself
                print(play.trouble(), file=sys.stderr)
                break
            time.sleep(0.02)
        return play.seen()


def alone(cases: Sequence[Case], directory: Path) -> set[int]:
    """The numbers of those that a deadline for synchronize or a frozen load tells of."""
    with _played(cases, directory, alone=True) as play:
        play.harm()
        frozen: set[str] = set()
        while time.monotonic() - play.began < ALONE_SECONDS:
            frozen |= {item["name"] for item in play.supervised.snapshot()["accelerators"] if item["frozen"]}
            play.say_due()
            time.sleep(0.05)
        told = {seen.case.n for seen in play.seen() if {"sync", "soft"} & set(seen.detectors)}
        return told | {case.n for case in cases if case.accelerator in frozen}


class Play:
    def __init__(
        self, cases: Sequence[Case], supervised: Supervised, devices: dict[str, SimulatedDevice], log: Path,
        freezer: Freezer | None, other: int,
    ) -> None:  # fmt: skip
        self.supervised = supervised
        self.began = 0.0
        self._cases = cases
        self._devices = devices
        self._log = log
        self._freezer = freezer
        self._other = other
        self._faults: dict[str, Fault] = {}
        self._pids: dict[str, int] = {}
        self._said: dict[str, tuple[float, tuple[str, ...]]] = {}  # when it was said, and what

    def harm(self) -> None:
        """Start them, a few at a time; then let the harm begin everywhere."""
        for case in self._cases:
            if case.at_start:
                self._fault(case)
        ready: list[Case] = sorted(self._cases, key=lambda case: not case.at_start)
        for at in range(0, len(ready), TOGETHER):
            wave = ready[at : at + TOGETHER]
            for case in wave:
                self.supervised.ask("start", case.name)
            for case in wave:
                if not case.at_start:
                    self._pids[case.name] = int(self.supervised.wait_phase(case.name, self._phase)["pid"])
        self._phase_events()
        for case in self._cases:
            if not case.at_start:
                self._fault(case)
                self.supervised.touch(f"{case.name}.go")
        self.began = time.monotonic()
        for case in self._cases:
            if case.unkillable and self._freezer is not None:
                self.supervised.wait_file(f"{case.name}.began")
                self._freezer.freeze(self._pids[case.name])

    @property
    def _phase(self) -> str:
        return "observed" if self.supervised.snapshot()["supervisor"]["observe_only"] else "running"

    def _phase_events(self) -> None:
        """Nothing may have been told of a worker before its harm."""
        early = [event for event in self.supervised.events("verdict") if event["worker"] in self._pids]
        assert not early, early

    def _fault(self, case: Case) -> None:
        if case.fault:
            self._faults[case.name] = self._devices[case.name].fault_text(case.fault)

    def say_due(self) -> None:
        """What the kernel says by now."""
        for case in self._cases:
            if not case.says or case.name in self._said:
                continue
            began_ns = self._began_ns(case)
            if began_ns is not None and time.monotonic_ns() - began_ns >= case.says_after * 1e9:
                lines = tuple(line.format(pid=self._pids[case.name], other=self._other) for line in case.says)
                self._said[case.name] = time.monotonic(), lines
                with self._log.open("a") as file:
                    file.write("".join(f"{line}\n" for line in lines))

    # --- how it ended ---

    def is_over(self) -> bool:
        self.say_due()
        workers = {body["name"]: body for body in self.supervised.snapshot()["workers"]}
        ended = all(ends(workers[case.name]) == case.ends for case in self._cases)
        return ended and time.monotonic() - self.began > QUIET_SECONDS

    def trouble(self) -> str:
        workers = {body["name"]: body for body in self.supervised.snapshot()["workers"]}
        wrong = [
            f"{case.name}: {ends(workers[case.name])}, not {case.ends}: {workers[case.name]['note']}"
            for case in self._cases
            if ends(workers[case.name]) != case.ends
        ]
        return "\n".join(wrong) + "\n" + self.supervised.log()

    def seen(self) -> list[Seen]:
        events = self.supervised.events()
        workers = {body["name"]: body for body in self.supervised.snapshot()["workers"]}
        found = []
        for case in self._cases:
            seen = Seen(case, ends=ends(workers[case.name]))
            own = [event for event in events if self._is_about(event, case)]
            began_ns = self._began_ns(case)
            for event in own:
                seen.add(event, began_ns)
            if seen.ends == RESTART:
                seen.recovery_seconds = next(
                    (event["recovery_seconds"] for event in own if event.get("recovery_seconds") is not None), None
                )
            found.append(seen)
        return found

    def _is_about(self, event: dict[str, Any], case: Case) -> bool:
        if event.get("worker") == case.name:
            return True
        _, lines = self._said.get(case.name, (0.0, ()))
        nobodys = event["kind"] == "kernel" and event.get("worker") is None
        return nobodys and event["reason"] in lines

    def _began_ns(self, case: Case) -> int | None:
        """When its harm began; None: not yet."""
        if case.name in self._faults:
            return self._faults[case.name].fired_ns
        if case.does == "infer" and not case.options:  # what the kernel says is all that happens
            return round(self.began * 1e9)
        own = self.supervised.directory / f"{case.name}.began"
        return int(own.read_text()) if own.exists() else None


@contextmanager
def _played(cases: Sequence[Case], directory: Path, *, alone: bool) -> Iterator[Play]:
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "kmsg"
    log.touch()
    with ExitStack() as stack:
        devices = {case.name: stack.enter_context(SimulatedDevice(directory / f"device-{case.name}")) for case in cases}
        other = stack.enter_context(_another())
        states = [f"{case.accelerator}={devices[case.name].path}" for case in cases]
        load = [sys.executable, "-m", "tests.histories.field_loads", str(LOAD_INTERVAL), *states]
        tables: dict[str, Any] = {
            "nvml": {"command": load, "interval": f"{LOAD_INTERVAL * 1000:.0f}ms", "frozen_after": FROZEN_AFTER},
            "kmsg": {"command": ["tail", "-q", "-s", "0.02", "-n", "+1", "-F", str(log)]},
            "supervisor": {"kill_grace": "2s", "max_kills": 1000, "observe_only": alone},
        }
        workers = {case.name: _worker(case, devices[case.name], alone=alone) for case in cases}
        supervised = stack.enter_context(Supervised(workers, **tables))
        freezer = stack.enter_context(_freezer()) if any(case.unkillable for case in cases) and not alone else None
        yield Play(cases, supervised, devices, log, freezer, other)


def _worker(case: Case, device: SimulatedDevice, *, alone: bool) -> dict[str, Any]:
    profile = PROFILES[case.profile]
    program = ["-m", "tests.histories.field_worker", case.name, case.does, json.dumps(dict(case.options))]
    body: dict[str, Any] = {
        "command": [sys.executable, *program],
        "accelerator": case.accelerator,
        "environment": device.environment(case.name),
        "cuda_visible_devices": "0",
        "autostart": False,
    }
    if alone:
        never = dict.fromkeys(profile["deadlines"], "never")
        return {**body, "deadlines": {**never, "sync": profile["deadlines"]["sync"]}}
    return {**body, **profile, **BOTH, "probe": [sys.executable, "-m", "watchdogd.worker.probe"]}


@contextmanager
def _another() -> Iterator[int]:
    """The pid of a process that is nobody's here."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def _freezer() -> Iterator[Freezer]:
    """As the fixture of the process tests, which this is used without."""
    made = Freezer(FREEZER / f"watchdogd-field-{uuid.uuid4().hex[:8]}")
    made.path.mkdir()
    try:
        yield made
    finally:
        made.remove()
