"""What we use of TensorRT, and what our double has, against what was captured from real modules; plans and layers.

Captured by tests/fixtures/tensorrt/capture.py from the package index's wheels: tensorrt 8.5.2 (JetPack 5's),
tensorrt_lean 10.3.0 (bindings, with the libraries of 10.16.1), 10.16.1 and 11.4.0, tensorrt_rtx 1.7.1. The headers are
of plans that tensorrt 8.5.2, tensorrt 8.6.0 and tensorrt_rtx built.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.tensorrt_plan import DOUBLE, plan

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

from watchdogd.worker import tensorrt_api
from watchdogd.worker.tensorrt_dla import Placement, described, placement
from watchdogd.worker.tensorrt_module import Messages, Module, TensorRTUnavailableError, find
from watchdogd.worker.tensorrt_plan import read
from watchdogd.worker.tensorrt_tensors import _TYPES, Layout, capacities, profiles

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tensorrt"
REAL: dict[str, dict[str, Any]] = json.loads((FIXTURES / "interfaces.json").read_text())
LEAN = [name for name in REAL if name.startswith("tensorrt_lean")]
OLD = "tensorrt 8.5.2"  # plugin libraries have to register themselves there
NOT_IN_OLD = {"get_plugin_registry", "load_library"}
LATER_TYPES = {
    name: {"FP4", "E8M0"} | ({"BF16", "INT64", "UINT8", "FP8", "INT4"} if name == OLD else set()) for name in REAL
}


@pytest.fixture
def double() -> Any:
    sys.path.insert(0, DOUBLE)
    try:
        import tensorrt  # type: ignore[import-not-found]  # noqa: PLC0415 - the double, found by this path alone
    finally:
        sys.path.remove(DOUBLE)
    return tensorrt


def members(kind: type) -> dict[str, object]:
    return {name: found for name, found in vars(kind).items() if not name.startswith("_") and name != "Severity"}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]


def is_like(real: Any, used: object) -> bool:
    """Whether a call by position of what is used is one of the real one's overloads."""
    if isinstance(used, property) or not callable(used):
        return isinstance(real, str)
    names = parameters(used)
    return isinstance(real, list) and any(names == overload[: len(names)] for overload in real)


@pytest.mark.parametrize("module", REAL)
def test_what_is_called_is_what_the_real_modules_have(module: str) -> None:
    for kind in tensorrt_api.INTERFACE:
        real = REAL[module][kind.__name__]
        if kind is tensorrt_api.EngineInspector and module in LEAN:
            assert real is None  # it has the function that returns one, and not the type
            continue
        for name, used in members(kind).items():
            is_missing = module == OLD and name in NOT_IN_OLD and real[name] is None
            assert is_missing or is_like(real[name], used), (module, kind.__name__, name, real[name])
    assert {name for name in _TYPES if REAL[module]["DataType"][name] is None} <= LATER_TYPES[module]


def test_a_call_that_no_real_module_has_would_be_noticed() -> None:
    def execute_async_v3(self: object, stream: int) -> bool: ...  # type: ignore[empty-body]  # a signature to compare

    real = REAL["tensorrt_lean 10.3.0"]["IExecutionContext"]
    assert not is_like(real["execute_async_v3"], execute_async_v3)
    assert not is_like(real.get("enqueue_v3"), execute_async_v3)


def test_settable_is_what_is_set() -> None:
    assert all(interface["Runtime"]["DLA_core"] == "settable property" for interface in REAL.values())


@pytest.mark.parametrize("module", REAL)
def test_the_double_has_what_the_real_modules_have(double: Any, module: str) -> None:
    for kind in tensorrt_api.INTERFACE:
        real = REAL[module][kind.__name__]
        for name, found in members(getattr(double, kind.__name__)).items():
            is_missing = real is None or (module == OLD and name in NOT_IN_OLD and real[name] is None)
            assert is_missing or is_like(real[name], found), (module, kind.__name__, name)
    for name in ("TensorIOMode", "TensorLocation", "LayerInformationFormat", "DataType"):
        assert {value for value, what in REAL[module][name].items() if what} <= set(getattr(double, name).__members__)


def test_the_double_has_all_that_is_used(double: Any) -> None:
    for kind in tensorrt_api.INTERFACE:
        missing = {*members(kind), *vars(kind).get("__annotations__", {})} - set(dir(getattr(double, kind.__name__)))
        assert missing - {"name"} == set(), kind.__name__


# --- plans ---


def test_a_real_header_is_read() -> None:
    header = (FIXTURES / "rtx-1.7.1.116.header").read_bytes()
    found = read(header)
    assert (found.built_by, found.modules) == ("was built by TensorRT-RTX 1.7.1.116", ("tensorrt_rtx",))
    found = read((FIXTURES / "tensorrt-8.5.2.2.header").read_bytes())
    assert (found.built_by, found.modules) == ("was built by TensorRT 8.5 or older", ("tensorrt",))
    found = read((FIXTURES / "tensorrt-8.6.0.12.header").read_bytes())
    assert (found.built_by, found.modules) == ("was built by TensorRT 8.6.0.12", ("tensorrt", "tensorrt_lean"))


