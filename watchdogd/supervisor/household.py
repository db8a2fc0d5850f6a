"""The supervisor's own children at work: the recorder, the keeper of incidents, the exporter, the readers of loads and
of the kernel log.

Invariant: none of them gates the tick; what one of them is missing is told in the snapshot.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from watchdogd.act import launching
from watchdogd.act.children import Child, start_due
from watchdogd.act.fleet import Fleet
from watchdogd.act.runtime import Runtime
from watchdogd.act.watched import Watched
from watchdogd.model import Settings, SourceSettings
from watchdogd.observe import procfs
from watchdogd.observe.loop import Loop
from watchdogd.publish import journald
from watchdogd.publish.events import EventKind
from watchdogd.publish.journal import Journal
from watchdogd.supervisor.blocked import Blocked
from watchdogd.supervisor.growth import GrowthLooks
from watchdogd.supervisor.loads import Loads, Source
from watchdogd.supervisor.progress import readers
from watchdogd.supervisor.shims import ShimLooks

if TYPE_CHECKING:
    from watchdogd.supervisor.incidents import Incidents
    from watchdogd.supervisor.kernel_log import KernelLog

UNBOUNDED = 1 << 62  # bytes: a file that somebody named is not rotated
END_SECONDS = 2.0  # for the recorder to write what it has, at the very end


class Household:
    def __init__(
        self, settings: Settings, runtime: Runtime, loop: Loop, journal: Journal, fleet: Fleet,
        watched: Sequence[Watched], identities: launching.Identities, incidents: Incidents,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._journal = journal
        self._fleet = fleet
        self.loads = Loads()
        self.sources = [_source(source) for source in settings.sources if source.command]
        self._recorder = _recorder(settings, runtime)
        self._progress = {reader.child: reader for reader in readers(watched, identities)}
        self._incidents = incidents
        self._keeper = _keeper(settings, runtime) if settings.incidents.max_count else None
        incidents.around = self._around
        self._lasting = [child for child in (self._recorder, self._keeper) if child is not None]
        self._children = [*self._lasting, *(source.child for source in self.sources), *self._progress]
        self.kernel_log = _kernel_log(settings, watched, journal) if settings.kmsg.command else None
        if self.kernel_log is not None:
            self._children.append(self.kernel_log.child)
        self.blocked = Blocked(watched, journal, lambda: self.loads.haunted)
        self._growth = GrowthLooks(watched, journal, fleet)
        self._shims = ShimLooks(watched, runtime)
        if settings.metrics.listen:
            self._children.append(_exporter(settings, runtime))
        self._report = ""
        self.recorded: dict[str, Any] = {}  # what the recorder told last
        self._suppressed = 0  # as published
        self.dirty = True  # something here is not published yet

    def next_ns(self) -> list[int]:
        """When a child is to be started again."""
        return [child.next_start_ns for child in self._children if child.next_start_ns is not None]

    def pids(self) -> set[int]:
        return {child.process.pid for child in self._children if child.process is not None}

    def start_due(self, now_ns: int) -> None:
        start_due(self._children, now_ns, self._started)

    def watch(self, now_ns: int) -> None:
        """Which sources are fresh, which load is frozen."""
        for source in self.sources:
            if source.watch(now_ns):
                self.dirty = True
                reason = source.child.note or ("samples arrive" if source.up else "silent")
                self._told(source.settings.name, source.up, reason, now_ns)
        self.dirty = self.loads.watch(self.sources, now_ns) or self.dirty
        log = self.kernel_log
        if log is not None and log.watch(now_ns):
            self.dirty = True
            if log.up or log.is_silent:  # that it is down is else told when it ends
                self._told(log.child.name, log.up, "reads" if log.up else "its reader hangs", now_ns)
        for reader in self._progress.values():
            up = reader.watch(now_ns)
            if up is not None:
                reason = "tells" if up else reader.watched.progressing.silent
                self._told(reader.child.name, up, reason, now_ns)
        self.dirty = self.blocked.look(now_ns) or self.dirty
        self._growth.look(now_ns)
        self._shims.look(now_ns)
        suppressed = self._journal.suppressed
        self.dirty = self.dirty or suppressed != self._suppressed
        self._suppressed = suppressed
        self._incidents.keeping.flush()
        if self._keeper is not None and self._incidents.keeping.stands_still(now_ns):
            self._keeper.kill()  # the next one writes what it left
        self._journal.tell_suppressed(now_ns)
        self._journal.flush()

    def describe_sources(self) -> list[dict[str, Any]]:
        told = [source.describe() for source in self.sources]
        return told if self.kernel_log is None else [*told, self.kernel_log.describe()]

    def describe_accelerators(self, configured: list[str], blocked: dict[str, str]) -> list[dict[str, Any]]:
        """With what the kernel said of each last."""
        log = self.kernel_log
        told = self.loads.describe(configured, blocked)
        return [{**item, "kernel": None if log is None else log.of_accelerator(item["name"])} for item in told]

    def _around(self) -> dict[str, Any]:
        """What an incident has of the machine beside its workers."""
        sources = [
            {name: told[name] for name in ("name", "up", "sample_ns", "note")}
            for told in self.describe_sources()
        ]  # fmt: skip
        return {"loads": self.loads.history(), "sources": sources}

    def _started(self, child: Child) -> None:
        if child.stdout is not None:
            self._loop.listen(child.stdout, lambda now_ns: self._output(child, now_ns))
        if child.process is not None:
            self._loop.listen(child.process.pidfd, lambda now_ns: self._ended(child, now_ns))
        if child is self._recorder:
            self._journal.attach(child.stdin)
        if child is self._keeper:
            self._incidents.keeping.attach(child.stdin)
        for source in self.sources:
            if source.child is child:
                source.started(time.monotonic_ns())
        if child in self._progress:
            self._progress[child].started(time.monotonic_ns())
        log = self._log_of(child)
        if log is not None:
            log.started(time.monotonic_ns())

    def _log_of(self, child: Child) -> KernelLog | None:
        return self.kernel_log if self.kernel_log is not None and child is self.kernel_log.child else None

    def _output(self, child: Child, now_ns: int) -> None:
        descriptor = child.stdout
        data = child.read()
        if child.stdout is None:
            self._loop.forget(descriptor)
        if child is self._recorder:
            self._take_report(data)
        if child is self._keeper:
            self._incidents.keeping.feed(data)
        if child in self._progress:
            self._progress[child].feed(data, now_ns)
        log = self._log_of(child)
        if log is not None:
            self.dirty = log.feed(data, now_ns) or self.dirty
        for source in self.sources:
            if source.child is child:
                samples = source.feed(data, now_ns)
                if source.device_memory is not None:
                    self._growth.device(source.device_memory, now_ns)
                for sample in samples:
                    pending, completed, vacant = self._fleet.activity(sample.accelerator)
                    self.loads.add(source, sample, pending, completed, now_ns, vacant)
                    self.dirty = True

    def _take_report(self, data: bytes) -> None:
        *reports, self._report = (self._report + data.decode("utf-8", "replace")).split("\n")
        for report in reports:
            with contextlib.suppress(ValueError):  # the torn line of a recorder that died
                told = json.loads(report)
                self.dirty = self.dirty or told != self.recorded
                self.recorded = told

    def _ended(self, child: Child, now_ns: int) -> None:
        if child.process is None or child.process.exit_status() is None:
            return
        self._loop.forget(child.process.pidfd)
        self._loop.forget(child.stdout)
        log = self._log_of(child)
        if log is not None:
            log.feed(child.read(), now_ns)  # its last words say why
        status = child.check(now_ns)
        if log is not None:
            log.ended(status)
        if child is self._recorder:
            self._journal.attach(None)
        if child is self._keeper:
            self._incidents.keeping.lost()
        self.dirty = True
        self._told(child.name, False, child.note or str(status), now_ns)

    def _told(self, name: str, up: bool, reason: str, now_ns: int) -> None:
        self._journal.emit_limited(EventKind.SOURCE, now_ns, worker=None, source=name, up=up, reason=reason)

    def let_go(self) -> None:
        """Before this process executes itself: who would not end by the end of a pipe is killed, nobody waited for."""
        self._journal.flush()
        self.blocked.close()
        self._growth.close()
        self._shims.close()
        for child in self._children:
            if child not in self._lasting:
                child.kill()

    def close(self) -> None:
        """End them all; the recorder and the keeper last, by the end of their input, once they have the last event."""
        deadline = time.monotonic() + END_SECONDS
        self.blocked.close()
        self._growth.close()
        self._shims.close()
        for child in self._children:
            if child not in self._lasting:
                child.kill()
        if self._keeper is not None:
            self._incidents.keeping.flush()
            self._keeper.close_stdin()
            self._incidents.keeping.lost()
        poller = select.poll()
        if self._recorder.stdin is not None:
            poller.register(self._recorder.stdin, select.POLLOUT)
            while self._journal.backlog and (rest := deadline - time.monotonic()) > 0:
                poller.poll(rest * 1000)
                self._journal.flush()
            poller.unregister(self._recorder.stdin)
            self._journal.attach(None)
            self._recorder.close_stdin()
        for child in self._children:
            if child.process is not None:
                poller.register(child.process.pidfd, select.POLLIN)
                poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
                poller.unregister(child.process.pidfd)
            child.forget()


def _source(settings: SourceSettings) -> Source:
    return Source(settings, Child(settings.name, settings.command, os.environ, stdin=False, stdout=True))


def _kernel_log(settings: Settings, watched: Sequence[Watched], journal: Journal) -> KernelLog:
    from watchdogd.supervisor.kernel_log import KernelLog  # noqa: PLC0415 - 15 ms, only where one is configured

    return KernelLog(settings.kmsg, watched, journal, procfs.pid_namespace())


def _recorder(settings: Settings, runtime: Runtime) -> Child:
    logs = {
        launching.log_path(worker, runtime.logs): worker.output_max_bytes
        for worker in settings.workers
        if worker.output == "file"
    }
    command = (
        sys.executable, "-m", "watchdogd.publish.recorder", "--file", runtime.events, "--keep", "4",
        "--max-bytes", str(UNBOUNDED if settings.supervisor.events_file else settings.supervisor.events_max_bytes),
        "--bounds", json.dumps(logs),
        "--echo", journald.resolve(settings.supervisor.log_format, os.environ),
    )  # fmt: skip
    # Not killed with us: it ends by the end of its input, so that it writes what a dying supervisor said last.
    return Child("recorder", command, os.environ, stdin=True, stdout=True, die_with_parent=False)


def _keeper(settings: Settings, runtime: Runtime) -> Child:
    rules = settings.incidents
    told = {
        "spools": runtime.incidents,
        "root": rules.directory or f"{runtime.state_directory}/incidents",
        "record": runtime.events,
        "max_bytes": rules.max_bytes,
        "max_count": rules.max_count,
        "redact": rules.redact,
        "is_shared": rules.directory is not None,
    }
    command = (
        sys.executable, "-m", "watchdogd.incidents.keeper", "--places", json.dumps(told),
        "--hook", json.dumps(rules.export_hook), "--hook-deadline", str(rules.export_hook_deadline_ns),
    )  # fmt: skip
    # Not killed with us: what a dying supervisor told last is what somebody wants to read.
    environment = {name: value for name, value in os.environ.items() if name not in launching.NOT_FOR_WORKERS}
    return Child("keeper", command, environment, stdin=True, stdout=True, die_with_parent=False)


def _exporter(settings: Settings, runtime: Runtime) -> Child:
    command = (sys.executable, "-m", "watchdogd.exporter", "--runtime-dir", runtime.directory)
    return Child("exporter", (*command, "--listen", settings.metrics.listen), os.environ, stdin=True, stdout=False)
