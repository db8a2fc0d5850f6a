"""The keeper of incidents, a child of the supervisor: has evidence taken, and what there is of incidents written.

It only listens, answers and forks: whatever may block (a disk, a tool, a program of the integrator) is a job. Lines of
JSON come from standard input, by ``op``:

========  =============================================================================================================
known     the first: ``ids`` that the supervisor had opened ``before_ns`` (of ``boot_id``); all else that is left
          unfinished is that of supervisors that are gone
open      ``id``, ``target``: its spool is there; of whom collectors may take evidence, or null
collect   ``id``, ``until_ns``: what harms nobody, now
dump      ``id``, ``until_ns``: what makes the hung call return, now
event     ``id``, ``line``: an event of the record
capture   ``id``, ``when``: a further spool is there
close     ``id``, ``outcome``
here      whether it does not stand still
========  =============================================================================================================

and go to standard output: ``{"collected": ID, "stage", "outcomes"}``, ``{"finished": ID}``,
``{"tools": {NAME: remedy or null}}``, ``{"kept", "bytes", "error", "last"}``, ``{"exported": ID, "outcome", "detail",
"seconds"}``, ``{"here": true}``.

Invariant: it waits for no job. It ends by the end of its input, once what it was told is written, or 10 s later.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from watchdogd.incidents import collecting, collectors, hooks, quota, writing
from watchdogd.incidents.cases import AFTERWARDS, Case
from watchdogd.incidents.collectors import DumpTarget, Target
from watchdogd.incidents.jobs import Ended, Jobs
from watchdogd.incidents.recording import Recording
from watchdogd.incidents.writing import Places
from watchdogd.model import MILLISECOND, SECOND

END_NS = 10 * SECOND  # from the end of its input to its own
WRITE_NS = 10 * SECOND  # a disk that takes longer is asked again later
FINISH_NS = 120 * SECOND
RETRY_NS = 5 * SECOND
# Verdict to the first writing: the kill and the start of the successor have the CPUs first. Written at once, it
# had cost them 7 ms on two cores; what there is so far is on tmpfs.
FIRST_NS = 150 * MILLISECOND
TOOLS_EVERY_NS = 600 * SECOND
TOOLS_NS = 5 * SECOND
MOST_WRITING = 2  # at a time
LOCK_NS = 15 * SECOND  # for the keeper before this one to end
LOCK_EVERY_NS = 50 * MILLISECOND
NICE = 5


class Keeper:
    def __init__(self, places: Places, hook: hooks.Hook, say: Callable[[dict[str, Any]], None]) -> None:
        self._places = places
        self._hook = hook
        self._say = say
        self.jobs = Jobs()
        self._recording = Recording(self.jobs, places.runtime_dir, places.state_dir, time.monotonic_ns())
        self._cases: dict[str, Case] = {}
        self._missing: dict[str, str | None] = {}
        self._tools_ns = 0
        self._writing = 0
        self._unfinished: tuple[list[str], int, str] | None = None  # as ``known`` told, until that is begun
        self._lock = os.open(f"{places.spools}/keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_ns = time.monotonic_ns()
        self._is_alone = False
        self._ends_ns: int | None = None
        self._told: dict[str, Any] = {}

    # --- its loop ---

    def look(self) -> int:
        """Do what is due; when there is something to do again."""
        self.jobs.look()
        now_ns = time.monotonic_ns()
        self._take_lock(now_ns)
        if now_ns >= self._tools_ns and self._ends_ns is None:
            self._tools_ns = now_ns + TOOLS_EVERY_NS
            self.jobs.start(lambda: ({"tools": collectors.tools()}, None), now_ns + TOOLS_NS, self._looked)
        self._recording.look(now_ns)
        if self._is_alone:
            self._finish(now_ns)
            self._write_due(now_ns)
        return min(self._instants(now_ns))

    def _instants(self, now_ns: int) -> list[int]:
        instants = [self._tools_ns if self._ends_ns is None else self._ends_ns, self._recording.next_ns]
        job_ns = self.jobs.next_ns()
        if job_ns is not None:
            instants.append(job_ns)
        if not self._is_alone:
            return [*instants, now_ns + LOCK_EVERY_NS]
        if self._writing < MOST_WRITING:
            instants += [
                case.due_ns for case in self._cases.values() if case.due_ns is not None and not case.is_writing
            ]
        return instants

    def _take_lock(self, now_ns: int) -> None:
        """One keeper writes at a time: that of the image before this one may still have to end."""
        if self._is_alone:
            return
        with suppress(BlockingIOError):
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._is_alone = True
        self._is_alone = self._is_alone or now_ns - self._lock_ns > LOCK_NS

    def end(self) -> None:
        """No more is told."""
        now_ns = time.monotonic_ns()
        self._ends_ns = now_ns + END_NS
        for case in self._cases.values():
            case.end(now_ns, cuts_short=self._places.is_shared)
        self._recording.end()

    def has_ended(self) -> bool:
        if self._ends_ns is None:
            return False
        is_due = any(case.due_ns is not None for case in self._cases.values())
        return not (self._unfinished or self.jobs.are_running or is_due) or time.monotonic_ns() >= self._ends_ns

    # --- told ---

    def take(self, told: dict[str, Any]) -> None:
        """One line. Raises KeyError, TypeError, ValueError: it is none."""
        op, now_ns = told["op"], time.monotonic_ns()
        if op == "known":
            self._cases |= {str(name): Case(str(name), from_record=True) for name in told["ids"]}
            self._unfinished = (list(self._cases), int(told["before_ns"]), str(told["boot_id"]))
            return
        if op == "here":
            self._say({"here": True})
            return
        name = str(told["id"])
        if op == "open":
            self._cases[name] = Case(name, due_ns=now_ns + FIRST_NS)
            self._cases[name].target = self._target(name, told["target"])
        case = self._cases.get(name)
        if case is None:
            return
        if op == "collect":
            self._gather(case, "harmless", int(told["until_ns"]))
        elif op == "dump":
            self._gather(case, "dump", int(told["until_ns"]))
        elif op == "event":
            case.add_event(told["line"], now_ns)
        elif op == "capture":
            case.add_capture(now_ns)
        elif op == "close":
            case.close(str(told["outcome"]), now_ns)
        if case.is_gone and case.target is not None:
            self._gather(case, AFTERWARDS, now_ns + FINISH_NS)

    # --- collecting ---

    def _target(self, incident: str, told: dict[str, Any] | None) -> Target | None:
        if told is None:
            return None
        return Target(
            str(told["worker"]), tuple(map(int, told["pids"])), self._places.files(incident), int(told["incarnation"]),
            str(told["heartbeat"]), told["since_ns"], accelerator=told["accelerator"],
            dump=None if told["dump"] is None else DumpTarget(str(told["dump"])),
        )  # fmt: skip

    def _gather(self, case: Case, stage: str, until_ns: int) -> None:
        if case.target is None or stage in case.stages:
            return
        case.stages.add(stage)
        case.drop_gathering()
        wanted = [each for each in collectors.ALL if _stage_of(each) == stage]
        target = case.target._replace(killed_ns=case.killed_ns)
        case.gathering = collecting.Gathering(
            self.jobs, target, until_ns - collecting.MARGIN_NS, self._missing,
            lambda: self._gathered(case, stage),
        )  # fmt: skip
        case.gathering.begin(wanted)

    def _gathered(self, case: Case, stage: str) -> None:
        outcomes = case.take_gathered(time.monotonic_ns())
        if stage != AFTERWARDS:
            self._say({"collected": case.id, "stage": stage, "outcomes": collecting.for_record(outcomes)})

    def _looked(self, ended: Ended) -> None:
        if ended.result is not None:
            self._missing = dict(ended.result.told["tools"])
        self._say({"tools": self._missing})

    # --- writing ---

    def _finish(self, now_ns: int) -> None:
        if self._unfinished is None:
            return
        (but, before_ns, boot_id), self._unfinished = self._unfinished, None
        places = self._places
        self.jobs.start(
            lambda: writing.finish(places, but, before_ns, boot_id), now_ns + FINISH_NS,
            lambda ended: self._tell_kept("", ended),
        )  # fmt: skip

    def _write_due(self, now_ns: int) -> None:
        for case in self._cases.values():
            is_due = case.due_ns is not None and now_ns >= case.due_ns and not case.is_writing
            if is_due and self._writing < MOST_WRITING:
                self._write(case, now_ns)

    def _write(self, case: Case, now_ns: int) -> None:
        known, places = case.known(now_ns), self._places
        case.is_writing = True
        self._writing += 1

        def written(ended: Ended) -> None:
            case.is_writing = False
            self._writing -= 1
            told = self._tell_kept(case.id, ended)
            if "error" in told and self._ends_ns is None:
                case.due_ns = time.monotonic_ns() + RETRY_NS
            elif known.state in quota.ENDED or "hopeless" in told:
                self._over(case, known.state == "closed" and "error" not in told)

        self.jobs.start(lambda: writing.attempt(places, known), now_ns + WRITE_NS, written)

    def _over(self, case: Case, is_exported: bool) -> None:
        self._cases.pop(case.id, None)
        self._say({"finished": case.id})
        if is_exported:
            hooks.start(self.jobs, self._hook, self._places.root, case.id, self._say)

    def _tell_kept(self, incident: str, ended: Ended) -> dict[str, Any]:
        """What was written, and what kept it from that."""
        told = {} if ended.result is None else dict(ended.result.told)
        if ended.result is None:
            told["error"] = f"{self._places.root}: writing {ended.outcome} {ended.detail}".strip()
        said = {"error": told.get("error") or told.get("hopeless") or told.get("over")}
        said |= {key: told[key] for key in ("kept", "bytes") if key in told}
        if incident and not told.keys() & {"error", "hopeless"}:
            said["last"] = incident
        if said.items() - self._told.items():
            self._told |= said
            self._say(said)
        return told


def _stage_of(collector: collectors.Collector) -> str:
    return AFTERWARDS if collector.afterwards else "dump" if collector.destructive else "harmless"


def run(keeper: Keeper) -> None:
    """Until its input has ended, and what it was told is written."""
    rest, is_open = b"", True
    while True:
        wake_ns = keeper.look()
        if keeper.has_ended():
            return
        poller = select.poll()
        for descriptor in (*((0,) if is_open else ()), *keeper.jobs.descriptors()):
            poller.register(descriptor, select.POLLIN)
        wait_ms = max(0, -(-(wake_ns - time.monotonic_ns()) // MILLISECOND))
        if any(descriptor == 0 for descriptor, _ in poller.poll(wait_ms)):
            data = os.read(0, 1 << 16)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                with suppress(KeyError, TypeError, ValueError):  # the torn line of a supervisor that died
                    keeper.take(json.loads(line))
            if not data:
                is_open = False
                keeper.end()


def say(line: dict[str, Any]) -> None:
    """To the supervisor, if it listens; what it does not take now it is not waited for to take."""
    with suppress(BrokenPipeError, BlockingIOError):
        os.write(1, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def main(arguments: list[str]) -> int:
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    os.nice(NICE)
    os.set_blocking(1, False)
    told = json.loads(options["--places"])
    places = Places(**{**told, "redact": tuple(told["redact"])})
    hook = hooks.Hook(tuple(json.loads(options["--hook"])), int(options["--hook-deadline"]))
    gc.freeze()  # what every job is forked with
    run(Keeper(places, hook, say))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
