"""Core dumps of a GPU, made up: the tables of NVIDIA's cudacoredump.h around a real cubin.

Invariant: nothing here is shared with the reader of the package.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

CUBIN = Path(__file__).resolve().parents[1] / "fixtures/cuda/spin.cubin"
LOUSER = 0x80000000
DEEP, PLAIN = 0x7F0000001000, 0x7F0000002000  # where the two kernels of the cubin are put
WAITS = DEEP + 0xD0  # in ours::wait_for_ever, line 7 of spin.cu


@dataclass
class Section:
    name: str
    kind: int
    content: bytes
    link: int = 0
    info: int = 0
    entry: int = 0


@dataclass
class Grid:
    number: int
    entry: int
    warps: Sequence[tuple[int, int]] = ()  # program counter, mask of the lanes that stand there
    status: int = 2
    blocks: tuple[int, int, int] = (1, 1, 1)
    threads: tuple[int, int, int] = (32, 1, 1)


@dataclass
class Core:
    """One device."""

    grids: Sequence[Grid]
    images: Sequence[bytes] = ()
    wider: int = 0  # bytes that a newer driver adds to each row
    extended: bool = False  # the number of sections is in the first one, as of more than 65279
    sections: list[Section] = field(default_factory=list)

    def build(self) -> bytes:
        self.sections = [Section("", 0, b"")]
        devices = self._add("devtbl", 9, [struct.pack("<QQQ15I", 0, 0, 0, *range(15))])
        rows = [
            struct.pack("<7Q12I", grid.number, 1, 0, grid.entry, 7, 0, 0, 0, 0, grid.status, 24, *grid.blocks,
                        *grid.threads, 0, 0)
            for grid in self.grids
        ]  # fmt: skip
        self._add("gridtbl", 12, rows, devices, 0)
        machines = self._add("smtbl", 11, [struct.pack("<IIIIQ", 0, 0, 0, 0, 0)], devices, 0)
        for grid in self.grids:
            blocks = self._add("ctatbl", 13, [struct.pack("<QIIII", grid.number, 0, 0, 0, 0)], machines, 0)
            warps = [struct.pack("<QIIIIII", 0, n, mask, mask, 0, 0, 0) for n, (_, mask) in enumerate(grid.warps)]
            if not warps:
                continue
            table = self._add("wptbl", 14, warps, blocks, 0)
            for number, (place, _) in enumerate(grid.warps):
                lanes = [struct.pack("<QQ8I", place, place, lane, lane, *[0] * 6) for lane in range(32)]
                self._add("lntbl", 15, lanes, table, number)
        for image in self.images:
            self.sections.append(Section("relfimg", LOUSER + 7, image))
        return self._elf()

    def _add(self, name: str, kind: int, rows: Sequence[bytes], link: int = 0, info: int = 0) -> int:
        padded = [row + b"\xee" * self.wider for row in rows]
        self.sections.append(
            Section(name, LOUSER + kind, b"".join(padded), link, info, len(padded[0]) if padded else 0)
        )
        return len(self.sections) - 1

    def _elf(self) -> bytes:
        names = b"\0" + b"".join(f".cudbg.{each.name}\0".encode() for each in self.sections[1:])
        self.sections.append(Section("shstrtab", 3, names))
        body, headers = b"", b""
        for each in self.sections:
            at = 64 + len(body)
            headers += struct.pack(
                "<IIQQQQIIQQ", 0, each.kind, 0, 0, at if each.content else 0,
                len(self.sections) if self.extended and each.kind == 0 else len(each.content),
                each.link, each.info, 0, each.entry,
            )  # fmt: skip
            body += each.content
        count = 0 if self.extended else len(self.sections)
        head = b"\x7fELF\x02\x01\x01\x33\x07".ljust(16, b"\0") + struct.pack(
            "<HHIQQQIHHHHHH", 4, 190, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, count, len(self.sections) - 1
        )
        return head + body + headers


def relocated(*, symbols: bool = True, lines: bool = True) -> bytes:
    """The cubin with its code at ``DEEP`` and ``PLAIN``: by the sections, and by the symbols and the lines too."""
    image = bytearray(CUBIN.read_bytes())
    (table,) = struct.unpack_from("<Q", image, 0x28)
    count, names_index = struct.unpack_from("<HH", image, 0x3C)
    sections = [list(struct.unpack_from("<IIQQQQIIQQ", image, table + 64 * n)) for n in range(count)]
    text = bytes(image[sections[names_index][4] :])
    names = [text[each[0] : text.index(b"\0", each[0])].decode() for each in sections]
    places = {names.index(".text._Z9spin_deepPViPi"): DEEP, names.index(".text.spin_plain"): PLAIN}
    for index, place in places.items():
        struct.pack_into("<Q", image, table + 64 * index + 16, place)
    symbol_table = sections[names.index(".symtab")]
    for at in range(symbol_table[4], symbol_table[4] + symbol_table[5], 24):
        (section,), (value,) = struct.unpack_from("<H", image, at + 6), struct.unpack_from("<Q", image, at + 8)
        if symbols and section in places:
            struct.pack_into("<Q", image, at + 8, value + places[section])
    moves, program = sections[names.index(".rela.debug_line")], sections[names.index(".debug_line")]
    for at in range(moves[4], moves[4] + moves[5], 24):
        offset, info, addend = struct.unpack_from("<QQq", image, at)
        (section,) = struct.unpack_from("<H", image, symbol_table[4] + 24 * (info >> 32) + 6)
        if lines:
            struct.pack_into("<Q", image, program[4] + offset, places[section] + addend)
    return bytes(image)


def spinning() -> bytes:
    """One block of the deep kernel, 32 threads of which wait for ever."""
    return Core([Grid(2, DEEP, [(WAITS, 0xFFFFFFFF)], blocks=(3, 1, 1))], [relocated()]).build()
