"""What gets installed, from a bundle, with no network: read from the tree that it makes under DESTDIR."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from tests.helpers import cpp
from tests.systemd.conftest import ROOT, SYSTEM_PYTHON, make_bundle

APP = "opt/gpu-watchdogd"
LINKS = ("usr/local/bin/watchdogd", "usr/local/bin/gpu-watchdogd")
UNITS = (
    "usr/local/lib/systemd/system/gpu-watchdogd.service",
    "usr/local/lib/systemd/system/gpu-watchdogd-degraded.target",
    "usr/local/lib/sysusers.d/gpu-watchdogd.conf",
    "usr/local/lib/tmpfiles.d/gpu-watchdogd.conf",
)
FOR_C = (
    "usr/local/include/watchdogd.h",
    "usr/local/lib/pkgconfig/watchdogd.pc",
    "usr/local/lib/cmake/watchdogd/watchdogd-config.cmake",
    "usr/local/lib/cmake/watchdogd/watchdogd-config-version.cmake",
)
AARCH64 = 0xB7  # e_machine


def install(bundle: Path, destination: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """With no network where that can be had (root)."""
    before = ["unshare", "--net"] if os.geteuid() == 0 else []
    told = {"PATH": "/usr/bin:/bin", "DESTDIR": str(destination), "PYTHON": SYSTEM_PYTHON, **environment}
    command = [*before, str(bundle / "install.sh"), *arguments]
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=120, check=False)


def files(directory: Path) -> set[str]:
    """Relative paths of all that is no directory."""
    found = {path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()}
    return {str(path.relative_to(directory)) for path in found}


@pytest.fixture(scope="module")
def first(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where nothing was before, and what was said."""
    destination = tmp_path_factory.mktemp("installed")
    done = install(bundle, destination)
    assert done.returncode == 0, done.stderr
    return destination, done.stdout


@pytest.fixture(scope="module")
def installed(first: tuple[Path, str]) -> Path:
    """To be looked at only."""
    return first[0]


@pytest.fixture
def own(installed: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(installed, tmp_path / "own", symlinks=True)


@pytest.fixture
def bundling() -> Iterator[ModuleType]:
    """``deploy/bundle.py``, which is a program and in no package."""
    specification = importlib.util.spec_from_file_location("watchdogd_bundle", ROOT / "deploy/bundle.py")
    assert specification is not None and specification.loader is not None
    module = sys.modules["watchdogd_bundle"] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    del sys.modules["watchdogd_bundle"]


# --- what is installed ----------------------------------------------------------------------------------------------


def test_it_is_the_package_its_dependencies_and_nothing_of_the_tests(installed: Path) -> None:
    names = files(installed)
    (packages,) = installed.joinpath(APP, "lib").glob("python3.*/site-packages")
    assert {path.name for path in packages.iterdir() if not path.name.endswith(".dist-info")} == {
        "__pycache__", "example.py", "jeepney", "prometheus_client", "psutil", "pynvml.py", "systemd", "watchdogd",
    }  # fmt: skip
    foreign = re.compile(r"simulator|libcuda|tests?/|hypothesis|pytest|pip/|\.c$")
    ours = {name for name in names if "/site-packages/" not in name or "/watchdogd/" in name}
    native, sources = f"{APP}/{_module(packages, installed)}/native", ROOT.joinpath("watchdogd/native").rglob("*.c")
    shim = f"{native}/libcuda_shim.so"
    assert {name for name in ours if foreign.search(name)} - {shim} == {
        f"{native}/{source.relative_to(ROOT / 'watchdogd/native')}" for source in sources
    } & names
    assert {shim, f"{native}/libwatchdogd_nvtx.so"} <= names
    assert any(name.endswith("/watchdogd/_native.abi3.so") for name in names)
    assert {name for name in names if not name.startswith(f"{APP}/")} == {
        *LINKS, *UNITS, *FOR_C, "etc/gpu-watchdogd/watchdogd.toml",
    }  # fmt: skip


def _module(packages: Path, installed: Path) -> str:
    return str(packages.joinpath("watchdogd").relative_to(installed / APP))


def test_no_file_knows_where_it_was_staged(installed: Path) -> None:
    staged = str(installed).encode()
    assert [name for name in files(installed) if _content(installed / name).find(staged) >= 0] == []


def _content(path: Path) -> bytes:
    return os.readlink(path).encode() if path.is_symlink() else path.read_bytes()


def test_every_link_of_the_installed_texts_leads_to_something_installed(installed: Path) -> None:
    texts = list(installed.joinpath(APP, "share").rglob("*.md"))
    links = {(text, link) for text in texts for link in re.findall(r"\]\(([^)#:]+)[)#]", text.read_text())}
    assert {"OPERATIONS.md", "FLEET.md", "README.md"} <= {text.name for text in texts}
    assert "watchdogd/native/watchdogd.h" in {link for _, link in links}
    assert [f"{text}: {link}" for text, link in links if not text.parent.joinpath(link).exists()] == []


def test_what_alerts_is_installed_and_nothing_of_the_demo(installed: Path) -> None:
    config = installed / APP / "share/config"
    assert files(config) == {
        "watchdogd.toml", "grafana/watchdogd.json", "prometheus/prometheus.yml",
        "prometheus/watchdogd.rules.yml", "prometheus/watchdogd.rules.test.yml",
    }  # fmt: skip


def test_both_commands_lead_to_the_environment_and_it_runs(installed: Path) -> None:
    for link in LINKS:
        assert os.readlink(installed / link) == "/opt/gpu-watchdogd/bin/watchdogd"
    first, *_ = installed.joinpath(APP, "bin/watchdogd").read_text().splitlines()
    assert first == "#!/opt/gpu-watchdogd/bin/python"
    command = [str(installed / APP / "bin/python"), "-m", "watchdogd", "--version"]
    told = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=True, env={})
    assert told.stdout.startswith("watchdogd ")


