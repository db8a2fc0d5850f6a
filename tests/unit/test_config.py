"""The configuration: every key is read, everything wrong is found at once and named with file, key and remedy."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd import abi, config
from watchdogd.config import checks as config_checks
from watchdogd.config import cpus as config_cpus
from watchdogd.config import files as config_files
from watchdogd.config import readers as config_readers
from watchdogd.config.schema import TABLES, markdown
from watchdogd.config.scope import Cell, Problems, Scope
from watchdogd.config.values import read_cpus
from watchdogd.model import SECOND, Settings, SourceSettings, SupervisorSettings, WorkerSettings
from watchdogd.model import ProgressSource as Progress
from watchdogd.publish import journald

ROOT = Path(__file__).parents[2]
WORKER = '[workers.a]\ncommand = ["python3"]\n'
SERIES = 'progress_counter = "c"\nprogress_pending = "p"'
COUNTER = 'progress = "metrics:http://h/m"\nprogress_counter = "c"'
PENDING = 'progress = "metrics:http://h/m"\nprogress_pending = "p"'
PROBE = 'progress = "http://h/"\ndeadlines.progress = "8s"'
OURS = sorted(config_cpus.usable())
OFF = "[tegrastats]\ncommand = []\n[nvml]\nenabled = false\n[nvgpu]\nenabled = false\n[nvdla]\nenabled = false\n"


def load(folder: Path, text: str, drop_ins: Mapping[str, str] | None = None, path: str | None = None) -> Settings:
    file = folder / "watchdogd.toml"
    file.write_text(text)
    for name, content in (drop_ins or {}).items():
        (folder / "watchdogd.toml.d").mkdir(exist_ok=True)
        (folder / "watchdogd.toml.d" / name).write_text(content)
    return config.load(file, environ={"PATH": os.environ["PATH"] if path is None else path})


def problems(folder: Path, text: str, drop_ins: Mapping[str, str] | None = None) -> list[config.Problem]:
    with pytest.raises(config.ConfigError) as caught:
        load(folder, text, drop_ins)
    for problem in caught.value.problems:
        assert problem.message and problem.remedy
        assert Path(problem.file).parent in (folder, folder / "watchdogd.toml.d")
        assert str(problem) in str(caught.value)
    return list(caught.value.problems)


def warnings(folder: Path, text: str, drop_ins: Mapping[str, str] | None = None) -> list[config.Problem]:
    load(folder, text, drop_ins)
    _, found = config.check(folder / "watchdogd.toml", environ=os.environ)
    assert all(problem.message and problem.remedy for problem in found)
    return list(found)


def worker(settings: Settings, name: str = "a") -> WorkerSettings:
    return next(worker for worker in settings.workers if worker.name == name)


def source(settings: Settings, name: str) -> SourceSettings | None:
    return next((source for source in settings.sources if source.name == name), None)


def ours(source: str, interval: str) -> tuple[str, ...]:
    """The command of a load source of our own."""
    return (sys.executable, "-m", f"watchdogd.observe.sources.{source}", "--interval", interval)


def program(folder: Path, name: str, mode: int = 0o755) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(mode)
    return folder / name


@contextmanager
def unprivileged() -> Iterator[None]:
    """As nobody, where we are root: root can read every file and become every user."""
    if os.geteuid() != 0:
        yield
        return
    own_group = os.getegid()
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_group)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that nobody can read (pytest's are root's own)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def pynvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name to be found, whether or not nvidia-ml-py is installed here."""
    program(tmp_path / "modules", "pynvml.py")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


# --- every key ------------------------------------------------------------------------------------------------------

