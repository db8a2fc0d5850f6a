"""An incident as JSON, and back.

Invariant: pure; what was written is read back the same (``from_json(to_json(incident)) == incident``). A field that
this version does not know is left out, one that is missing has its default, and anything else is a ``BadDocument``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Any, Union, cast

from watchdogd.incident import SCHEMA, Incident


class BadDocument(Exception):
    """It is no incident of this schema; the message says why."""


def to_json(value: Any) -> Any:
    """A dataclass of this module as JSON's types; what has its default is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: to_json(getattr(value, item.name))
            for item in dataclasses.fields(value)
            if item.name == "schema" or not _is_default(item, getattr(value, item.name))
        }
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(raw: object) -> Incident:
    """Raises BadDocument."""
    if not isinstance(raw, dict) or not isinstance(raw.get("schema"), int):
        raise BadDocument("it is no incident: no schema")
    if raw["schema"] > SCHEMA:
        raise BadDocument(f"schema {raw['schema']} is newer than this watchdogd ({SCHEMA})")
    return cast(Incident, _decode(Incident, raw, ""))


def _decode(kind: Any, raw: object, where: str) -> Any:  # noqa: PLR0911 - a type a line
    """``raw`` as a value of this type. Raises BadDocument."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return raw
    if origin in (Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        return _decode(next(item for item in arguments if item is not type(None)), raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise BadDocument(f"{where}: not an array")
        of = [arguments[0]] * len(raw) if arguments[-1] is Ellipsis else list(arguments)
        if len(of) != len(raw):
            raise BadDocument(f"{where}: {len(raw)} items in place of {len(of)}")
        items = enumerate(zip(of, raw, strict=True))
        return tuple(_decode(item, part, f"{where}[{index}]") for index, (item, part) in items)
    if origin is dict:
        if not isinstance(raw, dict):
            raise BadDocument(f"{where}: not an object")
        return {str(key): _decode(arguments[1], part, f"{where}.{key}") for key, part in raw.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, raw, where)
    wanted = (int, float) if kind is float else (kind,)
    if type(raw) not in wanted:  # a boolean is no integer here
        raise BadDocument(f"{where}: {type(raw).__name__} in place of {kind.__name__}")
    return raw


def _decode_fields(kind: Any, raw: object, where: str) -> Any:
    if not isinstance(raw, dict):
        raise BadDocument(f"{where or 'it'}: not an object")
    hints = _hints(kind)
    known = {item.name: _decode(hints[item.name], raw[item.name], f"{where}.{item.name}".lstrip("."))
             for item in dataclasses.fields(kind) if item.name in raw}  # fmt: skip
    try:
        return kind(**known)
    except TypeError as error:
        raise BadDocument(f"{where or 'it'}: {error}") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Asked for once: to find them out again was four fifths of the time of decoding."""
    return typing.get_type_hints(kind)


def _is_default(item: dataclasses.Field[Any], value: Any) -> bool:
    if item.default_factory is not dataclasses.MISSING:
        return bool(value == item.default_factory())
    return item.default is not dataclasses.MISSING and bool(value == item.default)
