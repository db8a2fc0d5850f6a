"""One table of the configuration, read by the schema: what was given, given wrongly, and the defaults of the rest.

Invariant: ``get`` returns a value of the key's kind, or None where a wrong one was given, so that a check between keys
never complains about a value that was complained about already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from watchdogd.config.files import KeyPath, Problem, Tree, dotted
from watchdogd.config.schema import EVERY_WORKER, NO_DEFAULT, OF_EACH_WORKER_ALONE, Key
from watchdogd.config.values import ENVIRONMENT, Invalid, type_name


class Cell(NamedTuple):
    """A valid value and where it was given; ``path`` is where it would be where it is a default."""

    value: Any
    path: KeyPath
    given: bool


_NOTHING = Cell((), (), False)


class Problems(list[Problem]):
    """What was found so far; knows the file of each key. ``warnings``: likely mistakes that can run."""

    def __init__(self, tree: Tree, found: list[Problem]) -> None:
        super().__init__(found)
        self._tree = tree
        self._seen = set(found)
        message, remedy = "is not read: a drop-in's name ends in .toml", "rename it, or remove it"
        self.warnings = [Problem(file, "", message, remedy) for file in tree.passed_over]

    def note(self, path: KeyPath, message: str, remedy: str) -> None:
        self._add(self, path, message, remedy)

    def warn(self, path: KeyPath, message: str, remedy: str) -> None:
        self._add(self.warnings, path, message, remedy)

    def _add(self, to: list[Problem], path: KeyPath, message: str, remedy: str) -> None:
        problem = Problem(self._tree.file_of(path), dotted(path), message, remedy)
        if problem not in self._seen:  # what [defaults] says wrong, every worker inherits
            self._seen.add(problem)
            to.append(problem)


class Scope:
    """The keys of the table at ``path``; those not given there come from ``base``, then from the schema."""

    def __init__(
        self, table: object, path: KeyPath, keys: Mapping[str, Key], problems: Problems, base: Scope | None = None
    ) -> None:
        self.path, self._keys, self._problems, self._base = path, keys, problems, base
        self._cells: dict[str, Cell | None] = {}
        self._read(table, path, "")

    def get(self, name: str) -> Cell | None:
        key = self._keys[name]
        cell = self._cells.get(name, Cell(key.default, (*self.path, *name.split(".")), False))
        inherited = self._base.get(name) if self._base is not None and name in self._base._keys else _NOTHING
        if cell is None or inherited is None:
            return None
        if key.kind is ENVIRONMENT:
            both = dict(inherited.value) | dict(cell.value)
            return Cell(tuple(both.items()), cell.path, cell.given or inherited.given)
        return inherited if inherited.given and not cell.given else cell

    def fields(self, prefix: str = "") -> dict[str, Any]:
        """The values as fields of the settings' dataclass; those of a table within, where ``prefix`` names it."""
        found: dict[str, Any] = {}
        for name, key in self._keys.items():
            last = name.removeprefix(prefix)
            cell = self.get(name)
            if name.startswith(prefix) and "." not in last and cell is not None and cell.value is not NO_DEFAULT:
                found[last + key.kind.suffix] = cell.value
        return found

    def _read(self, table: object, path: KeyPath, prefix: str) -> None:
        if not isinstance(table, dict):
            self._problems.note(path, f"is {type_name(table)}, not a table", f"write it as [{dotted(path)}]")
            self._cells.update({name: None for name in self._keys if name.startswith(prefix)})
            return
        for last, value in table.items():
            name, here = prefix + last, (*path, last)
            if any(key.startswith(name + ".") for key in self._keys):
                self._read(value, here, name + ".")
            elif name in self._keys and "." not in last:
                self._cells[name] = self._value(self._keys[name], value, here)
            else:
                self._unknown(last, here, prefix)

    def _value(self, key: Key, value: object, path: KeyPath) -> Cell | None:
        try:
            return Cell(key.kind.read(value), path, True)
        except Invalid as error:
            for each in (error, *error.more):
                self._problems.note(path if each.subkey is None else (*path, each.subkey), each.message, each.remedy)
            return None

    def _unknown(self, last: str, path: KeyPath, prefix: str) -> None:
        if path == (EVERY_WORKER, OF_EACH_WORKER_ALONE):
            self._problems.note(path, "cannot be a default", "write it in each [workers.NAME]")
            return
        known = {key.removeprefix(prefix).partition(".")[0] for key in self._keys if key.startswith(prefix)}
        self._problems.note(path, "is not a key of this table", suggestion(last, known))


def suggestion(word: str, known: set[str]) -> str:
    """What to write instead of an unknown word."""
    import difflib  # noqa: PLC0415 - 0.4 MiB that a right configuration never needs

    close = difflib.get_close_matches(word, sorted(known), n=1)
    return (
        f'did you mean "{close[0]}"?' if close else f"remove it, or write one of: {', '.join(sorted(known)) or 'none'}"
    )
