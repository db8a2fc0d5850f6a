"""The inputs and outputs of an engine: how large they may become, and their memory on the device and on the host.

Invariant: the memory is enough for the largest shapes of every profile, so that nothing is allocated in the hot loop;
what is copied and handed out is as much as the shapes of the moment take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from watchdogd.worker.cuda_buffers import HostBuffer
from watchdogd.worker.tensorrt_api import ICudaEngine, IExecutionContext
from watchdogd.worker.tensorrt_plan import PlanError

if TYPE_CHECKING:
    from watchdogd.worker.cuda_buffers import Buffer
    from watchdogd.worker.tensorrt import Engine

Shape = tuple[int, ...]

# Bits of an element, and how OutputCheck calls it (None: it cannot judge those).
_TYPES: dict[str, tuple[int, str | None]] = {
    "FLOAT": (32, "f"), "HALF": (16, "e"), "BF16": (16, "bf16"), "INT8": (8, "b"), "UINT8": (8, "B"), "BOOL": (8, "?"),
    "INT32": (32, "i"), "INT64": (64, "q"), "FP8": (8, None), "E8M0": (8, None), "INT4": (4, None), "FP4": (4, None),
}  # fmt: skip
_ANY_BYTES = "Bbc"  # what says nothing of the elements
_FAMILIES = {
    **dict.fromkeys("efd", "float"),
    **dict.fromkeys("bhilqn", "signed"),
    **dict.fromkeys("BHILQN", "unsigned"),
}
_PADDED = ("DLA_LINEAR", "DLA_HWC4")


class Layout(NamedTuple):
    """What the engine says of a tensor. ``shape`` holds -1 where it is dynamic."""

    name: str
    is_input: bool
    shape: Shape
    bits: int
    dtype: str | None
    vectorized: int  # the dimension that is stored in groups, or -1
    components: int  # so many each

    def nbytes(self, shape: Shape) -> int:
        sizes = list(shape)
        if self.vectorized >= 0 and self.components > 1:
            sizes[self.vectorized] += -sizes[self.vectorized] % self.components
        return (prod(sizes) * self.bits + 7) // 8


def layouts(engine: ICudaEngine, plan: str) -> list[Layout]:
    """Raises PlanError for what is not supported here."""
    return [_layout(engine, engine.get_tensor_name(index), plan) for index in range(engine.num_io_tensors)]


def _layout(engine: ICudaEngine, name: str, plan: str) -> Layout:
    dtype = engine.get_tensor_dtype(name).name
    if dtype not in _TYPES:
        raise PlanError(f"{plan}: {name} is of type {dtype}, which is not known here")
    if engine.get_tensor_location(name).name != "DEVICE":
        raise PlanError(f"{plan}: {name} is a shape that is computed with, in host memory: not supported")
    if (stored := engine.get_tensor_format(name).name) in _PADDED:
        raise PlanError(f"{plan}: {name} is stored as {stored}, with padding: build it with linear inputs and outputs")
    return Layout(
        name,
        engine.get_tensor_mode(name).name == "INPUT",
        tuple(engine.get_tensor_shape(name)),
        *_TYPES[dtype],
        engine.get_tensor_vectorized_dim(name),
        engine.get_tensor_components_per_element(name),
    )


class Profile(NamedTuple):
    """The smallest, best and largest shapes of the inputs."""

    least: dict[str, Shape]
    best: dict[str, Shape]
    most: dict[str, Shape]


def profiles(engine: ICudaEngine, tensors: Sequence[Layout]) -> list[Profile]:
    found = []
    for index in range(engine.num_optimization_profiles):
        profile = Profile({}, {}, {})
        for tensor in tensors:
            if tensor.is_input:
                is_fixed = -1 not in tensor.shape
                bounds = [tensor.shape] * 3 if is_fixed else engine.get_tensor_profile_shape(tensor.name, index)
                for shapes, shape in zip(profile, bounds, strict=True):
                    shapes[tensor.name] = tuple(shape)
        found.append(profile)
    return found


def output_shapes(execution: IExecutionContext, tensors: Sequence[Layout], plan: str) -> dict[str, Shape]:
    """Of the outputs, for the input shapes that are set. Raises PlanError where they depend on the data."""
    shapes = {tensor.name: tuple(execution.get_tensor_shape(tensor.name)) for tensor in tensors if not tensor.is_input}
    for name, shape in shapes.items():
        if min(shape, default=0) < 0:
            raise PlanError(f"{plan}: the shape {shape} of output {name} depends on the data: not supported")
    return shapes


class Tensor:
    """An input or output of an engine. From ``Engine.input`` or ``Engine.output``."""

    __slots__ = ("_layout", "buffer", "engine", "host", "nbytes", "shape")

    def __init__(self, engine: Engine, layout: Layout, capacity: int) -> None:
        self._layout = layout
        self.engine = engine
        self.buffer: Buffer = engine.context.alloc(max(capacity, 1))
        """On the device: what a preprocess hook writes, and a hand-over copies."""
        self.host: HostBuffer = engine.context.alloc_host(max(capacity, 1))
        """Page-locked."""
        self.shape: Shape = ()
        self.nbytes = 0

    @property
    def name(self) -> str:
        return self._layout.name

    @property
    def is_input(self) -> bool:
        return self._layout.is_input

    @property
    def dtype(self) -> str | None:
        """What it holds, as ``OutputCheck`` calls it."""
        return self._layout.dtype

    @property
    def view(self) -> memoryview:
        """The bytes on the host, as many as its shape takes."""
        return self.host.view[: self.nbytes]

    @property
    def itemsize(self) -> int:
        """Bytes of an element, or 1 where several share one."""
        return max(self._layout.bits // 8, 1)

    def accept(self, content: Any) -> HostBuffer:
        """Where to copy it in from: a HostBuffer itself, else ``host``, now with the buffer's elements in it.

        ValueError for what is not as large, of another type, or of another shape.
        """
        if not isinstance(content, HostBuffer):
            with memoryview(content) as view:
                self._fill(view)
            return self.host
        if len(content.view) < self.nbytes:
            raise ValueError(f"{content.nbytes} bytes are no {self}, which takes {self.nbytes}")
        return content

    def _fill(self, view: memoryview) -> None:
        if view.nbytes != self.nbytes:
            raise ValueError(f"{view.nbytes} bytes are no {self}, which takes {self.nbytes}")
        letter = view.format.lstrip("@=<")
        if letter not in _ANY_BYTES and self.dtype not in (None, letter, "bf16"):
            family = _FAMILIES.get(letter)
            if family is None or family != _FAMILIES.get(str(self.dtype)) or view.itemsize != self.itemsize:
                raise ValueError(f"elements of format {letter!r} are no {self}, which holds {self.dtype!r}")
        is_plain = letter not in _ANY_BYTES and self._layout.vectorized < 0
        if is_plain and view.ndim > 1 and _beyond_one(view.shape) != _beyond_one(self.shape):
            raise ValueError(f"the shape {view.shape} is no {self}")
        try:
            self.view[:] = view.cast("B")
        except TypeError:  # strided, or empty
            self.view[:] = view.tobytes()

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.name} {self.shape} of {self.engine}"

    def reshape(self, shape: Shape) -> None:
        """By its engine only: what TensorRT says it is now."""
        self.shape, self.nbytes = shape, self._layout.nbytes(shape)


def _beyond_one(shape: Sequence[int] | None) -> list[int]:
    return [size for size in shape or () if size != 1]


def capacities(tensors: Sequence[Layout], shapes: Sequence[Mapping[str, Shape]]) -> dict[str, int]:
    """For each tensor, the most bytes that any of these takes."""
    return {
        tensor.name: max(tensor.nbytes(given[tensor.name]) for given in shapes if tensor.name in given)
        for tensor in tensors
    }
