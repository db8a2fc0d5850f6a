"""TensorRT in a worker: a plan in a context of its own, each of whose stages the heartbeat tells apart.

    from watchdogd.worker.tensorrt import Engine, handover

    h = Engine("h.plan", accelerator="dla0", plugins=["./libpreprocess.so"], preprocess=bgr_to_planes)
    a = Engine("a.plan")                               # gpu0
    worker.ready()                                     # both are warm
    while True:
        with worker.step():
            result = h.infer(next_frame())             # name -> memoryview, good until the next infer
            handover(h.output("features"), a.input("features"))
            result = a.infer({})

What ``infer`` does is in the stages ``preprocess``, ``copy_in``, ``enqueue``, ``copy_out`` and ``sync``, one after the
other; it waits in the last one only. ``enqueue`` is stamped as ``launch``.

Invariant: every call of TensorRT's for an engine is made with the engine's own context current, for what is queued in
the engine's own stream, and with memory that was there before the first frame. ``tensorrt`` itself is imported by the
first Engine, not by this module.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from watchdogd.worker import attach
from watchdogd.worker.cuda import Context, ContextLost, CudaError
from watchdogd.worker.tensorrt_api import ICudaEngine, Runtime
from watchdogd.worker.tensorrt_dla import KeepAlive, described, placement
from watchdogd.worker.tensorrt_execution import Alone, EngineBusyError, EnqueueError, Execution
from watchdogd.worker.tensorrt_module import Module, TensorRTUnavailableError, find
from watchdogd.worker.tensorrt_plan import Plan, PlanError, PluginError, choose_dla, load, load_plugins, read
from watchdogd.worker.tensorrt_tensors import Tensor

__all__ = [
    "Engine",
    "EngineBusyError",
    "EnqueueError",
    "KeepAlive",
    "PlanError",
    "PluginError",
    "Tensor",
    "TensorRTUnavailableError",
    "handover",
]


Preprocess = Callable[["Engine", Any], "Mapping[str, Any] | None"]


class Engine:
    """A plan that is loaded, has its memory, and has run. EngineBusyError for a call while another thread's is inside.

    ``plan``: a file, or its bytes. ``accelerator``: ``gpu0`` and so on, or ``dla0`` and ``dla1``, which need a GPU too.
    ``context``: one to share; by default it has its own. ``owner="thread"``: as of Context, only for this thread.
    ``warm_up``: how often each profile is run at the start.

    ``preprocess(engine, frame)`` queues what it does in ``engine.stream``, into ``engine.input(...).buffer``, and
    returns the inputs that are to be copied in, if any; without it, a frame is those inputs.

    Raises PlanError, PluginError, TensorRTUnavailableError, and what Context does.
    """

    def __init__(
        self, plan: str | os.PathLike[str] | bytes, accelerator: str = "gpu0", *,
        plugins: Iterable[str | os.PathLike[str]] = (), context: Context | None = None, owner: str | None = None,
        preprocess: Preprocess | None = None, warm_up: int = 1,
    ) -> None:  # fmt: skip
        kind, number = accelerator[:3], accelerator[3:]
        if kind not in ("gpu", "dla") or not number.isdecimal():
            raise ValueError(f"accelerator={accelerator!r}: use gpu0, dla0 or dla1")
        self.accelerator = accelerator
        self.is_dla = kind == "dla"
        self.last_run_ns = 0
        """When it was last run to its end, by CLOCK_MONOTONIC."""
        self._worker = attach()
        self._preprocess = preprocess
        self._is_first = True
        self._is_settled = True  # nothing is in flight
        self._alone = Alone(self)
        read_plan = read(plan)
        self.name = read_plan.name
        self.module: Module = find(read_plan.modules)
        """Which module it is run by: its ``name`` and ``version``."""
        device = 0 if self.is_dla else int(number)
        self._owned = context is None
        self.context = Context(device, owner=owner) if context is None else context
        self.stream = self.context.stream(owner)
        self._runtime: Runtime | None = None
        self._engine: ICudaEngine | None = None
        self._execution: Execution | None = None
        try:
            with self.context.current():
                self._load(read_plan, int(number), device, plugins)
                self.warm_up(warm_up)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # or TensorRT's objects would outlive the context, in there
            with suppress(CudaError):  # what it failed of says more
                self.close()
            raise

    def __str__(self) -> str:
        return f"{os.path.basename(self.name)} on {self.accelerator}"

    def _load(self, plan: Plan, number: int, device: int, plugins: Iterable[str | os.PathLike[str]]) -> None:
        self._runtime = runtime = self.module.runtime()
        if self.is_dla:
            choose_dla(runtime, self.module, number)
        load_plugins(runtime, self.module, plugins)
        self._engine = engine = load(runtime, self.module, plan, device)
        self.placement = placement(engine, self.module.trt)
        """Which layers run where; None where that cannot be told."""
        if self.is_dla:
            print(f"watchdogd: {self}: {described(self.placement)}", file=sys.stderr)
        elif self.placement is not None and self.placement.dla:
            raise PlanError(
                f"{self.name} was built for a DLA ({len(self.placement.dla)} layers), not for {self.accelerator}"
            )
        self._execution = Execution(self, engine)
        tensors = self._execution.tensors
        self.inputs = {name: tensor for name, tensor in tensors.items() if tensor.is_input}
        self.outputs = {name: tensor for name, tensor in tensors.items() if not tensor.is_input}

    def warm_up(self, times: int = 1) -> None:
        """Runs every profile so often at its best shapes, with the inputs as they are; profile 0 is the last."""
        for index in reversed(range(len(self._live.profiles))):
            self.use_profile(index)
            for _ in range(times):
                self._run({})

    # --- shapes and profiles ---

    def use_profile(self, index: int, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        """Switches to a profile; ``shapes``: of inputs that are not to have their best ones.

        The step in flight, or else the next one, counts as a first step: TensorRT has to prepare anew. Raises
        ValueError, and nothing has changed.
        """
        with self._alone, self._current("use_profile"), self._worker.stage("profile"):
            self._is_first = True
            self._worker.first_step()
            self._live.use_profile(index, shapes or {})

    def set_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Of inputs, from now on, within the profile. Raises ValueError, and nothing has changed."""
        with self._alone, self._current("set_shapes"):
            self._live.set_shapes(shapes)

    @property
    def profile(self) -> int:
        return self._live.profile

    # --- a frame ---

    def infer(self, frame: Any) -> dict[str, memoryview]:
        """The outputs by name, good until the next call; to be made inside a step.

        ``frame``: what the preprocess hook takes; without one, the inputs to copy in: buffers by name, or an input's
        own ``host`` where it holds them already. Inputs left out stay as they are on the device.

        Raises ValueError for an input that does not fit, EnqueueError, and CudaError.
        """
        with self._alone, self._current("infer"):
            if self._is_first:
                self._worker.first_step()
            self._settle()
            given: Mapping[str, Any] | None = frame
            if self._preprocess is not None:
                with self._worker.stage("preprocess"), self.context.expected:
                    given = self._preprocess(self, frame)
            if given is not None and not isinstance(given, Mapping):
                example = f"{{{next(iter(self.inputs), 'name')!r}: ...}}"
                raise TypeError(f"{self} takes its inputs by name, as {example}, and got {type(given).__name__}")
            return self._run(given or {})

    def again(self) -> dict[str, memoryview]:
        """Runs what is on the device once more, without the preprocess hook."""
        with self._alone, self._current("again"):
            self._settle()
            return self._run({})

    @contextmanager
    def _current(self, call: str) -> Iterator[None]:
        """For a call of the user's: what refuses it names that, not the driver's."""
        _ = self._live
        with ExitStack() as then:
            try:
                then.enter_context(self.context.current())
            except ContextLost as lost:
                told = f"Engine.{call} of {self}"
                raise ContextLost(told, lost.expected, lost.found, lost.owner, lost.caller) from None
            yield

    def _settle(self) -> None:
        """The next frame must find nothing in flight, which what failed may have left."""
        if not self._is_settled:
            with self._worker.stage("sync"):
                self.stream.synchronize()
        self._is_settled = False

    def _run(self, given: Mapping[str, Any]) -> dict[str, memoryview]:
        stage, stream, execution = self._worker.stage, self.stream, self._live
        with stage("copy_in"):
            filled = [(tensor := self.input(name), tensor.accept(content)) for name, content in given.items()]
            for tensor, host in filled:  # not before all fit
                stream.copy_in(tensor.buffer, host, tensor.nbytes)
        reads = [tensor.buffer for tensor in self.inputs.values()]
        writes = [tensor.buffer for tensor in self.outputs.values()]
        with stage("enqueue"), stream.ordered(reads, writes, str(self)) as handle, self.context.expected:
            execution.enqueue(handle)
        with stage("copy_out"):
            for tensor in self.outputs.values():
                stream.copy_out(tensor.host, tensor.buffer, tensor.nbytes)
        with stage("sync"):
            stream.synchronize()
        self.last_run_ns = time.monotonic_ns()
        self._is_first, self._is_settled = False, True
        return {name: tensor.view for name, tensor in self.outputs.items()}

    def input(self, name: str) -> Tensor:
        """ValueError where there is none."""
        return self._named(name, self.inputs, "input")

    def output(self, name: str) -> Tensor:
        """ValueError where there is none."""
        return self._named(name, self.outputs, "output")

    def _named(self, name: str, tensors: Mapping[str, Tensor], what: str) -> Tensor:
        if name not in tensors:
            raise ValueError(f"{self} has no {what} {name!r}; its {what}s: {', '.join(tensors)}")
        return tensors[name]

    # --- its end ---

    @property
    def _live(self) -> Execution:
        if self._execution is None:
            raise ValueError(f"{self} is closed")
        return self._execution

    def close(self) -> None:
        """Frees what it has, which may wait for the device. Closed already: does nothing."""
        with self._alone, ExitStack() as then:  # last first, and all of it: where the context failed, each raises
            if self._owned:
                then.callback(self.context.close)
            then.callback(self.stream.close)
            if self._runtime is not None:
                is_there = self.context._context is not None  # or a shared one was closed first
                with self.context.current() if is_there else nullcontext(), self._worker.call("other"):
                    execution, self._execution = self._execution, None
                    for tensor in () if execution is None else execution.tensors.values():
                        then.callback(tensor.buffer.free)
                        then.callback(tensor.host.free)
                    execution = None  # in this order: each needs the next one
                    self._engine = None
                    self._runtime = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            self.close()
        except CudaError:
            if kind is None:  # else the error on its way says more than what follows from it
                raise


def handover(source: Tensor, target: Tensor) -> None:
    """From an output of one engine to an input of another, whatever contexts they have: waits for the one, copies on
    the device in the other's stream, and waits for that. So no work of one context ever waits for the other's. Where
    each has a thread of its own, for the other's thread.

    Raises ValueError where they are not alike, or the other is no input, and CudaError.
    """
    if not target.is_input:
        raise ValueError(f"{target} is no input: what is handed over to it would be overwritten")
    if (source.nbytes, source.dtype) != (target.nbytes, target.dtype):
        described = [f"{tensor} ({tensor.nbytes} bytes of {tensor.dtype})" for tensor in (source, target)]
        raise ValueError(f"{' does not go into '.join(described)}")
    with attach().stage("handover"):
        if not source.engine.stream.is_idle:  # as after infer; its context may be another thread's
            source.engine.stream.synchronize()
        target.engine.stream.copy(target.buffer, source.buffer, source.nbytes)
        target.engine.stream.synchronize()
