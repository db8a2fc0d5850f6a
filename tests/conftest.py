"""With ``WATCHDOGD_TEST_STRICT=1`` (as CI runs it) a test that would be skipped fails: nothing is left out silently.

The files that take longest come first: where one of them is the last, all but one process are idle. Byte code is kept
even where the environment forbids it: some thousand interpreters are started, and to compile the package anew for each
was a third of a supervisor test's processor time (17 s against 11 for one file). Nor does it matter what whoever starts
the tests has them inherit: unbuffered output, signals that a shell ignores for what it starts in the background, or the
size of a terminal that there is not: pytest loads readline, which puts 80 columns into the C library's environment, and
so into that of every process that runs tests for it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from typing import TypeVar

import pytest

STRICT = os.environ.get("WATCHDOGD_TEST_STRICT") == "1"
LONGEST = "tests/systemd/"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)  # what C code has set is not in os.environ
sys.dont_write_bytecode = False
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For ``--dist loadfile --no-loadscope-reorder``: by itself it begins with the files that have most tests."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _strict((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _strict((yield))


def _strict(report: Report) -> Report:
    if STRICT and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which a strict run does not allow: {report.longrepr}"
    return report
