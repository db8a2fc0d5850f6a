"""What a value in the configuration may be: one ``Kind`` per sort of value, reading it and showing it.

Invariant: a kind's ``read`` returns the value as the settings hold it or raises ``Invalid`` with what is wrong and what
to write instead; it looks at the value alone, never at the machine.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from watchdogd import abi, duration

WORKER_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")
ACCELERATOR = re.compile(r"(?:gpu|dla)(?:0|[1-9][0-9]?)")  # what the load sources tell of
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEDULING = re.compile(r"other|batch|idle|(?:fifo|rr):(?:[1-9]|[1-9][0-9])")
_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")
_SIZE = re.compile(r"([0-9]{1,9})(KiB|MiB|GiB)")
_SIZE_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
CUDA_PROBE = (sys.executable, "-I", "-m", "watchdogd.worker.probe")  # -I: PYTHONHOME and such are the worker's
MOST_CPUS = 8192  # the kernel's own limit (CONFIG_NR_CPUS)


class Invalid(Exception):
    """A value that its key cannot hold. ``subkey`` names the part of a table at fault, ``more`` the others."""

    def __init__(self, message: str, remedy: str, subkey: str | None = None) -> None:
        super().__init__(message)
        self.message, self.remedy, self.subkey = message, remedy, subkey
        self.more: list[Invalid] = []


class Kind(NamedTuple):
    name: str  # as the README's table calls it
    read: Callable[[object], Any]
    suffix: str = ""  # what the field of the settings appends to the key's name
    none: str = "unset"  # how its None is written


def type_name(value: object) -> str:
    """A TOML value's type in TOML's words."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")


def text_of(value: object, remedy: str) -> str:
    """``value`` if it is a string that a path, an argument or a variable can carry."""
    if not isinstance(value, str):
        raise Invalid(f"is {type_name(value)}, not a string", remedy)
    if "\0" in value:
        raise Invalid("holds a NUL character", "remove it")
    return value


def duration_kind(*, zero: bool = False, never: bool = False, least_ns: int = 1) -> Kind:
    least = duration.show(least_ns)
    remedy = 'write a number and us, ms, s, m or h, such as "200ms" or "1.5s"' + (', or "never"' if never else "")

    def read(value: object) -> int | None:
        if never and value == "never":
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            units = ("ms", "s") if never and value >= 1 else ("s",)  # who writes a deadline of 200 means ms
            offer = " or ".join(f'"{round(value, 6)}{unit}"' for unit in units) if 0.001 <= value < 10**6 else ""
            raise Invalid("is a number without a unit", f"write {offer}" if offer else remedy)
        if never and value is False:
            raise Invalid("is a boolean, not a duration", 'write "never"')
        try:
            ns = duration.parse(text_of(value, remedy))
        except ValueError as error:
            raise Invalid(str(error), remedy) from None
        if ns == 0 and not zero:
            raise Invalid(f"{value!r} is no time at all", remedy)
        if 0 < ns < least_ns:
            raise Invalid(f"{value!r} is too short to be judged", f'write "{least}" or more' + ', or "never"' * never)
        return ns

    name = "duration" if least_ns == 1 else f"duration from {least}"
    return Kind(f'{name}, or "never"', read, "_ns", '"never"') if never else Kind(name, read, "_ns")


def read_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"is {type_name(value)}, not a boolean", "write true or false, without quotes")
    return value


def read_auto(value: object) -> bool | None:
    """True, False, or None for "auto"."""
    if value == "auto":
        return None
    if isinstance(value, bool):
        return value
    raise Invalid("is none of its values", 'write "auto", true or false')


def integer_kind(low: int, high: int | None = None) -> Kind:
    bounds = f"{low} or more" if high is None else f"{low} to {high}"

    def read(value: object) -> int:
        if type(value) is not int:
            raise Invalid(f"is {type_name(value)}, not an integer", f"write a whole number, {bounds}")
        if value < low or value > (1 << 31 if high is None else high):
            raise Invalid("is out of range", f"write a whole number, {bounds}")
        return value

    return Kind(f"integer, {bounds}", read)


def read_size(value: object) -> int:
    remedy = 'write bytes, such as 65536, or a text such as "8MiB" (KiB, MiB or GiB), 4KiB to 1024GiB'
    size = value
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise Invalid(f"{value!r} is not a size", remedy)
        size = int(match.group(1)) * _SIZE_UNITS[match.group(2)]
    if type(size) is not int:
        raise Invalid(f"is {type_name(value)}, not a size", remedy)
    if not 4096 <= size <= 1 << 40:
        raise Invalid("is out of range", remedy)
    return size


def choice_kind(*values: str, unsupported: Mapping[str, str] | None = None) -> Kind:
    offer = " or ".join(f'"{value}"' for value in values)

    def read(value: object) -> str:
        text = text_of(value, f"write {offer}")
        if unsupported and text in unsupported:
            raise Invalid(f"{value!r} {unsupported[text]}", f"write {offer}")
        if text not in values:
            raise Invalid(f"{value!r} is none of its values", f"write {offer}")
        return text

    return Kind(" ".join(f'"{value}"' for value in values), read)


def pattern_kind(name: str, pattern: re.Pattern[str], remedy: str) -> Kind:
    def read(value: object) -> str:
        text = text_of(value, remedy)
        if pattern.fullmatch(text) is None:
            raise Invalid(f"{text!r} is not {name}", remedy)
        return text

    return Kind(name, read)


def read_fraction(value: object) -> float | None:
    if value is False:
        return None
    if type(value) is not float or not 0 < value < 1:
        raise Invalid("is not a fraction between 0 and 1", "write one such as 0.5, or false to switch it off")
    return value


