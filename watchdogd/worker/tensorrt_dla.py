"""What is special about a DLA: layers that fell back to the GPU, and a driver that suspends it when idle.

    alive = KeepAlive(engine, canary.run)
    while True:
        try:
            frame = frames.get(timeout=alive.due_in())
        except queue.Empty:
            alive.run()
            continue
        with worker.step():
            engine.infer(frame)

Invariant: a layer whose place is not known is not reported as being anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from watchdogd.worker import attach
from watchdogd.worker.tensorrt_api import ICudaEngine

if TYPE_CHECKING:
    from watchdogd.worker.tensorrt import Engine

SUSPENDED_SECONDS = 0.5  # after its last task the driver suspends, resets and power-gates a DLA (nvdla_t234.h)
_MOVES = ("Reformat", "NoOp")  # what carries data to a DLA and back is there without any fallback, too
_MOVING = (" to nvm", " from nvm", " copy finish")


class Placement(NamedTuple):
    """Names of layers, by where they run."""

    dla: tuple[str, ...]
    gpu: tuple[str, ...]
    moves: tuple[str, ...]


def placement(engine: ICudaEngine, trt: Any) -> Placement | None:
    """None where that cannot be told: a plan built without detail, or a module without an inspector."""
    try:
        information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        layers = json.loads(information)["Layers"]
    except (TypeError, AttributeError):  # tensorrt_lean has the function, but not the type that it returns
        return None
    except (ValueError, KeyError):
        return None
    if not all(isinstance(layer, dict) and "LayerType" in layer for layer in layers):
        return None  # names alone
    places: dict[str, list[str]] = {"dla": [], "gpu": [], "moves": []}
    for layer in layers:
        name, kind = str(layer.get("Name")), str(layer["LayerType"])
        place = "dla" if kind.startswith("DLA") else "moves" if kind in _MOVES or name.endswith(_MOVING) else "gpu"
        places[place].append(name)
    return Placement(*(tuple(names) for names in places.values()))


def described(found: Placement | None) -> str:
    """One line on it, for a worker that was told to use a DLA."""
    if found is None:
        why = "the plan was built without ProfilingVerbosity.DETAILED, or the module has no inspector"
        return f"which layers fell back to the GPU cannot be told: {why}"
    if not any(found):
        return "which layers fell back to the GPU cannot be told: the plan tells of no layers"
    moves = f"{len(found.moves)} reformats on the GPU"
    if not found.dla:
        return f"no layer runs on the DLA: all {len(found.gpu)} fell back to the GPU; {moves}"
    fell = (
        f"{len(found.gpu)} fell back to the GPU: {', '.join(found.gpu)}" if found.gpu else "none fell back to the GPU"
    )
    return f"{len(found.dla)} layers on the DLA, {fell}; {moves}"


class KeepAlive:
    """Says when an idle worker has to run something, so that the DLA is not suspended; by default for a DLA only.

    ``run``: what is run, as ``Canary.run``; without, the engine's last input once more, as a step of its own.
    """

    def __init__(
        self, engine: Engine, run: Callable[[], object] | None = None, *, every_seconds: float = SUSPENDED_SECONDS / 2,
        enabled: bool | None = None,
    ) -> None:  # fmt: skip
        if not 0 < every_seconds < SUSPENDED_SECONDS:
            raise ValueError(f"every_seconds={every_seconds}: a DLA is suspended after {SUSPENDED_SECONDS:g} s")
        self.enabled = engine.is_dla if enabled is None else enabled
        """To be switched at any time."""
        self._engine = engine
        self._run = self._again if run is None else run
        self._every_ns = round(every_seconds * 1e9)

    def due_in(self) -> float | None:
        """Seconds until it is; 0.0: it is. None where it is switched off."""
        if not self.enabled:
            return None
        return max(0, self._engine.last_run_ns + self._every_ns - time.monotonic_ns()) / 1e9

    def due(self) -> bool:
        return self.due_in() == 0.0

    def run(self) -> object:
        """Runs it now; what it returns."""
        return self._run()

    def _again(self) -> None:
        worker = attach()
        with worker.step(), worker.stage("keep-alive"):
            self._engine.again()
