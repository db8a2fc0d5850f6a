"""One boot of real systemd in a container, for all scenarios that were asked for: the boot is the expensive part.

Invariant: nothing of this machine is changed: the container's root is a tmpfs over a read-only /usr, and it has no
network.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"  # the container shares /usr, and nothing else
NAME = "watchdogd-scenarios"
UNIT = f"""\
[Unit]
Requires=dbus.socket
After=dbus.socket basic.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
Environment=PYTHONPATH=/mnt:/opt/gpu-watchdogd/python PYTHONDONTWRITEBYTECODE=1
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/mnt/prometheus
WorkingDirectory=/mnt
ExecStart=/usr/bin/env PYTHON={SYSTEM_PYTHON} /mnt/bundle/install.sh
ExecStart={SYSTEM_PYTHON} -m tests.systemd.inside
StandardOutput=file:/mnt/said
StandardError=inherit
ExecStopPost=/usr/bin/systemctl poweroff --force
"""
BOOT_SECONDS = 60
SCENARIO_SECONDS = 30

Results = dict[str, dict[str, Any]]


def lacking() -> str | None:
    """Why no container can be booted here."""
    if os.geteuid() != 0:
        return "systemd-nspawn needs root"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (Debian: systemd-container)"
    if not Path(SYSTEM_PYTHON).exists():
        return f"{SYSTEM_PYTHON} is not installed"
    return None


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle for this machine's system Python, as `make bundle` makes it: once for all of xdist's processes."""
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"{SYSTEM_PYTHON} is not installed")
    ask = "import platform, sys; print('%s-py%d%d' % (platform.machine(), *sys.version_info[:2]))"
    target = subprocess.run([SYSTEM_PYTHON, "-c", ask], capture_output=True, text=True, timeout=60, check=True).stdout
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundle"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another one holds it for as long as making a bundle may take, and no longer
        return made_bundle(shared / "made") or make_bundle(target.strip(), shared / "made")


def made_bundle(output: Path) -> Path | None:
    """The one that was made there, if it is whole."""
    return _folder(output) if (output / "said").exists() else None


def make_bundle(target: str, output: Path) -> Path:
    command = [sys.executable, str(ROOT / "deploy/bundle.py"), target, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (output / "said").write_text(done.stdout)  # last: it says that the bundle is whole
    return _folder(output)


def _folder(output: Path) -> Path:
    return next(path for path in output.iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What became of each scenario: see ``inside.py``."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    wanted = [str(item.callspec.params["scenario"]) for item in request.session.items if _is_scenario(item)]  # type: ignore[attr-defined]  # pytest has no type for it
    shared = tmp_path_factory.mktemp("container")
    shared.chmod(0o755)  # users inside see nothing else of the path
    shutil.copytree(bundle, shared / "bundle")
    shutil.copytree(
        ROOT / "tests", shared / "tests", ignore=shutil.ignore_patterns("__pycache__", "simulator", "fixtures")
    )
    with_prometheus(shared)
    (shared / "wanted").write_text("\n".join(wanted))
    unit = shared / f"{NAME}.service"
    unit.write_text(UNIT)
    boot(shared, unit, BOOT_SECONDS + SCENARIO_SECONDS * len(wanted))
    said = "".join(
        (shared / name).read_text(errors="replace")[-4000:] for name in ("said", "console") if (shared / name).exists()
    )
    assert (shared / "results.json").exists(), said
    told: Results = json.loads((shared / "results.json").read_text())
    return told


def with_prometheus(shared: Path) -> None:
    """Where the container finds it, as a Debian that has the package; without one its scenario says that it lacks."""
    (shared / "prometheus").mkdir()
    for name in ("prometheus", "promtool"):
        found = shutil.which(name, path=f"{os.environ['PATH']}:{ROOT / '.venv/debian/usr/bin'}")
        if found is not None:
            shutil.copy(found, shared / "prometheus")


def _is_scenario(item: pytest.Item) -> bool:
    return "scenario" in getattr(getattr(item, "callspec", None), "params", {})


def boot(shared: Path, unit: Path, seconds: float) -> None:
    """Until it powers itself off, or its time is up."""
    command = [
        "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "--boot", "--register=no", "--keep-unit",
        "--private-network", "--capability=CAP_SYS_RESOURCE,CAP_IPC_LOCK", "--tmpfs=/usr/local",
        f"--machine={NAME}-{os.getpid()}",
        f"--bind-ro={unit}:/etc/systemd/system/{unit.name}", f"--bind={shared}:/mnt",
        "systemd.firstboot=off", f"systemd.wants={unit.name}",
    ]  # fmt: skip
    with (shared / "console").open("wb") as console:
        container = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )
        try:
            container.wait(seconds)
        except subprocess.TimeoutExpired:
            pass  # what it has told so far says how far it came
        finally:
            container.kill()  # its init is in a pid namespace that ends with it
            container.wait(30)
