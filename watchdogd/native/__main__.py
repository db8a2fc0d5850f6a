"""Where a compiler finds what ``pip install watchdogd`` brought: ``python -m watchdogd.native --includes``.

Invariant: what it prints lies beside this file; an installation with a PREFIX needs none of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m watchdogd.native", description="For building C and C++ workers.")
    which = parser.add_mutually_exclusive_group(required=True)
    for option, text, help_ in (
        ("--includes", f"-I{HERE}", "what the compiler is to be told"),
        ("--cmakedir", f"{HERE / 'cmake'}", "for CMake: -Dwatchdogd_DIR=..."),
        ("--pkgconfigdir", f"{HERE / 'pkgconfig'}", "for pkg-config: PKG_CONFIG_PATH=..."),
    ):
        which.add_argument(option, dest="answer", action="store_const", const=text, help=help_)
    print(parser.parse_args().answer)


if __name__ == "__main__":
    main()
