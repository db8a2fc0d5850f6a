"""What a check is, what it finds, and what it may look at.

Invariant: an outcome that is not ``ok`` says what is lost and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from watchdogd.model import Settings


class State(str, Enum):
    OK = "ok"
    DEGRADED = "degraded"  # there, and not all of it works
    MISSING = "missing"
    UNKNOWN = "unknown"  # it did not answer, or could not be looked at


@dataclass(frozen=True, slots=True)
class Outcome:
    state: State
    found: str
    lost: str = ""
    remedy: str = ""


def ok(found: str) -> Outcome:
    return Outcome(State.OK, found)


def degraded(found: str, *, lost: str, remedy: str) -> Outcome:
    return Outcome(State.DEGRADED, found, lost, remedy)


def missing(found: str, *, lost: str, remedy: str) -> Outcome:
    return Outcome(State.MISSING, found, lost, remedy)


def unknown(found: str, *, lost: str, remedy: str) -> Outcome:
    return Outcome(State.UNKNOWN, found, lost, remedy)


@dataclass(frozen=True, slots=True)
class Machine:
    """``root`` is where the machine's file tree begins; ``settings``: of a configuration, None without one."""

    environ: Mapping[str, str]
    settings: Settings | None = None
    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """A small file's text, stripped; None if there is none, or it may not be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
        except OSError:
            return None

    def on_dla(self) -> Sequence[str]:
        """Accelerators of the configuration: ``dla0`` ..."""
        return self._accelerators("dla")

    def on_gpu(self) -> Sequence[str]:
        return self._accelerators("gpu")

    def _accelerators(self, kind: str) -> Sequence[str]:
        workers = self.settings.workers if self.settings else ()
        return sorted({w.accelerator for w in workers if w.accelerator and w.accelerator.startswith(kind)})


Needed = Callable[[Settings], Sequence[str]]


def nobody(_settings: Settings) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Check:
    name: str  # for programs; never changes
    group: str
    title: str
    look: Callable[[Machine], Outcome]
    needed: Needed = nobody  # by which workers or tables of the configuration
    seconds: float = 1.0  # then it is given up
    silence: tuple[str, str] = ("what it checks is not known", "run `watchdogd doctor` again on a machine less busy")
    # what is lost, and what to do, where it does not answer in time