def read_factor(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 100:
        raise Invalid("is not a number from 1 to 100", "write one such as 1.5")
    return float(value)


def read_strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise Invalid("is a string, not an array", "write [" + ", ".join(f'"{word}"' for word in value.split()) + "]")
    if not isinstance(value, list):
        raise Invalid(f"is {type_name(value)}, not an array of strings", 'write one such as ["a", "b"]')
    return tuple(text_of(item, f"put item {number} in quotes") for number, item in enumerate(value, 1))


def read_command(value: object) -> tuple[str, ...]:
    command = read_strings(value)
    if command and not command[0].strip():
        raise Invalid("names no program", "write the program as its first item")
    return command


def read_worker_command(value: object) -> tuple[str, ...]:
    command = read_command(value)
    if not command:
        raise Invalid("is empty", 'write one such as ["python3", "-m", "vehicle.detector"]')
    return command


def read_environment(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise Invalid(f"is {type_name(value)}, not a table", 'write one such as { NAME = "value" }')
    found: list[Invalid] = []
    for name, content in value.items():
        try:
            if _VARIABLE.fullmatch(name) is None:
                raise Invalid("is not a variable's name", "use letters, digits and _, with no digit first")
            if name == abi.ENVIRONMENT:
                raise Invalid("is set by the supervisor for each incarnation", "remove it")
            text_of(content, "put the value in quotes")
        except Invalid as error:
            error.subkey = name
            found.append(error)
    if found:
        first, *first.more = found
        raise first
    return tuple(value.items())


def read_cpus(value: object) -> tuple[int, ...]:
    invalid = Invalid("is not a list of CPUs", f'write one such as [0, 1, 5] or "0-3,5", 0 to {MOST_CPUS - 1}')
    cpus: set[int] = set()
    if isinstance(value, str):
        for item in value.split(","):
            match = _CPU_RANGE.fullmatch(item.strip())
            span = match and range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1)
            if not span:
                raise invalid
            cpus.update(span)
    elif isinstance(value, list) and all(type(item) is int for item in value):
        cpus.update(value)
    else:
        raise invalid
    if any(not 0 <= cpu < MOST_CPUS for cpu in cpus):
        raise invalid
    return tuple(sorted(cpus))


def read_directory(value: object) -> str:
    text = text_of(value, "write an absolute path in quotes")
    if not text.startswith("/"):
        raise Invalid(f"{text!r} is not an absolute path", "write the whole path, from /")
    return text


def read_listen(value: object) -> str:
    text = text_of(value, 'write one such as "127.0.0.1:19877"')
    if text:
        host_and_port(text)
    return text


def host_and_port(listen: str) -> tuple[str, int]:
    """The numeric address and the port of ``metrics.listen``: "127.0.0.1:19877", "[::1]:19877" or "localhost:0"."""
    remedy = (
        'write an address and a port, "127.0.0.1:19877" or "[::1]:19877"; "0.0.0.0:19877" is every address; "" is off'
    )
    host, _, port = listen.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise Invalid(f"{listen!r} has no port between 0 and 65535", remedy)
    if not host:
        raise Invalid(f"{listen!r} has no address before the port", remedy)
    # No other names: resolving one may block for seconds, on a network that is not up yet at boot.
    if host == "localhost":
        return "127.0.0.1", int(port)
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        socket.inet_pton(socket.AF_INET6 if bracketed else socket.AF_INET, host[1:-1] if bracketed else host)
    except (OSError, ValueError):
        raise Invalid(f"{host!r} is not an address", remedy) from None
    return host.strip("[]"), int(port)


def read_company(value: object) -> tuple[str, ...] | str:
    if isinstance(value, str):
        return str(GROUP.read(value))
    return read_strings(value)


def read_probe(value: object) -> tuple[str, ...]:
    if value == "cuda":
        return CUDA_PROBE
    if isinstance(value, str):
        raise Invalid(
            f"{value!r} is no built-in probe", 'write "cuda", or a program of yours such as ["probe", "gpu0"]'
        )
    return read_command(value)


BOOLEAN = Kind("true, false", read_boolean)
AUTO = Kind('"auto", true, false', read_auto)
SIZE = Kind("bytes or size", read_size)
FRACTION = Kind("0 to 1, or false", read_fraction, none="false")
FACTOR = Kind("1 to 100", read_factor)
STRINGS = Kind("strings", read_strings)
COMMAND = Kind("strings", read_command)
PROBE = Kind('`"cuda"` or strings', read_probe)
COMPANY = Kind("group or strings", read_company)
WORKER_COMMAND = Kind("strings", read_worker_command)
TEXT = Kind("string", lambda value: text_of(value, "put it in quotes"))
ENVIRONMENT = Kind("table of strings", read_environment)
CPUS = Kind("integers or string", read_cpus)
DIRECTORY = Kind("absolute path", read_directory)
LISTEN = Kind('"ADDRESS:PORT"', read_listen)
ACCELERATOR_NAME = pattern_kind("an accelerator", ACCELERATOR, 'write "gpuN" or "dlaN", such as "gpu0" or "dla1"')
SLICE = pattern_kind("a systemd slice", re.compile(r"([\w:.\\-]+\.slice)?"), 'write "NAME.slice", or "" for none')
GROUP = pattern_kind("a group's name", WORKER_NAME, "use 1 to 48 of A-Z a-z 0-9 _ -")
SCHEDULING = pattern_kind(
    "a scheduling policy",
    _SCHEDULING,
    'write "other", "batch", "idle", "fifo:PRIORITY" or "rr:PRIORITY", priority 1 to 99',
)
