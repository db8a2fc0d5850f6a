"""The kernel log: what nvgpu, host1x, the DLA and NVIDIA's driver say there. As a program: prints it as it comes.

``docs/FACTS.md`` has the formats. Nothing is chosen by its priority: the DLA's time-out is printed as information.
Invariant: whatever a line holds, `parse_line` returns a message or None, in time linear in ``MAX_LINE``; the program
prints at most ``MOST_A_SECOND`` lines a second and says how many it passed over.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import select
import sys
import time
from collections.abc import Callable, Sequence

from watchdogd.model import KernelKind, KernelMessage
from watchdogd.observe.sources import child

PATH = "/dev/kmsg"
REMEDY = "give it CAP_SYSLOG, set kernel.dmesg_restrict = 0, or write enabled = false in [kmsg]"
OWN_WORDS = "watchdogd: "  # begins a line of the program's own; no line of the kernel's that is printed does
MAX_LINE = 2048  # characters looked at
MAX_TEXT = 240
MAX_NAME = 64
MOST_PIDS = 1 << 22  # the kernel's own limit
MOST_A_SECOND = 100
MOST_RECORDS = 1000  # read at once, before looking whether anybody still listens
LOOK_MS = 1000
SIGN_SECONDS = 5  # a kernel that says nothing is no reader that hangs: so often it says that it lives
SIGN = "lives"
RECORD_BYTES = 16384  # a record is read whole or not at all (EINVAL)

# "6,339,5140900,-;" of /dev/kmsg, "<6>" of syslog, "[    5.140900] " of dmesg, "[Fri Mar  3 04:27:08 2023] " of -T
_PREFIX = re.compile(r"(?:\d{1,4},\d{1,20},\d{1,20},[^;\s]{1,80};|<\d{1,4}>)?(?:\[[\w :.]{1,40}\] ?)?", re.ASCII)
_XID = re.compile(
    r"NVRM: Xid \(PCI:([0-9a-fA-F:.]{1,20})[^)]{0,40}\): (\d{1,6}), "
    r"(?:pid=([^,]{1,20}),\s*(?:name=([^,]{0,64}),\s*)?)?",
    re.ASCII,
)
_XID_CHANNEL = re.compile(r"\b(?:Ch ([0-9a-fA-F]{8})|channel 0x([0-9a-fA-F]{1,8}))\b", re.ASCII)
_NVGPU = re.compile(r"nvgpu: (\S{1,64})\s+(?:(\S{1,128}):\d{1,6}\s+\[(\w{1,8})\]\s+)?", re.ASCII)
_NVGPU_KNOWN = tuple(
    (kind, re.compile(pattern, re.ASCII))
    for kind, pattern in (
        (
            KernelKind.NOTIFIER,
            r"error notifier set to (?P<number>\d{1,6}) for ch (?P<channel>\d{1,6})(?: owned by (?P<name>.{1,64}))?",
        ),
        (KernelKind.CHANNEL, r"Job on channel (?P<channel>\d{1,6}) timed out"),
        (
            KernelKind.MMU_FAULT,
            r"\[MMU FAULT\](?:.{0,80}?ch id:\s{0,8}(?P<channel>\d{1,6}))?|MMU fault @|mmu fault id=",
        ),
        (KernelKind.SWITCH, r"ctxsw timeout error"),
        (KernelKind.PREEMPT, r"preempt time(?:d )?out"),
        (KernelKind.RELEASE, r"channel (?P<channel>\d{1,6}), still waiting|failed to release a channel!"),
        (KernelKind.GPU_DOWN, r"ACR bootstrap failed|invalid mem acr_"),
    )
)
# What stands before it is the thread that waits.
_SYNCPOINT = re.compile(r"(?:([^:\s][^:]{0,31}): )?syncpoint id (\d{1,9}) \(([^)]{0,120})\) stuck waiting", re.ASCII)
_HOST1X = re.compile(r"cdma_timeout_handler: timeout: (\d{1,9}) \(([^)]{0,120})\), HW thresh", re.ASCII)
_DLA = re.compile(r"nvdla\d\S{0,128}: {0,4}(?:(engine timeout detected)|Engine reset done)", re.ASCII)
_TASK = re.compile(r"INFO: task (.{1,64}):(\d{1,9}) blocked for more than (\d{1,9}) seconds", re.ASCII)
_DLA_NAME = re.compile(r"nvdla(\d)", re.ASCII)
_GPU_NAME = re.compile(r"\b(?:ga10b|gv11b|gp10b|gb10b)|\.gpu\b", re.ASCII)


def parse_line(line: str) -> KernelMessage | None:
    """The message of a line of /dev/kmsg, of dmesg, or without what stands before it; None if it is another's."""
    line = line[:MAX_LINE]
    prefix = _PREFIX.match(line)
    text = line[prefix.end() if prefix else 0 :].rstrip()
    if text.startswith("NVRM: Xid "):
        return _xid(text)
    if text.startswith("nvgpu: "):
        return _nvgpu(text)
    task = _TASK.match(text)
    if task:
        return KernelMessage(KernelKind.TASK, _shown(text), int(task[3]), pid=int(task[2]), name=_shown(task[1]))
    if "nvdla" in text:
        dla = _DLA.search(text)
        if dla:
            kind = KernelKind.DLA_TIMEOUT if dla[1] else KernelKind.DLA_RESET
            return KernelMessage(kind, _shown(text), accelerator=_engine(text))
    found = _SYNCPOINT.search(text)
    if found:
        return KernelMessage(KernelKind.SYNCPOINT, _shown(text), int(found[2]), _engine(found[3]), name=_name(found[1]))
    found = _HOST1X.search(text)
    return KernelMessage(KernelKind.HOST1X, _shown(text), int(found[1]), _engine(found[2])) if found else None


