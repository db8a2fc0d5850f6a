"""``python -m tests.demo [--gpu]``: three workers, one is hung, everything that must follow is observed and printed.
``--story NAME``: a report from the field instead, unguarded and guarded, told by a module of its own.

Runs a real ``watchdogd run`` and only looks at what any operator can see: the event record, ``status``, and two
counters per worker. Invariant: exits 0 only if every line of the report was really observed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.demo import frames, story
from tests.demo.story import MILLISECOND, ROOT, NotObserved
from tests.simulator.control import SimulatedDevice
from watchdogd.publish import events
from watchdogd.view import status, status_json, status_table

STORIES = {
    "dla-deadlock": "tests.demo.dla_deadlock",
    "lost-context": "tests.demo.lost_context",
    "allocator": "tests.demo.allocator",
    "zero-output": "tests.demo.zero_output",
}
WORKERS = ("detector", "segmenter", "lane_dla")
VICTIM = "lane_dla"


class Demo:
    def __init__(self, directory: Path, gpu: bool) -> None:
        self.directory = directory
        self.gpu = gpu
        self.device = None if gpu else SimulatedDevice(directory / "device")
        self.hang_file = directory / "hang"
        self.events_file = directory / "state/events.jsonl"
        self.runtime = directory / "run"
        self.config = self._configure()
        self.supervisor: subprocess.Popen[bytes] | None = None

    def _configure(self) -> Path:
        """config/demo.toml, with what only this run knows in a drop-in."""
        config = self.directory / "demo.toml"
        shutil.copy(ROOT / "config/demo.toml", config)
        lines = ["[supervisor]", f'runtime_dir = "{self.runtime}"', f'state_dir = "{self.directory}/state"']
        if self.device is not None:
            command = [sys.executable, str(ROOT / "tests/simulator/tegrastats.py"), "--interval", "200"]
            command += ["--state", str(self.device.path), "--board", "orin-r36"]
            lines += ["[tegrastats]", f"command = {json.dumps(command)}", "[nvml]", "enabled = false"]
        for name in WORKERS:
            frames_file = self.directory / f"{name}.frames"
            frames.make(frames_file)
            hang_file = self.hang_file if name == VICTIM else self.directory / "never"
            command = [sys.executable, "-m", "tests.demo.worker", str(frames_file), str(hang_file)]
            environment = {} if self.device is None else self.device.environment(name)
            lines += [f"[workers.{name}]", f"command = {json.dumps(command)}", f'working_directory = "{ROOT}"']
            if self.gpu:
                lines.append('accelerator = "gpu0"')
            lines.append("environment = { " + ", ".join(f'"{k}" = "{v}"' for k, v in environment.items()) + " }")
        drop_in = self.directory / "demo.toml.d/this-run.toml"
        drop_in.parent.mkdir()
        drop_in.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return config

    def start(self) -> None:
        log = (self.directory / "supervisor.log").open("wb")
        self.supervisor = subprocess.Popen(
            [sys.executable, "-m", "watchdogd", "run", "-c", str(self.config)], cwd=ROOT, stdout=log, stderr=log
        )

    def stop(self) -> int:
        if self.supervisor is None:
            return 0
        self.supervisor.send_signal(signal.SIGTERM)
        try:
            return self.supervisor.wait(20)
        except subprocess.TimeoutExpired:
            self.supervisor.kill()
            self.supervisor.wait(5)
            return 1

    def hang(self) -> None:
        if self.device is None:
            self.hang_file.touch()
        else:
            self.device.fault("hang", label=VICTIM, scope="process", spread_ms=2)

    def frames(self, name: str) -> tuple[int, int]:
        """Frames done and frames missed so far."""
        count = frames.Count(self.directory / f"{name}.frames")
        return count.done, count.lost

    def table(self) -> str:
        view = status.collect(str(self.runtime), time.monotonic_ns())
        return status_table.table(view, shutil.get_terminal_size((110, 30)).columns, colour=sys.stdout.isatty())

    def recorded(self, kind: str, incarnation: int) -> dict[str, Any] | None:
        found = (
            event
            for event in events.read_file(str(self.events_file))
            if (event["kind"], event["worker"], event["incarnation"]) == (kind, VICTIM, incarnation)
        )
        return next(found, None)

    def until(self, what: str, seconds: float, look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.supervisor is not None and self.supervisor.poll() is not None:
                raise NotObserved(f"the supervisor ended: {self.log_tail()}")
            found = look()
            if found:
                return found
            if self.quarantined():
                raise NotObserved(f"a worker cannot run\n{self.log_tail()}")
            time.sleep(0.02)
        raise NotObserved(f"{what} was not observed within {seconds:g} s\n{self.log_tail()}")

    def quarantined(self) -> bool:
        return any(event.get("phase") == "quarantined" for event in events.read_file(str(self.events_file)))

    def log_tail(self) -> str:
        logs = [self.directory / "supervisor.log", *sorted((self.directory / "state/log").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs if log.exists())


def show(demo: Demo, title: str, seconds: float) -> None:
    """A live table on a terminal, one picture elsewhere."""
    deadline = time.monotonic() + seconds
    while sys.stdout.isatty() and time.monotonic() < deadline:
        print(f"\033[H\033[2J{title}\n\n{demo.table()}", flush=True)
        time.sleep(0.2)
    if not sys.stdout.isatty():
        time.sleep(seconds)
        print(f"{title}\n\n{demo.table()}\n", flush=True)


def run(demo: Demo) -> list[str]:
    """The story. Returns the report's lines. Raises NotObserved."""
    demo.start()
    demo.until("50 frames of each worker", 60, lambda: all(demo.frames(name)[0] >= 50 for name in WORKERS))
    show(demo, "Three workers run, each in its own process and CUDA context:", 2.5)
    before = {name: demo.frames(name) for name in WORKERS}
    pids = {name: worker_pid(demo, name) for name in WORKERS}
    demo.hang()
    verdict = demo.until("a verdict", 20, lambda: demo.recorded("verdict", 1))
    demo.hang_file.unlink(missing_ok=True)
    killed = demo.until("the signal", 10, lambda: demo.recorded("signal", 1))
    gone = demo.until("the end of the hung process", 10, lambda: demo.recorded("gone", 1))
    ready = demo.until("a successor that is ready", 60, lambda: demo.recorded("ready", 2))
    demo.until("frames of the successor", 20, lambda: demo.frames(VICTIM)[0] > before[VICTIM][0] + 25)
    after = {name: demo.frames(name) for name in WORKERS}
    show(demo, f"{VICTIM} was hung, found, killed and replaced:", 1.5)
    if verdict["verdict"] != "call" or verdict["operation"] != "sync":
        raise NotObserved(f"the verdict names {verdict['verdict']} {verdict['operation']}, not the hung synchronize")
    if Path(f"/proc/{pids[VICTIM]}").exists():
        raise NotObserved(f"pid {pids[VICTIM]} of the hung worker is still there")
    others = [name for name in WORKERS if name != VICTIM]
    for name in others:
        if worker_pid(demo, name) != pids[name] or after[name][0] <= before[name][0]:
            raise NotObserved(f"{name} did not go on undisturbed")
    shown = story.shown(demo.config, verdict["incident"])
    return [*report(verdict, killed, gone, ready, others, before, after), story.HEADING, *shown]


