"""With ``WATCHDOGD_TEST_STRICT=1`` (as CI runs it) a test that would be skipped fails: nothing is left out silently.

The files that take longest come first: where one of them is the last, all but one process are idle.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

STRICT = os.environ.get("WATCHDOGD_TEST_STRICT") == "1"
LONGEST = "tests/systemd/"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


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
