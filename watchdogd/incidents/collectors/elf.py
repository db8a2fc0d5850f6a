"""Sections, symbols and source lines of a 64-bit little-endian ELF image, as the CUDA compiler writes it.

The line table is DWARF 2's to 4's; what NVIDIA adds to it (inlined calls) is passed over. Invariant: pure; whatever the
bytes are, the answer comes in time linear in them, or ``BadImage`` is raised.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

SHT_SYMTAB, SHT_NOBITS = 2, 8
_STT_FUNC = 2
_MOST_ROWS = 1_000_000  # of a line table
_SECTION = struct.Struct("<IIQQQQIIQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMBOL = struct.Struct("<IBBHQQ")


class BadImage(Exception):
    """It is no such image, or one that is cut off; the message says where."""


class Section(NamedTuple):
    name: int  # where in the table of names
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


class Function(NamedTuple):
    start: int
    end: int
    name: str


class Line(NamedTuple):
    address: int
    file: str
    line: int  # 0: the end of a sequence, where nothing is known


Read = Callable[[int, int], bytes]  # so many bytes from there on, fewer where the file ends


def of(image: bytes) -> Read:
    return lambda at, size: image[at : at + size]


def sections(read: Read, most_bytes: int | None = None) -> list[Section]:
    """``most_bytes`` of section headers. Raises BadImage."""
    head = read(0, 64)
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        raise BadImage("it is no 64-bit ELF image")
    (offset,) = struct.unpack_from("<Q", head, 0x28)
    size, count = struct.unpack_from("<HH", head, 0x3A)
    if size != _SECTION.size or not offset:
        raise BadImage("it has no section headers")
    first = read(offset, size)
    if count == 0 and len(first) == size:  # more than 65279: the first one's size says how many
        count = Section(*_SECTION.unpack(first)).size
    if most_bytes is not None and size * count > most_bytes:
        raise BadImage(f"it has {count} sections")
    raw = read(offset, size * count)
    if not count or len(raw) < size * count:
        raise BadImage("its section headers are cut off")
    return [Section(*fields) for fields in _SECTION.iter_unpack(raw)]


def content(image: bytes, section: Section) -> bytes:
    if section.kind == SHT_NOBITS or section.offset + section.size > len(image):
        raise BadImage("a section of it is cut off")
    return image[section.offset : section.offset + section.size]


def text(names: bytes, offset: int) -> str:
    return names[offset : names.find(b"\0", offset)].decode("utf-8", "replace")


class Image:
    """Functions and lines by address. Raises BadImage.

    In an image that was relocated, symbols and lines have the addresses at which the code is; else they begin at 0 in
    each section, and a section may say where it is.
    """

    def __init__(self, image: bytes) -> None:
        self._image = image
        self._sections = sections(of(image))
        self._symbols: list[tuple[str, int, int, int]] = []  # name, address, size, kind
        for section in self._sections:
            if section.kind == SHT_SYMTAB:
                self._symbols = list(self._read_symbols(section))
        found = (Function(at, at + size, name) for name, at, size, kind in self._symbols if kind == _STT_FUNC and size)
        self._functions = sorted(found, key=lambda each: (each.start, -each.end))
        self._lines: list[Line] | None = None

    def _read_symbols(self, section: Section) -> Iterator[tuple[str, int, int, int]]:
        names = content(self._image, self._at(section.link))
        raw = content(self._image, section)
        for name, info, _, index, value, size in _SYMBOL.iter_unpack(raw[: len(raw) // _SYMBOL.size * _SYMBOL.size]):
            base = self._sections[index].address if index < len(self._sections) else 0
            yield text(names, name), value if value >= base else base + value, size, info & 15

    def _at(self, index: int) -> Section:
        if index >= len(self._sections):
            raise BadImage("it names a section that is not there")
        return self._sections[index]

    def function(self, address: int) -> Function | None:
        """The innermost that the address is in."""
        place = bisect_right(self._functions, address, key=lambda each: each.start)
        inside = (each for each in reversed(self._functions[:place]) if each.start <= address < each.end)
        return next(inside, None)

    def line(self, address: int) -> Line | None:
        if self._lines is None:
            self._lines = sorted(self._read_lines())
        place = bisect_right(self._lines, address, key=lambda each: each.address) - 1
        found = self._lines[place] if place >= 0 else None
        return found if found is not None and found.line else None

    def _named(self, wanted: str) -> bytes:
        (index,) = struct.unpack_from("<H", self._image, 0x3E)
        names = content(self._image, self._at(index))
        found = next((each for each in self._sections if text(names, each.name) == wanted), None)
        return b"" if found is None else content(self._image, found)

    def _read_lines(self) -> Iterator[Line]:
        moves = {}
        relocations = self._named(".rela.debug_line")
        for offset, info, addend in _RELOCATION.iter_unpack(relocations[: len(relocations) // 24 * 24]):
            if info >> 32 < len(self._symbols):
                moves[offset] = self._symbols[info >> 32][1] + addend
        raw, at = self._named(".debug_line"), 0
        try:
            while at + 4 < len(raw):
                (length,) = struct.unpack_from("<I", raw, at)
                yield from _program(raw, at + 4, min(at + 4 + length, len(raw)), moves)
                at += 4 + length
        except (IndexError, ValueError, ZeroDivisionError, struct.error):
            return  # cut off, or of a version that has another header: what was read stays


def _program(raw: bytes, at: int, end: int, moves: dict[int, int]) -> Iterator[Line]:  # noqa: PLR0912 - a code a line
    """One line-number program."""
    version, header = struct.unpack_from("<HI", raw, at)
    if version not in (2, 3, 4):
        return
    begin = at + 6 + header
    at += 6
    step = raw[at]
    at += 1 if version < 4 else 2
    base, span, opcode_base = struct.unpack_from("<bBB", raw, at + 1)
    lengths = raw[at + 4 : at + 3 + opcode_base]
    files = _files(raw, at + 3 + opcode_base)
    at = begin
    address, file, line = 0, 1, 1
    for _ in range(_MOST_ROWS):
        if at >= end:
            return
        code = raw[at]
        at += 1
        if code >= opcode_base:
            address += (code - opcode_base) // span * step
            line += base + (code - opcode_base) % span
            yield Line(address, files.get(file, "?"), line)
        elif code == 0:
            length, at = _unsigned(raw, at)
            if raw[at] == 1:
                yield Line(address, "", 0)
                address, file, line = 0, 1, 1
            elif raw[at] == 2:
                (address,) = struct.unpack_from("<Q", raw, at + 1)
                address = address or moves.get(at + 1, 0)
            at += length
        elif code == 1:
            yield Line(address, files.get(file, "?"), line)
        elif code == 2:
            advance, at = _unsigned(raw, at)
            address += advance * step
        elif code == 3:
            advance, at = _signed(raw, at)
            line += advance
        elif code == 4:
            file, at = _unsigned(raw, at)
        elif code == 8:
            address += (255 - opcode_base) // span * step
        elif code == 9:
            address += struct.unpack_from("<H", raw, at)[0]
            at += 2
        else:
            for _ in range(lengths[code - 1]):
                _, at = _unsigned(raw, at)


def _files(raw: bytes, at: int) -> dict[int, str]:
    """By their numbers, with their directories."""
    directories = [""]
    files: dict[int, str] = {}
    while raw[at]:
        directories.append(text(raw, at))
        at = raw.index(b"\0", at) + 1
    at += 1
    while raw[at]:
        name = text(raw, at)
        directory, at = _unsigned(raw, raw.index(b"\0", at) + 1)
        for _ in range(2):  # when it was changed, and its length
            _, at = _unsigned(raw, at)
        place = directories[directory] if directory < len(directories) else ""
        files[len(files) + 1] = f"{place}/{name}" if place and not name.startswith("/") else name
    return files


def _unsigned(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while raw[at] & 0x80:
        value |= (raw[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if shift > 63:
            raise IndexError
    return value | raw[at] << shift, at + 1


def _signed(raw: bytes, at: int) -> tuple[int, int]:
    value, after = _unsigned(raw, at)
    bits = 7 * (after - at)
    return (value - (1 << bits) if value >> (bits - 1) & 1 else value), after
