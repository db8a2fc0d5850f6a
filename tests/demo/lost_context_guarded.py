"""The same service with ``watchdogd.worker``: misuse caught, work pinned to one thread, lost contexts replaced."""

from __future__ import annotations

from typing import Any

from tests.demo.lost_context_requests import (
    BOXES,
    FACTOR,
    HANDLERS,
    KERNEL,
    LOST_BEFORE,
    REQUESTS_ON_ONE_THREAD,
    SECONDS,
    Tally,
    changing,
    request,
    tally,
    told,
)
from tests.demo.lost_context_service import Handlers, destroy
from watchdogd.worker import cuda
from watchdogd.worker.cuda_poison import Output, Poison
from watchdogd.worker.cuda_recovery import Rebuilt, is_lost, retried
from watchdogd.worker.cuda_thread import CudaThread

NBYTES = BOXES * 4


class Predictor:
    """As the plain one, call for call."""

    def __init__(self, context: cuda.Context, poisoned: bool = False) -> None:
        self.stream = context.stream()
        self.kernel = context.module(b"").kernel(KERNEL)
        self.input, self.output = context.alloc(NBYTES), context.alloc(NBYTES)
        self.asked, self.answered = context.alloc_host(NBYTES), context.alloc_host(NBYTES)
        self.poison = Poison(boxes=Output(self.output, self.answered, itemsize=4)) if poisoned else None

    def run(self, asked: list[float]) -> list[float]:
        if self.poison is not None:
            self.poison.fill(self.stream)
        boxes = self.asked.view.cast("f")
        for box, value in enumerate(asked):
            boxes[box] = value
        self.stream.copy_in(self.input, self.asked)
        self.stream.launch(self.kernel, 1, BOXES, (self.output, self.input, len(asked), FACTOR))
        self.stream.copy_out(self.answered, self.output)
        self.stream.synchronize()
        if self.poison is not None:
            self.poison.check()
        return [float(value) for value in self.answered.view.cast("f")]


def misused(handlers: Handlers) -> dict[str, Any]:
    """By threads that are not its own."""
    context = handlers.do(0, lambda: cuda.Context(owner="thread"))
    predictor = handlers.do(0, Predictor, context)
    left = {HANDLERS[0]: context.handle, **handlers.scatter()}
    return {"left": left, "misused": handlers.serve(predictor.run)}


def pinned(gpu: CudaThread, handlers: Handlers) -> Tally:
    """By the same threads, on the one that all work is pinned to."""
    predictor = gpu.submit(Predictor, gpu.context).result(SECONDS)
    return handlers.serve(lambda asked: gpu.submit(predictor.run, asked).result(SECONDS))


def poisoned(gpu: CudaThread) -> Tally:
    predictor = gpu.submit(Predictor, gpu.context, poisoned=True).result(SECONDS)
    return tally(
        REQUESTS_ON_ONE_THREAD, changing, lambda number: gpu.submit(predictor.run, changing(number)).result(SECONDS)
    )


def rebuilt(gpu: CudaThread) -> Tally:
    """A lost context is built anew at once."""
    model: Rebuilt[Predictor] = gpu.submit(Rebuilt, lambda: Predictor(gpu.renew())).result(SECONDS)

    def infer(asked: list[float]) -> list[float]:
        return model.run(lambda predictor: predictor.run(asked))

    def ask(number: int) -> list[float]:
        _lose(gpu, number)
        return gpu.submit(infer, request(number)).result(SECONDS)

    return tally(REQUESTS_ON_ONE_THREAD, request, ask)


def queued_again(gpu: CudaThread) -> Tally:
    """The request waits; what was lost is built anew by a task of its own, before it comes again."""
    predictor = gpu.submit(lambda: Predictor(gpu.renew())).result(SECONDS)

    def infer(asked: list[float]) -> list[float]:
        try:
            return predictor.run(asked)
        except Exception as error:
            if is_lost(error):
                gpu.submit(renew)
            raise

    def renew() -> None:
        nonlocal predictor
        predictor = Predictor(gpu.renew())

    def ask(number: int) -> list[float]:
        _lose(gpu, number)
        return retried(gpu, infer, request(number), timeout=1)

    return tally(REQUESTS_ON_ONE_THREAD, request, ask)


def _lose(gpu: CudaThread, number: int) -> None:
    if number in LOST_BEFORE:
        destroy(gpu.context.handle)


def main() -> None:
    handlers = Handlers()
    facts = misused(handlers)
    with CudaThread() as gpu:
        told(
            **facts,
            pinned=pinned(gpu, handlers),
            poisoned=poisoned(gpu),
            rebuilt=rebuilt(gpu),
            retried=queued_again(gpu),
        )


if __name__ == "__main__":
    main()
