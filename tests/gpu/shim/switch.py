"""The shim once more, with a switch: ``shim_is_off`` = 1 hands each call straight to the driver.

For what processes one after the other cannot measure: their throughputs differ by percents, however they are started.
Invariant: nothing but the switch is added; it costs a test of a word, in both of its positions.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from tests.helpers.worker_process import ROOT
from watchdogd.instrument import elf

_ASKED = """        if (UNLIKELY(!forwarded)) \\
            return CUDA_ERROR_STUB_LIBRARY; \\
"""
_SWITCH = """        if (UNLIKELY(shim_is_off)) { \\
            enum { kept = 0 }; /* of a host function: none */ \\
            return forwarded arguments; \\
        } \\
"""
_ROWS = "#define ROW(symbol, version, operation, effect, subject, parameters, arguments) \\\n    EXPORTED"


def build(directory: Path) -> Path:
    native = directory / "native"
    shutil.copytree(ROOT / "watchdogd/native", native, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    forward = native / "shim/forward.c"
    source = forward.read_text(encoding="ascii")
    assert source.count(_ASKED) == 1 and source.count(_ROWS) == 1
    source = source.replace(_ASKED, _ASKED + _SWITCH).replace(_ROWS, f"EXPORTED int shim_is_off;\n\n{_ROWS}")
    forward.write_text(source, encoding="ascii")
    library = directory / "switched.so"
    reserved = elf.RESERVED.decode("ascii").ljust(1023, "x")
    flags = ["-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
    if platform.machine() == "x86_64":  # as setup.py has it
        flags.append("-mtls-dialect=gnu2")
    link = ["-Wl,-soname,libcuda.so.1,-z,now,-Bsymbolic", f"-Wl,--enable-new-dtags,-rpath,{reserved}", "-ldl"]
    sources = sorted(map(str, (native / "shim").glob("*.c")))
    subprocess.run(["cc", *flags, "-o", str(library), *sources, *link], check=True, timeout=100)
    return library