def worker_pid(demo: Demo, name: str) -> int:
    view = status_json.to_json(status.collect(str(demo.runtime), time.monotonic_ns()))
    return next(int(worker["pid"] or 0) for worker in view["workers"] if worker["name"] == name)


def report(
    verdict: dict[str, Any], killed: dict[str, Any], gone: dict[str, Any], ready: dict[str, Any], others: list[str],
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]],
) -> list[str]:  # fmt: skip
    entered = verdict["entered_ns"]

    def line(what: str, instant: int, note: str) -> str:
        return f"  {what:<28}{(instant - entered) / MILLISECOND:>10.2f} ms   {note}"

    lines = [
        f"What happened to {VICTIM} ({verdict['operation']}, thread {verdict['tid']}, incident {verdict['incident']}):",
        line("call entered", entered, ""),
        line("its deadline passed", verdict["deadline_ns"], ""),
        line("detected", verdict["detected_ns"], since("the deadline", verdict["deadline_ns"], verdict["detected_ns"])),
        line("others could know", verdict["published_ns"], "snapshot published"),
        line("killed", killed["monotonic_ns"], f"{killed['signal']} to pid {killed['pid']}"),
        line("gone", gone["monotonic_ns"], gone["exit"]),
        line("replaced: successor ready", ready["ready_ns"], f"pid {ready['pid']}"),
    ]
    for name in others:
        done, missed = (after[name][i] - before[name][i] for i in (0, 1))
        lines.append(f"  {name}: {done} frames done, {missed} missed meanwhile, same process")
    return lines


def since(what: str, earlier_ns: int, later_ns: int) -> str:
    return f"{(later_ns - earlier_ns) / MILLISECOND:.2f} ms after {what}"


def demonstrate(directory: Path, gpu: bool) -> list[str]:
    """The main job; the report's lines. Raises NotObserved."""
    demo = Demo(directory, gpu)
    try:
        lines = run(demo)
    except NotObserved:
        demo.stop()
        raise
    status_code = demo.stop()
    if status_code != 0:
        raise NotObserved(f"the supervisor ended with status {status_code}")
    return [*lines, "All of this was observed; the supervisor ended in order."]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--gpu", action="store_true", help="the real driver and a kernel that spins for ever")
    what.add_argument("--story", choices=STORIES, help="a report from the field, on the simulated driver")
    options = parser.parse_args()
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="watchdogd-demo-", dir=base) as directory:
        try:
            if options.story is None:
                lines = demonstrate(Path(directory), options.gpu)
            else:
                told = importlib.import_module(STORIES[options.story])
                say("What was reported, and what this shows of it: docs/STORIES.md\n")
                lines = [*told.play(Path(directory), say), "All of this was observed."]
        except (NotObserved, AssertionError) as missing:  # the latter: what tests.helpers.running waited for in vain
            print(f"FAILED: {missing}", file=sys.stderr)
            return 1
    print("\n".join(lines))
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