def test_c_and_cxx_programs_find_what_is_installed_for_them_wherever_it_was_moved(
    installed: Path, tmp_path: Path
) -> None:
    cpp.need("pkg-config")
    prefix = tmp_path / "elsewhere"
    for part in ("include", "lib/cmake", "lib/pkgconfig"):
        shutil.copytree(installed / "usr/local" / part, prefix / part)
    consumer = ROOT / "tests/native/consumer"
    built = cpp.cmake(consumer, tmp_path / "build", CMAKE_PREFIX_PATH=prefix)
    assert [cpp.told([built / program]) for program in ("of_c", "of_cxx")] == ["0.1.0 1\n"] * 2
    assert str(prefix / "lib/cmake/watchdogd") in (built / "CMakeCache.txt").read_text()
    flags = cpp.told(
        ["pkg-config", "--cflags", "--libs", "watchdogd"], {"PKG_CONFIG_LIBDIR": f"{prefix}/lib/pkgconfig"}
    )
    assert "watchdogd/native" not in flags
    cpp.told(["gcc", "-std=c11", *flags.split(), "-o", tmp_path / "program", consumer / "program.c"])


@pytest.mark.parametrize("version", ["3.10", "3.11"])
def test_a_worker_under_another_python_finds_our_package_and_nothing_else(
    installed: Path, bundling: ModuleType, version: str
) -> None:
    python = bundling.find_python(version)
    if python is None:
        pytest.skip(f"no Python {version}")
    ask = (
        "import watchdogd.worker, watchdogd._native, importlib.util, sys\n"
        "print('%d.%d' % sys.version_info[:2], watchdogd.__file__, importlib.util.find_spec('prometheus_client'))"
    )
    path = str(installed / APP / "python")
    command = [python, "-S", "-c", ask]  # -S: not what this interpreter itself has installed
    environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}  # others look at this tree, too
    told = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert told.stdout.split() == [version, f"{path}/watchdogd/__init__.py", "None"], told.stderr


# --- installing -----------------------------------------------------------------------------------------------------


def test_a_configuration_that_is_there_is_kept(bundle: Path, tmp_path: Path) -> None:
    kept = tmp_path / "etc/gpu-watchdogd/watchdogd.toml"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    done = install(bundle, tmp_path)
    assert (done.returncode, "kept: /etc/gpu-watchdogd" in done.stdout) == (0, True)
    assert kept.read_text() == "mine"


def test_installing_again_replaces_the_environment_whole(bundle: Path, own: Path) -> None:
    old = own / APP / "left-from-before"
    old.touch()
    before = files(own)
    assert install(bundle, own).returncode == 0
    assert before - files(own) == {f"{APP}/left-from-before"}
    assert files(own) - before == set()


