"""The configuration that was checked for a reload, on its way from the check to the new image.

``python -m watchdogd.supervisor.checked FILE`` is the check: problems on standard error, else the settings on standard
output, which is a file in memory that the new image inherits.

Invariant: the new image runs with what was checked, whatever the files say by then; only another version of this
program reads them once more, as its settings may be others.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import watchdogd
from watchdogd import places
from watchdogd.exits import Failed

if TYPE_CHECKING:
    from watchdogd.model import Settings

DESCRIPTOR = "WATCHDOGD_CHECKED_CONFIGURATION"  # in the environment of the new image


def command(file: str) -> tuple[str, ...]:
    return (sys.executable, "-m", __name__, file)


def take() -> tuple[Settings, list[str]] | None:
    """Settings and warnings that the image before this one had checked; None if there was none, or of other kind."""
    told = os.environ.pop(DESCRIPTOR, None)
    if told is None:
        return None
    import pickle  # noqa: PLC0415 - of all starts, only this one needs it

    damage = (pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, OSError, TypeError, ValueError)
    try:
        with open(int(told), "rb") as file:
            file.seek(0)
            version, settings, warnings = pickle.load(file)  # our own child's words, in a file that nobody else had
    except damage:
        return None
    return (settings, warnings) if version == watchdogd.__version__ else None


def main(file: str) -> int:
    try:
        settings, warnings = places.load(file)
    except Failed as failed:
        print(f"watchdogd: {failed}", file=sys.stderr)
        return failed.status
    import pickle  # noqa: PLC0415 - as above

    pickle.dump((watchdogd.__version__, settings, warnings), sys.stdout.buffer)
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
