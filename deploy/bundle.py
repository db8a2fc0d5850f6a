"""Everything that an install needs, in one folder and one archive: for a machine with no network and no compiler.

``python deploy/bundle.py aarch64-py310`` makes ``dist/gpu-watchdogd-VERSION-aarch64-py310``, and beside it the same as
``.tar.gz``. C parts are compiled here, for another architecture by its cross compiler
(``ARCH-linux-gnu-gcc``). Invariant: what a bundle lacks is said, here and in its file ``BUNDLE``; nothing is left out
silently, and nothing of ``tests/`` is in it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
GLIBC = {"3.10": 35}  # the newest 2.x of the machines meant: JetPack 6 is Ubuntu 22.04 with Python 3.10
MINUTES = 5
EXTRAS = ("nvml", "systemd")
COMPILED = "systemd-python"  # on the registry as source only


class CannotBundle(Exception):
    """The message says what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    arch: str
    version: str  # "3.10"

    @classmethod
    def parse(cls, text: str) -> Target:
        match = re.fullmatch(r"(x86_64|aarch64)-py3(\d+)", text)
        if match is None:
            raise CannotBundle(f"{text}: not a target; like aarch64-py310 or x86_64-py311")
        needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
        if f"3.{match[2]}" not in SpecifierSet(needed):
            raise CannotBundle(f"{text}: watchdogd needs Python {needed}; like aarch64-py310 or x86_64-py311")
        return cls(match[1], f"3.{match[2]}")

    @property
    def name(self) -> str:
        return f"{self.arch}-py{self.version.replace('.', '')}"

    @property
    def is_native(self) -> bool:
        return self.arch == platform.machine()

    def platforms(self) -> list[str]:
        newest = GLIBC.get(self.version, 36)
        return [f"manylinux_2_{minor}_{self.arch}" for minor in range(newest, 16, -1)] + [f"manylinux2014_{self.arch}"]


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], env={**os.environ, **(environment or {})}, cwd=ROOT, capture_output=True,
        text=True, timeout=60 * MINUTES, check=False,
    )  # fmt: skip
    if done.returncode:
        raise CannotBundle(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def find_python(version: str) -> str | None:
    """An interpreter of that version which runs and has pip: ours, one on PATH, one that is installed beside ours."""
    found = shutil.which(f"python{version}")
    kept = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python"))  # as pyenv has them
    for candidate in [sys.executable, *([found] if found else []), *map(str, kept)]:
        check = f"import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
        if subprocess.run([candidate, "-c", check], capture_output=True, timeout=60, check=False).returncode == 0:
            return candidate
    return None


# --- our wheel and the others ---------------------------------------------------------------------------------------


def compiling(target: Target, scratch: Path) -> dict[str, str] | None:
    """The environment in which setuptools compiles for the target; None = there is no compiler for it."""
    if target.is_native:
        return {} if shutil.which("cc") else None
    compiler = f"{target.arch}-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        return None
    # A shared object binds to a library by its name alone: an empty one of that name stands for the target's.
    run(
        [
            compiler,
            "-shared",
            "-nostdlib",
            "-Wl,-soname,libsystemd.so.0",
            "-x",
            "c",
            os.devnull,
            "-o",
            scratch / "libsystemd.so",
        ]
    )
    digits = target.version.replace(".", "")
    return {
        "CC": compiler,
        "LDSHARED": f"{compiler} -shared",
        "LDFLAGS": f"-L{scratch} -Wl,--no-as-needed",
        "_PYTHON_HOST_PLATFORM": f"linux-{target.arch}",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{digits}-{target.arch}-linux-gnu.so",
    }


def our_wheel(target: Target, wheels: Path, environment: dict[str, str] | None) -> str:
    """Built into ``wheels``. Returns what the native part is."""
    with tempfile.TemporaryDirectory() as scratch:
        # A copy: setuptools leaves its work in the tree, for one architecture.
        source = Path(scratch)
        shutil.copytree(ROOT / "watchdogd", source / "watchdogd", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        if environment is None:
            project = source / "pyproject.toml"
            project.write_text(re.sub(r"^ext-modules = \[\n.*?^\]\n", "", project.read_text(), flags=re.M | re.S))
        # Its suffix is .abi3.so everywhere.
        settings = {key: value for key, value in (environment or {}).items() if key != "SETUPTOOLS_EXT_SUFFIX"}
        run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, source], settings)
    if environment is None:
        return "none, the slower fallback in Python: no compiler for this architecture where the bundle was made"
    return f"prebuilt{'' if target.is_native else ', cross compiled'}"


