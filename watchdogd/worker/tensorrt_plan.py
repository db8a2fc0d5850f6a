"""From a plan to an engine: its header read, plugins loaded, the DLA chosen, and an error that says what fits what not.

Invariant: what TensorRT refuses is one PlanError, with who built the plan (as far as its header says), what runs here,
and TensorRT's own words. The header explains; it never decides but for which module to ask.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import NamedTuple

from watchdogd.worker import attach
from watchdogd.worker.cuda_driver import check, driver
from watchdogd.worker.tensorrt_api import ICudaEngine, Runtime
from watchdogd.worker.tensorrt_module import NAMES, Module

# The first 28 bytes, as `trtexec --getPlanVersionOnly` reads them, and as TensorRT-RTX 1.7 writes them: a tag, the
# version of the format (0 so far), and in the last four bytes that of the library. TensorRT 8.5 says no version there.
_TAGS = {b"ftrt": ("TensorRT", ("tensorrt", "tensorrt_lean")), b"vtrt": ("TensorRT-RTX", ("tensorrt_rtx",))}
_OLD_TAG = b"ptrt"
_HEADER = 28
_DLA = "DLA is TensorRT 10's (and older), on Xavier and Orin"
_CAPABILITY = (
    driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
)


class PlanError(Exception):
    """A plan that cannot run here, or not so."""


class PluginError(Exception):
    """A plugin library that cannot be loaded."""


class Plan(NamedTuple):
    """A serialized engine. ``built_by``: the product and its version, or what it looks like instead."""

    name: str
    content: bytes
    built_by: str
    modules: tuple[str, ...]


def read(plan: str | os.PathLike[str] | bytes) -> Plan:
    """Raises OSError for a file that cannot be read, PlanError for an empty one."""
    name, content = "the plan", plan
    if not isinstance(content, bytes):
        name = os.fspath(content)
        with open(name, "rb") as file:
            content = file.read()
    if not content:
        raise PlanError(f"{name} is empty")
    if content.startswith(_OLD_TAG):
        return Plan(name, content, "was built by TensorRT 8.5 or older", ("tensorrt",))
    product, modules = _TAGS.get(content[:4], (None, NAMES))
    if product is None:
        return Plan(name, content, f"begins with {content[:4]!r}, as no plan of TensorRT's does", modules)
    if len(content) < _HEADER or content[4:8] != bytes(4):
        return Plan(name, content, f"was built by a {product} of unknown version", modules)
    return Plan(name, content, f"was built by {product} {'.'.join(map(str, content[24:28]))}", modules)


def load_plugins(runtime: Runtime, module: Module, paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raises PluginError for the first that cannot be loaded."""
    for given in paths:
        path = os.fspath(given)
        before = module.messages.count
        try:
            # Global: the plan's other plugins may need it. Those that register themselves do so now.
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise PluginError(f"plugin library {path}: {error}") from None
        if not any(hasattr(library, name) for name in ("getCreators", "getPluginCreators")):
            continue
        if not hasattr(runtime, "get_plugin_registry"):
            raise PluginError(f"plugin library {path}: {module} takes only those that register themselves")
        try:
            loaded = runtime.get_plugin_registry().load_library(path)
        except RuntimeError as error:
            raise PluginError(f"plugin library {path}: {error}") from None
        if loaded is None:
            raise PluginError(f"plugin library {path}: {module.messages.errors(before) or 'TensorRT does not say why'}")


def choose_dla(runtime: Runtime, module: Module, core: int) -> None:
    """Raises PlanError where there is none."""
    if not module.has_dla or not hasattr(runtime, "DLA_core"):
        raise PlanError(f"dla{core}: {module} has no DLA; {_DLA}")
    cores = runtime.num_DLA_cores  # setting one that is not there does nothing, and says nothing
    if core >= cores:
        raise PlanError(f"dla{core}: {module} knows of {cores} DLA cores here; {_DLA}")
    runtime.DLA_core = core


def load(runtime: Runtime, module: Module, plan: Plan, device: int) -> ICudaEngine:
    """Raises PlanError."""
    before = module.messages.count
    worker = attach()
    with worker.stage("load"), worker.call("other"):
        engine = runtime.deserialize_cuda_engine(plan.content)
    if engine is None:
        said = module.messages.errors(before) or "TensorRT does not say why"
        here = f"{module} on {_device(device)}"
        raise PlanError(
            f"{plan.name} {plan.built_by}, and does not run by {here}, for which it has to be built: {said}"
        )
    return engine


def _device(device: int) -> str:
    name = check(driver.cuDeviceGetName, 128, device).partition(b"\0")[0].decode(errors="replace")
    major, minor = (check(driver.cuDeviceGetAttribute, attribute, device) for attribute in _CAPABILITY)
    return f"{name} (compute capability {major}.{minor})"
