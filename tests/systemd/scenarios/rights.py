"""Who may what: priorities, limits, readers of the status, the sandbox."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.systemd.scenarios.life import _switched_on
from tests.systemd.service import RUNTIME, STATE, Service, run, wait_until
from watchdogd.publish import board

SHARE = Path("/opt/gpu-watchdogd/share/drop-ins")
CAP_SYS_RESOURCE = 24


def the_supervisor_is_real_time_and_its_workers_and_helpers_are_not(service: Service) -> None:
    service.configure({"a": "serve()"}, metrics="127.0.0.1:0")
    pid = service.start()
    assert os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
    assert os.sched_getparam(pid).sched_priority == 1
    # Until the keeper's first job is over: it would end between here and a look at it, and is 0 in the list as it ends.
    wait_until(lambda: board.read(str(RUNTIME / board.FILE_NAME)).body["incidents"]["tools"] is not None, service.log)
    others = [other for other in _processes(service) if other != pid]
    others.append(service.worker("a")["pid"])  # in a scope of its own
    assert len(others) >= 4  # the recorder, the exporter and the keeper too
    assert {os.sched_getscheduler(other) for other in others} == {os.SCHED_OTHER}
    assert service.view()["supervisor"]["scheduling"] == "fifo:1"
    assert _limit(pid, "Max realtime timeout")[0] == "1000000"
    assert {_limit(other, "Max realtime priority")[1] for other in others} == {"0"}
    assert {_limit(other, "Max realtime timeout") for other in others} == {("unlimited", "unlimited")}


def where_real_time_is_refused_it_runs_and_says_so(service: Service) -> None:
    service.configure({"a": "serve()"})
    service.drop_in("[Service]\nLimitRTPRIO=0\nCapabilityBoundingSet=~CAP_SYS_NICE\n")
    pid = service.start()
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    assert "refused" in service.view()["supervisor"]["scheduling"]
    assert "real-time priority was refused" in run("watchdogd", "status").stdout


def the_supervisor_is_the_last_to_go_for_want_of_memory_and_its_workers_are_not(service: Service) -> None:
    service.configure({"a": "serve()"})
    pid = service.start()
    assert service.show("OOMScoreAdjust") == "-900"
    if _may_raise_limits():
        assert _oom(pid) == -900
    else:
        service.facts["not tried"] = "this machine lets nobody have a negative oom_score_adj: no CAP_SYS_RESOURCE"
    assert _oom(service.worker("a")["pid"]) == 0


def the_supervisors_memory_is_locked_and_the_workers_is_not(service: Service) -> None:
    service.configure({"a": "serve()"})
    pid = service.start()
    assert service.view()["supervisor"]["memory"] == "locked"
    locked = _locked_kib(pid)
    service.facts["locked_kib"] = locked
    assert 5_000 < locked < 80_000
    assert _locked_kib(service.worker("a")["pid"]) == 0


def where_memory_may_not_be_locked_it_runs_and_says_so(service: Service) -> None:
    service.configure({"a": "serve()"})
    service.drop_in("[Service]\nLimitMEMLOCK=1M\nCapabilityBoundingSet=~CAP_IPC_LOCK\n")
    pid = service.start()
    assert _locked_kib(pid) == 0
    assert service.view()["supervisor"]["memory"].startswith("not locked (")


def a_member_of_the_group_reads_the_status_and_another_user_does_not(service: Service) -> None:
    _users()
    service.configure({"a": "serve()"})
    service.start()
    assert "a " in run("watchdogd", "status", user="member").stdout
    assert run("watchdogd", "events", user="member").returncode == 0
    for command in ("status", "events"):
        told = run("watchdogd", command, user="outsider")
        assert (told.returncode, told.stdout) == (1, "")
        assert "ermission denied; use sudo, or join the group watchdogd" in told.stderr, told.stderr
    for change in (("restart", "a"), ("reload",)):
        told = run("watchdogd", *change, user="outsider")
        assert told.returncode == 1 and "commands are for root" in told.stderr, told.stderr
    assert run("ls", str(RUNTIME), user="outsider").returncode != 0
    assert run("ls", str(STATE), user="outsider").returncode != 0
    # To look is not to command.
    refused = run("watchdogd", "restart", "a", user="member")
    assert refused.returncode == 1 and "may not restart a worker" in refused.stderr, refused.stderr
    refused = run("watchdogd", "reload", user="member")
    assert refused.returncode == 1 and "may not reload the configuration" in refused.stderr, refused.stderr
    service.stop()
    told = run("watchdogd", "status", user="member")
    assert told.returncode == 3 and "`systemctl start gpu-watchdogd`" in told.stdout, told.stdout


def a_worker_of_another_user_reaches_its_heartbeat_and_can_be_killed(service: Service) -> None:
    _users()
    once = (
        "tell('uid', os.getuid())\nworker.ready()\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    )
    service.configure({"a": once}, user="outsider", deadlines={"sync": "200ms"})
    service.systemctl("start", "gpu-watchdogd")
    wait_until(lambda: service.events("signal", worker="a", signal="SIGKILL"), service.log)
    service.wait_running()
    assert service.worker("a")["incarnation"] == 2
    assert Path("/run/watchdogd-test/uid").read_text() != "0"


def without_root_it_supervises_in_real_time_where_the_limit_allows_it(service: Service) -> None:
    _users()
    once = "tell('seen', 1)\nworker.ready()\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    service.configure({"a": once}, deadlines={"sync": "200ms"})
    service.drop_in(_switched_on((SHARE / "unprivileged.conf").read_text()))
    service.systemctl("start", "gpu-watchdogd")
    wait_until(lambda: service.events("signal", worker="a", signal="SIGKILL"), service.log)
    service.wait_running()
    pid, worker = service.pid(), service.worker("a")["pid"]
    assert Path(f"/proc/{pid}").stat().st_uid != 0
    assert os.sched_getscheduler(worker) == os.SCHED_OTHER
    assert _limit(worker, "Max realtime priority") == ("0", "0")
    scheduling = service.view()["supervisor"]["scheduling"]
    if _may_raise_limits():
        assert scheduling == "fifo:1"
    else:
        service.facts["not tried"] = "this machine lets nobody raise RLIMIT_RTPRIO: no CAP_SYS_RESOURCE"
        assert scheduling.startswith("normal (")


def in_the_strict_sandbox_it_runs_and_kills_all_the_same(service: Service) -> None:
    once = "worker.ready()\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    service.configure({"a": once}, deadlines={"sync": "200ms"})
    text = _switched_on((SHARE / "sandbox.conf").read_text())
    service.drop_in(text.replace("/dev/shm", "/dev/shm /run/watchdogd-test"))
    service.systemctl("start", "gpu-watchdogd")
    wait_until(lambda: service.events("signal", worker="a", signal="SIGKILL"), service.log)
    service.wait_running()
    assert service.worker("a")["incarnation"] == 2
    for unit in ("", text):
        service.facts.setdefault("exposure", []).append(_exposure(service, unit))


def _exposure(service: Service, text: str) -> str:
    service.drop_in(text)
    told = run("systemd-analyze", "security", "--no-pager", "gpu-watchdogd.service").stdout
    return told.strip().splitlines()[-1].partition(":")[2].strip()


def _users() -> None:
    if run("id", "member").returncode != 0:
        assert run("useradd", "--groups", "watchdogd", "member").returncode == 0
        assert run("useradd", "outsider").returncode == 0
        for group in ("video", "render"):
            run("groupadd", "--system", "--force", group)


def _processes(service: Service) -> list[int]:
    cgroup = service.show("ControlGroup")
    return [int(pid) for pid in Path(f"/sys/fs/cgroup/unified{cgroup}/cgroup.procs").read_text().split()]


def _limit(pid: int, name: str) -> tuple[str, str]:
    """Soft and hard."""
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith(name))
    soft, hard = line[len(name) :].split()[:2]
    return soft, hard


def _may_raise_limits() -> bool:
    capabilities = re.search(r"CapBnd:\s+(\w+)", Path("/proc/1/status").read_text())
    return capabilities is not None and bool(int(capabilities[1], 16) >> CAP_SYS_RESOURCE & 1)


def _oom(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def _locked_kib(pid: int) -> int:
    found = re.search(r"VmLck:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0
