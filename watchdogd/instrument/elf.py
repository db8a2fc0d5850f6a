"""Shared objects as far as the loader reads them: what one exports, and a copy of the shim with its driver's path.

64 bit, little-endian. Invariant: whatever a file holds, the only exception for it is ``BadObject``; of a driver of
100 MB only its headers, dynamic section and symbols are read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

X86_64, AARCH64 = 62, 183  # e_machine
MARKER = b"WDOG-REAL-DRIVER"  # begins the array in which the shim finds the path of the real driver
ARRAY = 1024  # its bytes, the marker among them
RESERVED = b"/watchdogd-real-driver/"  # begins the string that is to become its dependency on it

_HEADER = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SHARED_OBJECT = 3  # e_type
_LOAD, _DYNAMIC_SEGMENT = 1, 2  # p_type
_NEEDED, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH, _GNU_HASH = 1, 4, 5, 6, 10, 14, 15, 29, 0x6FFFFEF5
_WEAK = 2
# NVIDIA's driver 580 has 1100 symbols and 40 KB of their names: what is far beyond is no such file.
_MOST_SEGMENTS, _MOST_DYNAMIC, _MOST_SYMBOLS, _MOST_STRINGS = 256, 1 << 16, 1 << 20, 1 << 24

Read = Callable[[int, int], bytes]  # offset and size; short at the end of the file


class BadObject(Exception):
    """The message says what is wrong with the file."""


class Symbol(NamedTuple):
    name: str
    offset: int  # of its entry, in the file
    is_defined: bool
    kind: int


class Entry(NamedTuple):
    tag: int
    value: int
    offset: int  # in the file


class Library:
    """One shared object. Raises BadObject."""

    def __init__(self, read: Read) -> None:
        self._read = read
        if read(0, 4) != b"\x7fELF":
            raise BadObject("is no ELF file")
        _, bits, order, kind, self.machine, _, _, segments_at, _, _, _, each, count, *_ = self._unpack(_HEADER, 0)
        if (bits, order) != (2, 1):
            raise BadObject("is not 64 bit and little-endian")
        if kind != _SHARED_OBJECT:
            raise BadObject("is no shared object")
        if each != _SEGMENT.size or count > _MOST_SEGMENTS:
            raise BadObject("has impossible program headers")
        segments = [self._unpack(_SEGMENT, segments_at + i * each) for i in range(count)]
        self._loads = [(vaddr, at, size) for kind, _, at, vaddr, _, size, *_ in segments if kind == _LOAD]
        self.dynamic = tuple(self._entries(segments))
        self._tags = {entry.tag: entry.value for entry in self.dynamic}

    def _entries(self, segments: list[tuple[Any, ...]]) -> Iterator[Entry]:
        found = next(((at, size) for kind, _, at, _, _, size, *_ in segments if kind == _DYNAMIC_SEGMENT), None)
        if found is None:
            raise BadObject("has no dynamic section")
        at, size = found
        for offset in range(at, at + min(size, _MOST_DYNAMIC), _DYNAMIC.size):
            tag, value = self._unpack(_DYNAMIC, offset)
            if tag == 0:
                return
            yield Entry(tag, value, offset)

    def _bytes(self, offset: int, size: int) -> bytes:
        raw = self._read(offset, size) if 0 <= offset < 1 << 62 else b""
        if len(raw) < size:
            raise BadObject("ends too soon")
        return raw

    def _unpack(self, form: struct.Struct, offset: int) -> tuple[Any, ...]:
        return form.unpack(self._bytes(offset, form.size))

    def _words(self, offset: int, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}I", self._bytes(offset, 4 * count))

    def _table(self, tag: int) -> int:
        """Where in the file a table of the dynamic section begins."""
        address = self._tags.get(tag)
        if address is None:
            raise BadObject(f"has no dynamic entry {tag:#x}")
        for vaddr, at, size in self._loads:
            if vaddr <= address < vaddr + size:
                return int(at + address - vaddr)
        raise BadObject(f"has a dynamic entry {tag:#x} that leads nowhere")

    def string_at(self, value: int) -> tuple[int, bytes]:
        """Where in the file a string of its string table begins, and the string."""
        strings = self._strings()
        if value >= len(strings):
            raise BadObject("names something outside its string table")
        return self._table(_STRTAB) + value, strings[value : strings.find(b"\0", value)]

    def _strings(self) -> bytes:
        size = self._tags.get(_STRSZ, 0)
        if not 0 < size <= _MOST_STRINGS:
            raise BadObject("has an impossible string table")
        strings = self._bytes(self._table(_STRTAB), size)
        if strings[-1:] != b"\0":
            raise BadObject("has a string table without an end")
        return strings

    def symbols(self) -> Iterator[Symbol]:
        count, at, strings = self._count_of_symbols(), self._table(_SYMTAB), self._strings()
        raw = self._bytes(at, count * _SYMBOL.size)
        for index, (name, info, _, section, _, _) in enumerate(_SYMBOL.iter_unpack(raw)):
            if name >= len(strings):
                raise BadObject("names a symbol outside its string table")
            text = strings[name : strings.find(b"\0", name)].decode("ascii", "replace")
            yield Symbol(text, at + index * _SYMBOL.size, section != 0, info & 0xF)

    def exports(self) -> frozenset[str]:
        """Names of the symbols it defines."""
        return frozenset(symbol.name for symbol in self.symbols() if symbol.is_defined)

    def _count_of_symbols(self) -> int:
        """Nothing says it but the hash tables."""
        if _HASH in self._tags:
            count = int(self._words(self._table(_HASH), 2)[1])
        else:
            count = self._count_by_gnu_hash(self._table(_GNU_HASH))
        if count > _MOST_SYMBOLS:
            raise BadObject("has an impossible number of symbols")
        return count

    def _count_by_gnu_hash(self, at: int) -> int:
        buckets, first, bloom, _ = map(int, self._words(at, 4))
        if max(buckets, first, bloom) > _MOST_SYMBOLS:
            raise BadObject("has an impossible hash table")
        buckets_at = at + 16 + bloom * 8
        last = int(max(self._words(buckets_at, buckets), default=0))
        if last < first:  # it exports nothing
            return first
        chains_at = buckets_at + 4 * buckets
        while last < _MOST_SYMBOLS and not self._words(chains_at + 4 * (last - first), 1)[0] & 1:
            last += 1
        return last + 1


def open_library(descriptor: int) -> Library:
    """Of an open file. Raises BadObject, OSError."""
    return Library(lambda offset, size: os.pread(descriptor, size, offset))


def of_bytes(content: bytes) -> Library:
    """Raises BadObject."""
    return Library(lambda offset, size: content[offset : offset + size])


def patched(shim: bytes, driver: str, exports: frozenset[str]) -> bytes:
    """The shim as it stands in front of the library at ``driver``, which exports those symbols. Raises BadObject.

    The loader takes the library as a dependency, so that ``dlsym`` on the shim finds what the shim does not define.
    What the library lacks is taken out of the shim, too: a program asks by ``dlsym`` what its driver can do.
    """
    library, path = of_bytes(shim), os.fsencode(driver) + b"\0"
    if not driver.startswith("/") or "$" in driver:  # the loader replaces $ORIGIN and such
        raise BadObject(f"cannot depend on {driver!r}: an absolute path without $ is needed")
    copy = bytearray(shim)

    places = [
        (entry.offset, *library.string_at(entry.value)) for entry in library.dynamic if entry.tag in (_RPATH, _RUNPATH)
    ]
    reserved = [(entry_at, at, len(text)) for entry_at, at, text in places if text.startswith(RESERVED)]
    if len(reserved) != 1:
        raise BadObject("has no room for a driver's path among its dynamic entries (is it patched already?)")
    entry_at, at, room = reserved[0]
    most = min(room, ARRAY - len(MARKER))
    if len(path) > most:
        raise BadObject(f"has room for a path of {most - 1} bytes, and the driver's has {len(path) - 1}")
    copy[at : at + room] = path.ljust(room, b"\0")
    struct.pack_into("<Q", copy, entry_at, _NEEDED)

    empty = MARKER.ljust(ARRAY, b"\0")  # the marker alone may be in its code, too
    if shim.count(empty) != 1:
        raise BadObject("has no empty array for a driver's path")
    array = shim.index(empty) + len(MARKER)
    copy[array : array + len(path)] = path

    for symbol in library.symbols():
        if symbol.is_defined and symbol.name.startswith("cu") and symbol.name not in exports:
            name = struct.unpack_from("<I", copy, symbol.offset)[0]
            _SYMBOL.pack_into(copy, symbol.offset, name, _WEAK << 4 | symbol.kind, 0, 0, 0, 0)
    return bytes(copy)