GOOD: list[tuple[str, str, str, str, Any]] = [
    # table, key, value, field of the settings, what it must hold
    ("supervisor", "runtime_dir", '"/run/x"', "runtime_dir", "/run/x"),
    ("supervisor", "state_dir", '"/var/x"', "state_dir", "/var/x"),
    ("supervisor", "stop_timeout", '"3s"', "stop_timeout_ns", 3 * SECOND),
    ("supervisor", "stop_timeout", '"0s"', "stop_timeout_ns", 0),
    ("supervisor", "kill_grace", '"4s"', "kill_grace_ns", 4 * SECOND),
    ("supervisor", "max_kills", "7", "max_kills", 7),
    ("supervisor", "max_kills_window", '"2m"', "max_kills_window_ns", 120 * SECOND),
    ("supervisor", "observe_only", "true", "observe_only", True),
    ("supervisor", "realtime_priority", "0", "realtime_priority", 0),
    ("supervisor", "late_margin", '"250us"', "late_margin_ns", 250_000),
    ("supervisor", "hold_max", '"0s"', "hold_max_ns", 0),
    ("supervisor", "events_max_bytes", '"9MiB"', "events_max_bytes", 9 << 20),
    ("supervisor", "events_max_bytes", "65537", "events_max_bytes", 65537),
    ("supervisor", "log_format", '"json"', "log_format", "json"),
    ("supervisor", "worker_slice", '"vehicle-models.slice"', "worker_slice", "vehicle-models.slice"),
    ("supervisor", "worker_slice", '""', "worker_slice", ""),
    ("metrics", "listen", '"0.0.0.0:1234"', "listen", "0.0.0.0:1234"),
    ("metrics", "listen", '"[::1]:19877"', "listen", "[::1]:19877"),
    ("metrics", "listen", '"localhost:0"', "listen", "localhost:0"),
    ("metrics", "listen", '""', "listen", ""),
    ("hooks", "on_verdict", '["sh", "-c", "true"]', "on_verdict", ("sh", "-c", "true")),
    ("hooks", "on_verdict_deadline", '"150ms"', "on_verdict_deadline_ns", SECOND * 15 // 100),
    ("hooks", "veto", "true", "veto", True),
    ("hooks", "veto_max", '"3s"', "veto_max_ns", 3 * SECOND),
    ("incidents", "max_bytes", '"1GiB"', "max_bytes", 1 << 30),
    ("incidents", "max_count", "0", "max_count", 0),
    ("incidents", "export_hook", '["sh", "-c", "true"]', "export_hook", ("sh", "-c", "true")),
    ("incidents", "export_hook_deadline", '"5s"', "export_hook_deadline_ns", 5 * SECOND),
    ("incidents", "redact", '["*_URL"]', "redact", ("*_URL",)),
    ("escalation", "action", '"service-fail"', "action", "service-fail"),
    ("escalation", "ask", '["sh", "-c", "true"]', "ask", ("sh", "-c", "true")),
    ("escalation", "consent_file", '"/run/stands"', "consent_file", "/run/stands"),
    ("escalation", "consent_timeout", '"5s"', "consent_timeout_ns", 5 * SECOND),
    ("escalation", "hangs", "4", "hangs", 4),
    ("escalation", "window", '"5m"', "window_ns", 300 * SECOND),
    ("escalation", "min_interval", '"2h"', "min_interval_ns", 7200 * SECOND),
    ("escalation", "reboot_command", '["reboot", "-f"]', "reboot_command", ("reboot", "-f")),
    ("escalation", "dry_run", "true", "dry_run", True),
    ("tegrastats", "command", '["t", "--interval", "250"]', "command", ("t", "--interval", "250")),
    ("tegrastats", "command", '["t", "--interval", "250"]', "interval_ns", SECOND // 4),
    ("tegrastats", "command", '["t", "--interval=125"]', "interval_ns", SECOND // 8),
    ("tegrastats", "command", '["t"]', "interval_ns", SECOND),
    ("tegrastats", "frozen_after", '"5s"', "frozen_after_ns", 5 * SECOND),
    ("nvml", "enabled", "true", "command", ours("nvml", "0.5")),
    ("nvml", "interval", '"250us"', "interval_ns", 250_000),
    ("nvml", "interval", '"250us"', "command", ours("nvml", "0.00025")),
    ("nvml", "frozen_after", '"4s"', "frozen_after_ns", 4 * SECOND),
    ("nvml", "command", '["fake", "nvml"]', "command", ("fake", "nvml")),
    ("nvgpu", "enabled", "true", "command", ours("nvgpu", "0.5")),
    ("nvgpu", "interval", '"1s"', "interval_ns", SECOND),
    ("nvgpu", "frozen_after", '"4s"', "frozen_after_ns", 4 * SECOND),
    ("nvgpu", "command", '["fake"]', "command", ("fake",)),
    ("nvdla", "enabled", "true", "command", ours("nvdla", "0.5")),
    ("nvdla", "interval", '"1s"', "interval_ns", SECOND),
    ("nvdla", "frozen_after", '"4s"', "frozen_after_ns", 4 * SECOND),
    ("nvdla", "command", '["fake"]', "command", ("fake",)),
    ("kmsg", "enabled", "true", "command", (sys.executable, "-m", "watchdogd.observe.sources.kmsg")),
    ("kmsg", "command", '["dmesg", "--follow"]', "command", ("dmesg", "--follow")),
    ("workers.NAME", "command", '["python3", "-m", "x"]', "command", ("python3", "-m", "x")),
    ("workers.NAME", "accelerator", '"dla1"', "accelerator", "dla1"),
    ("workers.NAME", "coupled_with", '["dla0", "b"]', "coupled_with", ("dla0", "b")),
    ("workers.NAME", "instrument", '"driver"', "instrument", "driver"),
    ("workers.NAME", "check_context", "true", "check_context", True),
    ("workers.NAME", "sync_mode", '"blocking"', "sync_mode", "blocking"),
    ("workers.NAME", "nvtx", "true", "nvtx", True),
    ("workers.NAME", "redundancy", '"front"', "redundancy", "front"),
    *(
        ("workers.NAME", f"deadlines.{name}", '"7s"', f"{name}_ns", 7 * SECOND)
        for name in ("startup", "first_step", "step")
    ),
    ("workers.NAME", "deadlines.progress", '"9s"\nprogress = "http://h/"', "progress_ns", 9 * SECOND),
    ("workers.NAME", "progress", '"http://[::1]:8/h?x=1"', "progress", Progress("http", ("http://[::1]:8/h?x=1",))),
    ("workers.NAME", "progress", '"http:http://h/health"', "progress", Progress("http", ("http://h/health",))),
    ("workers.NAME", "progress", '"https://h"', "progress", Progress("http", ("https://h",))),
    ("workers.NAME", "progress", "\"command:sh -c 'a b'\"", "progress", Progress("command", ("sh", "-c", "a b"))),
    ("workers.NAME", "progress", '"sync"\ninstrument = "driver"', "progress", Progress("sync")),
    ("workers.NAME", "progress", f'"metrics:http://h/m"\n{SERIES}', "progress", Progress("metrics", ("http://h/m",))),
    ("workers.NAME", "progress_counter", f"'c{{a=\"b\"}}'\n{PENDING}", "progress_counter", 'c{a="b"}'),
    ("workers.NAME", "progress_pending", f"'vllm:running'\n{COUNTER}", "progress_pending", "vllm:running"),
    ("workers.NAME", "progress_interval", '"250ms"', "progress_interval_ns", SECOND // 4),
    ("workers.NAME", "progress_kills", f"true\n{PROBE}", "progress_kills", True),
    ("workers.NAME", "ready_after", '"40s"', "ready_after_ns", 40 * SECOND),
    ("workers.NAME", "deadlines.startup", '"never"', "startup_ns", None),
    *(("workers.NAME", f"deadlines.{name}", '"7ms"', name, 7_000_000) for name in abi.OPERATIONS[1:]),
    ("workers.NAME", "soft", "0.25", "soft", 0.25),
    ("workers.NAME", "soft", "false", "soft", None),
    ("workers.NAME", "restart.backoff", '"1s"', "backoff_ns", SECOND),
    ("workers.NAME", "restart.backoff_max", '"1m"', "backoff_max_ns", 60 * SECOND),
    ("workers.NAME", "restart.budget", "9", "budget", 9),
    ("workers.NAME", "restart.window", '"1h"', "window_ns", 3600 * SECOND),
    ("workers.NAME", "restart.when_spent", '"retry-slowly"', "when_spent", "retry-slowly"),
    ("workers.NAME", "restart.bisect_after", "3", "bisect_after", 3),
    ("workers.NAME", "restart.before_exit", "2", "before_exit", 2),
    ("workers.NAME", "evidence", '"full"', "evidence", "full"),
    ("workers.NAME", "evidence_budget", '"1s"\nevidence = "full"', "evidence_budget_ns", SECOND),
    ("workers.NAME", "gpu_core_dump", 'true\nevidence = "full"', "gpu_core_dump", True),
    ("workers.NAME", "on_verdict", '"exit"', "on_verdict", "exit"),
    ("workers.NAME", "outputs.bad_in_a_row", "255", "bad_in_a_row", 255),
    ("workers.NAME", "growth.baseline", '"10m"', "baseline_ns", 600 * SECOND),
    ("workers.NAME", "growth.baseline", '"never"', "baseline_ns", None),
    ("workers.NAME", "growth.factor", "2", "factor", 2.0),
    ("workers.NAME", "growth.memory", '"1MiB"', "memory", 1 << 20),
    ("workers.NAME", "growth.descriptors", "7", "descriptors", 7),
    ("workers.NAME", "growth.threads", "5", "threads", 5),
    ("workers.NAME", "growth.leak", "true", "leak", True),
    ("workers.NAME", "probe", '["sh", "-c", "true"]', "probe", ("sh", "-c", "true")),
    ("workers.NAME", "probe", '"cuda"', "probe", (sys.executable, "-I", "-m", "watchdogd.worker.probe")),
    ("workers.NAME", "probe_deadline", '"3s"', "probe_deadline_ns", 3 * SECOND),
    ("workers.NAME", "redeliver", "true", "redeliver", True),
    ("workers.NAME", "required", "false", "required", False),
    ("workers.NAME", "observe_only", "true", "observe_only", True),
    ("workers.NAME", "autostart", "false", "autostart", False),
    ("workers.NAME", "after", '["b"]', "after", ("b",)),
    ("workers.NAME", "restart_with", '["b"]', "restart_with", ("b",)),
    ("workers.NAME", "stop_timeout", '"3s"', "stop_timeout_ns", 3 * SECOND),
    ("workers.NAME", "user", '"root"', "user", "root"),
    ("workers.NAME", "group", '"root"', "group", "root"),
    ("workers.NAME", "environment", '{ X = "1" }', "environment", (("X", "1"),)),
    ("workers.NAME", "working_directory", '"/"', "working_directory", "/"),
    ("supervisor", "cpu_affinity", f'"{OURS[0]}-{OURS[0]}"', "cpu_affinity", (OURS[0],)),
    ("workers.NAME", "cpu_affinity", str(OURS[::-1]), "cpu_affinity", tuple(OURS)),
    ("workers.NAME", "cpu_affinity", f'"{OURS[0]}-{OURS[0]}"', "cpu_affinity", (OURS[0],)),
    ("workers.NAME", "nice", "-20", "nice", -20),
    ("workers.NAME", "scheduling", '"fifo:10"', "scheduling", "fifo:10"),
    ("workers.NAME", "scheduling", '"batch"', "scheduling", "batch"),
    ("workers.NAME", "oom_score_adj", "-1000", "oom_score_adj", -1000),
    ("workers.NAME", "cuda_visible_devices", '"0,1"', "cuda_visible_devices", "0,1"),
    ("workers.NAME", "output", '"journal"', "output", "journal"),
    ("workers.NAME", "output_max_bytes", '"64KiB"', "output_max_bytes", 65536),
    ("workers.NAME", "on_supervisor_exit", '"keep"', "on_supervisor_exit", "keep"),
]


def test_every_key_has_a_good_value_here() -> None:
    assert {(table, key) for table, key, *_ in GOOD} == {(table, key) for table, keys in TABLES.items() for key in keys}


def settings_with(folder: Path, table: str, key: str, value: str) -> Settings:
    if table == "escalation" and key == "action":
        value += '\nask = ["sh"]'  # whose consent it needs
    switch = "" if key in ("enabled", "command") or table not in ("nvml", "nvgpu", "nvdla") else "enabled = true\n"
    text = {
        "workers.NAME": f"[workers.a]\n{key} = {value}\n" + ("" if key == "command" else 'command = ["python3"]\n'),
        "tegrastats": f"[tegrastats]\n{key} = {value}\n" + WORKER,
    }.get(table, f"[{table}]\n{switch}{key} = {value}\n" + WORKER)
    program(folder / "bin", "tegrastats")
    return load(folder, text + '[workers.b]\ncommand = ["python3"]\n', path=f"{folder / 'bin'}:{os.environ['PATH']}")


def holder(settings: Settings, table: str, key: str) -> Any:
    if table in ("supervisor", "metrics", "hooks", "escalation", "incidents", "kmsg"):
        return getattr(settings, table)
    if table != "workers.NAME":
        return source(settings, table)
    group, _, _ = key.rpartition(".")
    return getattr(worker(settings), group) if group else worker(settings)


@pytest.mark.usefixtures("pynvml")
@pytest.mark.parametrize(("table", "key", "value", "field", "expected"), GOOD)
def test_a_key_reaches_the_settings(
    tmp_path: Path, table: str, key: str, value: str, field: str, expected: object
) -> None:
    if field in ("user", "group") and os.geteuid() != 0:
        pytest.skip("only root may change to another user")
    found = holder(settings_with(tmp_path, table, key, value), table, key)
    if field in abi.OPERATION:
        assert found.calls_ns == tuple(expected if name == field else None for name in abi.OPERATIONS)
    else:
        assert getattr(found, field) == expected


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('"sink"', "none of its values"),
        ('"metrics:h/m"', "not a URL"),
        ('"metrics:"', "not a URL"),
        ('"http:8000/health"', "not a URL"),
        ('"http://user@h/"', "not a URL"),
        ('"ftp://h/"', "none of its values"),
        ('"command:"', "names no program"),
        ('"command:sh \'x"', "no command line"),
        ("5", "not a string"),
    ],
)
def test_a_source_of_progress_that_is_none_is_refused(tmp_path: Path, value: str, told: str) -> None:
    (problem,) = problems(tmp_path, WORKER + f"progress = {value}\n")
    assert (problem.key, told in problem.message) == (A + "progress", True)


@pytest.mark.parametrize("series", ["", "1x", "a b", "a{}", "a{b}", 'a{b="c"', 'a{b="c",}', "a-b"])
def test_a_series_that_is_none_is_refused(tmp_path: Path, series: str) -> None:
    (problem,) = problems(tmp_path, WORKER + f"{PENDING}\nprogress_counter = '{series}'\n")
    assert problem.key == A + "progress_counter"


@pytest.mark.parametrize(
    ("keys", "key", "told"),
    [
        ('progress = "sync"', "progress", 'instrument is not "driver"'),
        (COUNTER, "progress_pending", "is missing"),
        (PENDING, "progress_counter", "is missing"),
        ('progress_counter = "c"', "progress_counter", "without progress"),
        (f'{PROBE}\nprogress_pending = "c"', "progress_pending", "without progress"),
        ('deadlines.progress = "8s"', "deadlines.progress", "no source"),
        ("progress_kills = true", "progress_kills", "has no probe"),
        (f"{COUNTER}\nprogress_pending = 'p'\nprogress_kills = true", "progress_kills", "acts by itself"),
        ('progress = "http://h/"\nprogress_kills = true', "progress_kills", "never does"),
        ('progress = "http://h/"\ndeadlines.progress = "7s"', "deadlines.progress", "less than 8"),
        ('progress = "command:/no/such x"', "progress", "not an executable file"),
    ],
)
def test_keys_of_progress_that_lead_nowhere_are_refused(tmp_path: Path, keys: str, key: str, told: str) -> None:
    (problem,) = problems(tmp_path, WORKER + f"{keys}\n")
    assert (problem.key, told in problem.message) == (A + key, True), problem


def test_progress_that_leads_somewhere_is_not(tmp_path: Path) -> None:
    load(tmp_path, WORKER + f'{PROBE}\nprogress_kills = true\nprogress_interval = "1s"\n')
    load(tmp_path, WORKER + 'progress = "http://h/"\n')  # for its readiness alone


def test_what_tells_of_work_and_has_no_deadline_is_doubted_and_a_probe_is_not(tmp_path: Path) -> None:
    sync = WORKER + 'instrument = "driver"\nprogress = "sync"\n'
    assert A + "progress" in [problem.key for problem in warnings(tmp_path, sync)]
    assert not warnings(tmp_path, sync + 'deadlines.progress = "5s"\n')
    assert A + "progress" not in [problem.key for problem in warnings(tmp_path, WORKER + 'progress = "http://h/"\n')]


def test_what_is_not_given_has_the_defaults_of_the_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, OFF + WORKER)
    assert settings.supervisor == SupervisorSettings()
    assert settings.workers == (WorkerSettings("a", ("python3",)),)
    assert settings.sources == ()
    assert settings.files == (str(tmp_path / "watchdogd.toml"),)


def test_a_worker_without_a_stop_timeout_has_the_supervisors(tmp_path: Path) -> None:
    settings = load(tmp_path, '[supervisor]\nstop_timeout = "3s"\n' + WORKER)
    assert worker(settings).stop_timeout_ns == 3 * SECOND


def test_a_worker_goes_its_own_way_from_the_defaults_key_by_key(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[defaults]\nnice = 3\ndeadlines = { step = "2s", sync = "1s" }\nrestart.budget = 2\n'
        'environment = { X = "1", Y = "1" }\n' + WORKER + 'deadlines = { sync = "500ms" }\nrestart.window = "9s"\n'
        'environment = { Y = "2" }\n[workers.b]\ncommand = ["python3"]\nnice = 0\ndeadlines.step = "never"\n',
    )
    a, b = settings.workers
    assert (a.nice, a.deadlines.step_ns, a.deadlines.calls_ns[abi.OPERATION["sync"]]) == (3, 2 * SECOND, SECOND // 2)
    assert (a.restart.budget, a.restart.window_ns, a.environment) == (2, 9 * SECOND, (("X", "1"), ("Y", "2")))
    assert (b.nice, b.deadlines.step_ns, b.deadlines.calls_ns[abi.OPERATION["sync"]]) == (0, None, SECOND)


# --- files ----------------------------------------------------------------------------------------------------------


def test_drop_ins_are_merged_key_by_key_in_order_of_name(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        WORKER + 'nice = 1\ndeadlines = { step = "2s" }\n',
        {
            # In no order that a folder may list: neither oldest nor newest first.
            "20.toml": "[workers.a]\nnice = 3\n",
            "10.toml": '[workers.a]\nnice = 2\ndeadlines.sync = "1s"\n[workers.b]\ncommand = ["python3"]\n',
            "40.toml": "[workers.a]\nnice = 5\n",
            "30.toml": "[workers.a]\nnice = 4\n",
            "50.conf": "not TOML",
        },
    )
    a = worker(settings)
    assert (a.nice, a.deadlines.step_ns, a.deadlines.calls_ns[abi.OPERATION["sync"]]) == (5, 2 * SECOND, SECOND)
    names = [Path(file).name for file in settings.files]
    assert names == ["watchdogd.toml", "10.toml", "20.toml", "30.toml", "40.toml"]
    assert worker(settings, "b").command == ("python3",)


def test_a_wrong_value_is_blamed_on_the_file_that_says_it(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        WORKER + 'nice = "x"\nenvironment = { A = 1 }\n[supervisor]\nmax_kills = "x"\n',
        {"1.toml": '[workers.a]\nsoft = 2\nenvironment = { B = 1 }\n[supervisor]\nlog_format = "x"\n'},
    )
    assert {(Path(problem.file).name, problem.key) for problem in found} == {
        ("watchdogd.toml", "workers.a.nice"),
        ("watchdogd.toml", "workers.a.environment.A"),
        ("1.toml", "workers.a.environment.B"),
        ("watchdogd.toml", "supervisor.max_kills"),
        ("1.toml", "workers.a.soft"),
        ("1.toml", "supervisor.log_format"),
    }


def test_a_worker_without_a_command_is_blamed_on_the_file_that_began_it(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "[workers.a]\nnice = 1\n", {"1.toml": "[workers.a]\nnice = 2\n"})
    assert (Path(found.file).name, found.key) == ("watchdogd.toml", "workers.a.command")


SYNTAX = [
    # text, key, message
    ("[workers.a]\nnice =\n", "workers.a.nice", "line 2, column 7: Invalid value"),
    ("[workers.a\n", "", "line 1, column 11: Expected ']'"),
    ("[workers.a]\ncommand = ['x", "workers.a.command", "line 2, column 14: Expected"),
    (WORKER + WORKER, "workers.a", "line 3, column 11: Cannot declare"),
    (WORKER + 'command = [\n"b"\n]\n', "workers.a.command", "line 5, column 2: Cannot overwrite"),
    ("x = { a = 1, a = 2 }\n", "x", "line 1, column 19: Duplicate inline table key 'a'"),
    ("x = 1\n[supervisor.y]\nz = 1\n[supervisor.y]\n", "supervisor.y", "line 4"),
    ("x = " + "9" * 5000 + "\n", "", "Exceeds the limit"),
    ("x = " + "[" * 20000 + "\n", "", "nested too deeply"),
]


@pytest.mark.parametrize(("text", "key", "message"), SYNTAX)
def test_what_is_not_toml_is_named_with_line_column_and_key(tmp_path: Path, text: str, key: str, message: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.file == str(tmp_path / "watchdogd.toml")
    assert found.key == key
    assert message in found.message


def test_a_worker_redefined_in_a_drop_in_is_a_change_not_a_second_one(tmp_path: Path) -> None:
    settings = load(tmp_path, WORKER, {"1.toml": '[workers.a]\ncommand = ["python3", "-V"]\n'})
    assert [worker.command for worker in settings.workers] == [("python3", "-V")]


def test_one_broken_file_does_not_hide_what_is_wrong_in_the_others(tmp_path: Path) -> None:
    found = problems(tmp_path, "[workers.a\n", {"1.toml": "]", "2.toml": "[workers.a]\nnice = 99\n"})
    assert [Path(problem.file).name for problem in found] == ["watchdogd.toml", "1.toml", "2.toml"]


def test_what_may_stand_in_a_broken_file_is_not_missed(tmp_path: Path) -> None:
    found = problems(tmp_path, "", {"1.toml": "]"})
    assert [Path(problem.file).name for problem in found] == ["1.toml"]


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "message", "remedy"),
    [
        (lambda _: None, "No such file", "create it"),
        (Path.mkdir, "not a file", "name the file in it"),
        (os.mkfifo, "not a file", "plain file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file", "plain file"),
        (lambda path: path.write_bytes(b"#" * ((256 << 10) + 1)), "longer than 256 KiB", "drop-ins"),
        (make_loop, "symbolic links", "plain file"),
        (lambda path: path.write_bytes(b'x = "\xff"'), "byte 5 is not UTF-8", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_a_remedy(
    tmp_path: Path, make: Any, message: str, remedy: str
) -> None:
    file = tmp_path / "watchdogd.toml"
    make(file)
    with pytest.raises(config.ConfigError) as caught:
        config.load(file, environ={})
    (found,) = caught.value.problems
    assert (found.file, found.key) == (str(file), "")
    assert message in found.message and remedy in found.remedy


@pytest.mark.parametrize("what", ["watchdogd.toml", "watchdogd.toml.d", "watchdogd.toml.d/1.toml"])
def test_a_file_that_we_may_not_read_is_named_with_a_remedy(public_folder: Path, what: str) -> None:
    load(public_folder, WORKER, {"1.toml": ""})
    (public_folder / what).chmod(0)
    with unprivileged(), pytest.raises(config.ConfigError) as caught:
        config.load(public_folder / "watchdogd.toml", environ=os.environ)
    (found,) = caught.value.problems
    assert found.file == str(public_folder / what)
    assert "Permission denied" in found.message and "let the user who runs watchdogd read it" in found.remedy
    (public_folder / what).chmod(0o755)


def test_a_file_of_just_the_greatest_size_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, WORKER + "#" * ((256 << 10) - len(WORKER))).workers


def test_a_pipe_is_not_waited_for_even_where_it_takes_the_place_of_a_file_at_the_last_moment(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "pipe", "rb", opener=config_files.at_once) as pipe:
        assert pipe.read() == b""


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_drop_in_that_is_no_file_is_named_and_hides_nothing(tmp_path: Path, make: Any) -> None:
    load(tmp_path, WORKER, {"1.toml": ""})
    make(tmp_path / "watchdogd.toml.d" / "0.toml")
    found = problems(tmp_path, WORKER, {"2.toml": "[workers.a]\nnice = 99\n"})
    assert [(Path(problem.file).name, problem.key) for problem in found] == [("0.toml", ""), ("2.toml", A + "nice")]


def test_a_file_in_the_place_of_the_drop_ins_is_named(tmp_path: Path) -> None:
    (tmp_path / "watchdogd.toml.d").write_text("")
    (found,) = problems(tmp_path, WORKER)
    assert found.file == str(tmp_path / "watchdogd.toml.d")
    assert found.remedy == "make it a directory, or remove it"


# --- what is wrong --------------------------------------------------------------------------------------------------

A = "workers.a."
BAD = [
    # text after [workers.a] command = ["python3"], key, part of the message, part of the remedy
    ('deadlines.snyc = "1s"', A + "deadlines.snyc", "is not a key", 'did you mean "sync"?'),
    ("zzz = 1", A + "zzz", "is not a key", "remove it, or write one of: accelerator"),
    ('deadlines = "1s"', A + "deadlines", "is a string, not a table", "[workers.a.deadlines]"),
    ('"deadlines.sync" = "1s"', A + '"deadlines.sync"', "is not a key", "deadlines"),
    ("deadlines.step = 2", A + "deadlines.step", "number without a unit", 'write "2ms" or "2s"'),
    ("deadlines.step = 2.5", A + "deadlines.step", "number without a unit", 'write "2.5ms" or "2.5s"'),
    ("stop_timeout = 2", A + "stop_timeout", "number without a unit", 'write "2s"'),
    ("deadlines.step = 0.30000000000000004", A + "deadlines.step", "number without a unit", 'write "0.3s"'),
    ("deadlines.step = 1e-7", A + "deadlines.step", "number without a unit", '"200ms"'),
    ("deadlines.step = true", A + "deadlines.step", "is a boolean", '"200ms"'),
    ('deadlines.step = "999999ns"', A + "deadlines.step", "is not a duration", "us, ms"),
    ('deadlines.step = "999.999us"', A + "deadlines.step", "too short to be judged", '"1ms" or more, or "never"'),
    ('deadlines.startup = "0.001us"', A + "deadlines.startup", "too short to be judged", '"1ms" or more'),
    ("deadlines.step = nan", A + "deadlines.step", "number without a unit", '"200ms"'),
    ("deadlines.step = 0x" + "f" * 5000, A + "deadlines.step", "number without a unit", '"200ms"'),
    ("deadlines.step = false", A + "deadlines.step", "is a boolean", 'write "never"'),
    ('deadlines.step = "0s"', A + "deadlines.step", "no time at all", '"never"'),
    ('deadlines.step = "-1s"', A + "deadlines.step", "cannot be negative", '"never"'),
    ('deadlines.step = "2d"', A + "deadlines.step", "is not a duration", "us, ms, s, m or h"),
    ("deadlines.step = 2026-01-01", A + "deadlines.step", "is a date or time", "us, ms, s, m or h"),
    ('restart.backoff = "never"', A + "restart.backoff", "is not a duration", "us, ms, s, m or h"),
    ('restart.backoff = "0s"', A + "restart.backoff", "no time at all", "us, ms, s, m or h"),
    ("restart.budget = 0", A + "restart.budget", "out of range", "1 or more"),
    ("restart.budget = true", A + "restart.budget", "is a boolean", "1 or more"),
    ("outputs.bad_in_a_row = 256", A + "outputs.bad_in_a_row", "out of range", "0 to 255"),
    ("outputs.bad_in_a_row = -1", A + "outputs.bad_in_a_row", "out of range", "0 to 255"),
    ('growth.baseline = "10ms"', A + "growth.baseline", "too short to be judged", '"1s" or more, or "never"'),
    ("growth.factor = 0.9", A + "growth.factor", "not a number from 1 to 100", "1.5"),
    ("growth.factor = nan", A + "growth.factor", "not a number from 1 to 100", "1.5"),
    ("growth.factor = true", A + "growth.factor", "not a number from 1 to 100", "1.5"),
    ("growth.threads = 0", A + "growth.threads", "out of range", "1 or more"),
    ('restart.when_spent = "reboot"', A + "restart.when_spent", "none of its values", '"quarantine" or "retry-slowly"'),
    ("soft = 1.0", A + "soft", "fraction", "0.5, or false"),
    ("soft = 0.0", A + "soft", "fraction", "0.5, or false"),
    ("soft = nan", A + "soft", "fraction", "0.5, or false"),
    ("soft = true", A + "soft", "fraction", "0.5, or false"),
    ('required = "yes"', A + "required", "not a boolean", "without quotes"),
    ('accelerator = "GPU0"', A + "accelerator", "not an accelerator", '"gpu0"'),
    ('accelerator = "gpu"', A + "accelerator", "not an accelerator", '"gpu0"'),
    ('accelerator = "gpuu0"', A + "accelerator", "not an accelerator", '"gpu0"'),
    ('accelerator = "pva0"', A + "accelerator", "not an accelerator", '"dla1"'),
    ('accelerator = "gpu00"', A + "accelerator", "not an accelerator", '"gpu0"'),
    ('accelerator = ""', A + "accelerator", "not an accelerator", '"gpu0"'),
    ('coupled_with = ["gpuu0"]', A + "coupled_with", "neither a worker nor an accelerator", "write one of"),
    ('coupled_with = ["gpu00"]', A + "coupled_with", "neither a worker nor an accelerator", "write one of"),
    ('coupled_with = ["modle"]', A + "coupled_with", "neither a worker nor an accelerator", "write one of"),
    ('coupled_with = ["a"]', A + "coupled_with", "this worker itself", "remove it"),
    ('coupled_with = "gpu0"', A + "coupled_with", "not an array", '["gpu0"]'),
    ("environment = { 9X = '1' }", A + "environment.9X", "not a variable's name", "no digit first"),
    ("environment = { X = 1 }", A + "environment.X", "is an integer", "quotes"),
    ('environment = { X = "\\u0000" }', A + "environment.X", "NUL", "remove it"),
    (
        f"environment = {{ {abi.ENVIRONMENT} = '1' }}",
        A + f"environment.{abi.ENVIRONMENT}",
        "set by the supervisor",
        "remove",
    ),
    ("environment = []", A + "environment", "not a table", "NAME"),
    ('working_directory = "/nonexistent"', A + "working_directory", "not a directory", "create it"),
    ('working_directory = "here"', A + "working_directory", "not an absolute path", "from /"),
    ("cpu_affinity = [-1]", A + "cpu_affinity", "not a list of CPUs", '"0-3,5"'),
    ("cpu_affinity = [true]", A + "cpu_affinity", "not a list of CPUs", '"0-3,5"'),
    ('cpu_affinity = "3-1"', A + "cpu_affinity", "not a list of CPUs", '"0-3,5"'),
    ('cpu_affinity = "0-9999"', A + "cpu_affinity", "not a list of CPUs", '"0-3,5"'),
    ('cpu_affinity = ["0"]', A + "cpu_affinity", "not a list of CPUs", '"0-3,5"'),
    ("cpu_affinity = [0, 8191]", A + "cpu_affinity", "names CPU 8191, which this machine does not", "name some of 0"),
    ("cpu_affinity = [8189, 8190, 0]", A + "cpu_affinity", "names CPU 8189-8190, which", "or remove it"),
    ("cpu_affinity = 3", A + "cpu_affinity", "not a list of CPUs", '"0-3,5"'),
    ("nice = 20", A + "nice", "out of range", "-20 to 19"),
    ("nice = -21", A + "nice", "out of range", "-20 to 19"),
    ('scheduling = "fifo"', A + "scheduling", "not a scheduling policy", '"fifo:PRIORITY"'),
    ('scheduling = "rr:100"', A + "scheduling", "not a scheduling policy", "1 to 99"),
    ("oom_score_adj = 1001", A + "oom_score_adj", "out of range", "-1000 to 1000"),
    ("cuda_visible_devices = 0", A + "cuda_visible_devices", "is an integer", "quotes"),
    ('output = "syslog"', A + "output", "none of its values", '"file" or "journal"'),
    ('output_max_bytes = "8MB"', A + "output_max_bytes", "not a size", "KiB, MiB or GiB"),
    ("output_max_bytes = 12", A + "output_max_bytes", "out of range", "4KiB"),
    ("output_max_bytes = 1.5", A + "output_max_bytes", "is a float", '"8MiB"'),
    ('on_supervisor_exit = "adopt"', A + "on_supervisor_exit", "none of its values", '"kill" or "keep"'),
    ('user = "no-such-user"', A + "user", "there is no user", "create it"),
    ('group = "no-such-group"', A + "group", "there is no group", "create it"),
    ('[workers."a b"]\ncommand = ["python3"]', 'workers."a b"', "not a worker's name", "1 to 48"),
    ('[workers.A]\ncommand = ["python3"]', "workers.A", 'differs from worker "a" only in case', "rename"),
    (
        '[workers.gpu0]\ncommand = ["python3"]',
        "workers.gpu0",
        "also the name of an acc",
        "another",
    ),
    ("[workers.b]", "workers.b.command", "is missing", "python3"),
    ('[workers.b]\ncommand = "python3 -m x"', "workers.b.command", "is a string", 'write ["python3", "-m", "x"]'),
    ("[workers.b]\ncommand = []", "workers.b.command", "is empty", "python3"),
    ('[workers.b]\ncommand = [""]', "workers.b.command", "names no program", "first item"),
    ('[workers.b]\ncommand = ["python3", 1]', "workers.b.command", "is an integer", "item 2"),
    ("[workers.b]\ncommand = 1", "workers.b.command", "is an integer", '["a", "b"]'),
    ('[workers.b]\ncommand = ["no-such-program"]', "workers.b.command", "is not on PATH (", "whole path"),
    ('[workers.b]\ncommand = ["/bin"]', "workers.b.command", "is not an executable file", "install it"),
    ("[workers]\nb = 1", "workers.b", "not a table", "[workers.b]"),
    ('[defaults]\ncommand = ["python3"]', "defaults.command", "cannot be a default", "[workers.NAME]"),
    ("[defaults]\nnice = 99", "defaults.nice", "out of range", "-20 to 19"),
    ("[superviser]", "superviser", "not a table", 'did you mean "supervisor"?'),
    ("[[metrics]]", "metrics", "is an array, not a table", "[metrics]"),
    ('[supervisor]\nlisten = "x"', "supervisor.listen", "not a key", "remove it"),
    ('[supervisor]\nkill_grace = "0s"', "supervisor.kill_grace", "no time at all", "200ms"),
    ("[supervisor]\nmax_kills = 0", "supervisor.max_kills", "out of range", "1 or more"),
    ('[supervisor]\nlog_format = "xml"', "supervisor.log_format", "none of its values", '"json" or "journal"'),
    ('[supervisor]\nruntime_dir = "run"', "supervisor.runtime_dir", "not an absolute path", "from /"),
    ('[supervisor]\nruntime_dir = "/r"\nstate_dir = "/r/"', "supervisor.state_dir", "are the same", "of its own"),
    ('[supervisor]\nruntime_dir = "/r"\nstate_dir = "/r/s"', "supervisor.state_dir", "in the other", "of its own"),
    ('[supervisor]\nruntime_dir = "/var/lib/gpu-watchdogd/r"', "supervisor.runtime_dir", "in the other", "of its own"),
    ("[metrics]\nlisten = 19877", "metrics.listen", "is an integer", "127.0.0.1:19877"),
    ('[metrics]\nlisten = ":19877"', "metrics.listen", "has no address", "0.0.0.0:19877"),
    ('[metrics]\nlisten = "::1:19877"', "metrics.listen", "not an address", "[::1]:19877"),
    ('[metrics]\nlisten = "some.host:19877"', "metrics.listen", "not an address", "127.0.0.1:19877"),
    ('[metrics]\nlisten = "127.0.0.1:65536"', "metrics.listen", "no port between", "127.0.0.1:19877"),
    ('[metrics]\nlisten = "127.0.0.1"', "metrics.listen", "no port between", "127.0.0.1:19877"),
    ('[tegrastats]\ncommand = ["t", "--stop"]', "tegrastats.command", "ends every tegrastats", "remove it"),
    ('[tegrastats]\ncommand = ["t", "--start"]', "tegrastats.command", "in the background", "remove it"),
    ('[tegrastats]\ncommand = ["t", "--logfile=x"]', "tegrastats.command", "to a file", "remove it"),
    ('[tegrastats]\ncommand = ["t", "--interval"]', "tegrastats.command", '"--interval" is ""', "milliseconds"),
    ('[tegrastats]\ncommand = ["t", "--interval", "0"]', "tegrastats.command", '"--interval" is "0"', "milliseconds"),
    ('[tegrastats]\ncommand = "t"', "tegrastats.command", "is a string", '["t"]'),
    ('[tegrastats]\ncommand = ["t"]\nfrozen_after = "1s"', "tegrastats.frozen_after", "less than two samples", '"2s"'),
    ('[nvml]\nenabled = "yes"', "nvml.enabled", "none of its values", '"auto", true or false'),
    ("[nvml]\nenabled = true\ncommand = []", "nvml.command", "is empty", "remove one"),
    ('[nvml]\nenabled = true\ninterval = "2s"', "nvml.interval", "less than two samples", '"4s"'),
]


@pytest.mark.usefixtures("pynvml")
@pytest.mark.parametrize(("text", "key", "message", "remedy"), BAD)
def test_a_problem_names_its_key_and_the_remedy(tmp_path: Path, text: str, key: str, message: str, remedy: str) -> None:
    (found,) = problems(tmp_path, WORKER + text + "\n")
    assert found.key == key
    assert message in found.message
    assert remedy in found.remedy


def test_a_problem_reads_as_file_key_what_and_remedy_on_one_line(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, WORKER + 'accelerator = "\\n\\u001b[2J"\n')
    assert str(found) == (
        f"{tmp_path}/watchdogd.toml: workers.a.accelerator: '\\n\\x1b[2J' is not an accelerator; "
        'write "gpuN" or "dlaN", such as "gpu0" or "dla1"'
    )
    raw = config.Problem("f\n", "k", "\x1b[2J\x85", "r")
    assert str(raw) == "f\\x0a: k: \\x1b[2J\\x85; r"


def test_all_problems_are_listed_not_just_the_first(tmp_path: Path) -> None:
    whole = "[workers.w{number}]\ncommand = ['python3']\n"
    in_worker = [(text, key) for text, key, *_ in BAD if key.startswith(A)]
    text, expected = "", []
    for number, (line, key) in enumerate(in_worker):
        text += whole.format(number=number) + line.replace('["a"]', f'["w{number}"]') + "\n"
        expected.append(key.replace("workers.a.", f"workers.w{number}."))
    text += "[metrics]\nlisten = 1\n[superviser]\n"
    assert sorted(problem.key for problem in problems(tmp_path, text)) == sorted(
        [*expected, "metrics.listen", "superviser"]
    )


@pytest.mark.parametrize("text", ["", "[workers]\n", OFF])
def test_a_configuration_without_workers_is_refused(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert (found.key, found.message) == ("workers", "has no worker")


def test_workers_that_are_no_table_are_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "workers = ['a']\n")
    assert (found.key, found.message) == ("workers", "is an array, not a table")


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", abi.OPERATIONS[1:])
def test_a_step_shorter_than_one_of_its_calls_is_refused(tmp_path: Path, call: str) -> None:
    (found,) = problems(tmp_path, WORKER + f'deadlines = {{ step = "100ms", {call} = "101ms" }}\n')
    assert found.key == "workers.a.deadlines.step"
    assert f'step "100ms" is shorter than {call} "101ms"' in found.message


@pytest.mark.parametrize("deadlines", ['first_step = "1s", step = "2s"', 'first_step = "1s", sync = "2s"'])
def test_a_first_step_shorter_than_what_it_holds_is_refused(tmp_path: Path, deadlines: str) -> None:
    (found,) = problems(tmp_path, WORKER + f"deadlines = {{ {deadlines} }}\n")
    assert found.key == "workers.a.deadlines.first_step"


@pytest.mark.parametrize(
    "deadlines",
    [
        'step = "100ms", sync = "100ms"',
        'step = "never", sync = "100ms"',
        'step = "100ms", sync = "never"',
        'first_step = "never", step = "1s"',
        'first_step = "1s", step = "1s"',
        'startup = "never", first_step = "1s"',
    ],
)
def test_deadlines_that_can_all_pass_are_accepted(tmp_path: Path, deadlines: str) -> None:
    assert load(tmp_path, WORKER + f"deadlines = {{ {deadlines} }}\n").workers


def test_a_pair_with_a_wrong_value_is_one_problem_not_two(tmp_path: Path) -> None:
    text = 'deadlines = { step = "2d", sync = "1s" }\nrestart = { backoff = "1m", backoff_max = 5 }\n'
    assert [problem.key for problem in problems(tmp_path, WORKER + text)] == [
        "workers.a.deadlines.step",
        "workers.a.restart.backoff_max",
    ]


def test_a_pair_with_a_wrong_default_is_one_problem_not_two(tmp_path: Path) -> None:
    text = '[defaults]\ndeadlines.step = "2d"\nenvironment = 1\n' + WORKER + 'deadlines.sync = "1s"\n'
    assert [problem.key for problem in problems(tmp_path, text)] == ["defaults.deadlines.step", "defaults.environment"]


def test_what_the_defaults_say_wrong_is_said_once_not_per_worker(tmp_path: Path) -> None:
    text = '[defaults.deadlines]\nstep = "1s"\nsync = "2s"\n' + WORKER + '[workers.b]\ncommand = ["python3"]\n'
    assert [problem.key for problem in problems(tmp_path, text)] == ["defaults.deadlines.step"]


@pytest.mark.parametrize(
    ("restart", "key"),
    [
        ('backoff = "2s", backoff_max = "1s"', "restart.backoff_max"),
        ('backoff = "11s"', "restart.backoff"),
        ('backoff_max = "99ms"', "restart.backoff_max"),
    ],
)
def test_a_longest_backoff_below_the_first_is_refused(tmp_path: Path, restart: str, key: str) -> None:
    (found,) = problems(tmp_path, WORKER + f"restart = {{ {restart} }}\n")
    assert found.key == A + key
    assert "is shorter than backoff" in found.message


def test_every_wrong_variable_of_an_environment_is_named(tmp_path: Path) -> None:
    found = problems(tmp_path, WORKER + 'environment = { A = 1, B = "b", C = [], "9" = "c" }\n')
    assert [problem.key for problem in found] == [A + "environment.A", A + "environment.C", A + "environment.9"]


@pytest.mark.parametrize("key", ["startup", "first_step", "step", *abi.OPERATIONS[1:]])
def test_the_shortest_deadline_is_a_millisecond(tmp_path: Path, key: str) -> None:
    assert load(tmp_path, WORKER + f'deadlines.{key} = "1ms"\n').workers
    (found,) = problems(tmp_path, WORKER + f'deadlines.{key} = "999us"\n')
    assert (found.key, found.remedy) == (A + f"deadlines.{key}", 'write "1ms" or more, or "never"')


@pytest.mark.parametrize("name", ["gpu0", "gpu15", "dla0", "dla1"])
def test_what_the_load_sources_tell_of_is_an_accelerator(tmp_path: Path, name: str) -> None:
    assert worker(load(tmp_path, WORKER + f'accelerator = "{name}"\n')).accelerator == name


def test_equal_backoffs_are_accepted(tmp_path: Path) -> None:
    assert load(tmp_path, WORKER + 'restart = { backoff = "1s", backoff_max = "1s" }\n').workers


def test_directories_beside_each_other_are_accepted(tmp_path: Path) -> None:
    settings = load(tmp_path, '[supervisor]\nruntime_dir = "/x/run"\nstate_dir = "/x/run2"\n' + WORKER)
    assert settings.supervisor.state_dir == "/x/run2"


def test_a_worker_may_be_coupled_with_a_dla_that_another_program_uses(tmp_path: Path) -> None:
    assert worker(load(tmp_path, WORKER + 'coupled_with = ["dla1"]\n')).coupled_with == ("dla1",)


# --- this machine ---------------------------------------------------------------------------------------------------


def test_a_program_is_looked_for_on_the_workers_own_path(tmp_path: Path) -> None:
    program(tmp_path / "bin", "engine")
    text = f'[workers.a]\ncommand = ["engine"]\nenvironment = {{ PATH = "{tmp_path}/bin" }}\n'
    assert load(tmp_path, text).workers
    (found,) = problems(tmp_path, '[workers.a]\ncommand = ["engine"]\n')
    assert found.key == "workers.a.command"


def test_a_relative_program_is_looked_for_in_the_working_directory(tmp_path: Path) -> None:
    program(tmp_path / "bin", "engine")
    text = '[workers.a]\ncommand = ["bin/engine"]\nworking_directory = "{}"\n'
    assert load(tmp_path, text.format(tmp_path)).workers
    (found,) = problems(tmp_path, text.format(tmp_path / "bin"))
    assert f"is not an executable file in {tmp_path}/bin" in found.message


def test_a_program_in_a_missing_directory_is_one_problem_not_two(tmp_path: Path) -> None:
    text = '[workers.a]\ncommand = ["bin/engine"]\nworking_directory = "/nonexistent"\n'
    assert [problem.key for problem in problems(tmp_path, text)] == ["workers.a.working_directory"]


def test_a_file_that_is_not_executable_is_no_program(tmp_path: Path) -> None:
    engine = program(tmp_path / "bin", "engine", mode=0o644)
    assert engine.stat().st_mode & stat.S_IXUSR == 0
    (found,) = problems(tmp_path, f'[workers.a]\ncommand = ["{engine}"]\n')
    assert found.message == f'program "{engine}" is not an executable file'


@pytest.mark.parametrize("key", ["user", "group"])
def test_a_supervisor_that_is_not_root_cannot_change_user(public_folder: Path, key: str) -> None:
    with unprivileged():
        (found,) = problems(public_folder, WORKER + f'{key} = "root"\n')
    assert found.key == A + key
    assert "not root" in found.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change to another user")
@pytest.mark.parametrize("key", ["user", "group"])
def test_a_supervisor_that_is_root_can_change_user(tmp_path: Path, key: str) -> None:
    assert load(tmp_path, WORKER + f'{key} = "daemon"\n').workers


def affinity_findings(named: str, present: str, usable: str) -> tuple[list[config.Problem], list[config.Problem]]:
    tree = config_files.Tree(["x.toml"])
    noted = Problems(tree, [])
    cell = Cell(read_cpus(named), ("workers", "a", "cpu_affinity"), True)
    config_checks.check_affinity(cell, frozenset(read_cpus(present)), frozenset(read_cpus(usable)), noted)
    return noted, noted.warnings


def test_cpus_that_do_not_exist_are_an_error_even_beside_some_that_do() -> None:
    ((error,), warned) = affinity_findings("3,11-13", present="0-11", usable="0-7")
    assert not warned
    assert (error.key, error.remedy) == (A + "cpu_affinity", "name some of 0-11, or remove it")
    assert error.message == "names CPU 12-13, which this machine does not have"


def test_cpus_of_which_none_is_usable_are_an_error_because_the_worker_could_not_start() -> None:
    ((error,), warned) = affinity_findings("8-9,11", present="0-11", usable="0-5,7")
    assert not warned
    assert "CPU 8-9,11 is offline, or outside the cpuset" in error.message
    assert error.remedy == "name some of 0-5,7, or remove it"


def test_cpus_of_which_some_are_usable_are_a_warning_because_a_power_mode_may_bring_the_others_back() -> None:
    (errors, (warning,)) = affinity_findings("6-9", present="0-11", usable="0-7")
    assert not errors
    assert "CPU 8-9 is offline" in warning.message and "runs on 6-7 alone" in warning.remedy


def test_cpus_that_are_all_usable_are_neither() -> None:
    assert affinity_findings("6-7", present="0-11", usable="0-7") == ([], [])


@pytest.mark.skipif(len(OURS) < 2, reason="needs two CPUs")
def test_our_own_affinity_does_not_limit_a_workers(tmp_path: Path) -> None:
    """A worker leaves the mask it inherits: what taskset or CPUAffinity= keeps from us is not kept from it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, OURS[:1])
    try:
        assert worker(load(tmp_path, WORKER + f"cpu_affinity = {OURS[1:]}\n")).cpu_affinity == tuple(OURS[1:])
        assert os.sched_getaffinity(0) == {OURS[0]}
    finally:
        os.sched_setaffinity(0, before)


CPUSETS = Path("/sys/fs/cgroup/cpuset")


@pytest.mark.skipif(len(OURS) < 2 or not os.access(CPUSETS / "tasks", os.W_OK), reason="needs cpusets and two CPUs")
def test_the_cpuset_of_our_control_group_does_limit_a_workers() -> None:
    group = CPUSETS / f"watchdogd-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpuset.cpus").write_text(f"{OURS[1]}")
        (group / "cpuset.mems").write_text((CPUSETS / "cpuset.mems").read_text())
        enter = f"open({str(group / 'tasks')!r}, 'w').write('0')"
        code = f"{enter}; from watchdogd.config import cpus; print(*cpus.usable(), cpus.present() > cpus.usable())"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
        assert told.stdout.split() == [str(OURS[1]), "True"]
    finally:
        group.rmdir()


def test_cpus_are_shown_as_they_are_written() -> None:
    assert config_cpus.show([7, 0, 2, 1, 9, 8]) == "0-2,7-9"
    assert config_cpus.show([3]) == "3"
    assert read_cpus("0-3, 5") == (0, 1, 2, 3, 5)


def test_tegrastats_is_on_where_it_is_on_path(tmp_path: Path) -> None:
    program(tmp_path / "bin", "tegrastats")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    command = ("tegrastats", "--interval", "500")
    assert source(load(tmp_path, WORKER, path=path), "tegrastats") == SourceSettings("tegrastats", command)


def test_tegrastats_is_off_where_it_is_not_on_path(tmp_path: Path) -> None:
    program(tmp_path, "python3")
    assert source(load(tmp_path, WORKER, path=str(tmp_path)), "tegrastats") is None


def test_an_empty_command_switches_tegrastats_off(tmp_path: Path) -> None:
    program(tmp_path / "bin", "tegrastats")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    assert source(load(tmp_path, "[tegrastats]\ncommand = []\n" + WORKER, path=path), "tegrastats") is None


def test_a_configured_tegrastats_need_not_be_there(tmp_path: Path) -> None:
    """A source that does not start is a source that is down; it is no reason to leave the workers unwatched."""
    text = '[tegrastats]\ncommand = ["/nonexistent/tegrastats"]\n'
    assert source(load(tmp_path, text + WORKER), "tegrastats") is not None


@pytest.mark.parametrize("name", ["nvml", "nvgpu", "nvdla"])
@pytest.mark.parametrize("line", ["enabled = false", "command = []", 'enabled = false\ncommand = ["x"]'])
def test_a_reader_can_be_switched_off(tmp_path: Path, name: str, line: str) -> None:
    assert source(load(tmp_path, f"[{name}]\n{line}\n" + WORKER), name) is None


def automatic(root: Path, path: str) -> list[str]:
    """The names of the readers that are on where the configuration says nothing of them."""
    noted = Problems(config_files.Tree(), [])
    tables = {name: Scope({}, (name,), TABLES[name], noted) for name in ("tegrastats", "nvml", "nvgpu", "nvdla")}
    found = config_readers.sources(tables, path=path, problems=noted, root=str(root))
    assert not noted
    return [source.name for source in found]


@pytest.mark.usefixtures("pynvml")
def test_the_readers_that_can_work_are_on_by_themselves(tmp_path: Path) -> None:
    assert automatic(tmp_path, "") == []
    dla = "sys/devices/platform/13e00000.host1x/15880000.nvdla0/power/runtime_status"
    for file in ("sys/devices/gpu.0/load", "dev/nvidiactl", dla):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert automatic(tmp_path, "") == ["nvml", "nvgpu", "nvdla"]


def kernel_log(root: Path, text: str = "") -> tuple[str, ...]:
    noted = Problems(config_files.Tree(), [])
    values: dict[str, object] = {"enabled": False} if text == "off" else {"command": []} if text == "none" else {}
    found = config_readers.kernel_log(Scope(values, ("kmsg",), TABLES["kmsg"], noted), noted, root=str(root))
    assert not noted
    return found.command


def test_the_kernel_log_is_read_where_there_is_one_and_not_where_it_is_switched_off(tmp_path: Path) -> None:
    assert kernel_log(tmp_path) == ()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").touch(mode=0o000)  # whether it may be read is for the reader to find out, and to say
    assert kernel_log(tmp_path) == (sys.executable, "-m", "watchdogd.observe.sources.kmsg")
    assert kernel_log(tmp_path, "off") == kernel_log(tmp_path, "none") == ()


def test_a_kernel_log_that_is_on_and_has_no_reader_is_a_problem(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "[kmsg]\nenabled = true\ncommand = []\n" + WORKER)
    assert (found.key, found.remedy) == ("kmsg.command", "remove one of the two")


def test_nvgpu_is_not_read_beside_tegrastats_which_reads_it_already(tmp_path: Path) -> None:
    (tmp_path / "sys/devices/gpu.0").mkdir(parents=True)
    (tmp_path / "sys/devices/gpu.0/load").touch()
    program(tmp_path / "bin", "tegrastats")
    assert automatic(tmp_path, str(tmp_path / "bin")) == ["tegrastats"]


@pytest.fixture
def no_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setattr(sys, "path", [])


@pytest.mark.usefixtures("no_pynvml")
def test_nvml_without_pynvml_is_a_problem_where_it_is_asked_for(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "[nvml]\nenabled = true\n" + WORKER)
    assert (found.key, found.remedy) == ("nvml.enabled", "install nvidia-ml-py, or write false")


@pytest.mark.usefixtures("no_pynvml")
def test_nvml_without_pynvml_is_off_by_itself(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert automatic(tmp_path, "") == []


@pytest.mark.parametrize(
    "file", ["dev/nvidiactl", "usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1", "usr/lib/wsl/lib/libnvidia-ml.so.1"]
)
def test_an_nvidia_driver_is_recognised(tmp_path: Path, file: str) -> None:
    assert not config_readers.has_nvml_driver(str(tmp_path))
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert config_readers.has_nvml_driver(str(tmp_path))


def test_an_nvgpu_load_is_recognised(tmp_path: Path) -> None:
    assert not config_readers.has_nvgpu_load(str(tmp_path))
    (tmp_path / "sys/devices/gpu.0").mkdir(parents=True)
    (tmp_path / "sys/devices/gpu.0/load").touch()
    assert config_readers.has_nvgpu_load(str(tmp_path))


def test_a_free_port_is_no_problem(tmp_path: Path) -> None:
    for listen in ("127.0.0.1:0", ""):
        assert config.check_port(load(tmp_path, f'[metrics]\nlisten = "{listen}"\n' + WORKER)) is None


@pytest.mark.parametrize("drop_in", [False, True])
def test_a_port_in_use_is_a_problem_of_the_file_that_chose_it(tmp_path: Path, drop_in: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = f'[metrics]\nlisten = "127.0.0.1:{server.getsockname()[1]}"\n'
        settings = load(tmp_path, WORKER + ("" if drop_in else text), {"1.toml": text if drop_in else ""})
        found = config.check_port(settings)
    assert found is not None
    assert Path(found.file).name == ("1.toml" if drop_in else "watchdogd.toml")
    assert found.key == "metrics.listen"
    assert "Address already in use" in found.message and "another" in found.remedy


# --- what can run and is likely a mistake ---------------------------------------------------------------------------

BOTH = 'deadlines = { step = "1s", sync = "1s" }\n'
GPU_AND_DLA = (
    f'[workers.g]\ncommand = ["python3"]\naccelerator = "gpu0"\n{BOTH}'
    f'[workers.h]\ncommand = ["python3"]\naccelerator = "dla0"\n{BOTH}'
)
COUPLED = 'coupled_with = ["gpu0"]\n'
UNLIKE = (GPU_AND_DLA + COUPLED).replace('"1s", sync = "1s" }\ncoupled', '"9s", sync = "6001ms" }\ncoupled')
FULL = 'evidence = "full"\n'
DOUBTFUL = [
    # text, key, part of the message, part of the remedy
    (WORKER, A + "deadlines", "nothing but its start is watched", "set step and sync"),
    (WORKER + 'deadlines.startup = "9s"\n', A + "deadlines", "nothing but its start is watched", "set step and sync"),
    (WORKER + 'deadlines.startup = "never"\n', A + "deadlines", "none of it is watched", "set step and sync"),
    (WORKER + 'accelerator = "gpu0"\ndeadlines.step = "1s"\n', A + "deadlines", "step without sync", "set sync"),
    (GPU_AND_DLA, "workers.h.coupled_with", 'dla0 may freeze gpu0, and then "g"', 'coupled_with = ["gpu0"]'),
    (UNLIKE, "supervisor.hold_max", '"5s" after its verdict "g" is killed, although "h"', '"5001ms" or more'),
    (
        f'[supervisor]\nkill_grace = "999ms"\n{WORKER}{BOTH}',
        "supervisor.kill_grace",
        "the driver lets go",
        '"1s" or more',
    ),
    (
        WORKER + BOTH + 'coupled_with = ["gpu7"]\n',
        A + "coupled_with",
        '"gpu7" has no worker',
        "remove it",
    ),
    (WORKER + BOTH + 'restart_with = "zz"\n', A + "restart_with", '"zz" has no other worker', "remove it"),
    (
        f'[tegrastats]\ncommand = ["tegrastat"]\n{WORKER}{BOTH}',
        "tegrastats.command",
        'program "tegrastat" is not an executable file, nor on PATH',
        "whole path",
    ),
    (WORKER + BOTH + "gpu_core_dump = true\n", A + "gpu_core_dump", "has no effect", 'evidence = "full"'),
    (WORKER + BOTH + 'evidence_budget = "1s"\n', A + "evidence_budget", "has no effect", 'evidence = "full"'),
    (f"[incidents]\nmax_count = 0\n{WORKER}{BOTH}" + FULL, A + "evidence", "max_count is 0", "raise it"),
]


@pytest.mark.parametrize(("text", "key", "message", "remedy"), DOUBTFUL)
def test_a_likely_mistake_is_a_warning(tmp_path: Path, text: str, key: str, message: str, remedy: str) -> None:
    (found,) = warnings(tmp_path, text)
    assert (found.file, found.key) == (str(tmp_path / "watchdogd.toml"), key)
    assert message in found.message and remedy in found.remedy


@pytest.mark.parametrize(
    "text",
    [
        *(WORKER + f'deadlines.{name} = "9s"\n' for name in ("first_step", "step", *abi.OPERATIONS[1:])),
        WORKER + 'accelerator = "gpu0"\ndeadlines = { step = "1s", copy = "1s" }\n',
        GPU_AND_DLA + COUPLED,
        GPU_AND_DLA.replace("gpu0", "dla1"),
        GPU_AND_DLA.replace('"dla0"', '"gpu0"'),
        UNLIKE.replace("6001ms", "6s"),
        UNLIKE.replace('["gpu0"]', "[]").replace("dla0", "gpu1"),
        '[supervisor]\nhold_max = "5001ms"\n' + UNLIKE,
        '[supervisor]\nhold_max = "0s"\n' + UNLIKE,
        f'[supervisor]\nkill_grace = "1s"\n{WORKER}{BOTH}',
        WORKER + BOTH + f'accelerator = "gpu7"\n[workers.b]\ncommand = ["sh"]\n{BOTH}coupled_with = ["gpu7", "a"]\n',
        WORKER + BOTH + f'restart_with = "zz"\n[workers.b]\ncommand = ["sh"]\n{BOTH}restart_with = "zz"\n',
        f'[tegrastats]\ncommand = ["sh"]\n{WORKER}{BOTH}',
        f'{WORKER}{BOTH}{FULL}evidence_budget = "1s"\ngpu_core_dump = true\n',
        f"[incidents]\nmax_count = 0\n{WORKER}{BOTH}",
    ],
)
def test_what_may_well_be_meant_is_not_a_warning(tmp_path: Path, text: str) -> None:
    assert warnings(tmp_path, text) == []


def test_what_lies_beside_the_drop_ins_under_another_name_is_a_warning(tmp_path: Path) -> None:
    aside = {"50-site.toml.off": "", ".50-site.toml.swp": "", "50-site.toml~": "", "60-site.toml": ""}
    assert warnings(tmp_path, WORKER + BOTH, aside) == []
    (found,) = warnings(tmp_path, WORKER + BOTH, {"50-site.conf": ""})
    assert (found.file, found.key) == (str(tmp_path / "watchdogd.toml.d/50-site.conf"), "")
    assert "ends in .toml" in found.message


def test_a_relative_program_without_a_directory_is_a_warning_and_its_absence_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "engine")
    text = f'[workers.a]\ncommand = ["./engine"]\n{BOTH}'
    monkeypatch.chdir(tmp_path)
    (found,) = warnings(tmp_path, text)
    assert found.key == A + "command" and "systemd does in /" in found.message
    assert warnings(tmp_path, f'{text}working_directory = "{tmp_path}"\n') == []
    monkeypatch.chdir("/")
    (problem,) = problems(tmp_path, text)
    assert "is not an executable file in / (no working_directory" in problem.message


def test_a_directory_of_ours_that_is_gone_is_no_problem_of_a_key_that_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert warnings(tmp_path, WORKER + BOTH) == []


def test_a_warning_is_given_for_each_worker_and_names_the_file_that_began_it(tmp_path: Path) -> None:
    found = warnings(tmp_path, WORKER, {"1.toml": '[workers.b]\ncommand = ["python3"]\n'})
    assert [(Path(problem.file).name, problem.key) for problem in found] == [
        ("watchdogd.toml", "workers.a.deadlines"),
        ("1.toml", "workers.b.deadlines"),
    ]


# --- anything -------------------------------------------------------------------------------------------------------

NAMES = sorted(
    {part for keys in TABLES.values() for key in keys for part in key.split(".")}
    | {*TABLES, "workers", "defaults", "a"}
)
TEXTS = st.text() | st.sampled_from(
    ["never", "auto", "1s", "0s", "gpu0", "8MiB", "python3", "[::1]:1", "0-3", "fifo:9"]
)
SCALARS = TEXTS | st.integers() | st.floats() | st.booleans() | st.dates() | st.times() | st.datetimes()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
)
DOCUMENTS = st.dictionaries(st.sampled_from(NAMES) | st.text(), VALUES, max_size=5)
WORKERS = st.fixed_dictionaries(
    {"workers": st.dictionaries(st.text(), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6), max_size=3)}
)


@settings(max_examples=60, deadline=None)
@given(st.lists(DOCUMENTS | WORKERS, min_size=1, max_size=3))
def test_whatever_the_files_hold_it_is_settings_or_a_config_error(documents: list[dict[str, Any]]) -> None:
    tree = config_files.Tree()
    for number, document in enumerate(documents):
        tree.add(f"{number}.toml", document)
    try:
        assert config.settings_of(tree, Problems(tree, []), environ=os.environ).workers
    except config.ConfigError as error:
        assert error.problems
        assert all(problem.file and problem.key and problem.message and problem.remedy for problem in error.problems)
        assert len(str(error).split("\n")) == len(error.problems)


@settings(deadline=None)
@given(st.text())
def test_whatever_the_text_is_it_is_toml_or_a_config_error(text: str) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        with pytest.raises(config.ConfigError) as caught:
            config.load(Path(file.name), environ={})
    assert all(problem.file == file.name for problem in caught.value.problems)


def test_a_key_of_very_many_parts_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, WORKER + "a." * 1001 + "a = 1\n")
    assert found.message == "line 3 holds more than 1000 dots"


def test_many_dots_that_are_in_no_one_line_are_read(tmp_path: Path) -> None:
    lines = ",\n".join(['"0.1.2.3"'] * 1000)
    assert load(tmp_path, f'[workers.a]\ncommand = ["python3",\n{lines}]\n').workers


def test_more_workers_than_can_be_compared_are_refused(tmp_path: Path) -> None:
    tables = [f"[workers.w{number}]\nuser = 1\n" for number in range(config.MOST_WORKERS + 1)]
    (found,) = problems(tmp_path, "".join(tables))
    assert (found.key, found.message) == ("workers", "has 1025 workers")
    assert len(problems(tmp_path, "".join(tables[1:]))) == 2 * config.MOST_WORKERS  # user and command of each


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + WORKER).workers


def test_a_user_that_the_locale_cannot_write_is_one_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(WORKER + 'user = "日本"\ngroup = "日本"\n', encoding="utf-8")
    code = f"import pathlib, watchdogd.config as c\nc.load(pathlib.Path({str(tmp_path / 'x.toml')!r}), environ={{}})"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PATH": os.environ["PATH"]}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=plain, capture_output=True, text=True, timeout=20, cwd=ROOT, check=False
    )
    assert "ConfigError" in ran.stderr and "there is no user" in ran.stderr and "there is no group" in ran.stderr


def test_deep_nesting_by_dotted_keys_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    text = ".".join(["a"] * 990) + " = 1\n"
    for line in (text, f"[nvml]\nenabled.{text}", f"[workers.b]\nenvironment.{text}"):
        assert problems(tmp_path, WORKER + "[defaults]\n" + line)


# --- what ships -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.toml")), ids=lambda file: file.name)
def test_the_configurations_that_ship_are_right_but_for_the_directory_that_is_to_be_named(
    file: Path, tmp_path: Path
) -> None:
    example = tmp_path / file.name
    example.write_text(file.read_text().replace("/opt/vehicle", str(tmp_path)))
    settings, warned = config.check(example, environ=os.environ)
    assert not warned
    assert {worker.accelerator for worker in settings.workers} == {"gpu0", "dla0"}


def test_what_ships_commented_out_is_right_once_it_is_not(tmp_path: Path) -> None:
    text = (ROOT / "config/watchdogd.toml").read_text()
    uncommented = re.sub(r"(?m)^# (?=\[|[a-z_]+ = )", "", text)
    told = {f"{key} = " for key in ("bad_in_a_row", "baseline", "leak", "redeliver", "bisect_after")}
    assert {key for key in told if f"\n{key}" in uncommented} == told
    here = {"/opt/vehicle": str(tmp_path), '"inference"': repr(getpass.getuser()), '"8-11"': '"0"'}
    for there, mine in here.items():
        uncommented = uncommented.replace(there, mine)
    example = tmp_path / "watchdogd.toml"
    example.write_text(uncommented)
    for name in ("mark-stale", "request-safe-state"):
        (tmp_path / name).touch(0o700)
    (tmp_path / "tegrastats").touch(0o700)
    settings, _ = config.check(example, environ={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert settings.workers[0].outputs.bad_in_a_row == 5
    by_name = {worker.name: worker for worker in settings.workers}
    assert by_name["model_h"].redeliver and by_name["serve"].instrument == "driver"


def test_the_table_of_keys_shows_every_key_with_the_default_of_the_settings() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "watchdogd.config", "--markdown"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert printed == markdown()
    rows = [line.split(" | ")[0].strip("| `") for line in printed.splitlines()[2:] if "**" not in line]
    assert rows == [key for keys in TABLES.values() for key in keys]
    for row in (
        '| `kill_grace` | `duration` | `"5s"` |',
        '| `deadlines.startup` | `duration from 1ms, or "never"` | `"2m"` |',
        '| `deadlines.sync` | `duration from 1ms, or "never"` | `"never"` |',
        '| `output_max_bytes` | `bytes or size` | `"16MiB"` |',
        "| `max_kills` | `integer, 1 or more` | `20` |",
        "| `required` | `true, false` | `true` |",
        "| `command` | `strings` | `required` |",
        "| `user` | `string` | `unset` |",
    ):
        assert row in printed


def test_importing_the_configuration_loads_nothing_heavy() -> None:
    code = "import sys, watchdogd.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20).stdout
    assert not {"difflib", "pynvml", "pydantic", "asyncio", "logging", "typing_extensions"} & set(loaded.split())


ASKS_FOR_THE_JOURNAL = WORKER + 'output = "journal"\n[supervisor]\nlog_format = "journal"\n'


def test_who_asks_for_the_journal_needs_systemd_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald, "can_send", lambda: False)
    found = {problem.key: problem.remedy for problem in problems(tmp_path, ASKS_FOR_THE_JOURNAL)}
    assert found.keys() == {"supervisor.log_format", "workers.a.output"}
    assert "watchdogd[systemd]" in found["supervisor.log_format"]


def test_who_has_systemd_python_or_does_not_insist_on_the_journal_hears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald, "can_send", lambda: True)
    load(tmp_path, ASKS_FOR_THE_JOURNAL)
    monkeypatch.setattr(journald, "can_send", lambda: False)
    load(tmp_path, WORKER + '[supervisor]\nlog_format = "auto"\n')


# --- hooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('on_verdict = ["nonexistent-hook"]', 'program "nonexistent-hook" is not on PATH'),
        ('on_verdict = ["/nonexistent/hook"]', 'program "/nonexistent/hook" is not an executable file'),
        ('on_verdict = ["./hook"]', "is a relative path"),
    ],
)
def test_a_hook_that_is_not_there_is_a_problem(tmp_path: Path, line: str, message: str) -> None:
    (found,) = problems(tmp_path, f"[hooks]\n{line}\n{WORKER}")
    assert (found.key, message in found.message) == ("hooks.on_verdict", True), found


def test_an_export_hook_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f'[incidents]\nexport_hook = ["nonexistent-hook"]\n{WORKER}')
    assert (found.key, "is not on PATH" in found.message) == ("incidents.export_hook", True), found


def test_a_veto_that_is_over_before_it_can_be_given_is_a_problem(tmp_path: Path) -> None:
    text = '[hooks]\non_verdict = ["sh"]\nveto_max = "100ms"\n'
    (found,) = problems(tmp_path, text + "veto = true\n" + WORKER)
    assert found.key == "hooks.veto_max"
    load(tmp_path, text + WORKER)  # without a veto it means nothing


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('ready_after = "5s"\ndeadlines = { startup = "5s", sync = "1s" }', "ready_after"),
        ('ready_after = "4s"\ndeadlines = { startup = "5s", sync = "1s" }', None),
        ('ready_after = "5s"\ndeadlines = { startup = "never", sync = "1s" }', None),
        ('restart = { before_exit = 2 }\ndeadlines = { sync = "1s" }', "restart.before_exit"),
        ('restart = { before_exit = 2 }\non_verdict = "exit"\ndeadlines = { sync = "1s" }', None),
    ],
)
def test_what_can_never_come_about_is_a_warning_and_what_can_is_not(tmp_path: Path, text: str, key: str | None) -> None:
    assert [problem.key for problem in warnings(tmp_path, WORKER + text + "\n")] == ([A + key] if key else [])


def test_a_leak_without_a_measure_is_a_warning_and_with_one_is_not(tmp_path: Path) -> None:
    rule = WORKER + 'growth = {{ leak = true, baseline = "{}" }}\n'
    assert A + "growth.leak" in [problem.key for problem in warnings(tmp_path, rule.format("never"))]
    assert A + "growth.leak" not in [problem.key for problem in warnings(tmp_path, rule.format("10m"))]


def test_a_veto_without_anybody_to_ask_is_a_warning(tmp_path: Path) -> None:
    assert "hooks.veto" in [problem.key for problem in warnings(tmp_path, "[hooks]\nveto = true\n" + WORKER)]
    asked = '[hooks]\nveto = true\non_verdict = ["sh"]\n'
    assert "hooks.veto" not in [problem.key for problem in warnings(tmp_path, asked + WORKER)]


# --- workers that belong together -----------------------------------------------------------------------------------


def three(a: str = "", b: str = "", c: str = "") -> str:
    return "".join(f'[workers.{name}]\ncommand = ["sh"]\n{keys}\n' for name, keys in (("a", a), ("b", b), ("c", c)))


@pytest.mark.parametrize("key", ["after", "restart_with"])
def test_an_unknown_worker_and_itself_are_problems(tmp_path: Path, key: str) -> None:
    found = problems(tmp_path, three(a=f'{key} = ["bb", "a"]'))
    assert [(problem.key, problem.message) for problem in found] == [
        (f"workers.a.{key}", '"bb" is not a worker'),
        (f"workers.a.{key}", '"a" is this worker itself'),
    ]
    assert found[0].remedy == 'did you mean "b"?'


def test_workers_that_wait_for_each_other_are_a_problem(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, three('after = ["b"]', 'after = ["c"]', 'after = ["a"]'))
    assert found.message == "they wait for each other: a after b after c after a"


def test_workers_that_wait_for_the_same_one_are_none(tmp_path: Path) -> None:
    load(tmp_path, three('after = ["b", "c"]', 'after = ["c"]'))


@pytest.mark.parametrize("keys", ['after = ["b"]', 'restart_with = ["b"]'])
def test_nobody_waits_for_a_worker_that_is_never_late(tmp_path: Path, keys: str) -> None:
    (found,) = problems(tmp_path, three(keys, 'deadlines.startup = "never"'))
    assert (found.key, found.remedy[:9]) == (f"workers.a.{keys.partition(' ')[0]}", 'give "b" ')
    assert 'deadlines.startup is "never"' in found.message
    load(tmp_path, three(keys, c='deadlines.startup = "never"'))


def test_one_of_a_group_that_is_never_late_is_a_problem(tmp_path: Path) -> None:
    group = 'restart_with = "pipe"'
    (found,) = problems(tmp_path, three(group, group + '\ndeadlines.startup = "never"'))
    assert found.key == "workers.b.restart_with"


def test_a_group_is_restarted_mutually_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    group = 'restart_with = "pipe"'
    settings = load(tmp_path, three(group, group, group))
    assert [worker.restart_with for worker in settings.workers] == [("b", "c"), ("a", "c"), ("a", "b")]


def test_a_list_is_restarted_one_way(tmp_path: Path) -> None:
    settings = load(tmp_path, three('restart_with = ["c", "b"]', 'restart_with = "alone"'))
    assert [worker.restart_with for worker in settings.workers] == [("c", "b"), (), ()]


def test_a_redundancy_group_of_one_is_a_warning_and_of_two_is_not(tmp_path: Path) -> None:
    group = 'redundancy = "front"'
    assert "workers.a.redundancy" in [problem.key for problem in warnings(tmp_path, three(group))]
    assert "workers.a.redundancy" not in [problem.key for problem in warnings(tmp_path, three(group, group))]


@pytest.mark.parametrize("action", ["reboot", "service-fail"])
def test_an_action_without_anybodys_consent_is_a_problem(tmp_path: Path, action: str) -> None:
    text = f'[escalation]\naction = "{action}"\nreboot_command = ["sh"]\n'
    (found,) = problems(tmp_path, text + WORKER)
    assert (found.key, "without anybody's consent" in found.message) == ("escalation.action", True)
    load(tmp_path, text + 'ask = ["sh"]\n' + WORKER)
    load(tmp_path, text + 'consent_file = "/run/stands"\n' + WORKER)


def test_a_reboot_command_that_is_not_there_is_a_problem_where_it_is_needed(tmp_path: Path) -> None:
    text = '[escalation]\nask = ["sh"]\nreboot_command = ["nonexistent-reboot"]\n'
    load(tmp_path, text + WORKER)
    (found,) = problems(tmp_path, text + 'action = "reboot"\n' + WORKER)
    assert found.key == "escalation.reboot_command"


@pytest.mark.parametrize(("mode", "warned"), [(0o755, False), (0o777, True), (0o775, True), (0o1777, True)])
def test_a_consent_file_that_anybody_could_make_is_a_warning(mode: int, warned: bool, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    text = f'[escalation]\nconsent_file = "{place}/stands"\n'
    assert ("escalation.consent_file" in [p.key for p in warnings(tmp_path, text + WORKER)]) is warned


def test_a_number_of_hangs_that_calls_for_nothing_is_a_warning(tmp_path: Path) -> None:
    text = "[escalation]\nhangs = 3\n"
    assert "escalation.hangs" in [problem.key for problem in warnings(tmp_path, text + WORKER)]
    assert "escalation.hangs" not in [p.key for p in warnings(tmp_path, text + 'ask = ["sh"]\n' + WORKER)]


@pytest.mark.parametrize(
    ("value", "message"), [('"cudaa"', "no built-in probe"), ('["/nonexistent/p"]', "not an exec")]
)
def test_a_probe_that_is_not_there_is_a_problem(tmp_path: Path, value: str, message: str) -> None:
    (found,) = problems(tmp_path, WORKER + f"probe = {value}\n")
    assert (found.key, message in found.message) == ("workers.a.probe", True), found


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("deadlines.step", 'deadlines = { step = "1s", sync = "1s" }'),
        ("deadlines.first_step", 'deadlines = { first_step = "1s", sync = "1s" }'),
        ("restart.bisect_after", "restart = { bisect_after = 2 }"),
        ("redeliver", "redeliver = true"),
        ("outputs.bad_in_a_row", "outputs = { bad_in_a_row = 5 }"),
    ],
)
def test_what_needs_the_workers_own_code_is_doubted_before_a_shim_alone(tmp_path: Path, key: str, text: str) -> None:
    assert f"workers.a.{key}" in [p.key for p in warnings(tmp_path, three(f'instrument = "driver"\n{text}'))]
    assert f"workers.a.{key}" not in [p.key for p in warnings(tmp_path, three(text))]
    inherited = f"[defaults]\n{text}\n" + three('instrument = "driver"')
    assert [p.key for p in warnings(tmp_path, inherited) if p.key.endswith(key)] == []


@pytest.mark.parametrize(
    ("key", "text"),
    [("check_context", "check_context = true"), ("sync_mode", 'sync_mode = "spin"'), ("nvtx", "nvtx = true")],
)
def test_what_needs_the_shim_is_doubted_without_one(tmp_path: Path, key: str, text: str) -> None:
    assert f"workers.a.{key}" in [p.key for p in warnings(tmp_path, three(text))]
    assert f"workers.a.{key}" not in [p.key for p in warnings(tmp_path, three(f'instrument = "driver"\n{text}'))]
