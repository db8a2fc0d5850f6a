"""The kernels that were on a GPU, by its core dump: read without NVIDIA's debugger, which a container rarely has.

A core dump of the CUDA driver is an ELF file whose sections are tables: devices, grids, multiprocessors, blocks, warps,
lanes, and the modules' images with the addresses at which they ran. Each table names the one above it (``link``) and
its row there (``info``). Invariant: pure; whatever the bytes are, the answer comes in time linear in them, or
``BadImage`` is raised.
"""

from __future__ import annotations

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress

from watchdogd.incident import Kernel
from watchdogd.incidents.collectors.elf import SHT_NOBITS, BadImage, Image, Read, Section, content, of, sections

# Section types and rows, of NVIDIA's cudacoredump.h.
_LOUSER = 0x80000000
_RELOCATED_IMAGE = _LOUSER + 7
_GRIDS, _BLOCKS, _WARPS, _LANES = _LOUSER + 12, _LOUSER + 13, _LOUSER + 14, _LOUSER + 15
_GRID = struct.Struct(
    "<QQQQQQQ10I"
)  # id, context, function, entry, module, 2 unused, kind, origin, status, registers, sizes
_WARP = struct.Struct("<QIII")  # error PC, number, valid lanes, active lanes
_LANE = struct.Struct("<QQI")  # virtual PC, physical PC, number
_ACTIVE = 2  # CUDBGGridStatus
MOST_HEADERS = 64 << 20  # bytes; a GPU that is full of warps has some for each of them
_MOST_TABLES = 4096  # of lanes that are looked at
_MOST_KERNELS = 32
_MOST_PLACES = 64  # of a kernel, until one has a line
_ET_CORE, _EM_CUDA = 4, 190


def is_whole(read: Read, size: int) -> bool:
    """Whether all that its section headers speak of is within ``size`` bytes."""
    try:
        every = sections(read, MOST_HEADERS)
    except BadImage:
        return False
    return all(each.offset + each.size <= size for each in every if each.kind not in (0, SHT_NOBITS))


def kernels(core: bytes) -> list[Kernel]:
    """Those that ran, those with the most warps first. Raises BadImage."""
    if core[16:20] != struct.pack("<HH", _ET_CORE, _EM_CUDA):
        raise BadImage("it is no core dump of a GPU")
    every = sections(of(core), MOST_HEADERS)
    images = []
    for each in every:
        if each.kind == _RELOCATED_IMAGE:
            with suppress(BadImage):  # the kernels of the others have names all the same
                images.append(Image(content(core, each)))
    places = _places(core, every)
    found = []
    for section in every:
        if section.kind != _GRIDS:
            continue
        for row in _rows(core, section, _GRID):
            grid, entry, status, dimensions = row[0], row[3], row[9], row[11:17]
            if status == _ACTIVE or grid in places:
                kernel = _kernel(images, entry, dimensions, section.info, places.get(grid, Counter()))
                found.append((places.get(grid, Counter()).total(), kernel))
    found.sort(key=lambda each: -each[0])
    return [kernel for _, kernel in found[:_MOST_KERNELS]]


def _kernel(
    images: Sequence[Image], entry: int, dimensions: Sequence[int], device: int, at: Counter[int]
) -> Kernel:  # fmt: skip
    shape = [f"({x},{y},{z})" for x, y, z in (dimensions[:3], dimensions[3:])]
    name = _first(images, entry)
    location = ""
    for address, _ in at.most_common(_MOST_PLACES):
        name = name or _first(images, address)
        line = next(filter(None, (image.line(address) for image in images)), None)
        if line is not None:
            location = f"{line.file}:{line.line}"
            break
    return Kernel(name or f"unnamed, at {entry:#x}", shape[0], shape[1], location, device)


def _first(images: Sequence[Image], address: int) -> str:
    function = next(filter(None, (image.function(address) for image in images)), None)
    return "" if function is None else plain(function.name)


def _places(core: bytes, every: Sequence[Section]) -> Mapping[int, Counter[int]]:
    """Of each grid where its warps were: addresses, and how many lanes stood there."""
    blocks = {index: _rows(core, each, struct.Struct("<Q")) for index, each in enumerate(every) if each.kind == _BLOCKS}
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for section in [each for each in every if each.kind == _LANES][:_MOST_TABLES]:
        warps = every[section.link] if section.link < len(every) else None
        if warps is None or warps.kind != _WARPS:
            continue
        rows, parents = _rows(core, warps, _WARP), blocks.get(warps.link, ())
        if section.info >= len(rows) or warps.info >= len(parents):
            continue
        valid = rows[section.info][3] or rows[section.info][2]
        for place, _, number in _rows(core, section, _LANE):
            if place and valid >> number & 1:
                found[parents[warps.info][0]][place] += 1
    return found


def _rows(core: bytes, section: Section, layout: struct.Struct) -> list[tuple[int, ...]]:
    """Newer drivers add fields to the end of a row: how long one is, the section says."""
    raw, step = content(core, section), section.entry_size
    if step < layout.size:
        return []
    return [layout.unpack_from(raw, at) for at in range(0, len(raw) - layout.size + 1, step)]


def plain(name: str) -> str:
    """``ours::spin`` of ``_ZN4ours4spinEPi``; a name with template arguments, which matter, stays as it is."""
    rest = name.rpartition("$")[2]  # "$KERNEL$FUNCTION": one that the kernel calls
    nested = rest.startswith("_ZN")
    if not rest.startswith("_Z"):
        return rest
    parts: list[str] = []
    at = 3 if nested else 2
    while (found := re.compile(r"\d+").match(rest, at)) and (nested or not parts):
        at = found.end() + int(found[0])
        parts.append(rest[found.end() : at])
    return "::".join(parts) if parts and all(parts) and rest[at : at + 1] not in ("I", "") else rest
