"""The vehicle's models in one process, each with a thread and an engine of its own: A to E on the GPU, H on the DLA.

Usage: ``python -m tests.demo.vehicle DIRECTORY shared|apart MODEL...``; ``shared``: all engines have one CUDA context.
``DIRECTORY`` holds ``MODEL.plan`` and ``MODEL.frames``, and gets ``threads.json``. Apart, H hands its features to A.
Invariant: no thread waits for another one's work on a device, save for what is finished: features that were offered.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import watchdogd.worker as wd
from tests.demo import frames
from tests.simulator.tensorrt_plan import DOUBLE, output, plan
from watchdogd.worker import cuda
from watchdogd.worker.tensorrt import Engine, handover

GPU_MODELS = ("model_a", "model_b", "model_c", "model_d", "model_e")
DLA_MODEL = "model_h"
MODELS = (*GPU_MODELS, DLA_MODEL)
PERIOD_NS = 40_000_000
QUEUE = 3  # frames that wait for a model that is late, as a camera driver keeps them
TAKE_SECONDS = 10.0  # longer than any of them is in here
_TENSOR = {"shape": [4, 4]}


def write_plans(directory: Path) -> None:
    """And the files of frames."""
    for number, name in enumerate(MODELS):
        kernels, layers = ["sim_dla{core}_h__10000us"], [{"Name": "h", "LayerType": "DLA"}]
        if name != DLA_MODEL:
            kernels = ["plugin_hwc_bgr_to_chw_rgb__500us", f"{name}__{3000 + 500 * number}us"]
            layers = []
        inputs = {"camera": _TENSOR, "features": _TENSOR}
        content = plan(inputs=inputs, outputs={"result": output("camera")}, kernels=kernels, layers=layers)
        directory.joinpath(f"{name}.plan").write_bytes(content)
        frames.make(directory / f"{name}.frames")


def counts(directory: Path) -> dict[str, frames.Count]:
    """Of all models."""
    return {name: frames.Count(directory / f"{name}.frames") for name in MODELS}


class Exchange:
    """H's features for A. H waits until they are taken: so nothing of it runs while A copies."""

    def __init__(self) -> None:
        self._offered, self._taken = threading.Event(), threading.Event()

    def give(self) -> None:
        self._taken.clear()
        self._offered.set()
        if not self._taken.wait(TAKE_SECONDS):
            raise TimeoutError("nobody takes the features")

    def take(self, source: Engine, target: Engine) -> None:
        if self._offered.is_set():
            handover(source.output("result"), target.input("features"))
            self._offered.clear()
            self._taken.set()


def main(directory: str, contexts: str, *names: str) -> None:
    sys.path.insert(0, DOUBLE)
    here = Path(directory)
    with here.joinpath("stacks").open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
        worker = wd.attach()
        shared = cuda.Context() if contexts == "shared" else None
        engines = {name: _engine(here, name, shared) for name in names}
        after: dict[str, Callable[[], Any]] = {}
        if contexts == "apart" and {GPU_MODELS[0], DLA_MODEL} <= engines.keys():
            exchange, taker = Exchange(), engines[GPU_MODELS[0]]
            after = {DLA_MODEL: exchange.give, GPU_MODELS[0]: lambda: exchange.take(engines[DLA_MODEL], taker)}

        def serve(name: str) -> None:
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
            try:
                for _ in frames.paced(here / f"{name}.frames", PERIOD_NS, QUEUE):
                    with worker.step():
                        engines[name].infer({"camera": bytes(64)})
                    after.get(name, int)()
            finally:
                ended.set()

        ended = threading.Event()

        threads = {name: threading.Thread(target=serve, args=(name,), daemon=True) for name in names}
        worker.ready()
        for thread in threads.values():
            thread.start()
        part = here / f"threads.{os.getpid()}"
        part.write_text(json.dumps({name: [thread.ident, thread.native_id] for name, thread in threads.items()}))
        part.rename(here / "threads.json")
        ended.wait()
        sys.exit("a model's thread has ended")


def _engine(here: Path, name: str, context: cuda.Context | None) -> Engine:
    def preprocess(engine: Engine, frame: dict[str, bytes]) -> dict[str, bytes]:
        engine.stream.launch(resize, 1, 1)
        return frame

    accelerator = "dla0" if name == DLA_MODEL else "gpu0"
    engine = Engine(here / f"{name}.plan", accelerator, context=context, preprocess=preprocess)
    resize = engine.context.module(b"").kernel("resize__300us")
    return engine


if __name__ == "__main__":
    main(*sys.argv[1:])
