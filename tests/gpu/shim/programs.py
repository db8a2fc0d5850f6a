"""The C programs of this folder, compiled where they run."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
PTX = SOURCES.parent / "kernels.ptx"
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")


def built(source: str, directory: Path) -> Path:
    program = directory / Path(source).stem
    command = ["cc", *_FLAGS, "-o", str(program), str(SOURCES / source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return program
