"""A line of tegrastats, read by the grammar of its tokens. As a program: lines in, one JSON object a line out.

Invariant: what a line does not print is ``None``; no load is ever made up. Releases rename, reorder and add tokens, so
the order is free, what is unknown is passed over, and a clock is never taken for a percent. ``docs/FACTS.md`` has the
formats. The line's own time is local wall clock in whole seconds: no deadline may use it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from watchdogd.model import LoadSample
from watchdogd.observe.sources import child

MAX_LINE = 8192  # characters; real lines have 150 to 900
MAX_READ = 65536  # bytes; more characters than MAX_LINE even where each takes four

_N = r"\d{1,9}"  # bounded: int() refuses strings of thousands of digits
_CELSIUS = r"-?\d{1,5}(?:\.\d{1,5})?"
_CORE = rf"(?:off|{_N}%(?:@-?{_N})?)"


def _field(pattern: str) -> re.Pattern[str]:
    """A pattern that matches whole words only."""
    return re.compile(rf"(?<!\S)(?:{pattern})(?!\S)", re.ASCII)


_TIMESTAMP = _field(r"(\d\d-\d\d-\d{4})\s+(\d\d:\d\d:\d\d)")
_RAM = _field(rf"RAM\s+({_N})/({_N})MB(?:\s*\(lfb\s+({_N})x({_N})([kM])B\))?")
_SWAP = _field(rf"SWAP\s+({_N})/({_N})MB(?:\s*\(cached\s+({_N})MB\))?")
_IRAM = _field(rf"IRAM\s+({_N})/({_N})kB\s*\(lfb\s+({_N})kB\)")
_CPU = _field(rf"(?:CPU|cpu)\s+\[({_CORE}(?:,\s*{_CORE})*)\](?:@(-?{_N}))?")
_GPU = _field(r"GR3D(?:_FREQ)?")
# The tokens of which a line may have any number, found in one pass (half the time of three):
# a thermal zone: "CV0@-256C", "cpu@52.9C/53.1C";
_ZONE = rf"([^\s@]+)@({_CELSIUS})C(?:/({_CELSIUS})C)?"
# a power rail: "VDD_IN 4061/3911", "VIN 16802mW/16802mW";
_RAIL = rf"(\w+)\s+({_N}(?:mW)?(?:/{_N}(?:mW)?){{1,2}})"
# a unit, which is an engine, the GPU or the memory clock: "VIC off", "APE 174", "GR3D_FREQ 45%", "VIC_FREQ 0%@192",
# "NVDLA0_FREQ @1600", "GR3D_FREQ 12%@[1300,1300]". Upper case only: "EDP limit 0" and "MTS fg 0%" are none.
_UNIT = rf"([A-Z][A-Z0-9_]*?)(?:_FREQ)?\s+(?=\S)(?:(off)|(?:({_N})%)?(?:@?(?:({_N})|\[({_N}(?:,\s*{_N})*)\]))?)"
_TOKEN = _field(f"{_ZONE}|{_RAIL}|{_UNIT}")


class NotTegrastats(ValueError):
    """The line is not one of tegrastats'."""


@dataclass(frozen=True)
class Engine:
    state: str  # "on" or "off"
    percent: int | None
    mhz: int | None


@dataclass(frozen=True)
class Tegrastats:
    """One line, as printed. None = not printed."""

    timestamp: str | None
    ram_used_mb: int | None
    ram_total_mb: int | None
    lfb_blocks: int | None  # largest free blocks: how many, of what size
    lfb_block_kb: int | None
    swap_used_mb: int | None
    swap_total_mb: int | None
    swap_cached_mb: int | None
    iram_kb: tuple[int, ...] | None  # used, total, largest free block
    cpu: tuple[tuple[int, int | None] | None, ...] | None  # (percent, MHz); None = core off
    emc_percent: int | None
    emc_mhz: int | None
    gpu_token_present: bool
    gpu_percent: int | None
    gpu_mhz_all: tuple[int, ...] | None  # one clock per GPC
    gpu_mhz: int | None  # the highest of them
    gpu2_percent: int | None  # the second GPC, which R34 and R35 print as a token of its own
    gpu2_mhz: int | None
    engines: Mapping[str, Engine]  # names without "_FREQ"
    nvdla: Mapping[str, Engine]  # by core number
    temps: Mapping[str, float]  # degrees Celsius; -256.0 = the sensor is powered off
    temps_peak: Mapping[str, float] | None  # R39 and later
    power_mw: Mapping[str, tuple[int, ...]]  # now, average and, since R39, peak; a second "NC" is "NC#2"


class _Unit(NamedTuple):
    state: str = "on"
    percent: int | None = None
    clocks: tuple[int, ...] | None = None

    @property
    def mhz(self) -> int | None:
        return max(self.clocks) if self.clocks else None


_ABSENT = _Unit()