def _xid(text: str) -> KernelMessage | None:
    found = _XID.match(text)
    if found is None:
        return None
    pid, name = found[3], found[4]
    channel = _XID_CHANNEL.search(text, found.end())
    return KernelMessage(
        KernelKind.XID,
        _shown(text),
        int(found[2]),
        device=found[1].lower(),
        pid=int(pid) if pid is not None and pid.isdecimal() and 0 < int(pid) <= MOST_PIDS else None,
        name=_name(name),
        channel=int(channel[1] or channel[2], 16) if channel else None,
    )


def _nvgpu(text: str) -> KernelMessage | None:
    head = _NVGPU.match(text)
    if head is None:
        return None
    # "failed to release" and the like stand after the function's name, or name it: look at all that follows the device
    for kind, pattern in _NVGPU_KNOWN:
        found = pattern.search(text, head.end(1))
        if found:
            told = found.groupdict()
            number, channel = told.get("number"), told.get("channel")
            return KernelMessage(
                kind,
                _shown(text),
                None if number is None else int(number),
                "gpu0",
                head[1],
                name=_name(told.get("name")),
                channel=None if channel is None else int(channel),
            )
    return KernelMessage(KernelKind.NVGPU, _shown(text), None, "gpu0", head[1]) if head[3] == "ERR" else None


def _engine(text: str) -> str | None:
    dla = _DLA_NAME.search(text)
    if dla:
        return f"dla{dla[1]}"
    return "gpu0" if _GPU_NAME.search(text) else None


def _name(text: str | None) -> str | None:
    name = "" if text is None else text.strip()
    return _shown(name)[:MAX_NAME] if name and "unknown>" not in name else None


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in words[:MAX_TEXT])


# --- the program ----------------------------------------------------------------------------------------------------


