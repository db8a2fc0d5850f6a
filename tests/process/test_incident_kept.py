"""What a writer that is killed leaves of an incident: a whole document, or none yet."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.test_incident_folders import incident
from watchdogd.incidents import codec, folders

WRITER = """
import json, os, sys
from dataclasses import replace
from watchdogd.incidents import codec, folders
root, document = sys.argv[1], codec.from_json(json.loads(sys.stdin.buffer.readline()))

def write_without_end():
    while True:
        for n in range(50):
            one = replace(document, id=f"{n}-{document.id}", problems=("x" * (n * 4000),))
            folders.complete(root, one.id, lambda before: one)

for _ in sys.stdin.buffer:  # a fork for each that is killed, as the keeper's jobs are: no hundred starts of Python
    child = os.fork()
    if child == 0:
        try:
            write_without_end()
        finally:
            os._exit(1)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_documents(tmp_path: Path) -> None:
    """100 kills: of each folder there is a whole document of some version, or none yet."""
    roll = random.Random(6)
    document = json.dumps(codec.to_json(incident())).encode() + b"\n"
    root = tmp_path / "incidents"
    written = 0
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdin=-1, stdout=-1) as zygote:
        assert zygote.stdin is not None
        zygote.stdin.write(document)
        for _ in range(100):
            _kill_a_writer(zygote, roll.random() * 0.02)
            found = folders.listing(str(root))
            torn = [told for told in found.skipped if "no incident.json" not in told]
            assert torn == []
            written += len(found.kept)
    assert written > 50  # else nothing was shown


def _kill_a_writer(zygote: subprocess.Popen[bytes], after_seconds: float) -> None:
    assert zygote.stdin is not None and zygote.stdout is not None
    zygote.stdin.write(b"\n")
    zygote.stdin.flush()
    writer = int(zygote.stdout.readline())
    select.select([], [], [], after_seconds)
    os.kill(writer, signal.SIGKILL)
    assert zygote.stdout.readline() == b"gone\n"
