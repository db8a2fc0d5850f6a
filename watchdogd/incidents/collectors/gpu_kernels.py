"""What was on the GPU, by the core dumps that were asked for: after the kill, when nothing waits.

A dump is copied into the incident's folder, since the one that the driver wrote is in a folder of the worker's user. We
read it ourselves (``cuda_core.py``); where cuda-gdb is installed, it also knows inlined calls and the names of C++, and
what it says is kept beside the dump. Invariant: a dump that cannot be read is kept all the same, and told.
"""

from __future__ import annotations

import glob
import os
import re
import time
from contextlib import suppress
from dataclasses import replace

from watchdogd.incident import Kernel
from watchdogd.incidents.collectors import cuda_core, gpu_dump, tool
from watchdogd.incidents.collectors.elf import BadImage
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target
from watchdogd.instrument import core_dump

MOST_BYTES = 24 << 20  # of a dump that is kept: it passes through memory
MOST_READ = 128 << 20  # of one that is looked into
SECONDS = 60.0  # the debugger takes seconds, with a large program's images a minute
REMEDY = "install cuda-gdb of the machine's CUDA (apt install cuda-gdb-13-0; on Jetson it is in the CUDA toolkit)"
PLACES = "/usr/local/cuda*/bin"
# After `info cuda kernels` of cuda-gdb: "*  0  -  0  2 Active 0x1 (1,1,1) (1,1,1) spin(int*)"
_ROW = re.compile(r"^\*?\s*(\d+)\s+(?:-|\d+)\s+(\d+)\s+(-?\d+)\s+(\w+)\s+\S+\s+(\(\d+,\d+,\d+\).*)$")
_SIZE = re.compile(r"\((\d+,\d+,\d+)\)\s*")
# After `info cuda threads`: "... Virtual PC  Dev  SM  Wp  Ln  Filename  Line", under a line "Kernel 0"
_THREAD = re.compile(r"^\*?\s*\(.*\s0x[0-9a-f]+\s+(.*)$")
_PLACE = re.compile(r"(\S+)\s+(\d+)\s*$")


def collect(target: Target) -> Evidence:
    if target.dump is None:
        return Evidence("not asked for", gpu_dump.OFF)
    give_up = (target.until_ns or time.monotonic_ns() + int(SECONDS * 1e9)) - 100_000_000
    folder = target.dump.folder
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(core_dump.CORE))[
            : gpu_dump.MOST_PROCESSES
        ]
    except OSError as error:
        return Evidence("failed", f"{folder}: {error.strerror}")
    found: list[Kernel] = []
    files: list[str] = []
    problems: list[str] = []
    for name in names[: gpu_dump.MOST_PROCESSES]:
        kept = f"gpu.{name.removeprefix(core_dump.CORE)}.nvcudmp"
        try:
            core, path = _taken(f"{folder}/{name}", f"{target.folder}/{kept}")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        if path is None:
            problems.append(f"{name}: more than {MOST_BYTES} bytes: not kept, and for a while in {folder}")
        kernels, text, problem = read(core, path, give_up)
        found += kernels
        problems += [f"{name}: {problem}"] if problem else []
        files += [] if path is None else [kept]
        if text:
            files.append(kept.replace(".nvcudmp", ".txt"))
            with open(f"{target.folder}/{files[-1]}", "wb") as file:
                file.write(text)
    if not names:
        return Evidence("failed", f"no dump in {folder}")
    return Evidence("ok" if found else "failed", "; ".join(problems), kernels=tuple(found), files=tuple(files))


def read(core: bytes, path: str | None, give_up_ns: int) -> tuple[list[Kernel], bytes, str]:
    """The kernels, what cuda-gdb says of the file (empty without it), and what is wrong."""
    problem = ""
    try:
        ours = cuda_core.kernels(core)
    except BadImage as error:
        ours, problem = [], str(error)
    text = b"" if path is None else debugger(path, give_up_ns)
    theirs = parse(text.decode("utf-8", "replace"))
    return merged(ours, theirs), text, problem if not theirs else ""


def merged(ours: list[Kernel], theirs: list[Kernel]) -> list[Kernel]:
    """The debugger's, which know more; with the place that we found for the only one of that size."""
    found = []
    for kernel in theirs:
        alike = {each.location for each in ours if (each.grid, each.block) == (kernel.grid, kernel.block)}
        place = kernel.location or (alike.pop() if len(alike) == 1 else "")
        found.append(replace(kernel, location=place))
    return found or ours


def debugger(path: str, give_up_ns: int) -> bytes:
    """Empty if it is not installed. No script of the dump's or of a user's is run."""
    program = _program()
    if program is None:
        return b""
    commands = (f"target cudacore {path}", "info cuda kernels", "info cuda threads", "bt")
    options = [word for command in commands for word in ("-ex", command)]
    command = [program, "-nx", "-batch", "-iex", "set auto-load off", "-iex", "set width 0", *options]
    return tool.run(command, give_up_ns, both=True).output


def parse(text: str) -> list[Kernel]:
    """What cuda-gdb prints of a dump: the table of kernels, and where the first of each one's threads stand."""
    rows: dict[int, tuple[int, str]] = {}
    places: dict[int, str] = {}
    of = None
    for line in text.splitlines():
        row, heading = _ROW.match(line), re.match(r"\s*Kernel (\d+)\s*$", line)
        if row is not None:
            rows[int(row[1])] = int(row[2]), row[5]
        elif heading is not None:
            of = int(heading[1])
        elif of is not None and of not in places and (thread := _THREAD.match(line)) is not None:
            place = _PLACE.search(thread[1])
            if place is not None and place[2] != "0" and not place[1].isdigit():
                places[of] = f"{place[1]}:{place[2]}"
    return [_kernel(rest, device, places.get(number, "")) for number, (device, rest) in rows.items()]


def _kernel(rest: str, device: int, place: str) -> Kernel:
    """``rest``: sizes of the grid, on newer GPUs of a cluster, of a block, and the call."""
    sizes = []
    while (size := _SIZE.match(rest)) is not None:
        sizes.append(f"({size[1]})")
        rest = rest[size.end() :]
    return Kernel(_name(rest), sizes[0], sizes[-1], place, device)


def _name(call: str) -> str:
    """Without its arguments: what is before the parenthesis that the last one closes."""
    depth = 0
    for at in range(len(call) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(call[at], 0)
        if depth == 0 and call[at] == "(" and at > 0:
            return call[:at].strip()
    return call.strip()


def _taken(source: str, target: str) -> tuple[bytes, str | None]:
    """What is in a dump, and where it was copied to; None if it is too large for that. Raises OSError."""
    with open(gpu_dump.opened(source), "rb") as file:
        core = file.read(MOST_READ)
    if len(core) > MOST_BYTES:
        return core, None
    with open(target, "xb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o640)) as kept:
        kept.write(core)
    with suppress(OSError):  # it goes with its folder
        os.unlink(source)
    return core, target


def debugger_available() -> str | None:
    """Kernels are named without it as well."""
    return None if _program() else REMEDY


def _program() -> str | None:
    return tool.find("cuda-gdb") or tool.find("cuda-gdb", os.pathsep.join(sorted(glob.glob(PLACES), reverse=True)))


COLLECTOR = Collector(
    "gpu kernels", destructive=False, seconds=SECONDS, available=lambda: None,
    collect=collect, after=("gpu core dump",), afterwards=True,
)  # fmt: skip
