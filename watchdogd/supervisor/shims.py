"""Driver shims under the supervisor: what starts said of them, and whether anybody uses CUDA past one.

Invariant: it costs the supervisor one fork in five seconds for all workers together, and only where there is a shim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from watchdogd import abi, abi_driver
from watchdogd.act import birth
from watchdogd.act.glance import Glance
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.decide.orders import ALIVE
from watchdogd.model import Phase
from watchdogd.observe import laneless, procfs

_LOADED = abi_driver.OFFSET + abi_driver.HEADER.index("loaded_ns") * abi.WORD


class ShimLooks:
    def __init__(self, watched: Sequence[Watched], runtime: Runtime) -> None:
        self._watched = watched
        self._runtime = runtime
        self._glance: Glance | None = None
        self._asked: dict[str, tuple[Watched, int]] = {}  # with its incarnation

    def look(self, now_ns: int) -> None:
        shimmed = [w for w in self._watched if w.shimmed.is_wanted and w.process is not None]
        for watched in shimmed:
            self._notice(watched)
        if self._glance is not None:
            self._take(self._glance, now_ns)
        if self._glance is None:
            self._begin([w for w in shimmed if _is_looked_at(w) and now_ns >= w.shimmed.next_ns], now_ns)

    def _notice(self, watched: Watched) -> None:
        shim = watched.shimmed
        if shim.told is None:
            born = birth.read(self._runtime.birth(watched.settings.name, watched.state.incarnation))
            if born is not None and born.shim is not None:
                shim.told = born.shim
                watched.changed()
        if not shim.is_loaded and watched.reader is not None and watched.reader.word(_LOADED):
            shim.is_loaded = True
            watched.changed()

    def _begin(self, due: Sequence[Watched], now_ns: int) -> None:
        asked = {}
        namespace = procfs.pid_namespace()
        for watched in due:
            told, process, stamped = watched.shimmed.told, watched.process, watched.stamped(namespace)
            if told is not None and told.folder is not None and process is not None and stamped is not None:
                watched.shimmed.asked(now_ns)
                asked[watched.settings.name] = laneless.Asked(process.pid, told.folder, stamped)
        if not asked:
            return
        self._asked = {w.settings.name: (w, w.state.incarnation) for w in due if w.settings.name in asked}
        try:
            self._glance = Glance(lambda: laneless.look(asked), now_ns)
        except OSError:  # no process to be had: looked at again when they are due
            return

    def _take(self, glance: Glance, now_ns: int) -> None:
        over, found = glance.result(now_ns)
        if over:
            self._glance = None
            self._learn(found or {}, now_ns)

    def _learn(self, found: Mapping[str, list[dict[str, Any]]], now_ns: int) -> None:
        for name, (watched, incarnation) in self._asked.items():
            known = name in found and watched.state.incarnation == incarnation and _is_looked_at(watched)
            if known and watched.shimmed.take(found[name], now_ns):
                watched.changed()

    def close(self) -> None:
        if self._glance is not None:
            self._glance.abandon()
            self._glance = None


def _is_looked_at(watched: Watched) -> bool:
    return watched.state.phase in ALIVE and watched.state.phase is not Phase.PAUSED
