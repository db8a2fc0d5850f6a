"""What a writer that is killed leaves of an incident: a whole document, or none yet."""

from __future__ import annotations

import json
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.test_incident_folders import incident
from watchdogd.incidents import codec, folders

WRITER = """
import sys
from dataclasses import replace
from watchdogd.incidents import codec, folders
import json
root, document = sys.argv[1], codec.from_json(json.loads(sys.stdin.readline()))
print("on", flush=True)
while True:
    for n in range(50):
        one = replace(document, id=f"{n}-{document.id}", problems=("x" * (n * 4000),))
        folders.complete(root, one.id, lambda before: one)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_documents(tmp_path: Path) -> None:
    """100 kills: of each folder there is a whole document of some version, or none yet."""
    roll = random.Random(6)
    document = json.dumps(codec.to_json(incident())).encode() + b"\n"
    root = tmp_path / "incidents"
    written = 0
    for _ in range(100):
        written += _kill_a_writer(root, document, roll.random() * 0.02)
    assert written > 50  # else nothing was shown


def _kill_a_writer(root: Path, document: bytes, after_seconds: float) -> int:
    """How many documents are there then."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdin=-1, stdout=-1) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdin.write(document)
        writer.stdin.flush()
        assert writer.stdout.readline() == b"on\n"
        select.select([], [], [], after_seconds)
        writer.send_signal(signal.SIGKILL)
    found = folders.listing(str(root))
    torn = [told for told in found.skipped if "no incident.json" not in told]
    assert torn == []
    return len(found.kept)