def test_headers_that_are_short_or_newer_name_no_version() -> None:
    assert read(plan()).built_by == "was built by TensorRT 10.3.0.26"
    for content in (plan()[:20], b"ftrt\1" + plan()[5:]):
        assert read(content).built_by == "was built by a TensorRT of unknown version"
    assert read(b"PK\3\4").built_by == "begins with b'PK\\x03\\x04', as no plan of TensorRT's does"


def test_tensorrt_11_and_rtx_have_no_dla() -> None:
    def has_dla(name: str, version: str) -> bool:
        return Module(name, version, None, Messages(), None).has_dla

    assert has_dla("tensorrt", "10.3.0") and has_dla("tensorrt_lean", "8.6.1")
    assert not has_dla("tensorrt", "11.0.0") and not has_dla("tensorrt_rtx", "1.7.1.116")


def test_of_many_errors_the_last_ones_are_kept_and_told_from_older_ones(capsys: pytest.CaptureFixture[str]) -> None:
    messages = Messages()
    for number in range(100):
        messages.add("ERROR", f"e{number}")
    messages.add("INFO", "chatter")
    messages.add("WARNING", "hm")
    assert messages.errors().split("; ")[0] == "e68"
    assert messages.errors(since=98) == "e98; e99"
    assert messages.errors(since=messages.count) == ""
    told = capsys.readouterr().err
    assert "watchdogd: TensorRT warning: hm\n" in told and "chatter" not in told


# --- tensors ---


@pytest.mark.parametrize(
    ("shape", "bits", "vectorized", "components", "nbytes"),
    [
        ((1, 3, 4, 5), 32, -1, -1, 240),
        ((1, 3, 4, 5), 16, 1, 16, 640),  # CHW16: three channels take the room of 16
        ((1, 32, 4, 5), 8, 1, 32, 640),
        ((3,), 4, -1, -1, 2),
        ((), 32, -1, -1, 4),
        ((0, 7), 32, -1, -1, 0),
    ],
)
def test_bytes_of_a_shape(shape: tuple[int, ...], bits: int, vectorized: int, components: int, nbytes: int) -> None:
    assert Layout("x", True, shape, bits, None, vectorized, components).nbytes(shape) == nbytes


def test_memory_is_for_the_largest_of_all_profiles() -> None:
    layout = Layout("x", True, (-1, 4), 32, "f", -1, -1)
    assert capacities([layout], [{"x": (4, 4)}, {"x": (16, 4)}, {"x": (8, 4)}]) == {"x": 256}


def test_the_profiles_of_a_fixed_input_are_its_shape() -> None:
    class Engine:
        num_optimization_profiles = 2

    layout, out = Layout("x", True, (2, 4), 32, "f", -1, -1), Layout("y", False, (-1,), 32, "f", -1, -1)
    found: Any = profiles(Engine(), [layout, out])  # type: ignore[arg-type]  # the part of it that is asked
    assert found == [({"x": (2, 4)},) * 3] * 2


# --- layers ---


class Engine:
    """Whose inspector answers with ``text``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, _: object) -> str:
        return self._text


def test_layers_are_told_by_their_type(double: Any) -> None:
    layers = [
        {"Name": "images to nvm", "LayerType": "Unknown"},
        {"Name": "conv", "LayerType": "DLA"},
        {"Name": "softmax", "LayerType": "SoftMax"},
        {"Name": "reformat 0", "LayerType": "Reformat"},
    ]
    engine: Any = Engine(json.dumps({"Layers": layers}))
    found = placement(engine, double)
    assert found == Placement(("conv",), ("softmax",), ("images to nvm", "reformat 0"))
    assert described(found) == "1 layers on the DLA, 1 fell back to the GPU: softmax; 2 reformats on the GPU"


@pytest.mark.parametrize("text", ['{"Layers": ["conv", "softmax"]}', "", "{}", '{"Layers": [{"Name": "conv"}]}'])
def test_layers_without_their_type_are_nowhere(double: Any, text: str) -> None:
    engine: Any = Engine(text)
    assert placement(engine, double) is None


def test_a_module_without_an_inspector_tells_no_layers(double: Any) -> None:
    class Lean:
        def create_engine_inspector(self) -> None:
            raise TypeError("Unable to convert function return value to a Python type!")

    lean: Any = Lean()
    assert placement(lean, double) is None


def test_a_folder_that_has_the_modules_name_is_not_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hollow_tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TensorRTUnavailableError, match=r"hollow_tensorrt: .*has no attribute 'ILogger'"):
        find(("hollow_tensorrt",))
