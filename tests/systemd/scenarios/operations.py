"""The commands of docs/OPERATIONS.md, as installed, in their order: a newcomer's way to an alert, and an upgrade."""

from __future__ import annotations

import re
from pathlib import Path

from tests.systemd.service import CONFIG, UNIT, Service, run, wait_until

SHARE = Path("/opt/gpu-watchdogd/share")
# What Debian's package has, on our path.
PROMETHEUS = (
    "[Service]\nExecStart=/mnt/prometheus/prometheus --config.file=/etc/prometheus/prometheus.yml"
    " --storage.tsdb.path=/run/prometheus --web.listen-address=127.0.0.1:9090\n"
)
ALERT_SECONDS = 60.0  # 15 s to the hang, 5 s to its scrape, 10 s pending, and a busy machine


def the_way_to_a_firing_alert_is_as_it_is_written(service: Service) -> None:
    install, up, provoke, alert, remove = _blocks("To a firing alert")
    unit = Path("/run/systemd/system/prometheus.service")
    unit.write_text(PROMETHEUS)
    Path("/etc/prometheus").mkdir()
    service.systemctl("daemon-reload")
    service.configure({"a": "serve()"}, metrics="127.0.0.1:19877")
    service.start()
    try:
        _sh(install)
        wait_until(
            lambda: "=> 1 " in run("bash", "-c", up).stdout,
            lambda: run("journalctl", "-u", "prometheus", "-n", "20").stdout,
        )
        _sh(provoke)
        wait_until(lambda: 'alertstate="firing"' in _sh(alert), lambda: _sh(alert), ALERT_SECONDS)
        assert service.events("verdict", worker="trial")
        _sh(remove)
        wait_until(lambda: [worker["name"] for worker in service.view()["workers"]] == ["a"], service.log)
    finally:
        run("systemctl", "stop", "prometheus")
        unit.unlink()


def an_install_over_a_running_service_says_reload_and_that_keeps_the_workers(service: Service) -> None:
    service.configure({"a": "serve()"}, on_supervisor_exit="keep")
    pid = service.start()
    before = service.worker("a")["pid"]
    told = run("env", "PYTHON=/usr/bin/python3", "/mnt/bundle/install.sh")
    assert told.returncode == 0, told.stderr
    assert "next: systemctl reload gpu-watchdogd" in told.stdout
    assert "the unit has changed" not in told.stdout and "enable --now" not in told.stdout
    service.systemctl("reload", UNIT)
    wait_until(lambda: service.events("supervisor", change="adopted"), service.log)
    service.wait_running()
    assert (service.pid(), service.worker("a")["pid"]) == (pid, before)
    with Path(service.show("FragmentPath")).open("a") as file:
        file.write("# an older one\n")
    told = run("env", "PYTHON=/usr/bin/python3", "/mnt/bundle/install.sh")
    assert "the unit has changed" in told.stdout, told.stdout + told.stderr


def the_example_names_a_directory_to_be_replaced_before_any_worker_is_started(service: Service) -> None:
    CONFIG.write_text((SHARE / "config/watchdogd.toml").read_text())
    told = run("watchdogd", "check-config")
    assert (told.returncode, '"/opt/vehicle" is not a directory' in told.stderr) == (78, True), told.stderr
    vehicle = Path("/opt/vehicle/vehicle")
    vehicle.mkdir(parents=True)
    program = "import watchdogd.worker as wd\nwd.attach().ready()\nimport time\ntime.sleep(60)\n"
    for name in "abcdeh":
        (vehicle / f"model_{name}.py").write_text(program)
    service.start()  # every worker found both our package and its own


def _blocks(section: str) -> list[str]:
    """What is to be typed in that section of the installed document."""
    text = (SHARE / "docs/OPERATIONS.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)


def _sh(commands: str) -> str:
    told = run("bash", "-euc", commands)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout
