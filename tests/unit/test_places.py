"""What a command tells a person to type next."""

from __future__ import annotations

from watchdogd import places


def test_what_is_to_be_typed_names_the_configuration_that_was_named() -> None:
    text = "quarantined: `watchdogd status a`, then `watchdogd check-config`; systemd runs watchdogd"
    named = "quarantined: `watchdogd status -c 'my file.toml' a`, then `watchdogd check-config -c 'my file.toml'`"
    assert places.naming(text, "my file.toml") == f"{named}; systemd runs watchdogd"
    assert places.naming(text, None) == text