def parse_line(line: str) -> Tegrastats:
    """What one line says. Raises `NotTegrastats` if it has neither memory, cores nor a GPU."""
    if len(line) > MAX_LINE:
        raise NotTegrastats(f"longer than {MAX_LINE} characters")
    ram, cpu = _RAM.search(line), _CPU.search(line)
    temps, peaks, rails, units = _tokens(line)
    if not ram and not cpu and "GR3D" not in units:
        raise NotTegrastats("no RAM, CPU or GR3D field")
    timestamp, swap, iram = _TIMESTAMP.search(line), _SWAP.search(line), _IRAM.search(line)
    ram_used, ram_total, lfb_blocks, lfb_size = _integers(ram, 4)
    swap_used, swap_total, swap_cached = _integers(swap, 3)
    emc, gpu, gpu2 = (units.pop(name, _ABSENT) for name in ("EMC", "GR3D", "GR3D2"))
    engines = {name: Engine(unit.state, unit.percent, unit.mhz) for name, unit in units.items()}
    return Tegrastats(
        timestamp=" ".join(timestamp.groups()) if timestamp else None,
        ram_used_mb=ram_used,
        ram_total_mb=ram_total,
        lfb_blocks=lfb_blocks,
        lfb_block_kb=lfb_size * 1024 if lfb_size and ram and ram[5] == "M" else lfb_size,
        swap_used_mb=swap_used,
        swap_total_mb=swap_total,
        swap_cached_mb=swap_cached,
        iram_kb=tuple(map(int, iram.groups())) if iram else None,
        cpu=_cores(cpu[1], cpu[2]) if cpu else None,
        emc_percent=emc.percent,
        emc_mhz=emc.mhz,
        gpu_token_present=_GPU.search(line) is not None,
        gpu_percent=gpu.percent,
        gpu_mhz_all=gpu.clocks,
        gpu_mhz=gpu.mhz,
        gpu2_percent=gpu2.percent,
        gpu2_mhz=gpu2.mhz,
        engines={name: engine for name, engine in engines.items() if not _is_dla(name)},
        nvdla={name.removeprefix("NVDLA"): engine for name, engine in engines.items() if _is_dla(name)},
        temps=temps,
        temps_peak=peaks or None,
        power_mw=rails,
    )


def _integers(match: re.Match[str] | None, count: int) -> tuple[int | None, ...]:
    groups = match.groups()[:count] if match else (None,) * count
    return tuple(None if text is None else int(text) for text in groups)


def _cores(cores: str, common_mhz: str | None) -> tuple[tuple[int, int | None] | None, ...]:
    """Cores as "3%@729,off"; up to R28 as "3%,off" with one clock for all."""
    parsed: list[tuple[int, int | None] | None] = []
    for core in cores.split(","):
        percent, _, own_mhz = core.partition("%")
        mhz = own_mhz.strip("@ ") or common_mhz
        parsed.append((int(percent), int(mhz) if mhz else None) if "%" in core else None)
    return tuple(parsed)


def _tokens(
    line: str,
) -> tuple[dict[str, float], dict[str, float], dict[str, tuple[int, ...]], dict[str, _Unit]]:
    """Thermal zones, their peaks, power rails, units."""
    temps: dict[str, float] = {}
    peaks: dict[str, float] = {}
    rails: dict[str, tuple[int, ...]] = {}
    units: dict[str, _Unit] = {}
    times: dict[str, int] = {}  # how often each rail was named
    for zone, now, peak, rail, power, unit, off, percent, mhz, mhz_list in _TOKEN.findall(line):
        if zone:
            temps[zone] = float(now)
            if peak:
                peaks[zone] = float(peak)
        elif rail:
            times[rail] = times.get(rail, 0) + 1
            key = rail if times[rail] == 1 else f"{rail}#{times[rail]}"
            rails[key] = tuple(map(int, power.replace("mW", "").split("/")))
        else:
            clocks = tuple(map(int, (mhz or mhz_list).split(","))) if mhz or mhz_list else None
            units[unit] = _Unit("off" if off else "on", int(percent) if percent else None, clocks)
    return temps, peaks, rails, units


def _is_dla(name: str) -> bool:
    return name.startswith("NVDLA") and name[5:].isdigit()


def loads(parsed: Tegrastats) -> tuple[LoadSample, ...]:
    """The loads that a line tells: always one of ``gpu0``, and one of each DLA core that it names.

    A DLA that is off is known to idle; one that is on has no load unless its percent is printed.
    """
    percents = [percent for percent in (parsed.gpu_percent, parsed.gpu2_percent) if percent is not None]
    gpu = LoadSample("gpu0", _ratio(max(percents, default=None)))
    return (gpu, *(LoadSample(f"dla{core}", _dla_ratio(engine)) for core, engine in sorted(parsed.nvdla.items())))


def _dla_ratio(engine: Engine) -> float | None:
    return 0.0 if engine.state == "off" else _ratio(engine.percent)


def _ratio(percent: int | None) -> float | None:
    return None if percent is None or percent > 100 else percent / 100


def _read_lines() -> Iterator[str]:
    """Standard input's lines; of an overlong one the beginning, so that memory stays bounded."""
    while raw := sys.stdin.buffer.readline(MAX_READ):
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = sys.stdin.buffer.readline(MAX_READ)
        yield raw.decode("utf-8", errors="replace").rstrip("\r\n")


def as_json(line: str) -> str:
    """The line's JSON object: the fields of `Tegrastats`, or ``{"error": ...}``."""
    try:
        return json.dumps(vars(parse_line(line)), default=vars)
    except NotTegrastats as error:
        return json.dumps({"error": f"not a line of tegrastats ({error}): {line[:120]!r}"})


def main() -> int:
    with child.until_nobody_reads():
        for line in _read_lines():
            print(as_json(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