class Log:
    """Records as ``read`` gives them: one each, ``BlockingIOError`` once there is no more for now."""

    def __init__(self, read: Callable[[], bytes], *, programs: bool = False) -> None:
        """``programs``: take what programs wrote there, too; by themselves they are no witnesses of a GPU."""
        self._read = read
        self._programs = programs
        self._second = 0
        self._told = 0  # lines in this second
        self._passed_over = 0
        self._last: int | None = None  # sequence number

    def take(self, second: int) -> list[str]:
        """What is to be printed of what is there now. ``second``: the time."""
        printed: list[str] = []
        if second != self._second:
            printed += self._passed()
            self._second, self._told = second, 0
        for _ in range(MOST_RECORDS):
            try:
                record = self._read()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                continue  # overwritten before we came: the next record's number says how many
            printed += self._lost(record)
            line = self._line(record)
            if line is None:
                continue
            if self._told < MOST_A_SECOND:
                self._told += 1
                printed.append(line)
            else:
                self._passed_over += 1
        return printed

    def _passed(self) -> list[str]:
        count, self._passed_over = self._passed_over, 0
        return [f"{OWN_WORDS}lost {count} lines (a storm)"] if count else []

    def _lost(self, record: bytes) -> list[str]:
        sequence = record.split(b",", 2)[1:2]
        if not sequence or not sequence[0].isdigit():
            return []
        last, self._last = self._last, int(sequence[0])
        lost = 0 if last is None else self._last - last - 1
        return [f"{OWN_WORDS}lost {lost} lines (overrun)"] if lost > 0 else []

    def _line(self, record: bytes) -> str | None:
        """Its text, if it is one of ours. The lines after the first are the kernel's dictionary."""
        prefix, separator, rest = record.partition(b";")
        facility = prefix.partition(b",")[0]
        if not separator or not facility.isdigit() or (int(facility) >> 3 and not self._programs):
            return None
        # Control characters are escaped there: "\x0a" is a line's end within a message.
        text = rest.partition(b"\n")[0].partition(rb"\x0a")[0].decode("utf-8", "replace")
        return text[:MAX_LINE] if parse_line(text) is not None else None


def gpus(root: str) -> list[str]:
    """Where on the bus the GPUs of NVIDIA's driver are, in NVML's order. Only names are read, of no device."""
    places = glob.glob(f"{glob.escape(root)}/driver/nvidia/gpus/*:*:*.*")
    found = (os.path.basename(place).lower().rpartition(".") for place in places)
    return sorted(place for place, _, function in found if function == "0")


def opened(path: str) -> int:
    """A descriptor of what will come. Raises `child.Unavailable`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        remedy = REMEDY if error.errno in (errno.EPERM, errno.EACCES) else "write enabled = false in [kmsg]"
        raise child.Unavailable(f"{path}: {error.strerror}: {remedy}") from error
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as error:
        if error.errno != errno.ESPIPE:  # a pipe has no past
            raise
    return descriptor


def main(arguments: Sequence[str] | None = None) -> int:
    import argparse  # noqa: PLC0415 - the supervisor imports this module, and parses no command line with it

    parser = argparse.ArgumentParser(
        prog="python -m watchdogd.observe.sources.kmsg", description="Print what the kernel log says of accelerators."
    )
    parser.add_argument("--path", default=PATH, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--programs", action="store_true", help="also what programs wrote there (for tests)")
    options = parser.parse_args(arguments)
    parent = os.getppid()
    with child.until_nobody_reads():
        try:
            descriptor = opened(options.path)
        except child.Unavailable as error:
            print(f"{OWN_WORDS}{error}", flush=True)  # not on standard error: the supervisor tells it, once
            return child.EX_UNAVAILABLE
        print(f"{OWN_WORDS}reads {options.path}")
        print(" ".join((f"{OWN_WORDS}gpus", *gpus("/proc"))), flush=True)
        log = Log(lambda: os.read(descriptor, RECORD_BYTES), programs=options.programs)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.register(sys.stdout, 0)  # no event asked for: what remains is POLLERR, the other end closed
        sign_due = time.monotonic() + SIGN_SECONDS
        while os.getppid() == parent:
            if any(number == sys.stdout.fileno() for number, _ in poller.poll(LOOK_MS)):
                return 0
            now = time.monotonic()
            for line in log.take(int(now)):
                print(line)
            if now >= sign_due:
                print(f"{OWN_WORDS}{SIGN}")
                sign_due = now + SIGN_SECONDS
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