def test_uninstall_leaves_the_configuration_and_nothing_else(bundle: Path, own: Path) -> None:
    done = install(bundle, own, "--uninstall")
    assert done.returncode == 0, done.stderr
    assert files(own) == {"etc/gpu-watchdogd/watchdogd.toml"}


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A directory with another project's watchdogd."""
    directory = tmp_path / "bin"
    directory.mkdir()
    directory.joinpath("watchdogd").write_text("#!/bin/sh\n")
    directory.joinpath("watchdogd").chmod(0o755)
    return directory


def test_another_watchdogd_on_path_stops_it_before_anything_is_made(
    bundle: Path, tmp_path: Path, another: Path
) -> None:
    destination = tmp_path / "root"
    done = install(bundle, destination, PATH=f"/usr/bin:/bin:{another}")
    assert done.returncode == 1
    assert f"{another}/watchdogd" in done.stderr
    assert "FORCE=1" in done.stderr
    assert not destination.exists()


def test_ours_on_path_does_not_stop_it(bundle: Path, installed: Path, tmp_path: Path) -> None:
    ours = f"{installed}/usr/local/bin:{installed}/{APP}/bin"
    done = install(bundle, tmp_path, PATH=f"/usr/bin:/bin:{ours}")
    assert done.returncode == 0, done.stderr


def test_force_installs_beside_it_and_never_over_it(bundle: Path, tmp_path: Path, another: Path) -> None:
    taken = tmp_path / "root/usr/local/bin"
    taken.mkdir(parents=True)
    shutil.copy(another / "watchdogd", taken)
    done = install(bundle, tmp_path / "root", PATH=f"/usr/bin:/bin:{another}", FORCE="1")
    assert done.returncode == 0, done.stderr
    assert taken.joinpath("watchdogd").read_text() == "#!/bin/sh\n"
    assert os.readlink(taken / "gpu-watchdogd") == "/opt/gpu-watchdogd/bin/watchdogd"
    assert install(bundle, tmp_path / "root", "--uninstall").returncode == 0
    assert files(taken) == {"watchdogd"}


def test_an_interpreter_that_others_cannot_run_is_refused(bundle: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy(SYSTEM_PYTHON, closed / "python3")
    python = str(closed / "python3")
    done = install(bundle, tmp_path / "root", PYTHON=python)
    assert done.returncode == 1
    assert python in done.stderr and f" {closed}" in done.stderr and "PYTHON=/usr/bin/python3" in done.stderr
    assert not tmp_path.joinpath("root").exists()
    done = install(bundle, tmp_path / "root", PYTHON=python, FORCE="1")
    assert done.returncode == 0, done.stderr


def test_it_says_on_which_interpreter_it_builds(first: tuple[Path, str]) -> None:
    assert f"on {Path(SYSTEM_PYTHON).resolve()}, Python 3." in first[1]


def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle, damaged)
    with damaged.joinpath("config/watchdogd.toml").open("a") as file:
        file.write("#")
    done = install(damaged, tmp_path / "root")
    assert (done.returncode, "damaged" in done.stderr) == (1, True)
    assert not tmp_path.joinpath("root").exists()


def test_a_bundle_for_another_machine_is_refused(bundle: Path, tmp_path: Path) -> None:
    for line in ("ARCH=riscv64", "VERSION=3.99"):
        other = tmp_path / line
        shutil.copytree(bundle, other)
        name = line.partition("=")[0]
        text = re.sub(rf"^{name}=.*$", line, other.joinpath("BUNDLE").read_text(), flags=re.M)
        other.joinpath("BUNDLE").write_text(text)
        sums = other / "SHA256SUMS"
        digest = hashlib.sha256(text.encode()).hexdigest()
        sums.write_text(re.sub(r"^.*  BUNDLE$", f"{digest}  BUNDLE", sums.read_text(), flags=re.M))
        done = install(other, tmp_path / "root")
        assert (
            done.returncode,
            f"for {'Python ' if name == 'VERSION' else ''}{line[len(name) + 1 :]}" in done.stderr,
        ) == (1, True)


