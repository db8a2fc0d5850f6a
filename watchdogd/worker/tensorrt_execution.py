"""The execution context of an engine, with its profiles, the shapes of the moment, and the memory of its tensors.

Invariant: what TensorRT refuses raises, with its own words; what was refused has changed nothing. It is called with the
engine's CUDA context current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import RLock, Thread, current_thread
from typing import TYPE_CHECKING

from watchdogd.worker import attach
from watchdogd.worker.tensorrt_api import ICudaEngine, IExecutionContext
from watchdogd.worker.tensorrt_plan import PlanError
from watchdogd.worker.tensorrt_tensors import Shape, Tensor, capacities, layouts, output_shapes, profiles

if TYPE_CHECKING:
    from watchdogd.worker.tensorrt import Engine


class EnqueueError(Exception):
    """TensorRT would not queue an inference, and the context is sound: with TensorRT's own words."""


class EngineBusyError(RuntimeError):
    """A call of an engine while another thread's is inside, whose frame it would overwrite. Nothing was done."""


class Alone:
    """``with alone:`` no other thread is inside; this one may be, as a preprocess hook that sets shapes is."""

    __slots__ = ("_inside", "_name", "_user")

    def __init__(self, name: object) -> None:
        self._inside = RLock()
        self._name = name
        self._user: Thread | None = None

    def __enter__(self) -> None:
        if not self._inside.acquire(blocking=False):
            remedy = "give each thread an engine, or all calls to one CudaThread"
            raise EngineBusyError(
                f"{self._name} is called by {_told(current_thread())}, and still busy for {_told(self._user)}: {remedy}"
            )
        self._user = current_thread()

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        self._inside.release()


def _told(thread: Thread | None) -> str:
    return "another" if thread is None else f"thread {thread.name!r} (tid {thread.native_id})"


class Execution:
    """``owner``: whose stream and messages it uses."""

    def __init__(self, owner: Engine, engine: ICudaEngine) -> None:
        self._owner = owner
        self._messages = owner.module.messages
        self._launch = attach().call("launch")
        before = self._messages.count
        with attach().call("other"):
            made = engine.create_execution_context()
        if made is None:
            raise PlanError(f"{owner}: no execution context: {self._said(before)}")
        self._made: IExecutionContext = made
        self._layouts = layouts(engine, owner.name)
        self.profiles = profiles(engine, self._layouts)
        self.profile = 0
        self._shapes: dict[str, Shape] = {}
        self.tensors: dict[str, Tensor] = {}
        self._allocate()

    def _allocate(self) -> None:
        largest: list[Mapping[str, Shape]] = []
        for index, profile in enumerate(self.profiles):
            self._select(index)
            self._set_inputs(profile.most)
            largest.append({**profile.most, **output_shapes(self._made, self._layouts, self._owner.name)})
        sizes = capacities(self._layouts, largest)
        for layout in self._layouts:
            self.tensors[layout.name] = Tensor(self._owner, layout, sizes[layout.name])
        for tensor in self.tensors.values():
            if tensor.is_input:
                self._owner.stream.fill(tensor.buffer, 0)

    def _said(self, before: int) -> str:
        return self._messages.errors(before) or "TensorRT does not say why"

    def use_profile(self, index: int, shapes: Mapping[str, Sequence[int]]) -> None:
        """Of inputs that are not to have their best shapes. ValueError for what there is not."""
        if not 0 <= index < len(self.profiles):
            raise ValueError(f"{self._owner} has {len(self.profiles)} profiles, and none numbered {index}")
        self._change(index, self._checked(index, {**self.profiles[index].best, **shapes}))

    def set_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """ValueError for what is not within the profile."""
        self._change(self.profile, self._checked(self.profile, shapes))

    def _change(self, index: int, wanted: Mapping[str, Shape]) -> None:
        before, shapes = self.profile, dict(self._shapes)
        try:
            if index != before:
                self._select(index)
            self._set_inputs(wanted)
        except ValueError:
            if index != before:
                self._select(before)
            self._set_inputs(shapes)
            raise
        finally:
            self._bind()

    def _checked(self, index: int, shapes: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
        least, _, most = self.profiles[index]
        wanted = {name: tuple(shape) for name, shape in shapes.items()}
        for name, shape in wanted.items():
            if name not in least:
                raise ValueError(f"{self._owner} has no input {name!r}; its inputs: {', '.join(least)}")
            bounds = least[name], most[name]
            sizes = zip(shape, *bounds, strict=False)
            if len(shape) != len(least[name]) or not all(low <= size <= high for size, low, high in sizes):
                allowed = f"{bounds[0]} to {bounds[1]}"
                raise ValueError(f"{self._owner}: {shape} is no shape of {name} in profile {index}: {allowed}")
        return wanted

    def _select(self, index: int) -> None:
        before, stream = self._messages.count, self._owner.stream
        with self._launch:
            selected = self._made.set_optimization_profile_async(index, stream.handle)
        stream.synchronize()  # or the next enqueue might come before it
        if not selected:
            raise PlanError(f"{self._owner}: no profile {index}: {self._said(before)}")
        self.profile, self._shapes = index, {}

    def _set_inputs(self, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            before = self._messages.count
            if self._shapes.get(name) != shape and not self._made.set_input_shape(name, shape):
                raise ValueError(f"{self._owner}: {shape} is no shape of {name}: {self._said(before)}")
            self._shapes[name] = shape

    def _bind(self) -> None:
        """Addresses, and the shapes that follow from those of the inputs."""
        for name, shape in {**self._shapes, **output_shapes(self._made, self._layouts, self._owner.name)}.items():
            before, tensor = self._messages.count, self.tensors[name]
            tensor.reshape(shape)
            if not self._made.set_tensor_address(name, tensor.buffer.address):
                raise PlanError(f"{self._owner}: no address for {name}: {self._said(before)}")

    def enqueue(self, stream: int) -> None:
        """Queues an inference in that CUstream. EnqueueError, or CudaError where the context is at fault."""
        before = self._messages.count
        with self._launch:
            queued = self._made.execute_async_v3(stream)
        if not queued:
            self._owner.stream.synchronize()  # which tells what is wrong with the context, if that is why
            raise EnqueueError(f"{self._owner}: {self._said(before)}")