def requirements(target: Target) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]
    wanted = [Requirement(text) for text in texts]
    where = {"python_version": target.version}
    return [one for one in wanted if one.marker is None or one.marker.evaluate(where)]


def their_wheels(target: Target, wheels: Path, environment: dict[str, str] | None) -> list[str]:
    """Downloaded, or compiled where the registry has only source. Returns what is lacking, and why."""
    lacking = []
    ready = [f"{one.name}{one.specifier}" for one in requirements(target) if one.name != COMPILED]
    platforms = [option for name in target.platforms() for option in ("--platform", name)]
    run([
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", wheels,
        "--python-version", target.version, "--implementation", "cp", *platforms, *ready,
    ])  # fmt: skip
    python = find_python(target.version)
    if python is None:
        lacking.append(f"{COMPILED}: no Python {target.version} with pip to compile it for")
    elif environment is None:
        lacking.append(f"{COMPILED}: no compiler for {target.arch}")
    elif (
        shutil.which("pkg-config") is None
        or subprocess.run(["pkg-config", "--exists", "libsystemd"], check=False).returncode
    ):
        lacking.append(f"{COMPILED}: no headers of libsystemd")
    else:
        run(
            [
                python,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--use-pep517",
                "--no-binary",
                COMPILED,
                "--no-cache-dir",
                "--wheel-dir",
                wheels,
                COMPILED,
            ],
            environment,
        )
    return lacking


def check_glibc(target: Target, wheels: Path) -> None:
    """Nothing that we compiled may need a newer C library than the target has. Raises CannotBundle."""
    newest = GLIBC.get(target.version)
    if newest is None:
        return
    for wheel in [*wheels.glob("watchdogd-*"), *wheels.glob("systemd_python-*")]:
        with zipfile.ZipFile(wheel) as archive:
            compiled = b"".join(archive.read(entry) for entry in archive.namelist() if entry.endswith(".so"))
        needs = max(map(int, re.findall(rb"GLIBC_2\.(\d+)\0", compiled)), default=0)
        if needs > newest:
            raise CannotBundle(
                f"{wheel.name} needs glibc 2.{needs}, the target has 2.{newest}: bundle on an older system"
            )


# --- the bundle -----------------------------------------------------------------------------------------------------


def bundle(target: Target, output: Path) -> Path:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    folder = output / f"gpu-watchdogd-{version}-{target.name}"
    shutil.rmtree(folder, ignore_errors=True)
    wheels, pip = folder / "wheels", folder / "pip"
    wheels.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = compiling(target, Path(scratch))
        native = our_wheel(target, wheels, environment)
        lacking = their_wheels(target, wheels, environment)
    check_glibc(target, wheels)
    run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", pip, "pip"])
    for source in ("systemd", "config", "docs"):
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("demo.toml"))
    for source in ("deploy/install.sh", "README.md", "LICENSE"):
        shutil.copy(ROOT / source, folder)
    extras = ",".join(extra for extra in EXTRAS if extra != "systemd" or not lacking)
    (folder / "BUNDLE").write_text(
        f"ARCH={target.arch}\nVERSION={target.version}\nREQUIRES='watchdogd[{extras}]'\nNATIVE='{native}'\n"
        f"LACKING='{'; '.join(lacking)}'\n"
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    for path in files:
        print(f"{path.stat().st_size:>10}  {path.relative_to(folder)}")
    print(f"native part: {native}\n" + "".join(f"lacking: {text}\n" for text in lacking), end="")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a bundle that installs with no network and no compiler.")
    parser.add_argument("target", help="ARCH-pyVERSION: aarch64-py310, x86_64-py311")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    try:
        folder = bundle(Target.parse(options.target), options.output)
    except CannotBundle as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    print(f"{archive.stat().st_size:>10}  {archive} in all")
    print(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
