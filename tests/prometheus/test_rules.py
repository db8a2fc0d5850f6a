"""The shipped rules and configuration, as promtool reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus.server import CONFIG, RULES, program, rules

TESTS = CONFIG / "watchdogd.rules.test.yml"


def stories() -> list[dict[str, Any]]:
    return [story for test in yaml.safe_load(TESTS.read_text())["tests"] for story in test["alert_rule_test"]]


def promtool(*arguments: str, directory: Path = CONFIG) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_the_configuration_and_its_rules_are_valid() -> None:
    ran = promtool("check", "config", "--lint-fatal", "prometheus.yml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_rules_pass_their_stories() -> None:
    ran = promtool("test", "rules", TESTS.name)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("instead", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_the_stories_notice_every_alert_that_never_fires_or_always_does(instead: str, tmp_path: Path) -> None:
    loaded = yaml.safe_load(RULES.read_text())
    for rule in (rule for group in loaded["groups"] for rule in group["rules"]):
        rule["expr"] = instead
    (tmp_path / RULES.name).write_text(yaml.safe_dump(loaded))
    shutil.copy(TESTS, tmp_path)
    ran = promtool("test", "rules", TESTS.name, directory=tmp_path)
    noticed = set(re.findall(r"alertname: (\w+), time", ran.stdout + ran.stderr))
    assert noticed == {rule["alert"] for rule in rules()}


def test_every_alert_has_a_story_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fired = {story["alertname"] for story in stories() if story["exp_alerts"]}
    silent = {story["alertname"] for story in stories() if not story["exp_alerts"]}
    assert fired == silent == {rule["alert"] for rule in rules()}


def test_every_alert_says_how_grave_it_is_what_happened_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert len(rule["annotations"]["summary"]) < 120
        assert re.search(r"`[^`]+`|/targets", rule["annotations"]["description"]), rule["alert"]
        assert re.fullmatch(r"\d+[sm]", rule["for"])
