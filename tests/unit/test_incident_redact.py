"""What is secret is taken out wherever it stands; what is none stays as it was."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_incident_assemble import begun
from watchdogd.incident import Process
from watchdogd.incidents.redact import MARK, Redaction
from watchdogd.model import SECOND

SECRET_NAMES = [
    "API_TOKEN", "token", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "password", "SSH_KEY", "key", "api-key", "apiKey",
    "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_AUTH", "Authorization", "SESSION_COOKIE", "SENTRY_DSN", "PGPASS",
    "MYSQL_PWD", "PRIVATEKEY1", "user.password", "WANDB_API_KEY", "NGC_API_KEY", "HF_TOKEN",
]  # fmt: skip
PLAIN_NAMES = [
    "PATH", "HOME", "PWD", "OLDPWD", "KEYBOARD", "MONKEY", "AUTHOR", "COMPASS", "CUDA_VISIBLE_DEVICES", "monkeypatch",
    "LD_LIBRARY_PATH", "turkey", "PINNED", "batch-size", "passthrough", "WATCHDOGD_HEARTBEAT",
]  # fmt: skip
redaction = Redaction()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_that_means_a_secret_hides_its_value_as_variable_option_and_assignment(name: str) -> None:
    assert redaction.environment([(name, "s3cr3t")]) == ((name, MARK),)
    assert redaction.command(["run", f"--{name}", "s3cr3t", "x"]) == ("run", f"--{name}", MARK, "x")
    assert redaction.command([f"--{name}=s3cr3t", "x"]) == (f"--{name}={MARK}", "x")
    assert redaction.text(f"loaded {name}=s3cr3t, ok") == f"loaded {name}={MARK}, ok"


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_any_other_name_shows_its_value(name: str) -> None:
    assert redaction.environment([(name, "value 1")]) == ((name, "value 1"),)
    assert redaction.command([f"--{name}", "7", f"--{name}=8"]) == (f"--{name}", "7", f"--{name}=8")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgres://admin:hunter2@db.vehicle:5432/x", "hunter2"),
        ("https://hunter2@vehicle/x?y=1", "hunter2"),
        ("curl -H Authorization: Bearer hunter2.abc-def", "hunter2"),
        ("Proxy says Basic aHVudGVyMjpodW50ZXIy", "aHVudGVyMjpodW50ZXIy"),
        ("id AKIAIOSFODNN7EXAMPLE there", "AKIAIOSFODNN7EXAMPLE"),
        ("x ghp_abcdefghijklmnopqrstuvwxyz012345 y", "abcdefghijklmnop"),
        ("nvapi-abcdefghijklmnop0123456789", "abcdefghijklmnop"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_", "eyJzdWIiOiIxMjM0In0"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIhunter2\n-----END RSA PRIVATE KEY-----", "hunter2"),
        ('{"password": "hunter2 and more", "n": 1}', "hunter2"),
        ("https://vehicle/x?token=hunter2&n=1", "hunter2"),
        ("map=a:token=hunter2", "hunter2"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_of_any_text(text: str, secret: str) -> None:
    told = redaction.text(text)
    assert secret not in told and MARK in told
    assert redaction.text(told) == told
    assert secret not in " ".join(redaction.command(["-H", text]))


@pytest.mark.parametrize(
    "text",
    [
        "http://vehicle:9090/metrics", "python -m model --batch 8 --engine=/models/a.plan", "a@b", "f (model.py:33)",
        "the key to it is time", "NVRM: Xid (PCI:0000:01:00): 13, pid=123, name=python",
    ],
)  # fmt: skip
def test_what_does_not_stays_whole(text: str) -> None:
    assert redaction.text(text) == text


def test_what_is_configured_is_hidden_too_whatever_its_case() -> None:
    mine = Redaction(["*_url", "FLEET"])
    assert mine.environment([("MAP_URL", "a"), ("fleet", "b"), ("FLEETS", "c")]) == (
        ("MAP_URL", MARK), ("fleet", MARK), ("FLEETS", "c")
    )  # fmt: skip
    assert mine.command(["--map-url", "x", "--fleet=y"]) == ("--map-url", MARK, f"--fleet={MARK}")
    assert redaction.environment([("MAP_URL", "a")]) == (("MAP_URL", "a"),)


def test_a_flag_without_a_value_does_not_hide_the_next_option() -> None:
    assert redaction.command(["--no-auth", "--batch", "8"]) == ("--no-auth", "--batch", "8")
    assert redaction.command(["--token"]) == ("--token",)


def test_a_variable_that_is_empty_is_seen_to_be_empty() -> None:
    assert redaction.environment([("TOKEN", "")]) == (("TOKEN", ""),)


def test_a_document_is_redacted_wherever_it_has_a_command_or_a_variable() -> None:
    command = ["run", "--token", "hunter2"]
    incident = begun(command=command, environment=[["A_KEY", "hunter2"]])
    told = redaction.incident(replace(incident, processes=(Process(7, command=tuple(command)),)))
    assert "hunter2" not in repr(told)
    assert (told.command, told.processes[0].command) == (("run", "--token", MARK),) * 2
    assert told.environment == (("A_KEY", MARK),)


@given(st.lists(st.text(max_size=40), max_size=6))
def test_nothing_makes_it_raise_and_twice_is_once(words: list[str]) -> None:
    once = redaction.command(words)
    assert redaction.command(once) == once and len(once) == len(words)


@pytest.mark.parametrize("piece", ["a-", "a=", "token=", "://", "-", "bearer ", "-----BEGIN PRIVATE KEY-----"])
def test_a_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    begun_ns = time.process_time_ns()
    redaction.text(piece * (100_000 // len(piece)))
    assert time.process_time_ns() - begun_ns < 3 * SECOND  # 0.5 at most; by its square, minutes
