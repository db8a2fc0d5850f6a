"""The unit's life: start, stop, what ends it and what brings it back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.systemd.service import CONFIG, HERE, UNIT, Service, gone, run, wait_until

WATCHDOG_SECONDS = 3.0  # as in the unit


def the_units_are_free_of_mistakes(service: Service) -> None:
    assert service.show("LoadState") == "loaded"
    told = run("systemd-analyze", "verify", UNIT, "gpu-watchdogd-degraded.target")
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def every_drop_in_switched_on_is_free_of_mistakes(service: Service) -> None:
    drop_ins = Path("/opt/gpu-watchdogd/share/drop-ins")
    texts = {path.stem: path.read_text() for path in drop_ins.glob("*.conf")}
    manager = texts.pop("hardware-watchdog")
    assert sorted(texts) == ["degraded", "reboot", "sandbox", "unprivileged"]
    for text in texts.values():
        service.drop_in(_switched_on(text))
        told = run("systemd-analyze", "verify", UNIT)
        assert (told.returncode, told.stdout + told.stderr) == (0, ""), text
    directory = Path("/run/systemd/system.conf.d")
    directory.mkdir(parents=True)
    try:
        (directory / "watchdogd.conf").write_text(_switched_on(manager))
        read = run("systemd-analyze", "cat-config", "systemd/system.conf").stdout
        assert "\nRuntimeWatchdogSec=20\n" in read
        service.systemctl("daemon-reload")
        assert run("systemctl", "show", "--value", "--property", "RuntimeWatchdogUSec").stdout.strip() == "20s"
    finally:
        (directory / "watchdogd.conf").unlink()
        directory.rmdir()
        service.systemctl("daemon-reload")


def systemctl_start_returns_when_it_is_ready_and_the_workers_run(service: Service) -> None:
    service.configure({"a": "serve()", "b": "serve()"})
    service.systemctl("start", UNIT)
    assert service.show("ActiveState") == "active"
    service.wait_running()
    wait_until(lambda: service.show("StatusText") == "2 of 2 workers running", lambda: service.show("StatusText"))
    assert service.show("NRestarts") == "0"


def systemctl_stop_ends_the_last_worker_first_and_leaves_nothing(service: Service) -> None:
    orderly = (
        "def end(*_):\n    tell('asked_' + os.environ['WATCHDOGD_WORKER'])\n    time.sleep(0.2)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "child = 'trap \"touch $HERE/asked_child\" TERM; while :; do sleep 0.05; done'\n"
        "os.spawnlp(os.P_NOWAIT, 'setsid', 'setsid', 'sh', '-c', child)\nserve()"
    )
    service.configure({"a": orderly, "b": orderly})
    service.start()
    pids = [worker["pid"] for worker in service.view()["workers"]]
    cgroup = Path("/sys/fs/cgroup/unified" + service.show("ControlGroup"))
    started = time.monotonic()
    service.stop()
    service.facts["stop_seconds"] = round(time.monotonic() - started, 3)
    assert service.show("Result") == "success"
    signals = service.events("signal", signal="SIGTERM")
    assert [event["worker"] for event in signals] == ["b", "a"]
    assert (HERE / "asked_a").exists()
    assert (HERE / "asked_b").exists()
    assert not (HERE / "asked_child").exists()  # systemd asks the supervisor alone
    assert all(map(gone, pids))
    assert service.leftovers() == []
    assert not run("pgrep", "-f", "asked_child").stdout
    wait_until(lambda: not cgroup.exists(), service.log)  # systemd removes it after the job is done


def a_bad_configuration_ends_with_78_and_is_not_tried_again(service: Service) -> None:
    CONFIG.write_text("[workers.a]\ncommand = 7\n")
    assert run("systemctl", "start", UNIT).returncode != 0
    assert service.show("ActiveState") == "failed"
    assert service.show("ExecMainStatus") == "78"
    assert service.show("NRestarts") == "0"
    assert "workers.a.command" in service.log()


def one_that_ends_otherwise_is_started_again(service: Service) -> None:
    service.configure({"a": "serve()"})
    pid = service.start()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: service.pid() not in (0, pid), service.log)
    service.wait_running()
    assert service.show("NRestarts") == "1"


def one_that_never_gets_going_fails_for_good_and_starts_what_hangs_on_the_degraded_target(service: Service) -> None:
    service.configure({"a": "serve()"})
    service.drop_in(
        _switched_on(Path("/opt/gpu-watchdogd/share/drop-ins/degraded.conf").read_text())
        + "\n[Unit]\nStartLimitBurst=3\n[Service]\nExecStart=\nExecStart=/bin/false\n"
    )
    run("systemctl", "start", UNIT)
    target = "gpu-watchdogd-degraded.target"
    wait_until(lambda: run("systemctl", "is-active", target).stdout.strip() == "active", service.log)
    assert service.show("ActiveState") == "failed"
    service.systemctl("stop", target)


def a_supervisor_that_stands_still_is_replaced_within_its_watchdog_time(service: Service) -> None:
    service.configure({"a": "serve()"})
    pid = service.start()
    started = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: gone(pid), service.log)
    ended = time.monotonic() - started
    service.facts["ended_seconds"] = round(ended, 2)
    assert 1.0 < ended < WATCHDOG_SECONDS + 1.5  # it was fed up to a second before; SIGABRT has a second to take
    wait_until(lambda: service.pid() not in (0, pid), service.log)
    service.wait_running()
    service.facts["running_again_seconds"] = round(time.monotonic() - started, 2)
    assert service.show("NRestarts") == "1"
    log = service.log()
    assert "Watchdog timeout" in log
    assert "Current thread" in log  # where it stood: faulthandler


def one_that_ticks_is_left_alone_for_longer_than_its_watchdog_time(service: Service) -> None:
    service.configure({"a": "worker.ready()\nhang()"}, deadlines={"sync": "100ms"})
    pid = service.start()
    until = time.monotonic() + WATCHDOG_SECONDS + 1
    wait_until(lambda: time.monotonic() > until)
    assert (service.pid(), service.show("NRestarts")) == (pid, "0")


def a_hung_worker_is_replaced_while_the_service_goes_on(service: Service) -> None:
    once = "worker.ready()\nframe()\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    service.configure({"a": once, "b": "serve()"}, deadlines={"sync": "200ms"})
    service.systemctl("start", UNIT)
    wait_until(lambda: service.events("verdict", worker="a"), service.log)
    wait_until(
        lambda: service.worker("a")["incarnation"] == 2 and service.worker("a")["phase"] == "running", service.log
    )
    assert service.worker("b")["incarnation"] == 1
    assert service.show("NRestarts") == "0"


def a_reload_of_a_bad_configuration_fails_and_signals_nobody(service: Service) -> None:
    service.configure({"a": "serve()"})
    pid = service.start()
    worker = service.worker("a")["pid"]
    CONFIG.write_text("[workers.a]\ncommand = 7\n")
    assert run("systemctl", "reload", UNIT).returncode != 0
    assert "workers.a.command" in service.log()
    assert (service.pid(), service.worker("a")["pid"]) == (pid, worker)


def an_escalation_that_fails_the_service_leaves_it_failed(service: Service) -> None:
    service.configure({"a": "serve_until('go')\nos._exit(3)", "b": "serve()"}, restart={"budget": 1})
    with CONFIG.open("a") as config:
        config.write('[escalation]\naction = "service-fail"\nask = ["/usr/bin/true"]\n')
    service.start()
    (HERE / "go").touch()
    wait_until(lambda: service.show("ActiveState") == "failed", service.log)
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("69", "0")
    assert service.leftovers() == []
    (HERE / "go").unlink()
    service.systemctl("reset-failed", UNIT)
    service.start()
    wait_until(lambda: service.events("escalation", step="earlier"), service.log)
    assert service.events("escalation", step="earlier")[0]["reason"].startswith("about to service-fail at 20")


def it_runs_from_an_uninstall_to_the_next_install(service: Service) -> None:
    service.configure({"a": "serve()"})
    text = CONFIG.read_text()
    service.start()
    done = run("/mnt/bundle/install.sh", "--uninstall")
    assert done.returncode == 0, done.stderr
    assert run("systemctl", "is-active", UNIT).stdout.strip() == "inactive"
    left = [path for path in ("/opt/gpu-watchdogd", "/usr/local/bin/watchdogd") if os.path.lexists(path)]
    assert (left, list(Path("/usr/local/lib").rglob("gpu-watchdogd*"))) == ([], [])
    done = run("env", "PYTHON=/usr/bin/python3", "/mnt/bundle/install.sh")
    assert done.returncode == 0, done.stderr
    assert CONFIG.read_text() == text
    service.start()


def _switched_on(text: str) -> str:
    """A drop-in with its settings no longer commented out."""
    return "\n".join(line[1:] if line.startswith("#") and _is_setting(line[1:]) else line for line in text.splitlines())


def _is_setting(line: str) -> bool:
    name, equals, _ = line.partition("=")
    return bool(equals) and name.isalpha()
