"""Lets faults happen: at random times, to random models, one after the other or two at once, each written down first.

Invariant: a fault is only injected while all models run and do their frames, and nothing else is under way; the next
one waits until that is so again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import rig
from tests.bench.soak.fleet import Frames, orders
from tests.bench.soak.kinds import FOR_A_PAIR, KINDS, MODELS, PAIR, Fault, Kind, joined
from tests.bench.soak.orders import append, lines
from tests.helpers.running import Supervised
from tests.simulator import control
from tests.simulator.control import SimulatedDevice

NORMAL_FRAMES = 3
LONGEST_SECONDS = 40.0  # until all is normal again
LONGEST_PAUSE_SECONDS = 0.4
LOOK_SECONDS = 0.02
BUSY_PROCESSES = 6
KERNEL_LINE = "NVRM: Xid (PCI:0000:01:00): 31, pid={pid}, name=python, Ch 00000030, intr 00000000. MMU Fault"


class Gone(Exception):
    """Things do not get back to normal: the soak ends here."""


def deck(draw: random.Random) -> Iterator[tuple[Kind, ...]]:
    """For ever: all kinds by their weights, shuffled, then again; each alone or, for a pair, two."""
    while True:
        cards: list[tuple[Kind, ...]] = [(kind,) for kind in KINDS for _ in range(kind.weight)]
        cards += [(draw.choice(FOR_A_PAIR), draw.choice(FOR_A_PAIR)) for _ in range(PAIR)]
        draw.shuffle(cards)
        yield from cards


@dataclass(frozen=True)
class Begun:
    """A fault that was just brought about; ``device``: what the simulated driver knows of it."""

    id: int
    kind: Kind
    worker: str | None
    pid: int
    incarnation: int
    device: control.Fault | None


class Conductor:
    def __init__(
        self, supervised: Supervised, device: SimulatedDevice, directory: Path, frames: Frames, draw: random.Random
    ) -> None:
        self._supervised = supervised
        self._device = device
        self._directory = directory
        self._truth = directory / "truth"
        self._frames = frames
        self._draw = draw
        self._orders = orders(directory)
        self._count = 0
        self._episodes = 0

    def run(self, cards: Iterable[tuple[Kind, ...]], until: float) -> None:
        """Until then (CLOCK_MONOTONIC seconds), and until the last fault is over. Raises Gone."""
        for kinds in cards:
            self.wait_normal()
            time.sleep(self._draw.uniform(0, LONGEST_PAUSE_SECONDS))
            if time.monotonic() >= until:
                return
            self.happen(kinds)

    def happen(self, kinds: tuple[Kind, ...]) -> None:
        """From the words before it until all is normal again."""
        self._episodes += 1
        workers: list[str | None] = []
        for kind in kinds:
            free = [name for name in kind.on if name not in workers]
            workers.append(self._draw.choice(free) if free else None)
        begun: list[Begun] = []
        try:
            with ExitStack() as while_it_lasts:
                for kind, name in zip(kinds, workers, strict=True):
                    begun.append(self._begin(kind, name, while_it_lasts))
                time.sleep(max(kind.seconds for kind in kinds))
                for fault in begun:
                    self._see_off(fault)
            self.wait_normal()
        finally:
            for fault in begun:
                append(self._truth, id=fault.id, until_ns=time.monotonic_ns())

    def _begin(self, kind: Kind, worker: str | None, while_it_lasts: ExitStack) -> Begun:
        self._count += 1
        there = {"pid": 0, "incarnation": 0} if worker is None else self._supervised.worker(worker)
        pid, incarnation = int(there["pid"]), int(there["incarnation"]) + kind.successor
        append(
            self._truth, id=self._count, kind=kind.name, worker=worker, incarnation=incarnation, episode=self._episodes,
            asked_ns=time.monotonic_ns(),
        )  # fmt: skip
        device = self._device.fault_text(f"{kind.fault} label={worker}") if kind.fault else None
        if kind.act and worker is not None:
            self._orders[worker].give(self._count, incarnation, kind.act)
        begun = Begun(self._count, kind, worker, pid, incarnation, device)
        if kind.does:
            append(self._truth, id=self._count, began_ns=time.monotonic_ns())
            getattr(self, f"_{kind.does}")(begun, while_it_lasts)
        elif kind.successor:
            self._restart(begun, while_it_lasts)
        return begun

    def _see_off(self, fault: Begun) -> None:
        try:
            if fault.kind.ends:
                what = f"{fault.kind.name}: {fault.worker} is replaced"
                self._wait(lambda: self._worker(fault.worker)["incarnation"] > fault.incarnation, what)
        finally:
            if fault.device is not None:
                append(self._truth, id=fault.id, began_ns=fault.device.fired_ns)
                fault.device.clear()

    def faults(self) -> list[Fault]:
        return joined(lines(self._truth))

    # --- when it is over ---

    def wait_normal(self) -> None:
        self._wait(self._is_normal, "all models run and do their frames")

    def _is_normal(self) -> bool:
        body, now_ns = self._body(), time.monotonic_ns()
        run = all(worker["phase"] == "running" and worker["held"] is None for worker in body["workers"])
        frames = all(self._frames.are_done(name, NORMAL_FRAMES, now_ns) for name in MODELS)
        return run and frames and all(source["up"] for source in body["sources"])

    def _worker(self, name: str | None) -> dict[str, Any]:
        return next(worker for worker in self._body()["workers"] if worker["name"] == name)

    def _body(self) -> dict[str, Any]:
        if self._supervised.process.poll() is not None:
            raise Gone("the supervisor ended")
        return self._supervised.snapshot()

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while not condition():
            if time.monotonic() > end:
                phases = {worker["name"]: worker["phase"] for worker in self._body()["workers"]}
                raise Gone(f"waited {LONGEST_SECONDS:g} s in vain: {what}; {phases}")
            time.sleep(LOOK_SECONDS)

    # --- what is done from outside ---

    def _kill(self, fault: Begun, _: ExitStack) -> None:
        descriptor = os.pidfd_open(fault.pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)

    def _restart(self, fault: Begun, _: ExitStack) -> None:
        self._supervised.ask("restart", str(fault.worker))

    def _burst(self, _fault: Begun, while_it_lasts: ExitStack) -> None:
        while_it_lasts.enter_context(rig.busy(BUSY_PROCESSES))

    def _source(self, mode: str, while_it_lasts: ExitStack) -> None:
        self._device.set_tegrastats(mode, 57)
        while_it_lasts.callback(self._device.set_tegrastats, "normal")

    def _silent_source(self, _fault: Begun, while_it_lasts: ExitStack) -> None:
        self._source("silent", while_it_lasts)

    def _frozen_source(self, _fault: Begun, while_it_lasts: ExitStack) -> None:
        self._source("freeze", while_it_lasts)

    def _dead_source(self, _fault: Begun, while_it_lasts: ExitStack) -> None:
        self._source("die", while_it_lasts)

    def _kernel_line(self, fault: Begun, _: ExitStack) -> None:
        with (self._directory / "kmsg").open("a") as log:
            log.write(KERNEL_LINE.format(pid=fault.pid) + "\n")

    def _kill_supervisor(self, _fault: Begun, _: ExitStack) -> None:
        self._supervised.process.kill()
        self._supervised.process.wait(LONGEST_SECONDS)
        self._supervised.start()
