"""What ``watchdogd doctor`` finds in a file tree and on a PATH: each part there, and not there."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers.machine import Tree, sample, settings, worker
from tests.helpers.running import wait_until
from watchdogd.doctor import accelerators, evidence, files, rights, system
from watchdogd.doctor.words import Outcome, State
from watchdogd.incidents import collectors
from watchdogd.model import SourceSettings, SupervisorSettings
from watchdogd.publish import journald


@pytest.fixture
def tree() -> Iterator[Tree]:
    with tempfile.TemporaryDirectory(prefix="watchdogd-test-") as folder:  # short: the path of a socket has 107 bytes
        yield Tree(Path(folder))


def states(*outcomes: Outcome) -> list[State]:
    for outcome in outcomes:
        assert outcome.found
        assert bool(outcome.lost) == bool(outcome.remedy) == (outcome.state is not State.OK)
    return [outcome.state for outcome in outcomes]


# --- DLA and nvgpu ----------------------------------------------------------------------------------------------------


def test_a_dla_is_known_by_its_node_and_not_woken(tree: Tree) -> None:
    tree.orin()
    found = accelerators.dla(tree.machine())
    assert (found.state, found.found) == (State.OK, "dla0 suspended, dla1 active")


def test_without_nodes_there_is_no_dla(tree: Tree) -> None:
    assert states(accelerators.dla(tree.machine())) == [State.MISSING]


def test_a_core_that_only_the_configuration_has_is_missing(tree: Tree) -> None:
    tree.file("dev/nvhost-nvdla0")  # as R32 named it
    of = settings(worker("h", accelerator="dla0"), worker("i", accelerator="dla1"))
    found = accelerators.dla(tree.machine(of))
    assert (found.state, found.found) == (State.MISSING, "dla0; no dla1")
    assert states(accelerators.dla(tree.machine(settings(worker("h", accelerator="dla0"))))) == [State.OK]


def test_the_nvgpu_load_file_is_read(tree: Tree) -> None:
    tree.orin()
    assert accelerators.nvgpu_load(tree.machine()).found.startswith("gpu0 37% (")


def test_a_machine_without_an_nvgpu_load_file_says_what_else_there_is(tree: Tree) -> None:
    found = accelerators.nvgpu_load(tree.machine())
    assert (states(found), found.remedy) == ([State.MISSING], "use tegrastats or NVML (Thor)")


@pytest.mark.parametrize(("version", "state"), [("12.9.0", State.DEGRADED), ("12.9.1", State.OK), ("13.0.3", State.OK)])
def test_a_cuda_python_that_keeps_the_gil_is_told(
    version: str, state: State, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: version)
    assert states(accelerators.bindings(tree.machine())) == [state]


def test_no_cuda_python_is_told(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert states(accelerators.bindings(tree.machine())) == [State.MISSING]


# --- tegrastats -------------------------------------------------------------------------------------------------------


def prints(tree: Tree, line: str, then: str = "") -> Outcome:
    tree.file("line", line + "\n")
    tree.program("tegrastats", f"/bin/cat {tree.root}/line; {then}")
    return accelerators.tegrastats_load(tree.machine())


def test_a_tegrastats_that_tells_gpu_and_dla_is_fine(tree: Tree) -> None:
    tree.orin()
    found = prints(tree, sample("AGX Orin", gpu_percent=87), "exec /bin/sleep 60")
    assert (found.state, found.found) == (State.OK, f"{tree.bin}/tegrastats: gpu0 87%, dla0 0%, dla1 0%")


def test_a_tegrastats_without_a_gpu_load_is_degraded(tree: Tree) -> None:
    found = prints(tree, sample("AGX Thor", gpu_percent=None))
    assert states(found) == [State.DEGRADED]
    assert "no load of the GPU" in found.found and "NVML" in found.remedy


def test_a_tegrastats_that_is_not_root_s_names_no_dla(tree: Tree) -> None:
    tree.orin()
    not_root = sample("AGX Orin", engines={}, gpu_percent=0)
    assert states(prints(tree, not_root)) == [State.DEGRADED]
    root_of_r35 = sample("AGX Orin", nvdla={}, gpu_mhz=114)  # its DLAs are off
    assert states(prints(tree, root_of_r35)) == [State.OK]


def test_without_a_dla_none_is_missed(tree: Tree) -> None:
    assert states(prints(tree, sample("AGX Orin", engines={}, gpu_percent=0))) == [State.OK]


def test_noise_before_the_first_line_is_passed_over(tree: Tree) -> None:
    tree.file("noise", "tegrastats: a warning\n")
    tree.file("line", sample("AGX Orin", gpu_percent=87) + "\n")
    tree.program("tegrastats", f"/bin/cat {tree.root}/noise {tree.root}/line")
    assert states(accelerators.tegrastats_load(tree.machine())) == [State.OK]


def test_a_tegrastats_that_ends_without_a_line_prints_no_load(tree: Tree) -> None:
    tree.program("tegrastats", "echo Permission denied; exit 3")
    found = accelerators.tegrastats_load(tree.machine())
    assert states(found) == [State.MISSING] and "exited with status 3" in found.found


def test_a_silent_tegrastats_is_unknown_and_given_up(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "TEGRASTATS_SECONDS", 0.2)
    tree.program("tegrastats", f"echo $$ >{tree.root}/pid; exec /bin/sleep 60")
    assert states(accelerators.tegrastats_load(tree.machine())) == [State.UNKNOWN]
    pid = int((tree.root / "pid").read_text())
    wait_until(lambda: b") Z" in Path(f"/proc/{pid}/stat").read_bytes())
    os.waitpid(pid, 0)


def test_no_tegrastats_is_missing(tree: Tree) -> None:
    assert states(accelerators.tegrastats_load(tree.machine())) == [State.MISSING]


def test_the_configured_command_is_the_one_that_is_tried_with_a_short_interval(tree: Tree) -> None:
    tree.file("line", sample("AGX Orin", gpu_percent=87) + "\n")
    tree.program("mine", f'echo "$@" >{tree.root}/arguments; /bin/cat {tree.root}/line')
    mine = SourceSettings("tegrastats", ("mine", "--readall", "--interval", "60000"))
    assert states(accelerators.tegrastats_load(tree.machine(settings(sources=(mine,))))) == [State.OK]
    assert (tree.root / "arguments").read_text() == "--readall --interval 200\n"


# --- rights -----------------------------------------------------------------------------------------------------------

PROC = "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw{}"
EVERYTHING, NOTHING = "CapEff:\t000001ffffffffff\n", "CapEff:\t0000000000000000\n"


def proc(tree: Tree, options: str = "", capabilities: str = NOTHING, schedstat: bool = True) -> Outcome:
    tree.file("proc/self/mountinfo", PROC.format(options))
    tree.file("proc/self/status", f"Name:\tx\n{capabilities}")
    if schedstat:
        tree.file("proc/self/schedstat", "1 2 3\n")
    return rights.processes(tree.machine())


def test_an_open_proc_shows_every_worker(tree: Tree) -> None:
    assert states(proc(tree), proc(tree, ",hidepid=0"), proc(tree, ",hidepid=off")) == [State.OK] * 3


@pytest.mark.parametrize("option", [",hidepid=2", ",hidepid=invisible", ",hidepid=1,gid=4"])
def test_a_hidden_proc_hides_workers_from_who_may_not_trace(tree: Tree, option: str) -> None:
    assert states(proc(tree, option), proc(tree, option, EVERYTHING)) == [State.DEGRADED, State.OK]


def test_a_kernel_without_schedstat_gives_no_credit(tree: Tree) -> None:
    found = proc(tree, schedstat=False)
    assert states(found) == [State.DEGRADED] and "schedstat" in found.found


V1 = "40 30 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
V2 = "41 30 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = V1 + "42 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("mounts", "own", "file", "state", "found"),
    [
        (V2, "0::/system.slice/x.service", "sys/fs/cgroup/system.slice/x.service/cgroup.kill", State.OK, "v2, with"),
        (V2, "0::/", "sys/fs/cgroup/init.scope/cgroup.kill", State.OK, "v2, with"),
        (HYBRID, "3:cpu:/\n0::/a", "sys/fs/cgroup/unified/a/cgroup.kill", State.OK, "hybrid (v1 and v2), with"),
        (V2, "0::/a", "sys/fs/cgroup/a/cgroup.procs", State.DEGRADED, "v2, without"),
        (V1, "3:cpu:/a", "sys/fs/cgroup/cpu/a/tasks", State.MISSING, "v1 alone"),
        ("", "", "sys/fs/cgroup/none", State.MISSING, "none mounted"),
    ],
)
def test_cgroups_are_told_by_their_kind_and_whether_they_kill(
    tree: Tree, mounts: str, own: str, file: str, state: State, found: str
) -> None:
    tree.file("proc/self/mountinfo", mounts)
    tree.file("proc/self/cgroup", own + "\n")
    tree.file(file)
    outcome = rights.cgroups(tree.machine())
    assert states(outcome) == [state] and outcome.found.startswith(found)


def test_pidfds_are_tried(tree: Tree) -> None:
    assert states(rights.pidfd(tree.machine())) == [State.OK]


def test_a_kernel_that_refuses_pidfds_is_told(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refused)
    found = rights.pidfd(tree.machine())
    assert states(found) == [State.MISSING] and "Function not implemented" in found.found


def test_a_kernel_log_is_tried(tree: Tree) -> None:
    assert states(rights.kernel_log(tree.machine())) == [State.MISSING]
    tree.file("dev/kmsg")
    assert states(rights.kernel_log(tree.machine())) == [State.OK]


def test_a_kernel_log_that_is_refused_is_told_with_what_gives_it(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: str, _flags: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "open", refused)
    found = rights.kernel_log(tree.machine())
    assert states(found) == [State.MISSING]
    assert "not permitted" in found.found and "CAP_SYSLOG" in found.remedy and "dmesg_restrict" in found.remedy


# --- directories ------------------------------------------------------------------------------------------------------


def mounted(tree: Tree, kind: str, place: Path) -> None:
    """The deepest mount counts, not the last."""
    at = ((Path("/"), "ext4"), (place, "vfat"), (place, kind), (place.parent, "btrfs"))
    tree.file("proc/self/mountinfo", "".join(f"1 0 0:1 / {where} rw - {what} x rw\n" for where, what in at))


def directories(folder: Path) -> SupervisorSettings:
    return SupervisorSettings(runtime_dir=str(folder / "run"), state_dir=str(folder / "state"))


@pytest.mark.parametrize(("kind", "state"), [("tmpfs", State.OK), ("ext4", State.DEGRADED)])
def test_heartbeats_belong_in_memory(tree: Tree, tmp_path: Path, kind: str, state: State) -> None:
    mounted(tree, kind, tmp_path)
    of = settings(worker("a"), supervisor=directories(tmp_path))
    found = files.runtime_directory(tree.machine(of))
    assert states(found) == [state]
    assert found.found.startswith(f"{tmp_path}/run on {kind}, ") and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kind", "state"), [("tmpfs", State.DEGRADED), ("ext4", State.OK)])
def test_the_record_belongs_on_a_disk(tree: Tree, tmp_path: Path, kind: str, state: State) -> None:
    mounted(tree, kind, tmp_path)
    assert states(files.state_directory(tree.machine(settings(supervisor=directories(tmp_path))))) == [state]


def test_a_state_directory_that_is_there_is_written_to_and_left_as_it_was(tree: Tree, tmp_path: Path) -> None:
    mounted(tree, "ext4", tmp_path)
    (tmp_path / "state").mkdir()
    found = files.state_directory(tree.machine(settings(supervisor=directories(tmp_path))))
    assert states(found) == [State.OK] and "fsync takes" in found.found
    assert list((tmp_path / "state").iterdir()) == []


def test_a_file_in_place_of_a_directory_is_refused(tree: Tree, tmp_path: Path) -> None:
    for name in ("run", "state"):
        (tmp_path / name).write_text("")
    machine = tree.machine(settings(supervisor=directories(tmp_path)))
    assert states(files.runtime_directory(machine), files.state_directory(machine)) == [State.MISSING] * 2


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_tmpfs_too_small_for_the_heartbeats_is_told_before_the_start_fails(tree: Tree, small: Path) -> None:
    shutil.copy("/proc/self/mountinfo", tree.file("proc/self/mountinfo"))
    supervisor = directories(small)
    one, many = (settings(*map(worker, names), supervisor=supervisor) for names in ("a", "abcdefgh"))
    found = [files.runtime_directory(tree.machine(of)) for of in (one, many)]
    assert states(*found) == [State.OK, State.MISSING]
    assert "8 MiB free, " in found[1].found and "MiB needed" in found[1].found


def test_a_read_only_file_system_is_refused(tree: Tree, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    found = files.state_directory(tree.machine(settings(supervisor=directories(small))))
    assert states(found) == [State.MISSING] and "read-only" in found.found


# --- the system -------------------------------------------------------------------------------------------------------


def test_systemd_is_known_as_systemd_itself_knows_it(tree: Tree) -> None:
    assert states(system.systemd(tree.machine())) == [State.MISSING]
    (tree.root / "run/systemd/system").mkdir(parents=True)
    assert system.systemd(tree.machine()).found == "booted, version not known"
    tree.program("systemctl", '[ "$*" = --version ] && echo "systemd 249 (249.11-0ubuntu3.12)"')
    assert system.systemd(tree.machine()).found == "booted, version 249"


BUS = """<busconfig><type>system</type><listen>unix:path={}</listen>
<policy context="default"><allow user="*"/><allow own="*"/></policy></busconfig>"""


@contextmanager
def bus(tree: Tree) -> Iterator[None]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon")
    path = tree.root / system.BUS
    path.parent.mkdir(parents=True)
    command = ["dbus-daemon", "--nofork", "--print-address", f"--config-file={tree.file('bus.conf', BUS.format(path))}"]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None and daemon.stdout.readline()  # it listens
        yield
    finally:
        daemon.kill()
        daemon.wait(20)


def test_a_bus_that_answers_is_there(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with bus(tree):
        monkeypatch.setattr(system, "is_installed", lambda _name: True)
        assert states(system.bus(tree.machine())) == [State.OK]
        monkeypatch.setattr(system, "is_installed", lambda _name: False)
        found = system.bus(tree.machine())
        assert states(found) == [State.DEGRADED] and "jeepney" in found.found


def test_no_bus_is_missing_and_a_silent_one_is_unknown(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(system.bus(tree.machine())) == [State.MISSING]
    monkeypatch.setattr(system, "BUS_SECONDS", 0.05)
    (tree.root / system.BUS).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tree.root / system.BUS))
        silent.listen()
        assert states(system.bus(tree.machine())) == [State.UNKNOWN]


def test_the_journal_needs_its_socket_and_systemd_python(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald, "can_send", lambda: True)
    assert states(system.journal(tree.machine())) == [State.MISSING]
    path = tree.file(journald.SOCKET.lstrip("/"))
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(path))
        assert states(system.journal(tree.machine())) == [State.OK]
        monkeypatch.setattr(journald, "can_send", lambda: False)
        assert states(system.journal(tree.machine())) == [State.DEGRADED]


@pytest.mark.parametrize(
    ("source", "state"),
    [("arch_sys_counter\n", State.OK), ("tsc\n", State.OK), ("hpet\n", State.DEGRADED), (None, State.UNKNOWN)],
)
def test_a_clock_that_is_slow_to_read_is_told(tree: Tree, source: str | None, state: State) -> None:
    if source is not None:
        tree.file("sys/devices/system/clocksource/clocksource0/current_clocksource", source)
    assert states(system.clock(tree.machine())) == [state]


def test_the_native_part_is_told_and_so_is_its_absence(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    there = system.python(tree.machine())
    assert states(there) == [State.OK] and "_native" in there.found
    monkeypatch.setitem(sys.modules, "watchdogd._native", None)
    monkeypatch.delattr("watchdogd._native")
    assert states(system.python(tree.machine())) == [State.DEGRADED]


CONSOLE_SCRIPT = "import sys\nfrom watchdogd.cli import main\nsys.exit(main())"


def test_our_command_is_told_from_another_program_of_that_name(tree: Tree) -> None:
    assert states(system.other_program(tree.machine())) == [State.MISSING]
    tree.program("watchdogd", CONSOLE_SCRIPT)
    assert states(system.other_program(tree.machine())) == [State.OK]
    tree.program("watchdogd", "# feeds /dev/watchdog")
    found = system.other_program(tree.machine())
    assert states(found) == [State.DEGRADED] and found.found.endswith("and is found first")


def test_another_program_behind_ours_is_told_as_well(tree: Tree, tmp_path: Path) -> None:
    tree.program("watchdogd", CONSOLE_SCRIPT)
    behind = tmp_path / "sbin"
    behind.mkdir()
    (behind / "watchdogd").symlink_to("/bin/true")
    machine = tree.machine()
    found = system.other_program(type(machine)({"PATH": f"{tree.bin}:{behind}"}, None, tree.root))
    assert states(found) == [State.DEGRADED] and found.found.endswith("after ours")


def test_what_an_incident_could_tell_is_told_with_the_remedy_for_the_rest(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        collectors, "tools", lambda: {"proc": None, "py-spy": "install it", "native stacks": "install it"}
    )
    some = evidence.evidence(tree.machine())
    assert (some.state, some.found) == (State.DEGRADED, "proc; no py-spy, native stacks")
    assert some.remedy == "install it"
    monkeypatch.setattr(collectors, "tools", lambda: {"proc": None})
    assert evidence.evidence(tree.machine()).state is State.OK


def test_debug_tools_are_told_by_what_each_is_for(tree: Tree) -> None:
    assert states(system.evidence(tree.machine())) == [State.MISSING]
    tree.program("gdb")
    some = system.evidence(tree.machine())
    assert states(some) == [State.DEGRADED] and some.found == "gdb; no perf"
    assert some.lost == "what keeps a CPU busy"  # what incidents need is not told twice
    for name in system.TOOLS:
        tree.program(name)
    assert states(system.evidence(tree.machine())) == [State.OK]
    tree.file("proc/sys/kernel/yama/ptrace_scope", "3\n")
    assert states(system.evidence(tree.machine())) == [State.DEGRADED]
