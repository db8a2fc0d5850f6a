"""A thin double of NVIDIA's ``tensorrt``: plans are small JSON, and what is enqueued runs on the simulated driver.

``tests/simulator/tensorrt_plan.py`` writes its plans and says what is in them. ``TENSORRT_DOUBLE`` in the environment
is JSON that changes ``version``, ``dla_cores``, and ``unusable``: it cannot use the driver, as tensorrt_lean does then.

Invariant: it has what ``watchdogd.worker.tensorrt_api`` names, under the names that the real modules have, and no more.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from cuda.bindings import driver

_SETTINGS: dict[str, Any] = {"version": "10.3.0", "dla_cores": 2, **json.loads(os.environ.get("TENSORRT_DOUBLE", "{}"))}
__version__: str = _SETTINGS["version"]
_HEADER = 28


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR, CHW16, DLA_LINEAR = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4 FP4 E8M0")


class Dims:
    """A sequence that is no tuple, as TensorRT's."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: int) -> int:
        return self._shape[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)


class ILogger:
    Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class _Failed(Exception):
    """A call of the driver's, as TensorRT logs it."""


def _check(answer: tuple[Any, ...]) -> Any:
    if answer[0] != driver.CUresult.CUDA_SUCCESS:
        raise _Failed(f"Cuda Runtime ({answer[0].name})")
    return answer[1] if len(answer) > 1 else None


def _current() -> int:
    return int(_check(driver.cuCtxGetCurrent()))


class IPluginRegistry:
    def __init__(self) -> None:
        self._libraries: list[str] = []

    def load_library(self, plugin_path: str) -> object:
        if hasattr(ctypes.CDLL(plugin_path), "refused"):
            return None
        self._libraries.append(os.path.basename(plugin_path))
        return self


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        if _SETTINGS.get("unusable"):
            logger.log(ILogger.Severity.ERROR, "createInferRuntime: Error Code 6: API Usage Error (CUDA error: 35)")
        self._logger = logger
        self._registry = IPluginRegistry()
        self._core = -1

    def __del__(self) -> None:
        if _SETTINGS.get("unusable"):
            os.kill(os.getpid(), signal.SIGSEGV)

    @property
    def num_DLA_cores(self) -> int:
        return int(_SETTINGS["dla_cores"])

    @property
    def DLA_core(self) -> int:
        return self._core

    @DLA_core.setter
    def DLA_core(self, core: int) -> None:
        if core < self.num_DLA_cores:
            self._core = core

    def get_plugin_registry(self) -> IPluginRegistry:
        if _SETTINGS.get("unusable"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return self._registry

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if _SETTINGS.get("unusable"):
            os.kill(os.getpid(), signal.SIGSEGV)
        problem = self._problem(serialized_engine)
        if problem:
            self._logger.log(ILogger.Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code {problem}")
            return None
        return ICudaEngine(json.loads(serialized_engine[_HEADER:]), self._logger, self._core)

    def _problem(self, serialized_engine: bytes) -> str | None:

        built_by = ".".join(map(str, serialized_engine[24:27]))
        if serialized_engine[:4] != b"ftrt":
            return "1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)"
        if built_by != __version__:
            return f"6: API Usage Error (expecting library version {__version__} got {built_by}, please rebuild)"
        plan = json.loads(serialized_engine[_HEADER:])
        capability = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        here = _check(driver.cuDeviceGetAttribute(capability, 0))
        if plan["compute"] not in (None, here):
            return f"6: API Usage Error (generated on an incompatible device, compute {plan['compute']} not {here})"
        for library in plan["plugins"]:
            if library not in self._registry._libraries:
                return f"4: Internal Error (Cannot find plugin of {library})"
        return None


class EngineInspector:
    def __init__(self, layers: list[Any]) -> None:
        self._layers = layers

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        return json.dumps({"Layers": self._layers, "Bindings": []})


class ICudaEngine:
    def __init__(self, plan: dict[str, Any], logger: ILogger, core: int) -> None:
        self._plan, self._logger, self._core = plan, logger, core
        self._tensors: dict[str, dict[str, Any]] = {**plan["inputs"], **plan["outputs"]}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return int(self._plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._plan["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self._tensors[name].get("dtype", "FLOAT")]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self._tensors[name].get("format", "LINEAR")]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation[self._tensors[name].get("location", "DEVICE")]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensors[name]["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self._tensors[name]["profiles"][profile_index]]

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return int(self._tensors[name].get("vectorized", -1))

    def get_tensor_components_per_element(self, name: str) -> int:
        return int(self._tensors[name].get("components", -1))

    def create_execution_context(self) -> IExecutionContext | None:
        return IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan["layers"])


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._plan = engine, engine._plan
        self._place = _current()
        self._module = _check(driver.cuModuleLoadData(b"plan"))
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._profile = 0
        self._is_new = True

    def _failed(self, text: str) -> bool:
        self._engine._logger.log(ILogger.Severity.ERROR, f"IExecutionContext: Error Code {text}")
        return False

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        tensor = self._plan["inputs"][name]
        if -1 in tensor["shape"]:
            least, _, most = tensor["profiles"][self._profile]
            if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
                return self._failed(f"3: API Usage Error (setInputShape: {name} {tuple(shape)})")
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._plan["inputs"]:
            return Dims(self._shapes.get(name, self._plan["inputs"][name]["shape"]))
        output = self._plan["outputs"][name]
        return Dims(self._shapes[output["of"]] if -1 in output["shape"] and "of" in output else output["shape"])

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not stream_handle:
            return self._failed("3: API Usage Error (setOptimizationProfileAsync: the default stream)")
        self._profile, self._is_new = profile_index, True
        self._shapes.clear()
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        try:
            if _current() != self._place:
                return self._failed("1: Cuda Runtime (invalid resource handle)")  # another context's
        except _Failed as error:
            return self._failed(f"1: {error}")
        missing = [name for name in self._plan["inputs"] if name not in self._shapes]
        missing += [name for name in self._engine._tensors if name not in self._addresses]
        if missing:
            return self._failed(f"3: API Usage Error (enqueueV3: {missing} not set)")
        try:
            if self._is_new and self._plan["switch"]:
                self._launch(self._plan["switch"], stream_handle, ())
            self._is_new = False
            for kernel in self._plan["kernels"]:
                self._launch(kernel.replace("{core}", str(self._engine._core)), stream_handle, ())
            for name, output in self._plan["outputs"].items():
                self._scale(name, output, stream_handle)
        except _Failed as error:
            return self._failed(f"1: {error}")
        return True

    def _scale(self, name: str, output: dict[str, Any], stream: int) -> None:
        source = output["of"]
        count = 1
        for size in self._shapes[source]:
            count *= size
        if self._plan["inputs"][source].get("dtype") == "HALF":
            count //= 2  # the kernel moves two as one number, which stays as it is with a factor of 1
        pointer = ctypes.c_void_p
        arguments = (
            pointer(self._addresses[name]), pointer(self._addresses[source]), ctypes.c_int(count),
            ctypes.c_float(output["factor"]),
        )  # fmt: skip
        self._launch("sim_copy_scale__50us", stream, arguments)

    def _launch(self, kernel: str, stream: int, values: tuple[Any, ...]) -> None:
        function = _check(driver.cuModuleGetFunction(self._module, kernel.encode()))
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        parameters = ctypes.addressof(pointers) if values else 0
        _check(driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, 0))
