"""Writes plans for the double of TensorRT (``tensorrt_double``), with a header as the real ones have it.

Each output is an input times ``factor`` (1 for half precision, and an even number of elements); ``kernels`` run before
that, with ``{core}`` for the DLA's number, and before them ``switch``, in the first inference with a profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOUBLE = str(Path(__file__).parent / "tensorrt_double")
FIXED: dict[str, Any] = {"x": {"shape": [4, 4]}}


def output(of: str = "x", shape: Sequence[int] = (4, 4), factor: float = 2.0, **keys: Any) -> dict[str, Any]:
    return {"shape": list(shape), "of": of, "factor": factor, **keys}


def dynamic(*profiles: Sequence[int]) -> dict[str, Any]:
    """An input of 4 columns; for each profile the least, best and most rows."""
    return {"shape": [-1, 4], "profiles": [[[rows, 4] for rows in profile] for profile in profiles]}


def plan(
    inputs: Mapping[str, Any] = FIXED, outputs: Mapping[str, Any] | None = None, *, version: str = "10.3.0.26",
    tag: bytes = b"ftrt", compute: int | None = None, profiles: int = 1, plugins: Sequence[str] = (),
    layers: Sequence[Any] = (), kernels: Sequence[str] = ("sim_sleep_us_200",), switch: str = "",
) -> bytes:  # fmt: skip
    body = {
        "inputs": inputs, "outputs": {"y": output()} if outputs is None else outputs, "compute": compute,
        "profiles": profiles, "plugins": list(plugins), "layers": list(layers), "kernels": list(kernels),
        "switch": switch,
    }  # fmt: skip
    return tag + bytes(20) + bytes(map(int, version.split("."))) + json.dumps(body).encode()
