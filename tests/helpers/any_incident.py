"""Incidents of any content that a document can have, and of contents that are likely enough to meet in a rule."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Union

from hypothesis import strategies as st

from watchdogd import abi, incident
from watchdogd.incident import Incident
from watchdogd.model import KernelKind, Verdict

NAMES = st.sampled_from(["model_a", "model_b", "model_h", "", "x"])
INSTANTS = st.one_of(st.integers(0, 40).map(lambda n: n * 50_000_000), st.integers(), st.just(-(10**400)))
# What rules ask of, by field; all others are of any value of their type.
_LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "verdict": st.sampled_from([*(v.value for v in Verdict), "", "?"]),
    "operation": st.sampled_from([*abi.OPERATIONS, "step"]),
    "stage": st.sampled_from(["plugin", "host function", "sync"]),
    "worker": NAMES,
    "name": st.one_of(NAMES, st.sampled_from(["cuda-EvtHandlr", "python3", "spin(int*)<<<1>>>"])),
    "accelerator": st.sampled_from(["gpu0", "dla0", "gpu1"]),
    "when": st.sampled_from(["verdict", "signal", "gone", "ready"]),
    "about": st.sampled_from([kind.value for kind in KernelKind]),
    "number": st.sampled_from([31, 45, 79, 109, 119]),
    "state": st.sampled_from(["R", "S", "D", "Z", "closed"]),
    "wchan": st.sampled_from(["futex_wait", "nvidia_ioctl", "folio_wait_bit", "ep_poll"]),
    "detail": st.sampled_from(
        ["killed by signal 9", "exited with status 1", "thread state D", "(700)", "cannot start: x", ""]
    ),
    "exit": st.sampled_from(["killed by signal 9", "exited with status 0"]),
    "collector": st.sampled_from(["gpu core dump", "gpu kernels", "proc"]),
    "outcome": st.sampled_from(["ok", "failed", "returned", "recovered"]),
    "kind": st.sampled_from(["python", "native"]),
    "last_error": st.sampled_from([2, 201, 700, 709, 710, 719]),
    "pid": st.integers(0, 3),
    "tid": st.integers(0, 3),
    "incarnation": st.integers(0, 1),
    "entered_ns": INSTANTS,
    "duration_ns": INSTANTS,
    "detected_ns": INSTANTS,
    "deadline_ns": INSTANTS,
    "at_ns": INSTANTS,
}
_EVENTS = st.one_of(
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.fixed_dictionaries({"kind": st.just("blocked"), "tid": st.integers(0, 3), "place": st.just("nvidia_ioctl")}),
    st.fixed_dictionaries({"kind": st.just("verdict"), "blocked": st.just(["tid 1 of pid 1 at nvidia_ioctl", None])}),
)


def incidents() -> st.SearchStrategy[Incident]:
    return typing.cast("st.SearchStrategy[Incident]", _of(Incident))


def _of(kind: Any, name: str = "") -> st.SearchStrategy[Any]:  # noqa: PLR0911 - a type a line
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, vars(incident))
        return st.builds(
            typing.cast("type[Any]", kind), **{f.name: _of(hints[f.name], f.name) for f in dataclasses.fields(kind)}
        )
    if origin in (Union, types.UnionType):
        return st.none() | _of(next(item for item in arguments if item is not type(None)), name)
    if name == "events":
        return st.lists(_EVENTS, max_size=2).map(tuple)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(_of(arguments[0], name), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(_of(item, name) for item in arguments))
    if origin is dict:
        return st.just({})
    plain = {
        str: st.text(max_size=8),
        int: INSTANTS,
        float: st.floats(),
        bool: st.booleans(),
    }
    likely = _LIKELY.get(name)
    if likely is not None and kind in (str, int):
        return likely
    return plain[kind]
