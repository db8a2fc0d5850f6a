"""The shim's clock against CLOCK_MONOTONIC: what it derives from the processor's counter, and where it does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.worker_process import ROOT

SHIM = ROOT / "watchdogd/native/shim"
KERNELS_OWN = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
COUNTERS = {"tsc", "arch_sys_counter"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clock") / "shim_clock"
    sources = [str(ROOT / "tests/native/shim_clock.c"), str(SHIM / "clock.c")]
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{SHIM}"]
    subprocess.run(["cc", *flags, "-o", str(path), *sources], check=True, timeout=60)
    return path


def run(program: Path, clocksource: Path, seconds: float) -> tuple[int, int, int]:
    """Scale, readings from the counter, furthest from the clock (ns)."""
    command = [str(program), str(clocksource), str(seconds)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    scale, derived, furthest = map(int, told)
    return scale, derived, furthest


def test_a_time_from_the_counter_is_within_a_microsecond_of_the_clock(program: Path) -> None:
    if not KERNELS_OWN.exists() or KERNELS_OWN.read_text().strip() not in COUNTERS:
        pytest.skip("the kernel takes its time from something else")
    scale, derived, furthest = run(program, KERNELS_OWN, 0.5)
    assert scale and derived > 1000
    assert furthest < 1000


@pytest.mark.parametrize("clocksource", ["hpet\n", "acpi_pm\n", "tsc-early\n", "", None])
def test_where_the_kernel_trusts_no_counter_the_clock_itself_is_read(
    program: Path, tmp_path: Path, clocksource: str | None
) -> None:
    file = tmp_path / "clocksource"
    if clocksource is not None:
        file.write_text(clocksource)
    assert run(program, file, 0.02) == (0, 0, 0)


def test_a_counter_that_goes_its_own_way_is_given_up(tmp_path: Path) -> None:
    """It runs four times as fast once it was measured."""
    source = (SHIM / "clock.h").read_text()
    body = source.replace("__builtin_ia32_rdtsc()", "sped_up()").replace(
        'uint64_t ticks;\n    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));\n    return ticks;',
        "return sped_up();",
    )
    assert body.count("sped_up()") == 2
    (tmp_path / "clock.h").write_text(
        body.replace("#include <stdint.h>", "#include <stdint.h>\nuint64_t sped_up(void);")
    )
    (tmp_path / "clock.c").write_text((SHIM / "clock.c").read_text())
    (tmp_path / "sped_up.c").write_text(
        """#define _GNU_SOURCE
#include "clock.h"
#include <time.h>
uint64_t sped_up(void)
{
    static uint64_t first;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    first = first ? first : ns;
    return ns - first < 100000000u ? ns : ns + 3 * (ns - first - 100000000u);
}
"""
    )
    program = tmp_path / "shim_clock"
    sources = [str(tmp_path / "clock.c"), str(tmp_path / "sped_up.c"), str(ROOT / "tests/native/shim_clock.c")]
    subprocess.run(["cc", "-std=c11", "-O2", f"-I{tmp_path}", "-o", str(program), *sources], check=True, timeout=60)
    trusted = tmp_path / "clocksource"
    trusted.write_text("tsc\n")
    scale, derived, _ = run(program, trusted, 0.3)
    assert derived > 100  # until then
    assert scale == 0
