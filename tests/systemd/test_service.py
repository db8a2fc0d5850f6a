"""The installed service under a real systemd, booted in a container. What is tried: ``scenarios/``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

from tests.systemd import scenarios
from tests.systemd.conftest import Results


def _scenarios() -> list[str]:
    found = []
    for module in pkgutil.iter_modules(scenarios.__path__):
        path = f"{scenarios.__name__}.{module.name}"
        functions = inspect.getmembers(importlib.import_module(path), inspect.isfunction)
        own = [f for name, f in functions if f.__module__ == path and not name.startswith("_")]
        found += [f"{module.name}.{f.__name__}" for f in sorted(own, key=lambda f: f.__code__.co_firstlineno)]
    return found


@pytest.mark.systemd
@pytest.mark.parametrize("scenario", _scenarios())
def test_service(scenario: str, results: Results) -> None:
    assert scenario in results, f"the container ended before it; done: {', '.join(results)}"
    outcome = results[scenario]
    print(f"{outcome['seconds']} s {outcome['facts'] or ''}")
    assert outcome["problem"] is None, outcome["problem"]
