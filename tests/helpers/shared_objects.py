"""Small shared objects for the tests of what stands in front of a driver: drivers, and a stand-in for the shim."""

from __future__ import annotations

import subprocess
from pathlib import Path

from watchdogd.instrument import elf

DRIVER = """
int cuInit(void) { return 11; }
int cuOld(void) { return 12; }
"""
# Wraps cuInit and cuNew; cuNew is what an older driver lacks.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
__attribute__((used)) static volatile const char real[1024] = "WDOG-REAL-DRIVER";
const char *shim_path(void) { return (const char *)real + 16; }
static void *from_driver(const char *name)
{
    void *driver = dlopen((const char *)real + 16, RTLD_NOW | RTLD_NOLOAD);
    return driver == NULL ? NULL : dlsym(driver, name);
}
int cuInit(void)
{
    int (*inner)(void) = (int (*)(void))from_driver("cuInit");
    return inner == NULL ? -1 : 100 + inner();
}
int cuNew(void) { return 200; }
"""


def build(folder: Path, name: str, source: str, *options: str) -> Path:
    """A shared object ``folder/name``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    command = ["gcc", "-x", "c", "-", "-shared", "-fPIC", "-o", str(path), "-Wl,-soname,libcuda.so.1", *options]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    return path


def build_shim(folder: Path, *options: str) -> Path:
    room = elf.RESERVED.decode().ljust(1023, "x")
    return build(folder, "libcuda_shim.so", SHIM, f"-Wl,-rpath,{room}", "-Wl,-z,nodelete", "-ldl", *options)
