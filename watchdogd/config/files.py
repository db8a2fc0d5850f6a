"""The configuration's files: the main one and its drop-ins, read and merged into one tree that knows who said what.

Invariant: every value in the tree has its file; what cannot be read or parsed is a ``Problem`` and hides no
other.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KeyPath = tuple[str, ...]

_MOST_BYTES = 256 << 10  # of one file: a mistaken -c must not fill the memory
_MOST_DOTS = 1000  # in one line: tomllib needs time and memory by the square of a key's parts, 22 s for 32,000 of them
_DEEPEST = 4  # workers.NAME.environment.VARIABLE: nothing below it is merged, so nesting cannot exhaust the stack
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_AT_LINE = re.compile(r" \(at line ([0-9]+), column ([0-9]+)\)$")
_HEADER = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]")
_ASSIGNED = re.compile(r"\s*([^=#\[]+?)\s*=")
_REMEDIES = {
    errno.ENOENT: "create it, or name another with -c",
    errno.EACCES: "let the user who runs watchdogd read it",
    errno.EISDIR: "name the file in it",
    errno.ENOTDIR: "make it a directory, or remove it",
    errno.EFBIG: "name the configuration with -c, or split it into drop-ins",
}


class Problem(NamedTuple):
    """One thing wrong with the configuration. ``key`` is empty where the file as a whole is at fault."""

    file: str
    key: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        line = f"{where}: {self.message}; {self.remedy}"
        # A value quoted in a message may hold anything, such as a line end or a terminal's control sequence.
        return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", line)


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds everything found wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(slots=True)
class Tree:
    """What the files say together: tables merged key by key, a later file over an earlier one."""

    files: list[str] = field(default_factory=list)
    root: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)  # beside the drop-ins, and by its name none

    def add(self, file: str, document: dict[str, Any]) -> None:
        self.files.append(file)
        self._merge(file, document, self.root, ())

    def _merge(self, file: str, table: dict[str, Any], into: dict[str, Any], path: KeyPath) -> None:
        for name, value in table.items():
            here = (*path, name)
            if isinstance(value, dict) and len(here) < _DEEPEST:
                if not isinstance(into.get(name), dict):
                    into[name] = {}
                    self.origins[here] = file
                self._merge(file, value, into[name], here)
            else:
                into[name] = value
                self.origins[here] = file

    def file_of(self, path: KeyPath) -> str:
        """The file that says ``path``, or the table it is missing from, or the main file."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, self.files[0])


def dotted(path: KeyPath) -> str:
    """A key as TOML writes it."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part) for part in path)


def read(path: str | os.PathLike[str]) -> tuple[Tree, list[Problem]]:
    """The tree of ``path`` and its drop-ins ``<path>.d/*.toml``, in order of name, and what could not be read."""
    tree, problems = Tree(), list[Problem]()
    main = os.fspath(path)
    directory = f"{main}.d"
    try:
        names = sorted(os.listdir(directory))
        drop_ins = [os.path.join(directory, name) for name in names if name.endswith(".toml")]
        # An editor's files and those that somebody put aside (50-site.toml.off) are meant to be passed over.
        tree.passed_over = [os.path.join(directory, name) for name in names if ".toml" not in name and name[0] != "."]
    except FileNotFoundError:
        drop_ins = []
    except OSError as error:
        drop_ins = []
        problems.append(_unreadable(directory, error))
    for file in (main, *drop_ins):
        document: dict[str, Any] = {}
        try:
            document = _parse(file)
        except OSError as error:
            problems.append(_unreadable(file, error))
        except UnicodeDecodeError as error:
            problems.append(Problem(file, "", f"byte {error.start} is not UTF-8", "save the file as UTF-8"))
        except RecursionError:
            problems.append(Problem(file, "", "is nested too deeply", "remove the brackets that open too much"))
        except ConfigError as error:
            problems += error.problems
        tree.add(file, document)
    return tree, problems


def _parse(file: str) -> dict[str, Any]:
    mode = os.stat(file).st_mode
    if not stat.S_ISREG(mode):  # opening a FIFO would wait for its writer, for ever; opening a device may start it
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "it is not a file")
    with open(file, "rb", opener=at_once) as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it is longer than {_MOST_BYTES >> 10} KiB")
    text = content.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > _MOST_DOTS:
            message = f"line {number} holds more than {_MOST_DOTS} dots"
            raise ConfigError([Problem(file, "", message, "shorten the key, or break the line")])
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; so is an integer of more than 4300 digits
        raise ConfigError([_syntax_problem(file, text, str(error))]) from None
    return document


def at_once(path: str, flags: int) -> int:
    """Opens what was a file a moment ago, and /proc/kmsg, which calls itself one and waits, without waiting."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unreadable(file: str, error: OSError) -> Problem:
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "make it a plain file that can be read")
    return Problem(file, "", f"cannot be read: {reason}", remedy)


def _syntax_problem(file: str, text: str, message: str) -> Problem:
    match = _AT_LINE.search(message)
    lines = text.splitlines()
    if match:
        line, column = int(match.group(1)), int(match.group(2))
    elif message.endswith("(at end of document)"):
        line, column = len(lines), len(lines[-1]) + 1
    else:
        return Problem(file, "", message.partition(";")[0], "correct it")
    twice = "twice" in message or "overwrite" in message or "Duplicate" in message
    remedy = "give each table and key once (a drop-in may change it)" if twice else "correct the TOML there"
    what = message.rpartition(" (at ")[0]
    return Problem(file, _key_at(lines[:line]), f"line {line}, column {column}: {what}", remedy)


def _key_at(lines: list[str]) -> str:
    """The key that the last line belongs to, as far as the text shows it: what a parser's error does not tell."""
    key = ""
    for line in reversed(lines):
        header = _HEADER.match(line)
        if header:
            return f"{header.group(1)}.{key}" if key else header.group(1)
        assigned = None if key else _ASSIGNED.match(line)
        key = assigned.group(1) if assigned else key
    return key