def test_make_installs_and_uninstalls(tmp_path: Path) -> None:
    make = [
        "make",
        "--no-print-directory",
        "-C",
        str(ROOT),
        f"DESTDIR={tmp_path}",
        "PREFIX=/usr",
        f"PYTHON={SYSTEM_PYTHON}",
    ]
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*make, "install"], env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert {"usr/bin/watchdogd", "usr/lib/systemd/system/gpu-watchdogd.service"} < files(tmp_path)
    done = subprocess.run(
        [*make, "uninstall"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {"etc/gpu-watchdogd/watchdogd.toml"}


# --- the bundle -----------------------------------------------------------------------------------------------------


def test_the_bundle_tells_the_size_and_the_sum_of_everything_in_it(bundle: Path) -> None:
    said = bundle.parent.joinpath("said").read_text()
    sums = bundle.joinpath("SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in sums} == files(bundle) - {"SHA256SUMS"}
    for line in sums:
        digest, name = line.split("  ")
        content = bundle.joinpath(name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert re.search(rf"^ *{len(content)}  {re.escape(name)}$", said, re.M)
    archive = bundle.with_name(f"{bundle.name}.tar.gz")
    assert re.search(rf"^ *{archive.stat().st_size}  .* in all$", said, re.M)
    assert "native part: prebuilt\n" in said


def test_the_boards_bundle_has_everything_compiled_for_it(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no compiler for aarch64 (Debian: gcc-aarch64-linux-gnu)")
    made = make_bundle("aarch64-py310", tmp_path)
    told = made.joinpath("BUNDLE").read_text()
    assert "NATIVE='prebuilt, cross compiled'" in told
    assert "LACKING=''" in told, "needs a Python 3.10 with pip, pkg-config and the headers of libsystemd"
    wheels = {path.name.partition("-")[0]: path for path in made.joinpath("wheels").iterdir()}
    assert set(wheels) == {
        "watchdogd",
        "systemd_python",
        "jeepney",
        "psutil",
        "prometheus_client",
        "nvidia_ml_py",
        "tomli",
    }
    assert wheels["watchdogd"].name.endswith("-cp310-abi3-linux_aarch64.whl")
    assert wheels["systemd_python"].name.endswith("-cp310-cp310-linux_aarch64.whl")
    for name in ("watchdogd", "systemd_python", "psutil"):
        compiled = _shared_objects(wheels[name])
        assert compiled and {int.from_bytes(head[18:20], "little") for head in compiled} == {AARCH64}, name


def _shared_objects(wheel: Path) -> list[bytes]:
    with ZipFile(wheel) as archive:
        return [archive.read(name)[:64] for name in archive.namelist() if name.endswith(".so")]


def test_without_a_compiler_for_it_the_bundle_has_the_fallback_and_says_so(
    bundling: ModuleType, tmp_path: Path
) -> None:
    target = bundling.Target.parse("aarch64-py310")
    assert "fallback" in bundling.our_wheel(target, tmp_path, None)
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert _shared_objects(wheel) == []
    command = [SYSTEM_PYTHON, "-c", "import watchdogd.worker as wd; print(wd.attach is not None, wd.__file__)"]
    told = subprocess.run(
        command, cwd="/", env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.stdout.startswith(f"True {wheel}"), told.stderr


@pytest.mark.parametrize("text", ["aarch64", "mips-py310", "aarch64-py27", "x86_64-3.11", "x86_64-py39"])
def test_what_is_no_target_is_refused(bundling: ModuleType, text: str) -> None:
    with pytest.raises(bundling.CannotBundle, match="like aarch64-py310"):
        bundling.Target.parse(text)


def test_a_library_too_new_for_the_target_is_refused(bundling: ModuleType, tmp_path: Path) -> None:
    target = bundling.Target.parse("aarch64-py310")
    for needs, refused in (("2.35", False), ("2.36", True)):
        with ZipFile(tmp_path / "watchdogd-1-cp310-abi3-linux_aarch64.whl", "w") as wheel:
            wheel.writestr("watchdogd/_native.abi3.so", f"\0GLIBC_2.17\0GLIBC_{needs}\0")
        if refused:
            with pytest.raises(bundling.CannotBundle, match=r"needs glibc 2\.36"):
                bundling.check_glibc(target, tmp_path)
        else:
            bundling.check_glibc(target, tmp_path)
