"""What pyproject.toml cannot say of the driver shim and of what NVTX loads: they are no modules of Python.

Invariant: the package itself is described by pyproject.toml alone; here is only how two of its ext-modules are linked.
"""

from __future__ import annotations

import os
import subprocess
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SHIM = "watchdogd.native.libcuda_shim"
# One entry of .dynamic and room in .dynstr: where the library runs, they become its dependency on the real driver.
RESERVED = "/watchdogd-real-driver/".ljust(1023, "x")
# Exceptions and cancelled threads pass through it, whatever flags this Python was built with.
COMPILE = ("-fasynchronous-unwind-tables",)
# Thread variables by descriptor, as is the rule on aarch64: near the thread's own where there is room for them there,
# else as ever. It saves a launch the pages of the general look-up.
DESCRIPTORS = "-mtls-dialect=gnu2"
LINK = (
    "-Wl,-soname,libcuda.so.1",
    # now: no call of a program ends up in the loader's resolver, which takes a lock and is not for signal handlers.
    # nodelete: threads that have used it run its code as they end.
    "-Wl,-z,now,-z,relro,-z,nodelete,-z,defs",
    "-Wl,-Bsymbolic",  # its table of functions holds its own, whoever else in the program has one of that name
    f"-Wl,--enable-new-dtags,-rpath,{RESERVED}",
    "-pthread",
    "-ldl",  # glibc before 2.34
)
PLAIN = {SHIM: LINK, "watchdogd.native.libwatchdogd_nvtx": ("-Wl,-z,now,-z,relro,-z,nodelete,-z,defs", "-ldl")}


class BuildExt(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith(tuple(name.rpartition(".")[2] for name in PLAIN)):
            return f"{fullname.replace('.', '/')}.so"
        return str(super().get_ext_filename(fullname))

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return list(ext.export_symbols) if ext.name in PLAIN else list(super().get_export_symbols(ext))

    def descriptors(self) -> tuple[str, ...]:
        """Clang before 18 has none on x86; elsewhere there is no such choice."""
        with tempfile.TemporaryDirectory() as directory:
            source = os.path.join(directory, "empty.c")
            open(source, "w", encoding="ascii").close()
            tried = subprocess.run(
                [*self.compiler.compiler_so, DESCRIPTORS, "-c", source, "-o", os.path.join(directory, "empty.o")],
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        return (DESCRIPTORS,) if tried.returncode == 0 else ()

    def build_extension(self, ext: Extension) -> None:
        linker = self.compiler.linker_so
        if ext.name in PLAIN:
            ext.extra_compile_args = [*ext.extra_compile_args, *COMPILE, *self.descriptors()]
            ext.extra_link_args = [*ext.extra_link_args, *PLAIN[ext.name]]
            # Where this Python's own libraries are (pyenv, conda) is nothing to the shim, and would share its entry.
            self.compiler.linker_so = [part for part in linker if not part.startswith("-Wl,-rpath")]
        super().build_extension(ext)
        self.compiler.linker_so = linker


setup(cmdclass={"build_ext": BuildExt})
