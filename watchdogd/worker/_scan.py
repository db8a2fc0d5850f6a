"""``scan.h`` in pure Python: order, equality and difference of a buffer's elements, on a sample of them or on all.

Invariant: the same answers as the native part's for the same elements; a digest alone differs, and is compared only
with others of the same process.
"""

from __future__ import annotations

import sys
from struct import pack, unpack

from watchdogd.abi import BLOCK, KEY_BFLOAT, KEY_FLOAT, KEY_UNSIGNED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Buffer

_SIGNED = {1: "b", 2: "h", 4: "i", 8: "q"}
_FLOATS = {2: "e", 4: "f", 8: "d"}


def extremes(buffer: Buffer, width: int, kind: int, first: int, step: int) -> tuple[int, int]:
    """Lowest and highest key of the elements in every ``step``-th block from ``first`` on.

    Keys are signed integers that order as the values do: NaN lies beyond the infinities, -0.0 (-1) next to 0.0 (0).
    """
    data = _sample(buffer, first, step)
    numbers: list[int] = list(unpack(f"={len(data) // width}{_SIGNED[width]}", data))
    top = 1 << 8 * width - 1
    if kind == KEY_UNSIGNED:
        numbers = [number + top if number < 0 else number - top for number in numbers]
    elif kind >= KEY_FLOAT:
        numbers = [number if number >= 0 else number ^ top - 1 for number in numbers]
    return min(numbers), max(numbers)


def uniform(buffer: Buffer, width: int, kind: int) -> bool:
    """Whether all elements are equal, -0.0 and 0.0 too."""
    data = bytes(buffer)
    if data == data[:width] * (len(data) // width):
        return True
    if kind < KEY_FLOAT:
        return False
    magnitude = (b"\xff" * (width - 1) + b"\x7f") if sys.byteorder == "little" else b"\x7f" + b"\xff" * (width - 1)
    mask = int.from_bytes(magnitude * (len(data) // width), "little")
    return int.from_bytes(data, "little") & mask == 0


def digest(buffer: Buffer, step: int) -> int:
    return hash((memoryview(buffer).nbytes, _sample(buffer, 0, step)))


def deviation(left: Buffer, right: Buffer, width: int, kind: int) -> float:
    """Largest difference of two elements at the same place; infinite where one of them alone is not finite."""
    largest = 0.0
    a, b = bytes(left), bytes(right)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} bytes against {len(b)}")
    for at, (one, other) in enumerate(zip(_values(a, width, kind), _values(b, width, kind), strict=True)):
        if a[at * width : (at + 1) * width] == b[at * width : (at + 1) * width]:
            continue
        difference = abs(one - other)
        if not difference <= largest:
            largest = difference if difference < float("inf") else float("inf")
    return largest


def _values(data: bytes, width: int, kind: int) -> tuple[float, ...]:
    count = len(data) // width
    if kind == KEY_BFLOAT:
        return unpack(f"={count}f", pack(f"={count}I", *(bits << 16 for bits in unpack(f"={count}H", data))))
    letter = _FLOATS[width] if kind == KEY_FLOAT else _SIGNED[width]
    values = unpack(f"={count}{letter.upper() if kind == KEY_UNSIGNED else letter}", data)
    return tuple(map(float, values))


def _sample(buffer: Buffer, first: int, step: int) -> bytes:
    view = memoryview(buffer)
    try:
        data = view.cast("B")
    except (TypeError, ValueError):  # a format that is spelled with its byte order, as those of ctypes are
        data = memoryview(view.tobytes())
    starts = range(first * BLOCK, len(data), step * BLOCK)
    return b"".join([data[start : start + BLOCK] for start in starts])
